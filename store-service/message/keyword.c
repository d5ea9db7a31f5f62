/*
 * Keywords of messages: the account has a dictionary (KEYWORDS_MAX names, and 65,535 in its life, for no id comes
 * twice), a message the ids as pairs of bytes, most significant first, ascending. Names are one and the same whatever
 * their case (RFC 9051 2.3.2); the spelling that came first is kept.
 */
#include "store-service/message/keyword.h"

#include "base/num.h"

// clang-format off
static const struct sql_stmt load_keywords = {
    "s_load_keywords", "i", "iitt", "SELECT account_id, kw_id, name, fold FROM s_keyword WHERE account_id = ?1",
    "SELECT account_id, kw_id, name, fold FROM s_keyword WHERE account_id = ANY ($1)", true};
static const struct sql_stmt insert_keywords = {
    "s_insert_keywords", "iitt", "", "INSERT INTO s_keyword (account_id, kw_id, name, fold) VALUES (?1, ?2, ?3, ?4)",
    "INSERT INTO s_keyword (account_id, kw_id, name, fold) SELECT * FROM {rows} AS v", true};
// clang-format on

void keywords_queue_load(struct sql_tx *tx, const int64_t *account_ids, size_t n, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, n);
    for (size_t i = 0; i < n; i++)
        v[i] = sql_i(account_ids[i]);
    sql_queue(tx, &load_keywords, v, n, out);
}

static void add(struct keywords *k, uint32_t id, str name, str fold)
{
    if (k->n == k->cap) {
        k->cap = k->cap ? k->cap * 2 : 16;
        void *v = arena_alloc(k->arena, size_mul(k->cap, sizeof *k->v));
        if (k->n)
            memcpy(v, k->v, k->n * sizeof *k->v);
        k->v = v;
    }
    k->v[k->n].id = id;
    k->v[k->n].name = name;
    k->v[k->n++].fold = fold;
    k->bytes += name.n + KEYWORD_COST;
    k->last_id = MAX(k->last_id, id);
}

struct keywords keywords_take(struct arena *a, const struct sql_result *r, int64_t account_id)
{
    struct keywords k = {.arena = a};
    for (size_t i = 0; i < r->n_rows; i++)
        if (sql_at(r, i, 0)->i == account_id)
            add(&k, (uint32_t)sql_at(r, i, 1)->i, sql_at(r, i, 2)->s, sql_at(r, i, 3)->s);
    k.n_stored = k.n;
    return k;
}

/* An IMAP flag-keyword (atom characters), or what JMAP allows: printable ASCII without ( ) { ] % * " \ and space. */
bool keywords_check(char *const *names, size_t n, struct err *err)
{
    if (n > KEYWORDS_PER_MESSAGE_MAX)
        return err_set(err, ERR_LIMIT, "more than %u keywords", KEYWORDS_PER_MESSAGE_MAX);
    for (size_t i = 0; i < n; i++) {
        str name = str_c(names[i]);
        bool ok = name.n > 0 && name.n <= KEYWORD_NAME_MAX;
        for (size_t k = 0; ok && k < name.n; k++)
            ok = (unsigned char)name.p[k] > ' ' && (unsigned char)name.p[k] < 0x7f && !strchr("(){]%*\"\\", name.p[k]);
        if (!ok)
            return err_set(err, ERR_INVALID, "'%.*s' is no keyword", (int)MIN(name.n, KEYWORD_NAME_MAX), name.p);
    }
    return true;
}

static uint32_t kw_at(str kw, size_t i)
{
    const unsigned char *p = (const unsigned char *)kw.p + 2 * i;
    return (uint32_t)p[0] << 8 | p[1];
}

static void kw_put(char *p, uint32_t id)
{
    p[0] = (char)(id >> 8);
    p[1] = (char)id;
}

static bool find(const struct keywords *k, str fold, uint32_t *id)
{
    for (size_t i = 0; i < k->n; i++) {
        if (str_eq(k->v[i].fold, fold)) {
            *id = k->v[i].id;
            return true;
        }
    }
    return false;
}

static bool has_room(const struct keywords *k, size_t name_bytes)
{
    return k->n < KEYWORDS_MAX && k->last_id < UINT16_MAX && k->bytes + name_bytes + KEYWORD_COST <= KEYWORD_BYTES_MAX;
}

bool keywords_are_full(const struct keywords *k)
{
    return !has_room(k, 1);
}

bool keywords_encode(struct keywords *k, char *const *names, size_t n, bool may_add, str *out, struct err *err)
{
    str set = STR_NONE;
    for (size_t i = 0; i < n; i++) {
        char *fold = arena_strz(k->arena, str_c(names[i]));
        for (char *p = fold; *p; p++)
            *p = (char)ascii_lower((unsigned char)*p);
        uint32_t id;
        if (!find(k, str_c(fold), &id)) {
            if (!may_add)
                continue;
            k->is_full = !has_room(k, strlen(names[i]));
            if (k->is_full)
                return err_set(err, ERR_LIMIT, "the account has %zu keywords, and had %u", k->n, k->last_id);
            id = k->last_id + 1; /* never one that was given back: a session may still know it by its old name */
            add(k, id, arena_str(k->arena, str_c(names[i])), str_c(fold));
        }
        char one[2];
        kw_put(one, id);
        set = kw_union(k->arena, set, str_n(one, 2));
    }
    *out = set;
    return true;
}

void keywords_queue_insert(struct sql_tx *tx, const struct keywords *k, int64_t account_id)
{
    size_t n = k->n - k->n_stored;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, n * 4);
    for (size_t i = 0; i < n; i++) {
        v[i * 4] = sql_i(account_id);
        v[i * 4 + 1] = sql_i(k->v[k->n_stored + i].id);
        v[i * 4 + 2] = sql_s(k->v[k->n_stored + i].name);
        v[i * 4 + 3] = sql_s(k->v[k->n_stored + i].fold);
    }
    sql_queue(tx, &insert_keywords, v, n, NULL);
}

/* --- sets of ids --- */

bool kw_has(str kw, uint32_t id)
{
    for (size_t i = 0; i < kw.n / 2; i++)
        if (kw_at(kw, i) == id)
            return true;
    return false;
}

str kw_union(struct arena *a, str x, str y)
{
    if (str_empty(y))
        return x;
    char *out = arena_alloc(a, x.n + y.n);
    size_t n = 0, i = 0, j = 0;
    while (i < x.n / 2 || j < y.n / 2) {
        uint32_t p = i < x.n / 2 ? kw_at(x, i) : UINT32_MAX, q = j < y.n / 2 ? kw_at(y, j) : UINT32_MAX;
        kw_put(out + n, MIN(p, q));
        n += 2;
        i += p <= q;
        j += q <= p;
    }
    return str_n(out, n);
}

str kw_minus(struct arena *a, str x, str y)
{
    if (str_empty(y) || str_empty(x))
        return x;
    char *out = arena_alloc(a, x.n);
    size_t n = 0;
    for (size_t i = 0; i < x.n / 2; i++) {
        if (kw_has(y, kw_at(x, i)))
            continue;
        kw_put(out + n, kw_at(x, i));
        n += 2;
    }
    return str_n(out, n);
}

void kw_to_proto(str kw, struct arena *a, uint32_t **ids, size_t *n)
{
    *n = kw.n / 2;
    *ids = *n ? arena_array(a, uint32_t, *n) : NULL;
    for (size_t i = 0; i < *n; i++)
        (*ids)[i] = kw_at(kw, i);
}

/* --- names for a reply --- */

void keywords_to_proto(const struct sql_result *r, const bool *is_used, struct arena *a, Thurn__Keyword ***out,
                       size_t *n)
{
    *n = 0;
    *out = r->n_rows ? arena_array(a, Thurn__Keyword *, r->n_rows) : NULL;
    for (size_t i = 0; i < r->n_rows; i++) {
        uint32_t id = (uint32_t)sql_at(r, i, 1)->i;
        if (is_used && !is_used[id & 0xffff])
            continue;
        Thurn__Keyword *kw = arena_new(a, Thurn__Keyword);
        thurn__keyword__init(kw);
        kw->id = id;
        kw->name = arena_strz(a, sql_at(r, i, 2)->s);
        (*out)[(*n)++] = kw;
    }
}

bool keywords_name(struct sql_tx *tx, int64_t account_id, Thurn__Message *const *messages, size_t n, struct arena *a,
                   Thurn__Keyword ***out, size_t *n_out, struct err *err)
{
    *out = NULL;
    *n_out = 0;
    bool *is_used = NULL;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < messages[i]->n_keywords; k++) {
            if (!is_used)
                is_used = arena_array(sql_arena(tx), bool, 1 << 16);
            is_used[messages[i]->keywords[k] & 0xffff] = true;
        }
    }
    if (!is_used)
        return true;
    struct sql_result r;
    keywords_queue_load(tx, &account_id, 1, &r);
    if (!sql_run(tx, err))
        return false;
    keywords_to_proto(&r, is_used, a, out, n_out);
    return true;
}
