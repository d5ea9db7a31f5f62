#include "base/num.h"
#include "mail/charset.h"
#include "mail/encoded_word.h"
#include "mail/header.h"
#include "mail/html_text.h"
#include "mail/transfer.h"
#include "sieve/state.h"

#define FIELDS_MAX 4000u
#define PART_READ_MAX ((uint64_t)16 << 20) /* bytes of one part or body that are looked at */

static void add(struct run *r, struct header *h, struct field f, size_t at)
{
    if (h->n == FIELDS_MAX)
        return;
    if (h->n == h->cap) {
        size_t cap = MAX(h->cap * 2, 32u);
        struct field *more = arena_array(r->arena, struct field, cap);
        if (h->n)
            memcpy(more, h->v, h->n * sizeof *more);
        h->v = more;
        h->cap = cap;
    }
    memmove(&h->v[at + 1], &h->v[at], (h->n - at) * sizeof *h->v);
    h->v[at] = f;
    h->n++;
}

static void load(struct run *r, struct header *h, str block)
{
    struct header_iter it = header_iter_of(block);
    struct header_field f;
    *h = (struct header){0};
    while (header_next(&it, &f))
        add(r, h, (struct field){.name = f.name, .raw = f.raw}, h->n);
}

void message_load_header(struct run *r)
{
    if (!r->has_header)
        load(r, &r->header, r->made.header.p ? r->made.header : r->message->header);
    r->has_header = true;
}

str field_value(struct run *r, struct field *f)
{
    if (!f->value.p) {
        ptrdiff_t colon = str_find(f->raw, ':');
        f->value = str_trim(header_decode(r->arena, str_slice(f->raw, (size_t)(colon + 1), SIZE_MAX)));
        if (!f->value.p)
            f->value = S("");
    }
    return f->value;
}

size_t header_find_all(struct run *r, struct header *h, str name, uint64_t index, bool is_last, size_t **out)
{
    size_t n = 0, *v = arena_array(r->arena, size_t, h->n + 1);
    name = str_trim(name);
    for (size_t i = 0; i < h->n; i++)
        if (str_eq_nocase(h->v[i].name, name))
            v[n++] = i;
    *out = v;
    if (index == 0)
        return n;
    if (index > n)
        return 0;
    v[0] = v[is_last ? n - (size_t)index : (size_t)index - 1];
    return 1;
}

/* --- parts --- */

FIBER static bool read_bytes(struct run *r, uint64_t offset, uint64_t length, str *out)
{
    struct err err = ERR_INIT;
    length = MIN(length, PART_READ_MAX);
    if (r->made.body.p) { /* in memory: header and body of what the script made */
        uint64_t head = r->made.header.n, from_head = offset < head ? MIN(length, head - offset) : 0;
        str first = str_slice(r->made.header, (size_t)MIN(offset, head), (size_t)(MIN(offset, head) + from_head));
        uint64_t at = offset > head ? offset - head : 0;
        str second = str_slice(r->made.body, (size_t)MIN(at, r->made.body.n),
                               (size_t)MIN(at + (length - from_head), (uint64_t)r->made.body.n));
        char *p = arena_alloc(r->arena, first.n + second.n + 1);
        memcpy(p, first.p ? first.p : "", first.n);
        memcpy(p + first.n, second.p ? second.p : "", second.n);
        *out = str_n(p, first.n + second.n);
        return true;
    }
    if (!r->in->host || !r->in->host->ops->read) {
        *out = S("");
        return true;
    }
    return r->in->host->ops->read(r->in->host, offset, length, r->arena, out, &err) || run_host_error(r, &err);
}

FIBER bool part_header(struct run *r, const struct mime_part *p, struct header *out)
{
    str block;
    if (!read_bytes(r, p->header_offset, p->body_offset - p->header_offset, &block))
        return false;
    load(r, out, block);
    return true;
}

FIBER bool part_content(struct run *r, const struct mime_part *p, bool is_text, size_t max, str *out)
{
    str raw;
    if (!read_bytes(r, p->body_offset, p->body_size, &raw))
        return false;
    BUF(plain, 4 * max + 65536);
    BUF(utf8, 4 * max + 65536);
    BUF(words, 4 * max + 65536);
    transfer_decode(transfer_kind_of(p->encoding), raw, &plain);
    if (!is_text) {
        *out = str_slice(arena_str(r->arena, buf_str(&plain)), 0, max);
        return true;
    }
    str charset = mime_param(&p->params, "charset");
    charset_to_utf8(charset.n ? charset : S("us-ascii"), buf_str(&plain), &utf8);
    bool is_html = str_eq(p->type, S("TEXT")) && str_eq(p->subtype, S("HTML"));
    if (is_html)
        html_to_text(&words, buf_str(&utf8));
    *out = str_slice(arena_str(r->arena, buf_str(is_html ? &words : &utf8)), 0, max);
    return true;
}

FIBER bool message_raw_body(struct run *r, size_t max, str *out)
{
    return read_bytes(r, r->message->root->body_offset,
                      MIN(r->message->size - r->message->root->body_offset, (uint64_t)max), out);
}

/* --- changes --- */

str flat_text(struct run *r, str v)
{
    char *p = arena_strz(r->arena, v);
    for (size_t i = 0; i < v.n; i++)
        if (ascii_is_ctl((unsigned char)p[i]))
            p[i] = ' ';
    return str_trim(str_n(p, v.n));
}

/* "Name: value", with encoded words where it is not ASCII, folded at spaces where it is long. */
static str raw_field(struct run *r, str name, str value)
{
    BUF(b, 4 * value.n + name.n + 64);
    buf_add(&b, name);
    buf_add(&b, S(": "));
    if (!ascii_only(value.p, value.n)) {
        encoded_word_encode(&b, value, name.n + 2);
    } else {
        size_t column = name.n + 2;
        str rest = value, word;
        bool is_first = true;
        while (str_split(&rest, ' ', &word)) {
            if (!is_first) {
                bool is_long = column + 1 + word.n > 76 && word.n;
                buf_add(&b, is_long ? S("\r\n ") : S(" "));
                column = is_long ? 1 : column + 1;
            }
            buf_add(&b, word);
            column += word.n;
            is_first = false;
        }
    }
    buf_add(&b, S("\r\n"));
    return arena_str(r->arena, buf_str(&b));
}

void message_add_field(struct run *r, str name, str value, bool at_end)
{
    message_load_header(r);
    value = flat_text(r, value);
    add(r, &r->header,
        (struct field){
            .name = arena_str(r->arena, name), .raw = raw_field(r, name, value), .value = value.p ? value : S("")},
        at_end ? r->header.n : 0);
    r->is_edited = true;
}

void message_remove_field(struct run *r, size_t at)
{
    memmove(&r->header.v[at], &r->header.v[at + 1], (r->header.n - at - 1) * sizeof *r->header.v);
    r->header.n--;
    r->is_edited = true;
}

void message_replace(struct run *r, str header, str body)
{
    BUF(whole, header.n + body.n + 1);
    r->made = (struct made_message){.header = header, .body = body.p ? body : S("")};
    r->has_header = false;
    r->is_edited = true;
    r->n_edits = 0;
    buf_add(&whole, header);
    buf_add(&whole, body);
    str copy = arena_str(r->arena, buf_str(&whole));
    r->message = mime_parse(r->arena, copy, NULL);
}

static str header_now(struct run *r)
{
    size_t total = 2;
    message_load_header(r);
    for (size_t i = 0; i < r->header.n; i++)
        total += r->header.v[i].raw.n + 2;
    BUF(b, total);
    for (size_t i = 0; i < r->header.n; i++) {
        buf_add(&b, r->header.v[i].raw);
        if (!str_ends(r->header.v[i].raw, S("\n")))
            buf_add(&b, S("\r\n"));
    }
    buf_add(&b, S("\r\n"));
    return arena_str(r->arena, buf_str(&b));
}

/* The body with what was replaced in it. */
FIBER static bool body_now(struct run *r, str *out)
{
    uint64_t at = r->message->root->body_offset, end = r->message->size;
    str piece;
    if (end - at > PART_READ_MAX) {
        (void)run_error(r, "the message is too large to be changed");
        return false;
    }
    size_t cap = (size_t)(end - at) + 1;
    for (size_t i = 0; i < r->n_edits; i++)
        cap += r->edits[i].with.n;
    BUF(b, cap);
    for (size_t i = 0; i < r->n_edits; i++) {
        if (r->edits[i].from < at)
            continue; /* within one that was replaced before */
        if (!read_bytes(r, at, r->edits[i].from - at, &piece))
            return false;
        buf_add(&b, piece);
        buf_add(&b, r->edits[i].with);
        at = r->edits[i].to;
    }
    if (!read_bytes(r, at, end - at, &piece))
        return false;
    buf_add(&b, piece);
    *out = arena_str(r->arena, buf_str(&b));
    return true;
}

FIBER bool message_now(struct run *r, str *header, str *body)
{
    *header = r->is_edited ? header_now(r) : STR_NONE;
    *body = r->made.body;
    return r->n_edits == 0 || body_now(r, body);
}

FIBER bool message_whole(struct run *r, str *out)
{
    str body;
    if (!body_now(r, &body))
        return false;
    *out = arena_printf(r->arena, "%.*s%.*s", STR_ARG(header_now(r)), STR_ARG(body));
    return true;
}

FIBER bool message_replace_part(struct run *r, const struct mime_part *p, str with)
{
    if (r->n_edits == EDITS_MAX) {
        (void)run_error(r, "more than %u parts are replaced", EDITS_MAX);
        return false;
    }
    if (!r->edits)
        r->edits = arena_array(r->arena, struct edit, EDITS_MAX);
    size_t at = r->n_edits++;
    while (at > 0 && r->edits[at - 1].from > p->header_offset) {
        r->edits[at] = r->edits[at - 1];
        at--;
    }
    r->edits[at] = (struct edit){p->header_offset, p->body_offset + p->body_size, with};
    r->is_edited = true;
    return true;
}
