#include "data/pg_conn.h"

#include <endian.h>

#include "base/buf.h"
#include "base/num.h"

#define PG_INT8_ARRAY 1016
#define PG_TEXT_ARRAY 1009
#define PG_BYTEA_ARRAY 1001
#define PG_BOOL 16
#define PG_INT2 21
#define PG_INT4 23
#define PG_OID 26
#define PG_XID 28

static Oid element_type(char t)
{
    return t == 'i' ? PG_INT8 : t == 't' ? PG_TEXT : PG_BYTEA;
}

static Oid array_type(char t)
{
    return t == 'i' ? PG_INT8_ARRAY : t == 't' ? PG_TEXT_ARRAY : PG_BYTEA_ARRAY;
}

#define ROWS "{rows}"

size_t pg_form(const struct sql_stmt *st, size_t n_rows)
{
    bool is_few = st->is_rowset && n_rows <= PG_VALUES_ROWS_MAX && n_rows * strlen(st->params) <= PG_PARAMS_MAX;
    return is_few && strstr(st->pg, ROWS) ? n_rows : 0;
}

int pg_param_types(const struct sql_stmt *st, size_t form, Oid types[PG_PARAMS_MAX])
{
    size_t n_cols = strlen(st->params), n = n_cols * MAX(form, 1);
    for (size_t i = 0; i < n; i++) {
        char type = st->params[i % n_cols];
        types[i] = st->is_rowset && !form ? array_type(type) : element_type(type);
    }
    return (int)n;
}

/* What stands for {rows}: "(VALUES ($1, $2), ($3, $4))", or "(SELECT unnest($1), unnest($2))". */
static void add_rows(struct buf *b, size_t form, size_t n_cols)
{
    buf_add(b, form ? S("(VALUES ") : S("(SELECT "));
    for (size_t i = 0; i < n_cols * MAX(form, 1); i++) {
        bool begins = form && i % n_cols == 0, ends = form && (i + 1) % n_cols == 0;
        buf_printf(b, "%s%s%s$%zu%s", i ? ", " : "", begins ? "(" : "", form ? "" : "unnest(", i + 1,
                   ends || !form ? ")" : "");
    }
    buf_addc(b, ')');
}

const char *pg_text(const struct sql_stmt *st, size_t form, struct arena *a)
{
    const char *rows = st->pg && st->is_rowset ? strstr(st->pg, ROWS) : NULL;
    if (rows) {
        BUF(b, 64 * 1024);
        buf_add(&b, str_n(st->pg, (size_t)(rows - st->pg)));
        add_rows(&b, form, strlen(st->params));
        buf_add(&b, str_c(rows + strlen(ROWS)));
        assert(buf_ok(&b));
        return arena_strz(a, buf_str(&b));
    }
    if (st->pg)
        return st->pg;
    char *text = arena_strz(a, str_c(st->sqlite));
    for (char *p = text; *p; p++)
        if (*p == '?' && ascii_is_digit((unsigned char)p[1]))
            *p = '$';
    return text;
}

static char *put32(char *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, 4);
    return p + 4;
}

static size_t value_size(char type, const struct sql_value *v)
{
    return v->is_null ? 0 : type == 'i' ? 8 : v->s.n;
}

/* The binary form of a one-dimensional array: header, then each element's length (-1 = null) and bytes. */
static str encode_array(char type, const struct sql_value *v, size_t stride, size_t n, struct arena *a)
{
    size_t size = 20;
    uint32_t has_null = 0;
    for (size_t i = 0; i < n; i++) {
        size = size_add(size, 4 + value_size(type, &v[i * stride]));
        has_null |= v[i * stride].is_null;
    }
    char *start = arena_alloc(a, size), *p = start;
    p = put32(p, 1);
    p = put32(p, has_null);
    p = put32(p, element_type(type));
    p = put32(p, (uint32_t)n);
    p = put32(p, 1);
    for (size_t i = 0; i < n; i++) {
        const struct sql_value *e = &v[i * stride];
        size_t len = value_size(type, e);
        p = put32(p, e->is_null ? UINT32_MAX : (uint32_t)len);
        if (e->is_null || len == 0)
            continue;
        uint64_t be = htobe64((uint64_t)e->i);
        memcpy(p, type == 'i' ? (const char *)&be : e->s.p, len);
        p += len;
    }
    return str_n(start, size);
}

static void encode_scalar(struct pg_params *p, size_t i, char type, const struct sql_value *v)
{
    if (v->is_null) {
        p->values[i] = NULL;
        p->lengths[i] = 0;
    } else if (type == 'i') {
        p->ints[i] = htobe64((uint64_t)v->i);
        p->values[i] = (const char *)&p->ints[i];
        p->lengths[i] = 8;
    } else {
        p->values[i] = v->s.p ? v->s.p : "";
        p->lengths[i] = (int)v->s.n;
    }
}

void pg_params_encode(struct pg_params *p, const struct sql_stmt *st, size_t form, const struct sql_value *v,
                      size_t n_rows, struct arena *a)
{
    size_t n_cols = strlen(st->params), n = n_cols * MAX(form, 1);
    assert(n <= PG_PARAMS_MAX);
    p->n = (int)n;
    for (size_t i = 0; i < n; i++) {
        char type = st->params[i % n_cols];
        p->formats[i] = 1;
        if (!st->is_rowset || form) {
            encode_scalar(p, i, type, &v[i]);
        } else {
            str array = encode_array(type, v + i, n_cols, n_rows, a);
            p->values[i] = array.p;
            p->lengths[i] = (int)array.n;
        }
    }
}

/* --- results --- */

static bool decode_int(Oid type, const char *p, int len, int64_t *out)
{
    uint64_t v8;
    uint32_t v4;
    uint16_t v2;
    switch (len) {
    case 8:
        memcpy(&v8, p, 8);
        *out = (int64_t)be64toh(v8);
        return type == PG_INT8;
    case 4:
        memcpy(&v4, p, 4);
        *out = type == PG_INT4 ? (int64_t)(int32_t)be32toh(v4) : (int64_t)be32toh(v4);
        return type == PG_INT4 || type == PG_OID || type == PG_XID;
    case 2:
        memcpy(&v2, p, 2);
        *out = (int16_t)be16toh(v2);
        return type == PG_INT2;
    case 1:
        *out = *p != 0;
        return type == PG_BOOL;
    }
    return false;
}

bool pg_result_decode(const PGresult *r, const struct sql_stmt *st, struct arena *a, struct sql_result *out,
                      struct err *err)
{
    size_t n_rows = (size_t)PQntuples(r), n_cols = strlen(st->cols);
    if ((size_t)PQnfields(r) != n_cols)
        return err_set(err, ERR_INTERNAL, "postgres: %s: columns are not as declared", st->name);
    struct sql_value *v = arena_array(a, struct sql_value, n_rows * n_cols);
    for (size_t i = 0; i < n_rows * n_cols; i++) {
        int row = (int)(i / n_cols), col = (int)(i % n_cols);
        int len = PQgetlength(r, row, col);
        const char *p = PQgetvalue(r, row, col);
        v[i].is_null = PQgetisnull(r, row, col);
        if (v[i].is_null)
            continue;
        if (st->cols[col] != 'i')
            v[i].s = arena_str(a, str_n(p, (size_t)len));
        else if (!decode_int(PQftype(r, col), p, len, &v[i].i))
            return err_set(err, ERR_INTERNAL, "postgres: %s: column %d is no integer", st->name, col + 1);
    }
    const char *affected = PQcmdTuples((PGresult *)(uintptr_t)r);
    *out = (struct sql_result){.n_rows = n_rows, .n_cols = n_cols, .values = v};
    uint64_t n = 0;
    for (; ascii_is_digit((unsigned char)*affected); affected++)
        n = n * 10 + (uint64_t)(*affected - '0');
    out->n_affected = (int64_t)n;
    return true;
}

void pg_result_error(const PGresult *r, const char *what, struct pg_error *e)
{
    /* By SQLSTATE or its class; the first that fits. */
    static const struct {
        char state[6];
        enum err_kind kind;
        bool is_retryable;
    } table[] = {
        {"23505", ERR_EXISTS, false},      {"23514", ERR_CONFLICT, false}, /* a CHECK */
        {"22012", ERR_CONFLICT, false}, /* division by zero: the cheapest assertion that a statement can make */
        {"40001", ERR_CONFLICT, true},     {"40P01", ERR_CONFLICT, true},
        {"57014", ERR_UNAVAILABLE, false}, /* statement timeout: rolled back for certain */
        {"25006", ERR_UNAVAILABLE, false}, /* a standby: the primary has moved */
        {"55000", ERR_UNAVAILABLE, false}, /* the same, of what only a primary can tell */
        {"25P03", ERR_UNAVAILABLE, false}, /* idle in a transaction: we were paused */
        {"54", ERR_INTERNAL, false},       {"53", ERR_UNAVAILABLE, false},
        {"57", ERR_UNAVAILABLE, false},    {"08", ERR_UNAVAILABLE, false},
        {"58", ERR_UNAVAILABLE, false},    {"22", ERR_INVALID, false},
        {"", ERR_INTERNAL, false},
    };
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE), *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    if (!state)
        state = "08000"; /* made by libpq: the connection is gone */
    if (!text)
        text = PQresultErrorMessage(r);
    size_t i = 0;
    while (strncmp(state, table[i].state, strlen(table[i].state)) != 0)
        i++;
    (void)err_set(&e->err, table[i].kind, "postgres: %s: %s (%s)", what, text, state);
    e->is_retryable = table[i].is_retryable;
    e->is_no_table = strcmp(state, "42P01") == 0;
    /* Errors of class 57P mean that the server is going away, 25006 and 55000 that it is the wrong one. */
    e->is_lost = strncmp(state, "08", 2) == 0 || strncmp(state, "57P", 3) == 0 || strcmp(state, "25006") == 0 ||
                 strcmp(state, "55000") == 0 || strcmp(state, "25P03") == 0;
}
