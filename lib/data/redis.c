/*
 * Each connection (one for commands, one for subscriptions) has a keeper fiber that resolves, connects, authenticates,
 * waits until the connection breaks, and begins again with back-off. hiredis' callbacks only store and wake.
 *
 * A command's state is on the heap, because hiredis cannot take a command back: when its fiber gives up, the answer
 * that comes later finds no waiter and frees the state. A command that had its whole time without an answer breaks the
 * connection, so that the others fail at once instead of each waiting as long.
 */
#include "data/redis.h"

#include <arpa/inet.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <openssl/sha.h>
#include <uv.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "data/redis_address.h"
#include "fiber/loop.h"
#include "fiber/work.h"

#define REDIS_MAGIC 0x52454453u
#define CHANNELS_MAX 8192
#define LISTENERS_MAX 8
#define PENDING_MAX 10000
#define WORDS_MAX 256
#define DEPTH_MAX 8
#define CONNECT_TIMEOUT_MS 3000
#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 2000

struct redis;
struct conn {
    struct redis *r;
    redisAsyncContext *ac; /* NULL while there is no connection */
    uv_poll_t *poll;
    int events;
    bool is_connected; /* TCP stands */
    bool is_up;        /* authenticated, ready for users' commands */
    bool has_keeper;
    struct fiber *keeper;
    struct fiber *stopper; /* waits in redis_free for the keeper's end */
    struct fiber_cond changed;
    unsigned n_pending;
};

struct redis {
    uint32_t magic;
    struct redis_address at;
    unsigned timeout_ms;
    bool is_stopping;
    struct conn commands, subs;
    struct map channels; /* name -> itself (any non-NULL) */
    size_t n_channels;
    struct map64 scripts; /* address of a script literal -> its SHA-1 in hex */
    struct listener {
        void (*on_message)(void *arg, str channel, str payload);
        void (*on_gap)(void *arg);
        void *arg;
    } listeners[LISTENERS_MAX];
    size_t n_listeners;
};

struct pending {
    struct conn *conn;
    struct fiber *waiter; /* NULL: nobody waits any more */
    struct arena *arena;
    struct redis_value value;
    struct err err;
    bool is_done, is_lost, has_no_script, is_read_only;
};

/* --- the loop's side of hiredis --- */

static void free_handle(uv_handle_t *h)
{
    free(h);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct conn *c = poll->data;
    /* Each step may free the context; c->ac says so. On an error hiredis finds out by reading. */
    if (c->ac && (status < 0 || (events & UV_READABLE)))
        redisAsyncHandleRead(c->ac);
    if (c->ac && c->poll == poll && (events & UV_WRITABLE))
        redisAsyncHandleWrite(c->ac);
}

static void watch(struct conn *c, int events)
{
    if (!c->poll || events == c->events)
        return;
    c->events = events;
    if (events)
        uv_poll_start(c->poll, events, on_poll);
    else
        uv_poll_stop(c->poll);
}
static void ev_add_read(void *c)
{
    watch(c, ((struct conn *)c)->events | UV_READABLE);
}
static void ev_del_read(void *c)
{
    watch(c, ((struct conn *)c)->events & ~UV_READABLE);
}
static void ev_add_write(void *c)
{
    watch(c, ((struct conn *)c)->events | UV_WRITABLE);
}
static void ev_del_write(void *c)
{
    watch(c, ((struct conn *)c)->events & ~UV_WRITABLE);
}
static void ev_cleanup(void *arg)
{
    struct conn *c = arg;
    if (!c->poll)
        return;
    uv_poll_stop(c->poll);
    uv_close((uv_handle_t *)c->poll, free_handle);
    c->poll = NULL;
    c->events = 0;
}

static void conn_gone(struct conn *c)
{
    c->ac = NULL;
    c->is_connected = c->is_up = false;
    fiber_cond_broadcast(&c->changed);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct conn *c = ac->data;
    if (status != REDIS_OK) {
        conn_gone(c); /* hiredis frees the context after this */
        return;
    }
    c->is_connected = true;
    fiber_cond_broadcast(&c->changed);
}

static void on_disconnect(const redisAsyncContext *ac, int status UNUSED)
{
    conn_gone(ac->data);
}

/* Drop the connection now; commands under way are told. Never inside a callback of hiredis. */
static void conn_drop(struct conn *c)
{
    redisAsyncContext *ac = TAKE(c->ac);
    if (ac)
        redisAsyncFree(ac);
    conn_gone(c);
}

/* --- replies --- */

static bool convert(const redisReply *r, struct arena *a, unsigned depth, struct redis_value *out)
{
    *out = (struct redis_value){.type = REDIS_NIL};
    switch (r->type) {
    case REDIS_REPLY_INTEGER:
        out->type = REDIS_INT;
        out->i = r->integer;
        return true;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR: /* inside an array */
        out->type = REDIS_STR;
        out->s = arena_str(a, str_n(r->str, (size_t)r->len));
        return true;
    case REDIS_REPLY_ARRAY:
        if (depth == 0)
            return false;
        out->type = REDIS_ARRAY;
        out->n_items = r->elements;
        out->items = arena_array(a, struct redis_value, r->elements);
        for (size_t i = 0; i < r->elements; i++)
            if (!convert(r->element[i], a, depth - 1, &out->items[i]))
                return false;
        return true;
    default:
        return true;
    }
}

static void take_error(struct pending *p, str text)
{
    static const char *const temporary[] = {"LOADING",     "READONLY", "MASTERDOWN", "BUSY",
                                            "CLUSTERDOWN", "TRYAGAIN", "OOM"};
    enum err_kind kind = ERR_INTERNAL;
    for (size_t i = 0; i < ARRAY_LEN(temporary); i++)
        if (str_starts(text, str_c(temporary[i])))
            kind = ERR_UNAVAILABLE;
    p->has_no_script = str_starts(text, S("NOSCRIPT"));
    p->is_read_only = str_starts(text, S("READONLY"));
    err_set(&p->err, kind, "redis says '%.*s'", STR_ARG(str_slice(text, 0, 150)));
}

static void on_reply(redisAsyncContext *ac UNUSED, void *reply, void *arg)
{
    struct pending *p = arg;
    const redisReply *r = reply;
    p->conn->n_pending--;
    if (!p->waiter) {
        free(p);
        return;
    }
    if (!r) {
        p->is_lost = true;
        err_set(&p->err, ERR_UNAVAILABLE, "connection to redis lost");
    } else if (r->type == REDIS_REPLY_ERROR) {
        take_error(p, str_n(r->str, (size_t)r->len));
    } else if (!convert(r, p->arena, DEPTH_MAX, &p->value)) {
        err_set(&p->err, ERR_INTERNAL, "answer of redis is nested too deeply");
    }
    p->is_done = true;
    fiber_wake(p->waiter);
}

/* --- commands --- */

static bool send_words(struct conn *c, struct pending *p, const str *words, size_t n, struct err *err)
{
    const char *argv[WORDS_MAX];
    size_t lengths[WORDS_MAX];
    if (n == 0 || n > WORDS_MAX)
        return err_set(err, ERR_LIMIT, "redis command of %zu words", n);
    if (c->n_pending >= PENDING_MAX)
        return err_set(err, ERR_UNAVAILABLE, "%u redis commands are waiting already", c->n_pending);
    for (size_t i = 0; i < n; i++) {
        argv[i] = words[i].p ? words[i].p : "";
        lengths[i] = words[i].n;
    }
    if (!c->ac || redisAsyncCommandArgv(c->ac, on_reply, p, (int)n, argv, lengths) != REDIS_OK)
        return err_set(err, ERR_UNAVAILABLE, "redis is away");
    c->n_pending++;
    return true;
}

/* Returns the finished state (the caller frees it), or NULL with err set. */
FIBER static struct pending *call(struct conn *c, const str *words, size_t n, struct arena *a, struct err *err)
{
    struct pending *p = xnew(struct pending);
    p->conn = c;
    p->waiter = fiber_self();
    p->arena = a;
    if (!send_words(c, p, words, n, err)) {
        free(p);
        return NULL;
    }
    unsigned timeout_ms = c->r->timeout_ms;
    int64_t start = clock_mono_ms();
    FIBER_DEADLINE(timeout_ms);
    while (!p->is_done) {
        if (fiber_wait(err))
            continue;
        if (p->is_done) {
            err_clear(err);
            break;
        }
        bool was_own_timeout = err->kind == ERR_TIMEOUT && clock_mono_ms() - start >= (int64_t)timeout_ms;
        p->waiter = NULL; /* freed by on_reply */
        if (was_own_timeout) {
            err_clear(err);
            err_set(err, ERR_UNAVAILABLE, "redis did not answer within %u ms", timeout_ms);
            conn_drop(c);
        }
        return NULL;
    }
    return p;
}

FIBER static bool run(struct conn *c, const str *words, size_t n, struct arena *a, struct redis_value *out,
                      bool *has_no_script, struct err *err)
{
    *has_no_script = false;
    struct pending *p = call(c, words, n, a, err);
    if (!p) {
        metric_inc(M_REDIS_ERRORS);
        return false;
    }
    bool ok = !err_is_set(&p->err);
    *has_no_script = p->has_no_script;
    bool read_only = p->is_read_only;
    if (ok)
        *out = p->value;
    else
        *err = p->err;
    free(p);
    if (!ok && !*has_no_script)
        metric_inc(M_REDIS_ERRORS);
    if (read_only)
        conn_drop(c); /* it has become a replica: what the name stands for now may be another */
    return ok;
}

static bool usable(struct redis *r, struct err *err)
{
    CHECK(r, REDIS_MAGIC);
    if (r->commands.is_up)
        return true;
    metric_inc(M_REDIS_ERRORS);
    return err_set(err, ERR_UNAVAILABLE, "redis is away");
}

bool redis_command(struct redis *r, const str *words, size_t n, struct arena *a, struct redis_value *out,
                   struct err *err)
{
    bool ignored;
    return usable(r, err) && run(&r->commands, words, n, a, out, &ignored, err);
}

static const char *script_sha(struct redis *r, const char *script)
{
    char *hex = map64_get(&r->scripts, (uint64_t)(uintptr_t)script);
    if (hex)
        return hex;
    unsigned char md[SHA_DIGEST_LENGTH];
    SHA1((const unsigned char *)script, strlen(script), md);
    BUF(b, 2 * SHA_DIGEST_LENGTH);
    buf_add_hex(&b, str_n(md, sizeof(md)));
    hex = xstrdup(buf_z(&b));
    (void)map64_put(&r->scripts, (uint64_t)(uintptr_t)script, hex); /* nothing was there */
    return hex;
}

bool redis_script(struct redis *r, const char *script, const str *words, size_t n_keys, size_t n, struct arena *a,
                  struct redis_value *out, struct err *err)
{
    if (!usable(r, err))
        return false;
    str all[WORDS_MAX];
    if (n + 3 > WORDS_MAX || n_keys > n)
        return err_set(err, ERR_LIMIT, "redis script with %zu words", n);
    char keys[24];
    (void)snprintf(keys, sizeof(keys), "%zu", n_keys);
    all[0] = S("EVALSHA");
    all[1] = str_c(script_sha(r, script));
    all[2] = str_c(keys);
    if (n)
        memcpy(all + 3, words, n * sizeof(*words));
    bool has_no_script;
    if (run(&r->commands, all, n + 3, a, out, &has_no_script, err))
        return true;
    if (!has_no_script)
        return false;
    err_clear(err);
    all[0] = S("EVAL");
    all[1] = str_c(script);
    return run(&r->commands, all, n + 3, a, out, &has_no_script, err);
}

static void on_published(redisAsyncContext *ac UNUSED, void *reply UNUSED, void *arg)
{
    ((struct conn *)arg)->n_pending--;
}

void redis_publish(struct redis *r, str channel, str payload)
{
    CHECK(r, REDIS_MAGIC);
    struct conn *c = &r->commands;
    const char *argv[3] = {"PUBLISH", channel.p, payload.p ? payload.p : ""};
    const size_t lengths[3] = {7, channel.n, payload.n};
    if (!c->is_up || c->n_pending >= PENDING_MAX ||
        redisAsyncCommandArgv(c->ac, on_published, c, 3, argv, lengths) != REDIS_OK)
        metric_inc(M_REDIS_ERRORS);
    else
        c->n_pending++;
}

/* --- keeping a connection --- */

struct resolve {
    const char *host;
    char ip[INET6_ADDRSTRLEN];
    int error;
};

static void resolve_host(void *arg)
{
    struct resolve *q = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    q->error = getaddrinfo(q->host, NULL, &hints, &list);
    if (q->error == 0)
        q->error = getnameinfo(list->ai_addr, list->ai_addrlen, q->ip, sizeof(q->ip), NULL, 0, NI_NUMERICHOST);
    if (list)
        freeaddrinfo(list);
}

FIBER static bool conn_open(struct conn *c, struct err *err)
{
    struct redis *r = c->r;
    redisAsyncContext *ac;
    if (r->at.path) {
        ac = redisAsyncConnectUnix(r->at.path);
    } else {
        struct resolve q = {.host = r->at.host};
        if (!work_run(resolve_host, &q, err))
            return false;
        if (q.error != 0)
            return err_set(err, ERR_UNAVAILABLE, "redis host '%s': %s", r->at.host, gai_strerror(q.error));
        ac = redisAsyncConnect(q.ip, r->at.port);
    }
    if (!ac)
        panic("out of memory");
    if (ac->err) {
        err_set(err, ERR_UNAVAILABLE, "redis: %s", ac->errstr ? ac->errstr : "cannot connect");
        redisAsyncFree(ac);
        return false;
    }
    c->ac = ac;
    ac->data = c;
    c->poll = xnew(uv_poll_t);
    uv_poll_init(fiber_loop(), c->poll, ac->c.fd);
    c->poll->data = c;
    ac->ev.data = c;
    ac->ev.addRead = ev_add_read;
    ac->ev.delRead = ev_del_read;
    ac->ev.addWrite = ev_add_write;
    ac->ev.delWrite = ev_del_write;
    ac->ev.cleanup = ev_cleanup;
    redisAsyncSetConnectCallback(ac, on_connect); /* asks for the first write event */
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    FIBER_DEADLINE(CONNECT_TIMEOUT_MS);
    while (c->ac && !c->is_connected)
        if (!fiber_cond_wait(&c->changed, err))
            return false;
    return c->ac || err_set(err, ERR_UNAVAILABLE, "redis does not accept the connection");
}

FIBER static bool conn_greet(struct conn *c, struct err *err)
{
    struct redis *r = c->r;
    ARENA(a, 16 * 1024);
    struct redis_value ignored;
    bool no_script;
    if (!r->at.path)
        (void)redisEnableKeepAlive(&c->ac->c); /* without it a dead peer is found later */
    if (r->at.password) {
        str words[3] = {S("AUTH"), str_c(r->at.user ? r->at.user : r->at.password), str_c(r->at.password)};
        if (!run(c, words, r->at.user ? 3 : 2, &a, &ignored, &no_script, err))
            return false;
    }
    if (r->at.db) {
        char db[12];
        (void)snprintf(db, sizeof(db), "%u", r->at.db);
        str words[2] = {S("SELECT"), str_c(db)};
        if (!run(c, words, 2, &a, &ignored, &no_script, err))
            return false;
    }
    if (!r->at.password && !r->at.db) { /* is it alive, and does it want a password? */
        str words[1] = {S("PING")};
        if (!run(c, words, 1, &a, &ignored, &no_script, err))
            return false;
    }
    return c->ac || err_set(err, ERR_UNAVAILABLE, "connection to redis lost");
}

static void on_pushed(redisAsyncContext *ac, void *reply, void *arg UNUSED)
{
    struct conn *c = ac->data;
    const redisReply *m = reply;
    if (!m || m->type != REDIS_REPLY_ARRAY || m->elements != 3 || m->element[0]->type != REDIS_REPLY_STRING ||
        m->element[1]->type != REDIS_REPLY_STRING || m->element[2]->type != REDIS_REPLY_STRING ||
        strcmp(m->element[0]->str, "message") != 0)
        return;
    str channel = str_n(m->element[1]->str, (size_t)m->element[1]->len);
    str payload = str_n(m->element[2]->str, (size_t)m->element[2]->len);
    for (size_t i = 0; i < c->r->n_listeners; i++)
        c->r->listeners[i].on_message(c->r->listeners[i].arg, channel, payload);
}

static void send_subscription(struct conn *c, const char *verb, str channel)
{
    const char *argv[2] = {verb, channel.p};
    const size_t lengths[2] = {strlen(verb), channel.n};
    if (c->is_up && redisAsyncCommandArgv(c->ac, on_pushed, NULL, 2, argv, lengths) != REDIS_OK)
        metric_inc(M_REDIS_ERRORS);
}

static void subs_ready(struct redis *r)
{
    str channel;
    void *value;
    for (struct map_iter it = {0}; map_next(&r->channels, &it, &channel, &value);)
        send_subscription(&r->subs, "SUBSCRIBE", channel);
    for (size_t i = 0; i < r->n_listeners; i++)
        if (r->listeners[i].on_gap)
            r->listeners[i].on_gap(r->listeners[i].arg);
}

/* One life of the connection: until it broke or the keeper was cancelled. */
FIBER static void conn_live(struct conn *c, bool *was_up)
{
    struct err err = ERR_INIT;
    *was_up = false;
    if (conn_open(c, &err) && conn_greet(c, &err)) {
        c->is_up = *was_up = true;
        trouble_over("redis");
        if (c == &c->r->subs)
            subs_ready(c->r);
        while (c->ac && fiber_cond_wait(&c->changed, &err))
            continue;
        if (!err_is_set(&err))
            (void)err_set(&err, ERR_UNAVAILABLE, "connection to redis lost");
    }
    conn_drop(c);
    if (!c->r->is_stopping)
        trouble_note("redis", err.msg);
}

FIBER static void keep(void *arg)
{
    struct conn *c = arg;
    c->keeper = fiber_self();
    int64_t pause_ms = BACKOFF_FIRST_MS;
    while (!c->r->is_stopping) {
        bool was_up;
        conn_live(c, &was_up);
        pause_ms = was_up ? BACKOFF_FIRST_MS : MIN(pause_ms * 2, BACKOFF_MAX_MS);
        struct err err = ERR_INIT;
        if (!fiber_sleep_ms(pause_ms / 2 + (int64_t)random_below((uint64_t)pause_ms), &err))
            break;
    }
    c->has_keeper = false;
    c->keeper = NULL;
    if (c->stopper)
        fiber_wake(c->stopper);
}

static bool conn_start(struct conn *c, struct err *err)
{
    if (c->has_keeper)
        return true;
    if (!fiber_spawn("redis.keeper", keep, c, FIBER_NO_DEADLINE, err))
        return false;
    c->has_keeper = true;
    return true;
}

/* --- subscriptions --- */

bool redis_subscribe(struct redis *r, str channel, struct err *err)
{
    CHECK(r, REDIS_MAGIC);
    if (map_get(&r->channels, channel))
        return true;
    if (r->n_channels >= CHANNELS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d redis channels", CHANNELS_MAX);
    if (!conn_start(&r->subs, err))
        return false;
    (void)map_put(&r->channels, channel, r); /* nothing was there */
    r->n_channels++;
    send_subscription(&r->subs, "SUBSCRIBE", channel);
    return true;
}

void redis_unsubscribe(struct redis *r, str channel)
{
    CHECK(r, REDIS_MAGIC);
    if (!map_remove(&r->channels, channel))
        return;
    r->n_channels--;
    send_subscription(&r->subs, "UNSUBSCRIBE", channel);
}

void redis_on_message(struct redis *r, void (*fn)(void *arg, str channel, str payload), void (*on_gap)(void *arg),
                      void *arg)
{
    CHECK(r, REDIS_MAGIC);
    if (fn) {
        assert(r->n_listeners < LISTENERS_MAX);
        r->listeners[r->n_listeners++] = (struct listener){fn, on_gap, arg};
        return;
    }
    for (size_t i = 0; i < r->n_listeners; i++)
        if (r->listeners[i].arg == arg) {
            r->listeners[i] = r->listeners[--r->n_listeners];
            return;
        }
}

bool redis_is_up(const struct redis *r)
{
    CHECK(r, REDIS_MAGIC);
    return r->commands.is_up;
}

/* --- life --- */

bool redis_check_url(str url, struct err *err)
{
    struct redis_address a = {0};
    bool ok = redis_address_parse(url, &a, err);
    redis_address_done(&a);
    return ok;
}

static void destroy(struct redis *r)
{
    uint64_t key64;
    void *value;
    for (struct map_iter it = {0}; map64_next(&r->scripts, &it, &key64, &value);)
        free(value);
    map64_done(&r->scripts);
    map_done(&r->channels);
    redis_address_done(&r->at);
    r->magic = 0;
    free(r);
}

struct redis *redis_new(const struct redis_opts *opts, struct err *err)
{
    struct redis *r = xnew(struct redis);
    r->magic = REDIS_MAGIC;
    r->timeout_ms = opts->timeout_ms ? opts->timeout_ms : 1000;
    r->commands.r = r->subs.r = r;
    fiber_cond_init(&r->commands.changed);
    fiber_cond_init(&r->subs.changed);
    map_init(&r->channels);
    map64_init(&r->scripts);
    if (!redis_address_parse(opts->url, &r->at, err) || !conn_start(&r->commands, err)) {
        destroy(r);
        return NULL;
    }
    return r;
}

FIBER static void conn_stop(struct conn *c)
{
    c->stopper = fiber_self();
    if (c->keeper)
        fiber_cancel(c->keeper); /* one that has not begun yet sees is_stopping */
    while (c->has_keeper)
        fiber_wait_uninterrupted();
}

void redis_free(struct redis *r)
{
    if (!r)
        return;
    CHECK(r, REDIS_MAGIC);
    r->is_stopping = true;
    conn_stop(&r->commands);
    conn_stop(&r->subs);
    destroy(r);
}
