/*
 * remote.c: one attempt: kept connections first, then the hosts of the site in the order of their preference.
 *
 * A recipient leaves the attempt when it is delivered or refused for good. One that was refused for now is tried at the
 * next host, too (RFC 5321 5.1), within ADDRESSES_MAX addresses and SESSIONS_MAX sessions that got as far as talking
 * about mail.
 */
#include "queue-service/remote/remote.h"

#include <limits.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/num.h"
#include "fiber/fiber.h"
#include "mail/address.h"
#include "queue-service/remote/mx.h"
#include "queue-service/remote/pool.h"
#include "queue-service/remote/smtp_client.h"

#define REMOTE_MAGIC 0x57e40010u
#define ADDRESSES_MAX 5u
#define SESSIONS_MAX 2u
#define ATTEMPT_ARENA_MAX ((size_t)1024 * 1024)

struct remote {
    uint32_t magic;
    struct smtp_settings settings;
    char *hostname;
    struct mx mx;
    struct pool pool;
    uint16_t port;
    char *relay; /* the host for everything, or NULL */
    uint16_t relay_port;
    unsigned n_active; /* attempts under way */
};

struct attempt {
    struct remote *r;
    const struct remote_site *site;
    const struct remote_message *m;
    struct smtp_rcpt *rcpts;
    size_t n;
    struct arena *a;
    struct smtp_trouble trouble; /* with hosts, for the recipients that got no answer of their own */
    char trouble_peer[256];
    bool has_trouble, was_talking;
    unsigned n_addresses, n_sessions;
    struct net_addr used[ADDRESSES_MAX + SESSIONS_MAX];
    size_t n_used;
};

/* --- life --- */

/* "host", "host:port", "192.0.2.1:25", "[2001:db8::1]:25". An address becomes a literal; *port stays when there is
 * none. */
static bool parse_relay(str relay, struct arena *a, str *name, uint16_t *port, struct err *err)
{
    ptrdiff_t colon = str_rfind(relay, ':');
    uint32_t given = *port;
    str host = relay;
    if (colon >= 0 && !str_ends(relay, S("]"))) {
        host = str_slice(relay, 0, (size_t)colon);
        if (!num_u32(str_slice(relay, (size_t)colon + 1, SIZE_MAX), 65535, &given) || given == 0)
            return err_set(err, ERR_INVALID, "'%.*s' has no valid port", (int)MIN(relay.n, (size_t)100), relay.p);
    }
    struct net_addr ip;
    str bare = str_starts(host, S("[")) && str_ends(host, S("]")) ? str_slice(host, 1, host.n - 1) : host;
    if (net_ip_parse(bare, &ip))
        *name = arena_printf(a, "[%.*s]", STR_ARG(bare));
    else if (!domain_normalize(host, a, name, err))
        return false;
    *port = (uint16_t)given;
    return true;
}

bool remote_check_relay(str relay, struct err *err)
{
    ARENA(a, 4096);
    str name;
    uint16_t port = 25;
    return parse_relay(relay, &a, &name, &port, err);
}

static bool set_relay(struct remote *r, str relay, struct err *err)
{
    ARENA(a, 4096);
    str name;
    r->relay_port = r->port;
    if (!parse_relay(relay, &a, &name, &r->relay_port, err))
        return err_prefix(err, "relay");
    r->relay = str_dup(name);
    return true;
}

struct remote *remote_new(const struct remote_opts *opts, struct err *err)
{
    struct remote *r = xnew(struct remote);
    r->magic = REMOTE_MAGIC;
    r->port = opts->port ? opts->port : 25;
    if (opts->relay.n && !set_relay(r, opts->relay, err)) {
        free(r);
        return NULL;
    }
    r->hostname = str_dup(opts->hostname);
    r->settings = (struct smtp_settings){
        .hostname = str_c(r->hostname),
        .tls = opts->tls,
        .connect_ms = opts->connect_ms ? opts->connect_ms : 30000,
        .command_ms = opts->command_ms ? opts->command_ms : 300000,
        .data_ms = opts->data_ms ? opts->data_ms : 180000,
        .final_ms = opts->final_ms ? opts->final_ms : 600000,
    };
    mx_init(&r->mx, opts->dns, opts->allow_private_hosts);
    pool_init(&r->pool, opts->max_idle ? opts->max_idle : 200);
    return r;
}

void remote_free(struct remote *r)
{
    if (!r)
        return;
    CHECK(r, REMOTE_MAGIC);
    assert(r->n_active == 0);
    pool_done(&r->pool);
    mx_done(&r->mx);
    free(r->relay);
    free(r->hostname);
    r->magic = 0;
    free(r);
}

bool remote_resolve(struct remote *r, str domain, struct arena *a, struct remote_site *out, struct err *err)
{
    CHECK(r, REMOTE_MAGIC);
    if (!r->relay)
        return mx_lookup(&r->mx, domain, a, out, err);
    str name = arena_str(a, str_c(r->relay));
    *out = (struct remote_site){.key = name, .mx = arena_new(a, struct dns_mx), .n_mx = 1};
    out->mx[0].name = name;
    return true;
}

/* --- recipients --- */

static size_t n_waiting(const struct attempt *at)
{
    size_t n = 0;
    for (size_t i = 0; i < at->n; i++)
        n += at->rcpts[i].state == SMTP_RCPT_WAITING;
    return n;
}

/* What can stand between "<" and ">" and end nothing: no control characters; spaces and brackets only inside of quotes.
 */
static bool is_path(str s)
{
    bool is_quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (ascii_is_ctl(c) || (!is_quoted && (c == ' ' || c == '<' || c == '>')))
            return false;
        if (c == '"')
            is_quoted = !is_quoted;
        else if (c == '\\' && is_quoted && i + 1 < s.n && !ascii_is_ctl((unsigned char)s.p[i + 1]))
            i++;
    }
    return !is_quoted && s.n <= SMTP_PATH_MAX;
}

static void begin(struct attempt *at, struct remote_rcpt *rcpts)
{
    struct smtp_trouble bad_sender, bad_rcpt;
    smtp_trouble_set(&bad_sender, true, "5.1.7", "the sender's address cannot be said in SMTP");
    smtp_trouble_set(&bad_rcpt, true, "5.1.3", "the address cannot be said in SMTP");
    bool is_sender_good = is_path(at->m->sender);
    for (size_t i = 0; i < at->n; i++) {
        struct remote_rcpt *to = &rcpts[i];
        to->outcome = REMOTE_DEFERRED;
        to->code = 0;
        to->status[0] = to->text[0] = to->mx[0] = '\0';
        to->is_site_failure = to->is_dsn_relayed = false;
        at->rcpts[i] = (struct smtp_rcpt){to, SMTP_RCPT_WAITING};
        if (is_sender_good && to->address.n && is_path(to->address))
            continue;
        metric_inc_label(M_REMOTE_REFUSED, "malformed_address");
        smtp_rcpt_trouble(&at->rcpts[i], is_sender_good ? &bad_rcpt : &bad_sender, STR_NONE);
    }
}

static void end(struct attempt *at)
{
    static const char *const label[] = {"delivered", "deferred", "failed"};
    if (!at->has_trouble)
        smtp_trouble_set(&at->trouble, false, "4.4.0", "no host was tried");
    for (size_t i = 0; i < at->n; i++) {
        struct smtp_rcpt *rcpt = &at->rcpts[i];
        if (rcpt->state == SMTP_RCPT_WAITING && rcpt->to->text[0] == '\0')
            smtp_rcpt_trouble(rcpt, &at->trouble, str_c(at->trouble_peer));
        rcpt->to->is_site_failure = rcpt->to->outcome == REMOTE_DEFERRED && !at->was_talking;
        metric_inc_label(M_REMOTE_RECIPIENTS, label[rcpt->to->outcome]);
    }
}

/* Trouble with a host. What may pass weighs more than what may not: another host could have taken the mail. */
static void note(struct attempt *at, const struct smtp_trouble *why, str peer)
{
    if (at->has_trouble && !at->trouble.is_permanent && why->is_permanent)
        return;
    at->has_trouble = true;
    at->trouble = *why;
    (void)snprintf(at->trouble_peer, sizeof(at->trouble_peer), "%.*s", STR_ARG(peer));
}

/* --- sessions --- */

static bool is_used(const struct attempt *at, const struct net_addr *addr)
{
    for (size_t i = 0; i < at->n_used; i++)
        if (net_addr_equal_ip(&at->used[i], addr))
            return true;
    return false;
}

static void use(struct attempt *at, const struct net_addr *addr)
{
    if (!is_used(at, addr) && at->n_used < ARRAY_LEN(at->used))
        at->used[at->n_used++] = *addr;
}

/* Carry the message over this connection, which is handed over. */
FIBER static enum smtp_end session(struct attempt *at, struct smtp_client *c)
{
    struct smtp_trouble why;
    enum smtp_end result = SMTP_END_GOOD;
    struct net_addr addr = *stream_peer(smtp_client_stream(c));
    if (smtp_client_can(c, at->m, at->rcpts, at->n, &why))
        result = smtp_client_send(c, at->m, at->rcpts, at->n);
    else
        note(at, &why, smtp_client_peer(c));
    if (result == SMTP_END_GOOD)
        pool_put(&at->r->pool, at->site->key, c);
    else
        smtp_client_quit(c);
    if (result == SMTP_END_STALE)
        return result;
    at->was_talking = true;
    at->n_sessions++;
    use(at, &addr);
    return result;
}

FIBER static void use_kept(struct attempt *at)
{
    struct smtp_client *c;
    while ((c = pool_take(&at->r->pool, at->site->key, at->m->requires_tls))) {
        bool is_stale = session(at, c) == SMTP_END_STALE;
        metric_inc_label(M_REMOTE_SESSIONS, is_stale ? "stale" : "reused");
        if (!is_stale)
            return;
    }
}

/* The peer is ourselves, by its own words. */
static bool is_loop(const struct attempt *at, const struct smtp_client *c)
{
    str own = at->r->settings.hostname;
    return !at->r->relay && str_eq_nocase(str_c(smtp_client_caps(c)->name), own) && !str_eq_nocase(own, S("localhost"));
}

FIBER static void try_address(struct attempt *at, str host, const struct net_addr *addr)
{
    struct remote *r = at->r;
    struct smtp_client *c;
    struct smtp_trouble why;
    enum smtp_security security = at->m->requires_tls ? SMTP_TLS_MUST : SMTP_TLS_MAY;
    at->n_addresses++;
    use(at, addr);
    enum smtp_opened opened = smtp_client_open(&r->settings, addr, host, security, &c, &why);
    if (opened == SMTP_TLS_FAILED && security == SMTP_TLS_MAY)
        opened = smtp_client_open(&r->settings, addr, host, SMTP_CLEAR, &c, &why);
    if (opened == SMTP_OPENED && is_loop(at, c)) {
        smtp_trouble_set(&why, true, "5.4.6", "mail would loop: %s is this host", smtp_client_peer(c).p);
        metric_inc_label(M_REMOTE_REFUSED, "own_name");
        smtp_client_quit(c);
        opened = SMTP_REFUSED;
    }
    if (opened == SMTP_OPENED) {
        (void)session(at, c);
        return;
    }
    at->was_talking |= opened == SMTP_TLS_FAILED; /* of use to other messages, that may go in clear */
    note(at, &why, host);
}

static bool can_go_on(const struct attempt *at)
{
    return at->n_addresses < ADDRESSES_MAX && at->n_sessions < SESSIONS_MAX && !fiber_is_cancelled(fiber_self()) &&
           clock_mono_ms() < fiber_deadline() && n_waiting(at) > 0;
}

FIBER static void try_host(struct attempt *at, str host)
{
    struct net_addr *v;
    size_t n;
    struct err err = ERR_INIT;
    if (!mx_addresses(&at->r->mx, host, at->r->relay != NULL, at->a, &v, &n, &err)) {
        struct smtp_trouble why;
        bool is_permanent = err.kind == ERR_NOT_FOUND || err.kind == ERR_DENIED || err.kind == ERR_INVALID;
        smtp_trouble_set(&why, is_permanent, is_permanent ? "5.4.4" : "4.4.3", "%s", err.msg);
        note(at, &why, STR_NONE);
        return;
    }
    uint16_t port = at->r->relay ? at->r->relay_port : at->r->port;
    for (size_t i = 0; i < n && can_go_on(at); i++) {
        if (is_used(at, &v[i]))
            continue;
        net_addr_set_port(&v[i], port);
        try_address(at, host, &v[i]);
    }
}

/* The preference at which this host itself is listed: mail goes to better ones only (RFC 5321 5.1). */
static unsigned own_preference(const struct attempt *at)
{
    for (size_t i = 0; i < at->site->n_mx && !at->r->relay; i++)
        if (str_eq_nocase(at->site->mx[i].name, at->r->settings.hostname))
            return at->site->mx[i].preference;
    return UINT_MAX;
}

FIBER static void walk(struct attempt *at)
{
    unsigned own = own_preference(at);
    for (size_t i = 0; i < at->site->n_mx && can_go_on(at); i++) {
        const struct dns_mx *mx = &at->site->mx[i];
        if (mx->preference >= own) {
            struct smtp_trouble why;
            smtp_trouble_set(&why, true, "5.4.6", "mail would loop: '%.*s' is this host",
                             STR_ARG(at->r->settings.hostname));
            note(at, &why, STR_NONE);
            return;
        }
        try_host(at, mx->name);
    }
}

/* Whether the header has anything but ASCII; also when that cannot be found out. */
FIBER static bool has_utf8_header(const struct remote_message *m)
{
    struct err err = ERR_INIT;
    struct rpc_source *s = m->open(m->arg, &err);
    bool is_ascii = s != NULL, is_end = false;
    unsigned char last[3] = {0};
    str piece;
    while (is_ascii && !is_end && (is_ascii = s->read(s, &piece, &err)) && piece.n) {
        for (size_t i = 0; i < piece.n && is_ascii && !is_end; i++) {
            unsigned char ch = (unsigned char)piece.p[i];
            is_ascii = ch < 0x80;
            is_end = ch == '\n' && (last[2] == '\n' || (last[2] == '\r' && last[1] == '\n'));
            last[0] = last[1], last[1] = last[2], last[2] = ch;
        }
    }
    if (s && m->close)
        m->close(m->arg, s);
    return !is_ascii;
}

void remote_deliver(struct remote *r, const struct remote_site *site, const struct remote_message *m,
                    struct remote_rcpt *rcpts, size_t n)
{
    CHECK(r, REMOTE_MAGIC);
    int64_t started_us = clock_mono_us();
    ARENA(a, ATTEMPT_ARENA_MAX);
    struct remote_message needed = *m;
    needed.is_smtputf8 = m->is_smtputf8 && has_utf8_header(m);
    struct attempt at = {.r = r, .site = site, .m = &needed, .n = n, .a = &a};
    at.rcpts = arena_array(&a, struct smtp_rcpt, n);
    r->n_active++;
    begin(&at, rcpts);
    if (n_waiting(&at) > 0)
        use_kept(&at);
    walk(&at);
    end(&at);
    r->n_active--;
    metric_observe_us(M_REMOTE_SECONDS, NULL, clock_mono_us() - started_us);
}
