/*
 * libunbound resolves on a thread of its own and says on a pipe (ub_fd) that answers are there; the loop reads it
 * (ub_process), which calls on_answer for each. That stores the result and wakes the fiber. ub_cancel takes a query out
 * at once: on_answer is not called for it any more.
 */
#include "net/dns.h"

#include <unistd.h>

#include <arpa/inet.h>
#include <unbound.h>
#include <uv.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/loop.h"

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

struct dns {
    uint32_t magic;
    struct ub_ctx *ctx;
    uv_poll_t *poll;
    unsigned timeout_ms;
    unsigned n_active;
};

/* On the stack of the fiber that waits, until answered or cancelled. */
struct query {
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

/* "127.0.0.1:5300" and "[::1]:5300" as libunbound writes them, "127.0.0.1@5300". */
static bool add_server(struct dns *d, str server, struct err *err)
{
    struct net_addr addr;
    struct err ignored = ERR_INIT;
    char ip[NET_ADDR_TEXT_MAX], text[NET_ADDR_TEXT_MAX + 8];
    if (net_ip_parse(server, &addr))
        net_addr_set_port(&addr, 53);
    else if (!net_addr_parse(server, &addr, &ignored) || net_addr_is_unix(&addr))
        return err_set(err, ERR_INVALID, "DNS server '%.*s' is no address like 192.0.2.53 or 127.0.0.1:5300", STR_ARG(server));
    str s = net_ip_format(&addr, ip);
    (void)snprintf(text, sizeof(text), "%.*s@%u", STR_ARG(s), (unsigned)net_addr_port(&addr));
    int e = ub_ctx_set_fwd(d->ctx, text);
    return e == 0 || err_set(err, ERR_INVALID, "DNS server '%s': %s", text, ub_strerror(e));
}

static bool configure(struct dns *d, const struct dns_opts *opts, struct err *err)
{
    /* Servers on loopback, and names under private zones and .test, are the operator's business and not filtered here. */
    if (!option(d, "do-not-query-localhost:", "no", err) || !option(d, "unblock-lan-zones:", "yes", err) ||
        !option(d, "insecure-lan-zones:", "yes", err) ||
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
    d->magic = 0;
    free(d);
}

/* --- queries --- */

static bool query_start(struct dns *d, struct query *q, const char *name, int type, struct err *err)
{
    *q = (struct query){.fiber = fiber_self()};
    int e = ub_resolve_async(d->ctx, name, type, CLASS_IN, q, on_answer, &q->id);
    if (e != 0)
        return err_set(err, e == UB_SYNTAX ? ERR_INVALID : ERR_UNAVAILABLE, "look-up of '%s': %s", name, ub_strerror(e));
    if (d->n_active++ == 0)
        uv_ref((uv_handle_t *)d->poll);
    return true;
}

static void query_end(struct dns *d, struct query *q)
{
    if (!q->is_done)
        ub_cancel(d->ctx, q->id);
    if (--d->n_active == 0)
        uv_unref((uv_handle_t *)d->poll);
}

FIBER static bool query_wait(struct query *q, struct err *err)
{
    while (!q->is_done)
        if (!fiber_wait(err))
            return false;
    return true;
}

/* The verdict on an answer. On success *out is the caller's to free. */
static bool query_result(struct query *q, const char *name, struct ub_result **out, struct err *err)
{
    struct ub_result *r = q->result;
    if (q->error != 0) {
        ub_resolve_free(r);
        return err_set(err, ERR_UNAVAILABLE, "look-up of '%s': %s", name, ub_strerror(q->error));
    }
    bool ok = false;
    if (r->bogus)
        err_set(err, ERR_UNAVAILABLE, "DNSSEC validation of '%s' failed: %s", name, r->why_bogus ? r->why_bogus : "bogus");
    else if (r->nxdomain || r->rcode == RCODE_NXDOMAIN)
        err_set(err, ERR_NOT_FOUND, "no such domain '%s'", name);
    else if (r->rcode != RCODE_OK)
        err_set(err, ERR_UNAVAILABLE, "look-up of '%s': server answers with code %d", name, r->rcode);
    else if (!r->havedata)
        err_set(err, ERR_NOT_FOUND, "'%s' has no record of type %d", name, r->qtype);
    else
        ok = true;
    if (!ok) {
        ub_resolve_free(r);
        return false;
    }
    *out = r;
    return true;
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

FIBER static bool lookup(struct dns *d, str name, int type, struct ub_result **out, struct err *err)
{
    CHECK(d, DNS_MAGIC);
    char z[NAME_MAX_ + 1];
    if (!name_z(name, z, err))
        return false;
    FIBER_DEADLINE(d->timeout_ms);
    int64_t start = clock_mono_us();
    struct query q;
    if (!query_start(d, &q, z, type, err))
        return false;
    bool ok = query_wait(&q, err);
    query_end(d, &q);
    metric_observe_us(M_DNS_SECONDS, type_label(type), clock_mono_us() - start);
    if (!ok) {
        if (q.is_done)
            ub_resolve_free(q.result);
        return err_prefix(err, "look-up of '%s'", z);
    }
    return query_result(&q, z, out, err);
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

bool dns_mx(struct dns *d, str domain, struct arena *a, struct dns_mx **out, size_t *n, bool *is_secure, struct err *err)
{
    struct ub_result *r;
    if (!lookup(d, domain, TYPE_MX, &r, err))
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
    ub_resolve_free(r);
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

/* Both types at once. *results[i] is NULL where that type gave nothing, and then errs[i] says why. */
FIBER static bool lookup_both(struct dns *d, const char *z, struct ub_result *results[2], struct err errs[2], struct err *err)
{
    static const int types[2] = {TYPE_AAAA, TYPE_A};
    struct query q[2];
    FIBER_DEADLINE(d->timeout_ms);
    if (!query_start(d, &q[0], z, types[0], err))
        return false;
    if (!query_start(d, &q[1], z, types[1], err)) {
        query_end(d, &q[0]);
        if (q[0].is_done)
            ub_resolve_free(q[0].result);
        return false;
    }
    struct err waits[2] = {ERR_INIT, ERR_INIT};
    for (int i = 0; i < 2; i++)
        (void)query_wait(&q[i], &waits[i]); /* one answer may do */
    for (int i = 0; i < 2; i++) {
        query_end(d, &q[i]);
        if (!q[i].is_done)
            errs[i] = waits[i];
        else
            (void)query_result(&q[i], z, &results[i], &errs[i]); /* judged by the caller */
    }
    return true;
}

bool dns_ips(struct dns *d, str name, struct arena *a, struct net_addr **out, size_t *n, bool *is_secure, struct err *err)
{
    CHECK(d, DNS_MAGIC);
    char z[NAME_MAX_ + 1];
    if (!name_z(name, z, err))
        return false;
    int64_t start = clock_mono_us();
    struct ub_result *r[2] = {NULL, NULL};
    struct err errs[2] = {ERR_INIT, ERR_INIT};
    if (!lookup_both(d, z, r, errs, err))
        return false;
    metric_observe_us(M_DNS_SECONDS, type_label(TYPE_A), clock_mono_us() - start);
    struct net_addr *ips = arena_array(a, struct net_addr, 2 * IPS_MAX);
    size_t count = 0;
    bool secure = true;
    for (int i = 0; i < 2; i++) {
        if (!r[i])
            continue;
        count += add_ips(r[i], i == 0 ? AF_INET6 : AF_INET, ips + count);
        secure &= r[i]->secure != 0;
        ub_resolve_free(r[i]);
    }
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
    struct ub_result *r;
    if (!lookup(d, name, type, &r, err))
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
    ub_resolve_free(r);
    return true;
}

bool dns_txt(struct dns *d, str name, struct arena *a, str **out, size_t *n, bool *is_secure, struct err *err)
{
    return lookup_strings(d, name, TYPE_TXT, true, a, out, n, is_secure, err);
}

bool dns_raw(struct dns *d, str name, int rrtype, struct arena *a, str **out, size_t *n, bool *is_secure, struct err *err)
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
    struct ub_result *r;
    if (!lookup(d, buf_str(&name), TYPE_PTR, &r, err))
        return false;
    size_t count = count_records(r, RECORDS_MAX), kept = 0;
    str *v = arena_array(a, str, count);
    for (size_t i = 0; i < count; i++)
        if (wire_name((const unsigned char *)r->data[i], (size_t)r->len[i], a, &v[kept]) && v[kept].n)
            kept++;
    ub_resolve_free(r);
    if (kept == 0)
        return err_set(err, ERR_NOT_FOUND, "'%s' has no usable PTR record", buf_z(&name));
    *out = v;
    *n = kept;
    return true;
}
