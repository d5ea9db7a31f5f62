#include "frontend/admin/json.h"

json_t *admin_body(struct http_req *req, struct err *err)
{
    json_error_t at;
    json_t *o = json_loadb(req->body.p ? req->body.p : "", req->body.n, JSON_REJECT_DUPLICATES, &at);
    if (!o) {
        (void)err_set(err, ERR_INVALID, "body is not JSON: line %d, column %d: %s", at.line, at.column, at.text);
        return NULL;
    }
    if (!json_is_object(o)) {
        json_decref(o);
        (void)err_set(err, ERR_INVALID, "body must be a JSON object");
        return NULL;
    }
    return o;
}

/* The member, or NULL when it is absent or null; *has says which. */
static json_t *member(json_t *o, const char *key, protobuf_c_boolean *has)
{
    json_t *v = json_object_get(o, key);
    if (json_is_null(v))
        v = NULL;
    if (has)
        *has = v != NULL;
    return v;
}

bool admin_get_str(json_t *o, const char *key, struct arena *a, char **out, protobuf_c_boolean *has, struct err *err)
{
    json_t *v = member(o, key, has);
    if (!v)
        return true;
    if (!json_is_string(v) || memchr(json_string_value(v), '\0', json_string_length(v)))
        return err_set(err, ERR_INVALID, "'%s' must be text", key);
    *out = arena_strz(a, str_n(json_string_value(v), json_string_length(v)));
    return true;
}

bool admin_get_u64(json_t *o, const char *key, uint64_t *out, protobuf_c_boolean *has, struct err *err)
{
    json_t *v = member(o, key, has);
    if (!v)
        return true;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return err_set(err, ERR_INVALID, "'%s' must be a whole number that is not negative", key);
    *out = (uint64_t)json_integer_value(v);
    return true;
}

bool admin_get_bool(json_t *o, const char *key, protobuf_c_boolean *out, protobuf_c_boolean *has, struct err *err)
{
    json_t *v = member(o, key, has);
    if (!v)
        return true;
    if (!json_is_boolean(v))
        return err_set(err, ERR_INVALID, "'%s' must be true or false", key);
    *out = json_is_true(v);
    return true;
}

bool admin_only(json_t *o, const char *const *keys, struct err *err)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        const char *const *k = keys;
        while (*k && strcmp(*k, key) != 0)
            k++;
        if (!*k)
            return err_set(err, ERR_INVALID, "unknown member '%.60s'", key);
    }
    return true;
}

void admin_answer(struct http_req *req, int status, json_t *o)
{
    struct err err = ERR_INIT;
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    if (HOLDS(text, &err)) /* jansson takes no text that is not UTF-8, and a service may say such a thing */
        http_reply_json(req, status, str_c(text));
    else
        http_reply_err(req, &err);
    free(text);
}

json_t *admin_string(str s)
{
    if (utf8_valid(s.p, s.n) && (s.n == 0 || !memchr(s.p, '\0', s.n)))
        return json_stringn(s.p ? s.p : "", s.n);
    BUF(ascii, s.n * 3);
    for (size_t i = 0; i < s.n; i++) { /* what is not UTF-8 is shown, not refused */
        if (ascii_is_print((unsigned char)s.p[i]))
            buf_addc(&ascii, s.p[i]);
        else
            buf_add(&ascii, S("\xef\xbf\xbd"));
    }
    return json_stringn(buf_z(&ascii), ascii.n);
}

json_t *admin_warnings(json_t *o, char *const *warnings, size_t n)
{
    json_t *list = n ? json_array() : NULL;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, admin_string(str_c(warnings[i])));
    if (list)
        json_object_set_new(o, "warnings", list);
    return o;
}
