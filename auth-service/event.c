/*
 * The record of administration: one row of dir_event for each change, written in the change's own transaction, so that
 * neither is there without the other. What is done outside of the directory is recorded by Record before it is done.
 * Rows are kept for opts.events_keep_s and go in slices, by a fiber of the service.
 */
#include "auth-service/event.h"

#include "auth-service/schema.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"

#define TEXT_MAX 200u /* of who and origin */
#define SUBJECT_MAX 512u
#define FACTS_MAX (48u * 1024)
#define PRUNE_SLICE 1000
#define PRUNE_FIRST_MS 60000
#define PRUNE_EVERY_MS (3600 * 1000)
#define WORD_MAX 40u

/* --- facts --- */

void facts_init(struct facts *f)
{
    buf_init(&f->json, FACTS_MAX);
}

void facts_done(struct facts *f)
{
    buf_done(&f->json);
}

static struct buf *next_fact(struct facts *f, const char *key)
{
    buf_printf(&f->json, "%s\"%s\":", f->json.n ? "," : "{", key);
    return &f->json;
}

void facts_str(struct facts *f, const char *key, str value)
{
    buf_add_json(next_fact(f, key), value);
}

void facts_int(struct facts *f, const char *key, int64_t value)
{
    buf_printf(next_fact(f, key), "%lld", (long long)value);
}

void facts_bool(struct facts *f, const char *key, bool value)
{
    buf_printf(next_fact(f, key), value ? "true" : "false");
}

void facts_list(struct facts *f, const char *key, const str *values, size_t n)
{
    struct buf *b = next_fact(f, key);
    for (size_t i = 0; i < MIN(n, (size_t)EVENT_LIST_MAX); i++) {
        buf_addc(b, i ? ',' : '[');
        buf_add_json(b, values[i]);
    }
    buf_add(b, n ? S("]") : S("[]"));
    if (n > EVENT_LIST_MAX)
        facts_int(f, "more", (int64_t)(n - EVENT_LIST_MAX));
}

str facts_end(struct facts *f, struct arena *a)
{
    buf_add(&f->json, f->json.n ? S("}") : S("{}"));
    return buf_ok(&f->json) ? arena_str(a, buf_str(&f->json)) : S("{\"too_long\":true}");
}

/* --- writing --- */

static str cut(str s, size_t most)
{
    while (s.n > most || (s.n && !utf8_valid(s.p, s.n)))
        s.n--;
    return s;
}

static void fill(struct sql_value *p, const Thurn__Author *by, int64_t act, size_t seq, const struct event *e)
{
    const struct sql_value v[EVENT_COLS_] = {sql_i(act),
                                             sql_i((int64_t)seq),
                                             sql_i(clock_unix_ms()),
                                             sql_s(by && by->who[0] ? cut(str_c(by->who), TEXT_MAX) : S("unknown")),
                                             sql_s(by ? cut(str_c(by->origin), TEXT_MAX) : S("")),
                                             sql_s(e->what),
                                             sql_s(cut(e->subject, SUBJECT_MAX)),
                                             sql_s(e->before),
                                             sql_s(e->after)};
    memcpy(p, v, sizeof(v));
}

bool event_add(struct sql_tx *tx, const Thurn__Author *by, const struct event *events, size_t n, struct err *err)
{
    struct sql_value *params = arena_array(sql_arena(tx), struct sql_value, n * EVENT_COLS_);
    int64_t act = by && by->act ? (int64_t)by->act : (int64_t)random_u64();
    for (size_t i = 0; i < n; i++)
        fill(&params[i * EVENT_COLS_], by, act, i, &events[i]);
    return sql_exec(tx, &q_add_events, params, n, NULL, err);
}

FIBER static bool record_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return sql_exec(tx, &q_record, arg, 1, NULL, err);
}

static bool is_word(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(s.p[i] >= 'a' && s.p[i] <= 'z') && s.p[i] != '.' && s.p[i] != '_')
            return false;
    return s.n && s.n <= WORD_MAX;
}

static bool is_object(str s)
{
    return !s.n || (s.n <= FACTS_MAX && s.p[0] == '{' && s.p[s.n - 1] == '}' && utf8_valid(s.p, s.n));
}

bool event_record(struct auth *auth, const Thurn__RecordRequest *q, struct err *err)
{
    const Thurn__Event *e = q->event;
    struct sql_value params[EVENT_COLS_];
    if (!q->by || !q->by->act || !e || !is_word(str_c(e->what)) || !is_object(str_c(e->before)) ||
        !is_object(str_c(e->after)))
        return err_set(err, ERR_INVALID,
                       "a record has an author with an act, a word for what was done, and JSON objects");
    fill(params, q->by, (int64_t)q->by->act, 0,
         &(struct event){str_c(e->what), str_c(e->subject), str_c(e->before), str_c(e->after)});
    return sql_write(auth->opts.directory, record_body, params, err);
}

/* --- reading --- */

/* "AT.ACT.SEQ" of the row before the page. */
static bool parse_cursor(str s, int64_t out[3], struct err *err)
{
    str word;
    size_t n = 0;
    while (n < 3 && str_split(&s, '.', &word) && num_i64(word, INT64_MIN, INT64_MAX, &out[n]))
        n++;
    return (n == 3 && !s.n) || err_set(err, ERR_INVALID, "this is no cursor of a page of events");
}

static Thurn__Event *event_message(const struct sql_result *r, size_t row, struct arena *a)
{
    Thurn__Event *e = arena_new(a, Thurn__Event);
    thurn__event__init(e);
    e->at_unix_ms = (uint64_t)sql_at(r, row, EVENT_AT)->i;
    e->who = arena_strz(a, sql_at(r, row, EVENT_WHO)->s);
    e->origin = arena_strz(a, sql_at(r, row, EVENT_ORIGIN)->s);
    e->what = arena_strz(a, sql_at(r, row, EVENT_WHAT)->s);
    e->subject = arena_strz(a, sql_at(r, row, EVENT_SUBJECT)->s);
    e->before = arena_strz(a, sql_at(r, row, EVENT_WAS)->s);
    e->after = arena_strz(a, sql_at(r, row, EVENT_BECAME)->s);
    return e;
}

bool event_list(struct auth *auth, const Thurn__ListEventsRequest *q, struct arena *a, Thurn__ListEventsReply *out,
                struct err *err)
{
    int64_t at[3] = {(int64_t)MIN(q->since_unix_ms, (uint64_t)INT64_MAX) - 1, INT64_MAX,
                     INT64_MAX}; /* behind all of the millisecond before */
    int64_t limit = q->limit == 0 ? 100 : MIN(q->limit, AUTH_BATCH_MAX);
    struct sql_result r;
    size_t bytes = 0, i = 0;
    if (q->after[0] && !parse_cursor(str_c(q->after), at, err))
        return false;
    if (strlen(q->who) > NAME_KEY_MAX || strlen(q->what) > NAME_KEY_MAX)
        return err_set(err, ERR_LIMIT, "search text is longer than %u bytes", NAME_KEY_MAX);
    struct sql_value params[6] = {
        sql_i(at[0]), sql_i(at[1]), sql_i(at[2]), sql_s(like_pattern(q->who, a)), sql_s(like_pattern(q->what, a)),
        sql_i(limit)};
    if (!sql_query(auth->opts.directory, &q_list_events, params, a, &r, err))
        return false;
    out->events = arena_array(a, Thurn__Event *, r.n_rows);
    for (; i < r.n_rows && bytes < RPC_MESSAGE_MAX / 2; i++) {
        bytes += 1024 + sql_at(&r, i, EVENT_WAS)->s.n + sql_at(&r, i, EVENT_BECAME)->s.n;
        out->events[out->n_events++] = event_message(&r, i, a);
    }
    if (i && (i < r.n_rows || (int64_t)r.n_rows == limit))
        out->next = arena_strz(a, arena_printf(a, "%lld.%lld.%lld", (long long)sql_at(&r, i - 1, EVENT_AT)->i,
                                               (long long)sql_at(&r, i - 1, EVENT_ACT)->i,
                                               (long long)sql_at(&r, i - 1, EVENT_SEQ)->i));
    return true;
}

/* --- pruning --- */

struct prune {
    struct sql_value params[2];
    size_t n;
};
FIBER static bool prune_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct prune *p = arg;
    struct sql_result r;
    if (!sql_exec(tx, &q_prune_events, p->params, 1, &r, err))
        return false;
    p->n = r.n_rows;
    return true;
}

bool auth_prune_events(struct auth *auth, uint64_t *removed, struct err *err)
{
    struct prune p = {
        .params = {sql_i(clock_unix_ms() - (int64_t)auth->opts.events_keep_s * 1000), sql_i(PRUNE_SLICE)}};
    *removed = 0;
    do {
        if (!sql_write(auth->opts.directory, prune_body, &p, err))
            return false;
        *removed += p.n;
    } while (p.n == PRUNE_SLICE);
    return true;
}

void auth_housekeeping(void *arg)
{
    struct auth *auth = arg;
    struct err err = ERR_INIT;
    int64_t wait_ms = PRUNE_FIRST_MS;
    while (fiber_sleep_ms(wait_ms + (int64_t)random_below((uint64_t)wait_ms / 2), &err)) {
        struct err failed = ERR_INIT;
        uint64_t removed;
        if (!auth_prune_events(auth, &removed, &failed))
            log_warn("auth.prune", KV_ERR(&failed)); /* the next hour tries again */
        else if (removed)
            log_info("auth.pruned", KV_I64("events", (int64_t)removed));
        wait_ms = PRUNE_EVERY_MS;
    }
}
