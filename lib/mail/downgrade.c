#include "mail/downgrade.h"

#include "mail/mime.h"
#include "mail/transfer.h"

#define ARENA_MAX ((size_t)4 * 1024 * 1024)
#define PARTS_MAX 1000u
#define SPANS_BYTES_MAX ((size_t)16 * 1024 * 1024)

/* From the first to behind the last 8-bit byte of lines that follow each other and all have some. Between two parts
 * there is a line that has none, so a span is of one part. */
struct span {
    uint64_t start, end;
};
enum region_kind { REGION_HEADER, REGION_QP, REGION_BASE64, REGION_ESCAPE };
/* Bytes of the message that change. */
struct region {
    uint64_t start, end;
    enum region_kind kind;
    struct downgrade_label label; /* REGION_HEADER */
};
struct downgrade {
    struct arena arena;
    struct mime_parser *parser;
    struct buf spans;                 /* of struct span, ascending */
    bool is_8bit_line, was_8bit_line; /* the line under way so far, the one before */
    unsigned utf8_left;               /* continuation bytes to come */
    bool is_utf8;                     /* all 8-bit bytes so far make characters, roughly */
    struct region regions[2 * PARTS_MAX];
    size_t n_regions, next;
    uint64_t at; /* in the pass under way */
    struct transfer_encoder encoder;
    struct buf header;
};

struct downgrade *downgrade_new(void)
{
    struct downgrade *d = xnew(struct downgrade);
    arena_init(&d->arena, ARENA_MAX);
    const struct mime_limits limits = {.parts = PARTS_MAX};
    d->parser = mime_new(&d->arena, &limits);
    d->is_utf8 = true;
    buf_init(&d->spans, SPANS_BYTES_MAX);
    buf_init(&d->header, DOWNGRADE_HEADER_MAX);
    return d;
}

void downgrade_free(struct downgrade *d)
{
    if (!d)
        return;
    mime_free(d->parser);
    arena_done(&d->arena);
    buf_done(&d->spans);
    buf_done(&d->header);
    free(d);
}

/* --- the first pass --- */

static void note_utf8(struct downgrade *d, unsigned char c)
{
    bool is_more = (c & 0xc0) == 0x80;
    if (is_more != (d->utf8_left > 0) || c == 0xc0 || c == 0xc1 || c > 0xf4)
        d->is_utf8 = false;
    d->utf8_left = is_more ? d->utf8_left - (d->utf8_left > 0) : c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
}

static struct span span_at(const struct downgrade *d, size_t i)
{
    struct span s;
    memcpy(&s, d->spans.p + i * sizeof(s), sizeof(s));
    return s;
}

static void note_8bit(struct downgrade *d, uint64_t at)
{
    struct span s = {at, at + 1};
    if (d->is_8bit_line || d->was_8bit_line) {
        s.start = span_at(d, d->spans.n / sizeof(s) - 1).start;
        buf_truncate(&d->spans, d->spans.n - sizeof(s));
    }
    buf_add_n(&d->spans, &s, sizeof(s));
    d->is_8bit_line = true;
}

void downgrade_scan(struct downgrade *d, str bytes)
{
    mime_feed(d->parser, bytes);
    for (size_t i = 0; i < bytes.n && buf_ok(&d->spans); i++) {
        unsigned char c = (unsigned char)bytes.p[i];
        if (c >= 0x80 || d->utf8_left)
            note_utf8(d, c);
        if (c >= 0x80) {
            note_8bit(d, d->at + i);
        } else if (c == '\n') {
            d->was_8bit_line = d->is_8bit_line;
            d->is_8bit_line = false;
        }
    }
    d->at += bytes.n;
}

/* Whether [start, end) has 8-bit bytes. */
static bool is_8bit(const struct downgrade *d, uint64_t start, uint64_t end)
{
    size_t low = 0, high = d->spans.n / sizeof(struct span); /* the first span that ends past `start` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (span_at(d, middle).end > start)
            high = middle;
        else
            low = middle + 1;
    }
    return low < d->spans.n / sizeof(struct span) && span_at(d, low).start < end;
}

static void add_region(struct downgrade *d, uint64_t start, uint64_t end, enum region_kind kind,
                       struct downgrade_label label)
{
    assert(d->n_regions < ARRAY_LEN(d->regions));
    d->regions[d->n_regions++] = (struct region){start, end, kind, label};
}

/* What is to be done with a leaf, and with its label. */
static void plan_leaf(struct downgrade *d, const struct mime_part *p, bool has_8bit_header)
{
    uint64_t end = p->body_offset + p->body_size;
    bool has_8bit = is_8bit(d, p->body_offset, end), is_message = !p->parent || mime_is_message(p->parent);
    enum transfer_kind now = transfer_kind_of(p->encoding);
    bool becomes_qp =
        (str_eq(p->type, S("TEXT")) || str_eq(p->type, S("MESSAGE"))) && !str_eq(p->encoding, S("BINARY"));
    struct downgrade_label label = {0};
    if (has_8bit && now == TRANSFER_IDENTITY)
        label = (struct downgrade_label){becomes_qp ? "quoted-printable" : "base64", is_message,
                                         d->is_utf8 ? "utf-8" : "unknown-8bit"};
    if (has_8bit_header || label.encoding)
        add_region(d, p->header_offset, p->body_offset, REGION_HEADER, label);
    if (label.encoding)
        add_region(d, p->body_offset, end, becomes_qp ? REGION_QP : REGION_BASE64, label);
    else if (has_8bit && now == TRANSFER_QP)
        add_region(d, p->body_offset, end, REGION_ESCAPE, label);
}

static void plan_part(struct downgrade *d, const struct mime_part *p)
{
    bool has_8bit_header = is_8bit(d, p->header_offset, p->body_offset);
    if (!p->children) {
        plan_leaf(d, p, has_8bit_header);
        return;
    }
    bool is_labelled = str_eq(p->encoding, S("8BIT")) || str_eq(p->encoding, S("BINARY"));
    bool relabels = is_labelled && is_8bit(d, p->body_offset, p->body_offset + p->body_size);
    if (has_8bit_header || relabels)
        add_region(d, p->header_offset, p->body_offset, REGION_HEADER,
                   (struct downgrade_label){.encoding = relabels ? "7bit" : NULL});
    for (const struct mime_part *c = p->children; c; c = c->next) /* as deep as mime_limits.depth */
        plan_part(d, c);
}

bool downgrade_plan(struct downgrade *d, struct err *err)
{
    const struct mime_message *m = mime_finish(d->parser);
    d->at = 0;
    d->is_utf8 &= d->utf8_left == 0;
    if (m->limit_hit || !buf_ok(&d->spans))
        return err_set(err, ERR_LIMIT, "the message's structure is too large to be converted");
    plan_part(d, m->root);
    for (size_t i = 0; i < d->n_regions; i++)
        if (d->regions[i].kind == REGION_HEADER && d->regions[i].end - d->regions[i].start > DOWNGRADE_HEADER_MAX)
            return err_set(err, ERR_LIMIT, "a header of the message is too large to be converted");
    return true;
}

/* --- the second pass --- */

static void add_changed(struct buf *out, str bytes, bool escapes)
{
    for (size_t i = 0; i < bytes.n; i++) {
        unsigned char c = (unsigned char)bytes.p[i];
        if (c < 0x80)
            buf_addc(out, (char)c);
        else if (escapes)
            buf_printf(out, "=%02X", c);
        else
            buf_addc(out, '?');
    }
}

static void begin(struct downgrade *d, const struct region *r)
{
    if (r->kind == REGION_QP || r->kind == REGION_BASE64)
        transfer_encoder_init(&d->encoder, r->kind == REGION_QP ? TRANSFER_QP : TRANSFER_BASE64);
    buf_clear(&d->header);
}

static void take(struct downgrade *d, const struct region *r, str bytes, struct buf *out)
{
    if (r->kind == REGION_HEADER)
        buf_add(&d->header, bytes);
    else if (r->kind == REGION_ESCAPE)
        add_changed(out, bytes, true);
    else
        transfer_encode(&d->encoder, bytes, out);
}

static void finish(struct downgrade *d, const struct region *r, struct buf *out)
{
    if (r->kind == REGION_HEADER)
        downgrade_header(buf_str(&d->header), &r->label, out);
    else if (r->kind != REGION_ESCAPE)
        transfer_encode_end(&d->encoder, out);
}

void downgrade_feed(struct downgrade *d, str bytes, struct buf *out)
{
    for (;;) {
        const struct region *r = d->next < d->n_regions ? &d->regions[d->next] : NULL;
        if (r && d->at == r->end) {
            if (r->start == r->end)
                begin(d, r);
            finish(d, r, out);
            d->next++;
            continue;
        }
        if (!bytes.n)
            return;
        bool is_inside = r && d->at >= r->start;
        uint64_t until = !r ? UINT64_MAX : is_inside ? r->end : r->start;
        str piece = str_slice(bytes, 0, (size_t)MIN((uint64_t)bytes.n, until - d->at));
        if (is_inside && d->at == r->start)
            begin(d, r);
        if (is_inside)
            take(d, r, piece, out);
        else
            add_changed(out, piece, false);
        d->at += piece.n;
        bytes = str_slice(bytes, piece.n, SIZE_MAX);
    }
}

void downgrade_end(struct downgrade *d, struct buf *out)
{
    downgrade_feed(d, S(""), out);
}
