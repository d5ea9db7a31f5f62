/* Vectors of other mail parsers, from outside of this repository. They are readings, not law: what differs is counted
 * against a bound and explained where the bound is. */
#include "mail_util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#include <jansson.h>

#include "mail/content_field.h"
#include "mail/date.h"
#include "mail/header.h"
#include "mail/transfer.h"

struct tally {
    unsigned passed, failed;
};

static void verdict(struct tally *t, bool ok, const char *what, const char *name, const char *got, const char *want)
{
    if (ok) {
        t->passed++;
        return;
    }
    t->failed++;
    if (getenv("THURN_VERBOSE"))
        printf("# %s differs: %s\n#   got  %s\n#   want %s\n", what, name, got, want);
}

static str json_str(const json_t *v)
{
    return json_is_string(v) ? str_n(json_string_value(v), json_string_length(v)) : S("");
}

typedef bool (*header_check)(struct arena *a, str header, const json_t *expected, struct buf *got);

/* Value of the field as a header block holds it: what follows its end is another field. */
static str field_value(struct arena *a, str header)
{
    struct header_field f;
    str block = arena_printf(a, "X:%.*s", STR_ARG(header));
    return header_find(block, S("X"), &f) ? f.value : S("");
}

static void check_address_row(struct buf *want, const json_t *row)
{
    buf_printf(want, "%.*s <%.*s>,", STR_ARG(json_str(json_object_get(row, "name"))),
               STR_ARG(json_str(json_object_get(row, "address"))));
}

static bool check_address(struct arena *a, str header, const json_t *expected, struct buf *got)
{
    struct address_list l;
    address_list_parse(a, field_value(a, header), 100, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct mail_address *m = &l.v[i];
        if (m->group_start.p)
            buf_printf(got, "%.*s{", STR_ARG(m->group_start));
        else if (m->is_group_end)
            buf_addc(got, '}');
        else
            buf_printf(got, "%.*s <%.*s%s%.*s>,", STR_ARG(m->name), STR_ARG(m->local), m->domain.n ? "@" : "",
                       STR_ARG(m->domain));
    }
    BUF(want, 65536);
    size_t i, k;
    json_t *row, *group, *list = json_object_get(expected, "List"), *groups = json_object_get(expected, "Group");
    json_array_foreach(list, i, row) check_address_row(&want, row);
    json_array_foreach(groups, k, group)
    {
        str name = json_str(json_object_get(group, "name"));
        if (name.n)
            buf_printf(&want, "%.*s{", STR_ARG(name));
        json_array_foreach(json_object_get(group, "addresses"), i, row) check_address_row(&want, row);
        if (name.n)
            buf_addc(&want, '}');
    }
    if (str_eq(buf_str(got), buf_str(&want)))
        return true;
    buf_printf(got, "   WANT %s", buf_z(&want));
    return false;
}

static bool check_content_type(struct arena *a, str header, const json_t *expected, struct buf *got)
{
    struct content_field f;
    content_field_parse(a, field_value(a, header), true, 64, 4096, &f);
    bool ok = str_eq_nocase(f.token, json_str(json_object_get(expected, "c_type"))) &&
              str_eq_nocase(f.subtype, json_str(json_object_get(expected, "c_subtype")));
    buf_printf(got, "%.*s/%.*s", STR_ARG(f.token), STR_ARG(f.subtype));
    json_t *attributes = json_object_get(expected, "attributes"), *one;
    size_t i;
    for (i = 0; i < f.params.n; i++)
        buf_printf(got, "; %.*s=[%.*s]", STR_ARG(f.params.v[i].name), STR_ARG(f.params.v[i].value));
    json_array_foreach(attributes, i, one)
    {
        str name = json_str(json_object_get(one, "name"));
        if (!str_ends(name, S("-language"))) /* RFC 2231 languages are not kept */
            ok = ok && str_eq(mime_param(&f.params, json_string_value(json_object_get(one, "name"))),
                              json_str(json_object_get(one, "value")));
    }
    return ok;
}

static int json_int(const json_t *v, const char *key)
{
    return (int)json_integer_value(json_object_get(v, key));
}

static bool check_date(struct arena *a, str header, const json_t *expected, struct buf *got)
{
    (void)a;
    struct mail_date d;
    if (!date_parse(header, &d)) {
        buf_add(got, S("unreadable"));
        return json_is_null(expected) || json_int(expected, "month") == 0;
    }
    buf_printf(got, "%d-%d-%d %d:%d:%d %d", d.year, d.month, d.day, d.hour, d.minute, d.second, d.zone_minutes);
    int zone = json_int(expected, "tz_hour") * 60 + json_int(expected, "tz_minute");
    if (json_is_true(json_object_get(expected, "tz_before_gmt")))
        zone = -zone;
    return d.year == json_int(expected, "year") && d.month == json_int(expected, "month") &&
           d.day == json_int(expected, "day") && d.hour == json_int(expected, "hour") &&
           d.minute == json_int(expected, "minute") && d.second == json_int(expected, "second") &&
           d.zone_minutes == zone;
}

static bool check_id(struct arena *a, str header, const json_t *expected, struct buf *got)
{
    const struct mime_message *m = mime_parse(a, arena_printf(a, "References:%.*s", STR_ARG(header)), NULL);
    const struct mime_message *own = mime_parse(a, arena_printf(a, "Message-ID:%.*s", STR_ARG(header)), NULL);
    bool ok = true;
    size_t i;
    json_t *one;
    for (i = 0; i < m->n_references; i++)
        buf_printf(got, "<%.*s>", STR_ARG(m->references[i]));
    buf_printf(got, " id=%.*s", STR_ARG(own->message_id));
    if (json_array_size(expected) == 1)
        return str_eq(own->message_id, json_str(json_array_get(expected, 0)));
    json_array_foreach(expected, i, one) ok = ok && i < m->n_references && str_eq(m->references[i], json_str(one));
    return ok;
}

static bool check_unstructured(struct arena *a, str header, const json_t *expected, struct buf *got)
{
    str s = header_decode(a, field_value(a, header));
    buf_add(got, s);
    return str_eq(s, json_str(expected));
}

static struct tally run_headers(const char *name, header_check check)
{
    struct tally t = {0};
    char path[4096];
    const char *folder = shared_data("mime/mail-parser/headers", path);
    if (!folder)
        return t;
    size_t used = strlen(path), i;
    snprintf(path + used, sizeof(path) - used, "/%s.json", name);
    json_error_t error;
    json_t *all = json_load_file(path, JSON_ALLOW_NUL, &error), *one;
    assert_non_null(all);
    json_array_foreach(all, i, one)
    {
        ARENA(a, 8u << 20);
        BUF(got, 65536);
        bool ok = check(&a, json_str(json_object_get(one, "header")), json_object_get(one, "expected"), &got);
        char *want = json_dumps(json_object_get(one, "expected"), JSON_ENCODE_ANY | JSON_COMPACT);
        verdict(&t, ok, name, json_string_value(json_object_get(one, "header")), buf_z(&got), want);
        free(want);
    }
    json_decref(all);
    printf("# %s: %u agree, %u differ\n", name, t.passed, t.failed);
    return t;
}

/* --- whole messages --- */

struct offsets {
    uint64_t header, body, end;
};

static void flatten(const struct mime_part *p, struct offsets *v, size_t *n)
{
    if (*n < 1000)
        v[(*n)++] = (struct offsets){p->header_offset, p->body_offset, p->body_offset + p->body_size};
    if (!mime_is_message(p)) /* the vectors give a message within as a value of its own */
        for (const struct mime_part *c = p->children; c; c = c->next)
            flatten(c, v, n);
}

static uint64_t json_u64(const json_t *v, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(v, key));
}

/* The message with all line ends LF, or all CRLF: the vectors give offsets for both. */
static void with_line_ends(struct buf *out, str content, bool crlf)
{
    for (size_t i = 0; i < content.n; i++) {
        if (content.p[i] == '\r' && i + 1 < content.n && content.p[i + 1] == '\n')
            continue;
        if (content.p[i] == '\n' && crlf)
            buf_addc(out, '\r');
        buf_addc(out, content.p[i]);
    }
}

static void check_variant(const char *path, str original, bool crlf, struct tally *t)
{
    char name[4096];
    snprintf(name, sizeof(name), "%.*s%s.json", (int)(strlen(path) - 4), path, crlf ? ".crlf" : "");
    BUF(variant, 64u << 20);
    with_line_ends(&variant, original, crlf);
    str content = buf_str(&variant);
    json_error_t error;
    json_t *vector = json_load_file(name, JSON_ALLOW_NUL, &error), *one;
    if (!vector)
        return;
    ARENA(a, 64u << 20);
    static struct offsets v[1000];
    size_t n = 0, i;
    flatten(mime_parse(&a, content, NULL)->root, v, &n);
    BUF(got, 1u << 20);
    BUF(want, 1u << 20);
    for (i = 0; i < n; i++)
        buf_printf(&got, "%llu-%llu-%llu ", (unsigned long long)v[i].header, (unsigned long long)v[i].body,
                   (unsigned long long)v[i].end);
    json_array_foreach(json_object_get(vector, "parts"), i, one)
        buf_printf(&want, "%llu-%llu-%llu ", (unsigned long long)json_u64(one, "offset_header"),
                   (unsigned long long)json_u64(one, "offset_body"), (unsigned long long)json_u64(one, "offset_end"));
    verdict(t, str_eq(buf_str(&got), buf_str(&want)), "message", name, buf_z(&got), buf_z(&want));
    json_decref(vector);
}

static void check_message(const char *path, str content, void *arg)
{
    check_variant(path, content, false, arg);
    check_variant(path, content, true, arg);
}

static void test_messages(void **state)
{
    (void)state;
    static const struct {
        const char *folder;
        unsigned may_differ;
    } sets[] = {
        {"mime/mail-parser/rfc", 0},
        {"mime/mail-parser/legacy", 0},
        {"mime/mail-parser/thirdparty", 0},
        /* boundaries by prefix (RFC 2046 5.1.1), where the vectors want whole lines */
        {"mime/mail-parser/malformed", 16},
    };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        char path[4096];
        struct tally t = {0};
        if (!shared_data(sets[i].folder, path))
            return;
        each_file(path, ".eml", check_message, &t);
        printf("# %s: %u agree, %u differ\n", sets[i].folder, t.passed, t.failed);
        assert_true(t.failed <= sets[i].may_differ);
    }
}

/* --- decoded bodies of mime4j: NAME_decoded_1_2.txt is the content of part 1.2, its line ends not counted --- */

static void strip_cr(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '\r')
            buf_addc(out, s.p[i]);
}

struct decoded_check {
    str message;
    const char *path;
    struct tally *tally;
};

static void check_decoded(const struct decoded_check *c, const struct mime_part *p, const char *number)
{
    char name[4200], child[1000];
    unsigned i = 0;
    for (const struct mime_part *k = p->children; k; k = k->next) {
        snprintf(child, sizeof(child), "%s_%u", number, ++i);
        check_decoded(c, k, child);
    }
    BUF(want, 16u << 20);
    static const char *const suffixes[] = {"txt", "bin"};
    for (size_t s = 0; s < ARRAY_LEN(suffixes) && !p->children; s++) {
        snprintf(name, sizeof(name), "%.*s_decoded_%s.%s", (int)(strlen(c->path) - 4), c->path, number, suffixes[s]);
        buf_clear(&want);
        if (!read_file(name, &want))
            continue;
        BUF(decoded, 16u << 20);
        BUF(a, 16u << 20);
        BUF(b, 16u << 20);
        transfer_decode(transfer_kind_of(p->encoding),
                        str_slice(c->message, (size_t)p->body_offset, (size_t)(p->body_offset + p->body_size)),
                        &decoded);
        strip_cr(&a, buf_str(&decoded));
        strip_cr(&b, buf_str(&want));
        verdict(c->tally, str_eq(buf_str(&a), buf_str(&b)), "decoded", name, buf_z(&a), buf_z(&b));
    }
}

static void check_mime4j(const char *path, str content, void *arg)
{
    ARENA(a, 64u << 20);
    const struct decoded_check c = {content, path, arg};
    check_decoded(&c, mime_parse(&a, content, NULL)->root, "1");
}

static void test_decoded(void **state)
{
    (void)state;
    static const struct {
        const char *folder;
        unsigned may_differ;
    } sets[] = {
        {"mime/mime4j/testmsgs", 1}, /* a line that is no field does not end a message's own header */
        {"mime/mime4j/mimetools-testmsgs", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        char path[4096];
        struct tally t = {0};
        if (!shared_data(sets[i].folder, path))
            return;
        each_file(path, ".msg", check_mime4j, &t);
        printf("# %s: %u agree, %u differ\n", sets[i].folder, t.passed, t.failed);
        assert_true(t.failed <= sets[i].may_differ);
    }
}

static void test_headers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        header_check check;
        unsigned may_differ;
    } sets[] = {
        {"address", check_address, 8},            /* comments are no part of a name; spaces in an obsolete address go */
        {"content_type", check_content_type, 10}, /* a type without a subtype or with two slashes */
        /* months as numbers, a date behind other text, unbalanced comments (read all the same) */
        {"date", check_date, 4},
        {"id", check_id, 1},                      /* spaces within an id go */
        {"unstructured", check_unstructured, 11}, /* unfolding removes line ends only, RFC 5322 2.2.3 */
    };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        assert_true(run_headers(sets[i].name, sets[i].check).failed <= sets[i].may_differ);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_headers), cmocka_unit_test(test_messages),
                                       cmocka_unit_test(test_decoded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
