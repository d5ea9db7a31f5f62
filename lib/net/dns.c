/*
 * libunbound resolves on a thread of its own and says on a pipe (ub_fd) that answers are there; the loop reads it
 * (ub_process), which calls on_answer for each. That stores the result and wakes the fiber. ub_cancel takes a query out
 * at once: on_answer is not called for it any more.
 *
 * A question that nobody answers is answered from what was known before (dns_kept.h), after a short wait at first and
 * then at once for a while, so that a name whose servers are away costs its mail no time.
 */
#include "net/dns.h"

#include <unistd.h>

#include <arpa/inet.h>
#include <unbound.h>
#include <uv.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/loop.h"
#include "net/dns_kept.h"

#define DNS_MAGIC 0x444e5321u
#define RECORDS_MAX 100
#define IPS_MAX 16
#define NAME_MAX_ 255
#define TYPE_A 1
#define TYPE_PTR 12
#define TYPE_MX 15
#define TYPE_TXT 16
#define TYPE_AAAA 28
#define CLASS_IN 1
#define RCODE_OK 0
#define RCODE_NXDOMAIN 3
#define KEPT_AFTER_MS 1800u /* RFC 8767 5: client response timer */

struct dns {
    uint32_t magic;
    struct ub_ctx *ctx;
    uv_poll_t *poll;
    unsigned timeout_ms;
    unsigned n_active;
    struct dns_kept kept;
};

/* On the stack of the fiber that waits, until answered or cancelled. */
struct query {
    const char *name;
    int type;
    bool is_asked;  /* no: the kept answer does */
    int64_t end_ms; /* of the wait */
    struct fiber *fiber;
    struct ub_result *result;
    int error;
    int id;
    bool is_done;
};

static void free_handle(uv_handle_t *h)
{
    free(h);
}

static void on_readable(uv_poll_t *poll, int status UNUSED, int events UNUSED)
{
    struct dns *d = poll->data;
    ub_process(d->ctx);
}

static void on_answer(void *arg, int error, struct ub_result *result)
{
    struct query *q = arg;
    q->error = error;
    q->result = result;
    q->is_done = true;
    fiber_wake(q->fiber);
}

/* --- life --- */

static bool option(struct dns *d, const char *name, const char *value, struct err *err)
{
    int e = ub_ctx_set_option(d->ctx, name, value);
    return e == 0 || err_set(err, ERR_INTERNAL, "resolver option %s %s: %s", name, value, ub_strerror(e));
}

static bool parse_server(str server, struct net_addr *out, struct err *err)
{
    struct err ignored = ERR_INIT;
    if (net_ip_parse(server, out))
        net_addr_set_port(out, 53);
    else if (!net_addr_parse(server, out, &ignored) || net_addr_is_unix(out) || !net_addr_port(out))
        return err_set(err, ERR_INVALID, "'%.*s', which is no address like 192.0.2.53 or 127.0.0.1:5300",
                       (int)MIN(server.n, (size_t)100), server.p);
    return true;
}

bool dns_check_server(str server, struct err *err)
{
    struct net_addr addr;
    return parse_server(server, &addr, err);
}

/* "127.0.0.1:5300" and "[::1]:5300" as libunbound writes them, "127.0.0.1@5300". */
static bool add_server(struct dns *d, str server, struct err *err)
{
    struct net_addr addr;
    char ip[NET_ADDR_TEXT_MAX], text[NET_ADDR_TEXT_MAX + 8];
    if (!parse_server(server, &addr, err))
        return err_prefix(err, "DNS server");
    str s = net_ip_format(&addr, ip);
    (void)snprintf(text, sizeof(text), "%.*s@%u", STR_ARG(s), (unsigned)net_addr_port(&addr));
    int e = ub_ctx_set_fwd(d->ctx, text);
    return e == 0 || err_set(err, ERR_INVALID, "DNS server '%s': %s", text, ub_strerror(e));
}

static bool configure(struct dns *d, const struct dns_opts *opts, struct err *err)
{
    /* Servers on loopback, and names under private zones and .test, are the operator's business and not filtered here.
     */
    if (!option(d, "do-not-query-localhost:", "no", err) || !option(d, "unblock-lan-zones:", "yes", err) ||
        !option(d, "insecure-lan-zones:", "yes", err) || !option(d, "infra-keep-probing:", "yes", err) ||
        !option(d, "use-syslog:", "no", err) || !option(d, "verbosity:", "0", err))
        return false;
    bool has_anchor = opts->trust_anchor_file.n > 0;
    if (!option(d, "module-config:", has_anchor ? "validator iterator" : "iterator", err))
        return false;
    if (has_anchor) {
        CLEANUP(xfree_char) char *path = str_dup(opts->trust_anchor_file);
        if (access(path, R_OK) != 0 || ub_ctx_add_ta_file(d->ctx, path) != 0)
            return err_set(err, ERR_INVALID, "trust anchor file '%s' cannot be read", path);
    }
    for (size_t i = 0; i < opts->n_servers; i++)
        if (!add_server(d, opts->servers[i], err))
            return false;
    if (opts->n_servers == 0) {
        int e = ub_ctx_resolvconf(d->ctx, NULL);
        if (e != 0)
            return err_set(err, ERR_INVALID, "/etc/resolv.conf: %s", ub_strerror(e));
        (void)ub_ctx_hosts(d->ctx, NULL); /* a missing /etc/hosts is no error */
    }
    return true;
}

struct dns *dns_new(const struct dns_opts *opts, struct err *err)
{
    struct dns *d = xnew(struct dns);
    d->magic = DNS_MAGIC;
    d->timeout_ms = opts->timeout_ms ? opts->timeout_ms : 5000;
    dns_kept_init(&d->kept);
    d->ctx = ub_ctx_create();
    if (!d->ctx)
        panic("out of memory");
    (void)ub_ctx_debugout(d->ctx, NULL); /* its own log is off; what matters comes back as errors */
    int fd = -1;
    bool ok = configure(d, opts, err);
    if (ok && ub_ctx_async(d->ctx, 1) != 0)
        ok = err_set(err, ERR_INTERNAL, "resolver cannot use threads");
    /* Only now: it makes all settings final. (The option "local-zone: test. nodefault" is taken but has no effect.) */
    if (ok && ub_ctx_zone_remove(d->ctx, "test.") != 0)
        ok = err_set(err, ERR_INTERNAL, "resolver cannot let go of test.");
    if (ok && (fd = ub_fd(d->ctx)) < 0)
        ok = err_set(err, ERR_INTERNAL, "resolver has no descriptor");
    if (!ok) {
        ub_ctx_delete(d->ctx);
        dns_kept_done(&d->kept);
        free(d);
        return NULL;
    }
    d->poll = xnew(uv_poll_t);
    uv_poll_init(fiber_loop(), d->poll, fd);
    d->poll->data = d;
    uv_poll_start(d->poll, UV_READABLE, on_readable);
    uv_unref((uv_handle_t *)d->poll); /* an idle resolver is nothing to wait for */
    return d;
}

void dns_free(struct dns *d)
{
    if (!d)
        return;
    CHECK(d, DNS_MAGIC);
    assert(d->n_active == 0);
    uv_poll_stop(d->poll);
    uv_close((uv_handle_t *)d->poll, free_handle);
    ub_ctx_delete(d->ctx);
    dns_kept_done(&d->kept);
    d->magic = 0;
    free(d);
}

/* --- queries --- */

/* What is kept of a name that is to be looked up: it decides whether to ask, and how long to wait. */
struct known {
    bool is_kept, is_trusted;
};
static void look_at(struct dns *d, const char *name, int type, struct known *k)
{
    k->is_kept |= dns_kept_get(&d->kept, name, type) != NULL;
    k->is_trusted |= dns_kept_is_trusted(&d->kept, name, type);
}

static bool query_start(struct dns *d, struct query *q, const char *name, int type, const struct known *known,
                        struct err *err)
{
    unsigned wait_ms = known->is_kept ? MIN(d->timeout_ms, KEPT_AFTER_MS) : d->timeout_ms;
    *q = (struct query){.name = name, .type = type, .fiber = fiber_self(), .end_ms = clock_mono_ms() + wait_ms};
    if (known->is_trusted)
        return true;
    int e = ub_resolve_async(d->ctx, name, type, CLASS_IN, q, on_answer, &q->id);
    if (e != 0)
        return err_set(err, e == UB_SYNTAX ? ERR_INVALID : ERR_UNAVAILABLE, "look-up of '%s': %s", name,
                       ub_strerror(e));
    q->is_asked = true;
    if (d->n_active++ == 0)
        uv_ref((uv_handle_t *)d->poll);
    return true;
}

/* Takes the answer over, if there is one. */
static struct ub_result *query_end(struct dns *d, struct query *q)
{
    if (!q->is_asked)
        return NULL;
    if (!q->is_done)
        ub_cancel(d->ctx, q->id);
    if (--d->n_active == 0)
        uv_unref((uv_handle_t *)d->poll);
    return q->is_done ? q->result : NULL;
}

FIBER static bool query_wait(struct query *q, struct err *err)
{
    FIBER_DEADLINE(MAX(q->end_ms - clock_mono_ms(), 0));
    while (q->is_asked && !q->is_done)
        if (!fiber_wait(err))
            return false;
    return true;
}

/* The verdict on an answer; it is a good one when no error is set. */
static void judge(const struct query *q, const struct ub_result *r, struct err *err)
{
    if (q->error != 0)
        err_set(err, ERR_UNAVAILABLE, "look-up of '%s': %s", q->name, ub_strerror(q->error));
    else if (r->bogus)
        err_set(err, ERR_UNAVAILABLE, "DNSSEC validation of '%s' failed: %s", q->name,
                r->why_bogus ? r->why_bogus : "bogus");
    else if (r->nxdomain || r->rcode == RCODE_NXDOMAIN)
        err_set(err, ERR_NOT_FOUND, "no such domain '%s'", q->name);
    else if (r->rcode != RCODE_OK)
        err_set(err, ERR_UNAVAILABLE, "look-up of '%s': server answers with code %d", q->name, r->rcode);
    else if (!r->havedata)
        err_set(err, ERR_NOT_FOUND, "'%s' has no record of type %d", q->name, r->qtype);
}

/* Nothing is said of the servers by a caller that had less time than the query. */
static bool is_failure(const struct query *q, const struct err *err)
{
    return q->is_asked && (err->kind != ERR_TIMEOUT || fiber_deadline() >= q->end_ms);
}

/* What was known before, in the place of an error; what is bogus is an answer, and a wrong one. */
static const struct ub_result *fall_back(struct dns *d, const struct query *q, struct err *err)
{
    if (err->kind != ERR_UNAVAILABLE && err->kind != ERR_TIMEOUT)
        return NULL;
    const struct ub_result *r = dns_kept_get(&d->kept, q->name, q->type);
    if (!r)
        return NULL;
    if (is_failure(q, err))
        dns_kept_note_failure(&d->kept, q->name, q->type);
    metric_inc(M_DNS_STALE);
    err_clear(err);
    return r;
}

/* Wait for the query and end it. The answer is good until the caller suspends. */
FIBER static const struct ub_result *query_finish(struct dns *d, struct query *q, struct err *err)
{
    bool has_waited = query_wait(q, err);
    struct ub_result *r = query_end(d, q);
    if (!has_waited) {
        ub_resolve_free(r);
        (void)err_prefix(err, "look-up of '%s'", q->name);
        return fall_back(d, q, err);
    }
    if (!q->is_asked) {
        err_set(err, ERR_UNAVAILABLE, "look-up of '%s' failed a moment ago", q->name);
        return fall_back(d, q, err);
    }
    judge(q, r, err);
    if (!err_is_set(err)) {
        dns_kept_put(&d->kept, q->name, q->type, r);
        return r;
    }
    if (err->kind == ERR_NOT_FOUND)
        dns_kept_forget(&d->kept, q->name, q->type);
    bool is_bogus = r && r->bogus;
    ub_resolve_free(r);
    return is_bogus ? NULL : fall_back(d, q, err);
}

static const char *type_label(int type)
{
    switch (type) {
    case TYPE_A:
    case TYPE_AAAA:
        return "address";
    case TYPE_MX:
        return "mx";
    case TYPE_TXT:
        return "txt";
    case TYPE_PTR:
        return "ptr";
    default:
        return "other";
    }
}

static bool name_z(str name, char out[NAME_MAX_ + 1], struct err *err)
{
    if (name.n == 0 || name.n > NAME_MAX_ || memchr(name.p, '\0', name.n))
        return err_set(err, ERR_INVALID, "'%.*s' is no domain name", STR_ARG(str_slice(name, 0, 64)));
    memcpy(out, name.p, name.n);
    out[name.n] = '\0';
    return true;
}

/* NULL: err says why. The answer is good until the caller suspends. */
FIBER static const struct ub_result *lookup(struct dns *d, str name, int type, struct err *err)
{
    CHECK(d, DNS_MAGIC);
    char z[NAME_MAX_ + 1];
    struct query q;
    struct known known = {false, false};
    if (!name_z(name, z, err))
        return NULL;
    look_at(d, z, type, &known);
    if (!query_start(d, &q, z, type, &known, err))
        return NULL;
    int64_t start = clock_mono_us();
    const struct ub_result *r = query_finish(d, &q, err);
    metric_observe_us(M_DNS_SECONDS, type_label(type), clock_mono_us() - start);
    return r;
}

/* --- record data --- */

/* A name in wire format as text in lower case, without the final dot. False when it is broken or has other bytes than
 * host names and service names are made of. */
static bool wire_name(const unsigned char *p, size_t n, struct arena *a, str *out)
{
    BUF(b, NAME_MAX_);
    while (n > 0 && *p != 0) {
        size_t len = *p++;
        if (len > 63 || len + 1 >= n)
            return false;
        n -= len + 1;
        if (b.n)
            buf_addc(&b, '.');
        for (; len > 0; len--, p++) {
            if (!ascii_is_alnum(*p) && *p != '-' && *p != '_')
                return false;
            buf_addc(&b, (char)ascii_lower(*p));
        }
    }
    if (n == 0 || !buf_ok(&b))
        return false;
    *out = arena_str(a, buf_str(&b));
    return true;
}

static size_t count_records(const struct ub_result *r, size_t max)
{
    size_t n = 0;
    while (n < max && r->data[n])
        n++;
    return n;
}

static int mx_cmp(const void *a, const void *b)
{
    return (int)((const struct dns_mx *)a)->preference - (int)((const struct dns_mx *)b)->preference;
}

/* Sort by preference after a shuffle; qsort of glibc is a stable merge sort at this size, and order among equals is
 * meant to be random anyway (RFC 5321 5.1). */
static void mx_order(struct dns_mx *mx, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)random_below(i);
        struct dns_mx t = mx[i - 1];
        mx[i - 1] = mx[k];
        mx[k] = t;
    }
    if (n)
        qsort(mx, n, sizeof(*mx), mx_cmp);
}

bool dns_mx(struct dns *d, str domain, struct arena *a, struct dns_mx **out, size_t *n, bool *is_secure,
            struct err *err)
{
    const struct ub_result *r = lookup(d, domain, TYPE_MX, err);
    if (!r)
        return false;
    size_t count = count_records(r, RECORDS_MAX), kept = 0;
    struct dns_mx *mx = arena_array(a, struct dns_mx, count);
    for (size_t i = 0; i < count; i++) {
        const unsigned char *p = (const unsigned char *)r->data[i];
        size_t len = (size_t)r->len[i];
        if (len >= 3 && wire_name(p + 2, len - 2, a, &mx[kept].name))
            mx[kept++].preference = (uint16_t)(p[0] << 8 | p[1]);
    }
    bool secure = r->secure != 0;
    if (kept == 0)
        return err_set(err, ERR_NOT_FOUND, "'%.*s' has no usable MX record", STR_ARG(domain));
    mx_order(mx, kept);
    *out = mx;
    *n = kept;
    *is_secure = secure;
    return true;
}

static size_t add_ips(const struct ub_result *r, int family, struct net_addr *out)
{
    size_t want = family == AF_INET ? 4 : 16, n = 0;
    for (size_t i = 0; n < IPS_MAX && r->data[i]; i++) {
        if ((size_t)r->len[i] != want)
            continue;
        struct net_addr *a = &out[n++];
        memset(a, 0, sizeof(*a));
        if (family == AF_INET) {
            a->len = sizeof(a->in4);
            a->in4.sin_family = AF_INET;
            memcpy(&a->in4.sin_addr, r->data[i], want);
        } else {
            a->len = sizeof(a->in6);
            a->in6.sin6_family = AF_INET6;
            memcpy(&a->in6.sin6_addr, r->data[i], want);
        }
    }
    return n;
}

/* Both types at once: each gives its addresses, or errs[i] says why not. A host that is known by one kind of address is
 * not kept waiting for the other when nobody answers. */
FIBER static size_t lookup_both(struct dns *d, const char *z, struct net_addr *ips, bool *is_secure, struct err errs[2])
{
    static const struct {
        int type, family;
    } kinds[2] = {{TYPE_AAAA, AF_INET6}, {TYPE_A, AF_INET}};
    struct query q[2];
    bool is_started[2];
    struct known known = {false, false};
    size_t n = 0;
    *is_secure = true;
    for (int i = 0; i < 2; i++)
        look_at(d, z, kinds[i].type, &known);
    for (int i = 0; i < 2; i++)
        is_started[i] = query_start(d, &q[i], z, kinds[i].type, &known, &errs[i]);
    for (int i = 0; i < 2; i++) {
        const struct ub_result *r = is_started[i] ? query_finish(d, &q[i], &errs[i]) : NULL;
        if (!r)
            continue;
        n += add_ips(r, kinds[i].family, ips + n);
        *is_secure &= r->secure != 0;
    }
    return n;
}

bool dns_ips(struct dns *d, str name, struct arena *a, struct net_addr **out, size_t *n, bool *is_secure,
             struct err *err)
{
    CHECK(d, DNS_MAGIC);
    char z[NAME_MAX_ + 1];
    if (!name_z(name, z, err))
        return false;
    int64_t start = clock_mono_us();
    struct err errs[2] = {ERR_INIT, ERR_INIT};
    struct net_addr *ips = arena_array(a, struct net_addr, 2 * IPS_MAX);
    bool secure;
    size_t count = lookup_both(d, z, ips, &secure, errs);
    metric_observe_us(M_DNS_SECONDS, type_label(TYPE_A), clock_mono_us() - start);
    if (count == 0) {
        /* "No such record" only when both said so. */
        int worse = errs[0].kind != ERR_NONE && errs[0].kind != ERR_NOT_FOUND ? 0 : 1;
        if (!err_is_set(&errs[worse]))
            return err_set(err, ERR_NOT_FOUND, "'%s' has no address", z);
        *err = errs[worse];
        return false;
    }
    *out = ips;
    *n = count;
    *is_secure = secure;
    return true;
}

/* <character-string>s of one TXT record, joined (RFC 7208 3.3 and RFC 6376 3.6.2.2 both want no space between). */
static str join_txt(const unsigned char *p, size_t n, struct arena *a)
{
    char *out = arena_alloc(a, n + 1);
    size_t used = 0;
    while (n > 0) {
        size_t len = *p++;
        n--;
        len = MIN(len, n);
        memcpy(out + used, p, len);
        used += len;
        p += len;
        n -= len;
    }
    out[used] = '\0';
    return str_n(out, used);
}

FIBER static bool lookup_strings(struct dns *d, str name, int type, bool is_text, struct arena *a, str **out, size_t *n,
                                 bool *is_secure, struct err *err)
{
    const struct ub_result *r = lookup(d, name, type, err);
    if (!r)
        return false;
    size_t count = count_records(r, RECORDS_MAX);
    str *v = arena_array(a, str, count);
    for (size_t i = 0; i < count; i++) {
        str raw = str_n(r->data[i], (size_t)r->len[i]);
        v[i] = is_text ? join_txt((const unsigned char *)raw.p, raw.n, a) : arena_str(a, raw);
    }
    *out = v;
    *n = count;
    *is_secure = r->secure != 0;
    return true;
}

bool dns_txt(struct dns *d, str name, struct arena *a, str **out, size_t *n, bool *is_secure, struct err *err)
{
    return lookup_strings(d, name, TYPE_TXT, true, a, out, n, is_secure, err);
}

bool dns_raw(struct dns *d, str name, int rrtype, struct arena *a, str **out, size_t *n, bool *is_secure,
             struct err *err)
{
    return lookup_strings(d, name, rrtype, false, a, out, n, is_secure, err);
}

/* RFC 1035 3.5 and RFC 3596 2.5. */
static bool reverse_name(const struct net_addr *ip, struct buf *b)
{
    if (ip->len && ip->sa.sa_family == AF_INET) {
        const unsigned char *p = (const unsigned char *)&ip->in4.sin_addr;
        buf_printf(b, "%u.%u.%u.%u.in-addr.arpa", p[3], p[2], p[1], p[0]);
        return true;
    }
    if (!ip->len || ip->sa.sa_family != AF_INET6)
        return false;
    for (int i = 15; i >= 0; i--)
        buf_printf(b, "%x.%x.", ip->in6.sin6_addr.s6_addr[i] & 15u, ip->in6.sin6_addr.s6_addr[i] >> 4);
    buf_add(b, S("ip6.arpa"));
    return true;
}

bool dns_ptr(struct dns *d, const struct net_addr *ip, struct arena *a, str **out, size_t *n, struct err *err)
{
    BUF(name, NAME_MAX_);
    if (!reverse_name(ip, &name))
        return err_set(err, ERR_INVALID, "no IP address to look up");
    const struct ub_result *r = lookup(d, buf_str(&name), TYPE_PTR, err);
    if (!r)
        return false;
    size_t count = count_records(r, RECORDS_MAX), kept = 0;
    str *v = arena_array(a, str, count);
    for (size_t i = 0; i < count; i++)
        if (wire_name((const unsigned char *)r->data[i], (size_t)r->len[i], a, &v[kept]) && v[kept].n)
            kept++;
    if (kept == 0)
        return err_set(err, ERR_NOT_FOUND, "'%s' has no usable PTR record", buf_z(&name));
    *out = v;
    *n = kept;
    return true;
}
