/*
 * The push parser. It looks at line starts only: header lines are collected until the blank line, body lines are looked
 * at when they begin with "--" and a boundary is open. The end of a body before a boundary excludes the line end that
 * belongs to the boundary (RFC 2046 5.1.1), so the length of the last line end is remembered.
 */
#include "mail/mime_internal.h"

#include "mail/content_field.h"
#include "mail/header.h"
#include "mail/transfer.h"

#define PARSER_MAGIC 0x6d696d65u
#define BOUNDARY_LINE_MAX (MIME_BOUNDARY_MAX + 256u) /* "--", boundary, "--", padding */
#define OWN_BOUNDARY_TRIES 8u
#define CAPTURE_PLAIN_MAX (8u * 1024)
#define CAPTURE_HTML_MAX (64u * 1024)

static const struct mime_limits default_limits = {
    .depth = 64,
    .parts = 10000,
    .root_header = 256 * 1024,
    .part_header = 64 * 1024,
    .params = 64,
    .value = 4096,
    .text = 640 * 1024,
    .addresses = ADDRESS_LIST_MAX,
};

struct open_boundary {
    struct mime_part *part; /* the multipart */
    str boundary;
};

struct mime_parser {
    uint32_t magic;
    struct mime_limits limits;
    struct mime_keeper keeper;
    struct mime_message *m;
    struct mime_part *part; /* innermost open entity */
    unsigned depth;         /* of part; the root has 0 */
    uint64_t at;            /* bytes consumed */
    uint64_t n_lf;          /* line ends consumed; an open part's body_lines holds what it was where its body began */
    unsigned last_eol;      /* length of the last line end: 2, 1, or 0 when no line has ended */
    unsigned char last;     /* the last byte consumed */
    bool in_header, at_line_start, is_holding;
    bool is_over_header; /* the root's header goes on beyond what is kept of it */
    uint64_t over_line;  /* then: where its current line began */
    size_t header_line;  /* where the current line begins in header */
    size_t header_max;
    struct buf header; /* the header block being read */
    struct buf line;   /* a body line that begins with "-", while it may be a boundary */
    uint64_t line_offset;
    struct open_boundary *open;
    unsigned n_open;
    unsigned own_boundary_tries; /* of the current header */
    /* The start of the first plain and the first HTML text, for the preview. */
    const struct mime_part *plain_part, *html_part, *capture_part;
    struct buf plain, html, *capture;
};

static struct mime_limits with_defaults(const struct mime_limits *given)
{
    struct mime_limits l = given ? *given : default_limits;
#define DEFAULT(field)                                                                                                 \
    if (!l.field)                                                                                                      \
    l.field = default_limits.field
    DEFAULT(depth);
    DEFAULT(parts);
    DEFAULT(root_header);
    DEFAULT(part_header);
    DEFAULT(params);
    DEFAULT(value);
    DEFAULT(text);
    DEFAULT(addresses);
#undef DEFAULT
    return l;
}

static bool is_message_root(const struct mime_part *part)
{
    return !part->parent || mime_is_message(part->parent);
}

static void begin_header(struct mime_parser *p, struct mime_part *part)
{
    part->header_offset = p->at;
    p->part = part;
    p->in_header = true;
    p->header_line = 0;
    p->own_boundary_tries = 0;
    p->header_max = part == p->m->root ? p->limits.root_header : p->limits.part_header;
    buf_clear(&p->header);
    p->header.cap = p->header_max;
}

struct mime_parser *mime_new(struct arena *a, const struct mime_limits *limits)
{
    struct mime_parser *p = xnew(struct mime_parser);
    p->magic = PARSER_MAGIC;
    p->limits = with_defaults(limits);
    p->keeper = (struct mime_keeper){.a = a, .limits = &p->limits, .left = p->limits.text};
    p->m = arena_new(a, struct mime_message);
    p->m->root = arena_new(a, struct mime_part);
    p->m->n_parts = 1;
    buf_init(&p->header, p->limits.root_header);
    buf_init(&p->line, BOUNDARY_LINE_MAX);
    buf_init(&p->plain, CAPTURE_PLAIN_MAX);
    buf_init(&p->html, CAPTURE_HTML_MAX);
    begin_header(p, p->m->root);
    return p;
}

void mime_free(struct mime_parser *p)
{
    if (!p)
        return;
    CHECK(p, PARSER_MAGIC);
    buf_done(&p->header);
    buf_done(&p->line);
    buf_done(&p->plain);
    buf_done(&p->html);
    xfree(p->open);
    xfree(p);
}

static void header_line(struct mime_parser *p, unsigned eol_before);

/* --- parts --- */

/* For one more part. */
static bool has_room(const struct mime_parser *p)
{
    return p->m->n_parts < p->limits.parts && p->keeper.left >= MIME_PART_COST;
}

static struct mime_part *new_child(struct mime_parser *p, struct mime_part *parent)
{
    struct mime_part *part = arena_new(p->keeper.a, struct mime_part);
    part->parent = parent;
    *(parent->last_child ? &parent->last_child->next : &parent->children) = part;
    parent->last_child = part;
    parent->n_children++;
    p->m->n_parts++;
    p->keeper.left -= MIN(p->keeper.left, (size_t)MIME_PART_COST);
    return part;
}

static void push_boundary(struct mime_parser *p, struct mime_part *part, str boundary)
{
    if (!p->open)
        p->open = xcalloc((size_t)p->limits.depth + 1, sizeof(*p->open));
    assert(p->n_open <= p->limits.depth);
    p->open[p->n_open++] = (struct open_boundary){part, boundary};
}

static void begin_capture(struct mime_parser *p, const struct mime_part *part)
{
    if (!str_eq(part->type, S("TEXT")) || str_eq(part->disposition, S("attachment")))
        return;
    if (!p->plain_part && str_eq(part->subtype, S("PLAIN"))) {
        p->plain_part = p->capture_part = part;
        p->capture = &p->plain;
    } else if (!p->html_part && str_eq(part->subtype, S("HTML"))) {
        p->html_part = p->capture_part = part;
        p->capture = &p->html;
    }
}

static void capture(struct mime_parser *p, str bytes)
{
    if (!p->capture)
        return;
    size_t room = p->capture->cap - p->capture->n;
    buf_add(p->capture, str_slice(bytes, 0, room));
}

/* The header of p->part is whole; its body begins at p->at. */
static void end_header(struct mime_parser *p)
{
    struct mime_part *part = p->part;
    str header = buf_str(&p->header);
    p->in_header = false;
    part->body_offset = p->at;
    part->body_lines = (uint32_t)p->n_lf; /* until the end is known */
    if (part == p->m->root) {
        p->m->header = arena_str(p->keeper.a, header);
        mime_read_fields(&p->keeper, header, part, &p->m->envelope);
        mime_read_thread(&p->keeper, header, p->m);
    } else if (is_message_root(part)) {
        part->parent->envelope = arena_new(p->keeper.a, struct mime_envelope);
        mime_read_fields(&p->keeper, header, part, part->parent->envelope);
    } else {
        mime_read_fields(&p->keeper, header, part, NULL);
    }
    bool may_nest = p->depth < p->limits.depth && has_room(p);
    str boundary = str_trim(mime_param(&part->params, "boundary"));
    if (str_eq(part->type, S("MULTIPART"))) {
        if (may_nest && boundary.n && boundary.n <= MIME_BOUNDARY_MAX)
            push_boundary(p, part, boundary);
        else
            p->m->limit_hit |= boundary.n > 0;
    } else if (mime_is_message(part) && transfer_kind_of(part->encoding) == TRANSFER_IDENTITY) {
        if (!may_nest) {
            p->m->limit_hit = true;
            return;
        }
        p->depth++;
        begin_header(p, new_child(p, part));
    } else {
        begin_capture(p, part);
    }
}

/* The body of part ends at `end`, before which n_lf line ends were seen. */
static void end_body(struct mime_parser *p, struct mime_part *part, uint64_t end, uint64_t n_lf)
{
    part->body_size = end - part->body_offset;
    part->body_lines = (uint32_t)(n_lf - part->body_lines);
    if (p->capture_part == part) {
        buf_truncate(p->capture, (size_t)MIN((uint64_t)p->capture->n, part->body_size));
        p->capture = NULL;
        p->capture_part = NULL;
    }
}

/* --- boundaries --- */

static bool only_blanks(str s)
{
    return str_trim(s).n == 0;
}

/*
 * Which open boundary a line (with or without its end) is, innermost first: the line that is exactly one of them; else
 * the longest that it begins with (RFC 2046 5.1.1: the appearance at the line's beginning is enough).
 */
static bool match_boundary(const struct mime_parser *p, str line, unsigned *index, bool *is_close)
{
    if (!str_starts(line, S("--")))
        return false;
    line = str_slice(line, 2, SIZE_MAX);
    size_t best = 0;
    for (unsigned i = p->n_open; i-- > 0;) {
        str boundary = p->open[i].boundary;
        if (!str_starts(line, boundary))
            continue;
        str rest = str_slice(line, boundary.n, SIZE_MAX);
        bool ends = str_starts(rest, S("--"));
        if (only_blanks(rest) || (ends && only_blanks(str_slice(rest, 2, SIZE_MAX)))) {
            *index = i;
            *is_close = ends;
            return true;
        }
        if (boundary.n > best) {
            best = boundary.n;
            *index = i;
            *is_close = ends;
        }
    }
    return best > 0;
}

/* A boundary line of open[index] was at [line_offset, p->at); eol is the line end before it. */
static void at_boundary(struct mime_parser *p, unsigned index, bool is_close, unsigned eol, uint64_t lf_before)
{
    struct mime_part *multipart = p->open[index].part;
    /* The line end before the boundary is the boundary's, unless it was the blank line of the innermost header. */
    bool drops_eol = eol > 0 && p->line_offset > p->part->body_offset;
    for (struct mime_part *part = p->part; part != multipart; part = part->parent)
        end_body(p, part, p->line_offset - (drops_eol ? eol : 0), lf_before - drops_eol);
    p->part = multipart;
    p->depth = 0;
    for (const struct mime_part *up = multipart->parent; up; up = up->parent)
        p->depth++;
    p->n_open = is_close ? index : index + 1;
    p->at_line_start = true;
    if (is_close)
        return;
    if (!has_room(p)) {
        p->m->limit_hit = true;
        p->n_open = 0; /* the rest is epilogue */
        return;
    }
    p->depth++;
    begin_header(p, new_child(p, multipart));
}

/* --- feeding --- */

/* Account for consumed bytes of a line; is_end: they end with LF. */
static void consume(struct mime_parser *p, str bytes)
{
    if (bytes.n == 0)
        return;
    p->at += bytes.n;
    unsigned char last = (unsigned char)bytes.p[bytes.n - 1];
    if (last == '\n') {
        unsigned char before = bytes.n > 1 ? (unsigned char)bytes.p[bytes.n - 2] : p->last;
        p->last_eol = before == '\r' ? 2 : 1;
    }
    p->last = last;
}

/*
 * Whether a line of a header is the first boundary of the multipart that this very header declares: the blank line is
 * missing. Tried for a few lines of a header only, as each look costs a scan.
 */
static bool is_own_boundary(struct mime_parser *p, str line)
{
    struct header_field f;
    if (!str_starts(line, S("--")) || p->own_boundary_tries >= OWN_BOUNDARY_TRIES)
        return false;
    p->own_boundary_tries++;
    if (!header_find(str_slice(buf_str(&p->header), 0, p->header_line), S("content-type"), &f))
        return false;
    struct content_field type;
    content_field_parse(p->keeper.a, f.value, true, p->limits.params, p->limits.value, &type);
    str boundary = str_trim(mime_param(&type.params, "boundary"));
    return str_eq(type.token, S("MULTIPART")) && boundary.n && str_eq(str_trim(str_slice(line, 2, SIZE_MAX)), boundary);
}

/* The header ended without a blank line, before `line`, which is consumed already: it is of the body. */
static void end_header_before(struct mime_parser *p, str line, unsigned eol_before)
{
    BUF(text, line.n); /* the line lies in the header's buffer, which is used again */
    buf_add(&text, line);
    line = buf_str(&text);
    unsigned index;
    bool is_close, has_lf = line.p[line.n - 1] == '\n';
    buf_truncate(&p->header, p->header_line);
    p->at -= line.n;
    p->n_lf -= has_lf;
    uint64_t lf_before = p->n_lf;
    end_header(p);
    bool is_boundary = p->n_open && match_boundary(p, line, &index, &is_close);
    while (is_boundary && p->in_header) /* message/rfc822 with nothing in it */
        end_header(p);
    p->at += line.n;
    p->n_lf += has_lf;
    if (is_boundary) {
        at_boundary(p, index, is_close, eol_before, lf_before);
    } else if (p->in_header) { /* message/rfc822: the line is its first */
        buf_add(&p->header, line);
        header_line(p, eol_before);
    } else {
        capture(p, line);
        p->at_line_start = has_lf;
    }
}

/* A header line is whole (or the input ended). Its bytes are in p->header from p->header_line on. */
static void header_line(struct mime_parser *p, unsigned eol_before)
{
    str line = str_slice(buf_str(&p->header), p->header_line, SIZE_MAX);
    unsigned index;
    bool is_close;
    p->line_offset = p->at - line.n;
    if (str_eq(line, S("\n")) || str_eq(line, S("\r\n"))) {
        p->at_line_start = true;
        end_header(p);
        return;
    }
    bool is_continuation = p->header_line > 0 && (line.p[0] == ' ' || line.p[0] == '\t');
    bool is_header = is_continuation || header_is_field_line(line) || is_message_root(p->part);
    if ((p->n_open && match_boundary(p, line, &index, &is_close)) || is_own_boundary(p, line))
        is_header = false;
    if (is_header)
        p->header_line = p->header.n;
    else
        end_header_before(p, line, eol_before);
}

/* Take header bytes up to the end of the line; returns how many. */
static size_t feed_header(struct mime_parser *p, str bytes)
{
    const char *lf = memchr(bytes.p, '\n', bytes.n);
    size_t n = lf ? (size_t)(lf - bytes.p) + 1 : bytes.n;
    size_t room = p->header_max - p->header.n;
    if (n > room) { /* over the cap: what follows is body, from the middle of the line, but for the root */
        n = room;
        lf = NULL;
        p->m->limit_hit = true;
    }
    unsigned eol_before = p->last_eol;
    buf_add(&p->header, str_n(bytes.p, n));
    consume(p, str_n(bytes.p, n));
    if (lf) {
        p->n_lf++;
        header_line(p, eol_before);
    } else if (p->header.n == p->header_max && p->part == p->m->root) {
        p->is_over_header = true;
        p->over_line = p->at - (p->header.n - p->header_line);
    } else if (p->header.n == p->header_max) {
        p->at_line_start = false;
        end_header(p);
    }
    return n;
}

/* The same where nothing is kept any more: only the blank line is looked for. */
static size_t skip_header(struct mime_parser *p, str bytes)
{
    const char *lf = memchr(bytes.p, '\n', bytes.n);
    size_t n = lf ? (size_t)(lf - bytes.p) + 1 : bytes.n;
    consume(p, str_n(bytes.p, n));
    if (!lf)
        return n;
    p->n_lf++;
    if (p->at - p->over_line == p->last_eol) {
        p->is_over_header = false;
        p->at_line_start = true;
        end_header(p);
    }
    p->over_line = p->at;
    return n;
}

static void held_line_ended(struct mime_parser *p, unsigned eol_before)
{
    unsigned index;
    bool is_close;
    str line = buf_str(&p->line);
    p->is_holding = false;
    p->at_line_start = true;
    uint64_t lf_before = p->n_lf;
    p->n_lf += line.n && line.p[line.n - 1] == '\n';
    if (match_boundary(p, line, &index, &is_close))
        at_boundary(p, index, is_close, eol_before, lf_before);
}

/* Take body bytes up to the end of the line; returns how many. */
static size_t feed_body(struct mime_parser *p, str bytes)
{
    if (p->n_open == 0) { /* nothing can end this body: count lines and go */
        const char *at = bytes.p, *end = bytes.p + bytes.n, *lf;
        while (at < end && (lf = memchr(at, '\n', (size_t)(end - at)))) {
            p->n_lf++;
            at = lf + 1;
        }
        capture(p, bytes);
        consume(p, bytes);
        p->at_line_start = bytes.p[bytes.n - 1] == '\n';
        return bytes.n;
    }
    const char *lf = memchr(bytes.p, '\n', bytes.n);
    str piece = str_n(bytes.p, lf ? (size_t)(lf - bytes.p) + 1 : bytes.n);
    unsigned eol_before = p->last_eol;
    if (p->at_line_start && bytes.p[0] == '-') {
        p->is_holding = true;
        p->line_offset = p->at;
        buf_clear(&p->line);
    }
    p->at_line_start = false;
    capture(p, piece);
    consume(p, piece);
    if (p->is_holding) {
        buf_add(&p->line, piece);
        bool is_candidate = buf_ok(&p->line) && (p->line.n < 2 || p->line.p[1] == '-');
        if (!is_candidate)
            p->is_holding = false;
        else if (lf) {
            held_line_ended(p, eol_before);
            return piece.n;
        }
    }
    if (lf) {
        p->n_lf++;
        p->at_line_start = true;
    }
    return piece.n;
}

void mime_feed(struct mime_parser *p, str bytes)
{
    CHECK(p, PARSER_MAGIC);
    while (bytes.n) {
        size_t n = p->is_over_header ? skip_header(p, bytes)
                   : p->in_header    ? feed_header(p, bytes)
                                     : feed_body(p, bytes);
        bytes = str_slice(bytes, n, SIZE_MAX);
    }
}

const struct mime_message *mime_finish(struct mime_parser *p)
{
    CHECK(p, PARSER_MAGIC);
    struct mime_message *m = p->m;
    if (p->in_header && !p->is_over_header && p->header.n > p->header_line)
        header_line(p, p->last_eol);
    else if (p->is_holding)
        held_line_ended(p, p->last_eol);
    while (p->in_header)
        end_header(p);
    for (struct mime_part *part = p->part; part; part = part->parent)
        end_body(p, part, p->at, p->n_lf);
    m->size = p->at;
    m->limit_hit |= p->keeper.limit_hit;
    m->has_attachment = mime_has_attachment(m->root);
    if (p->plain_part)
        m->preview = mime_preview(p->keeper.a, p->plain_part, buf_str(&p->plain));
    if (str_empty(m->preview) && p->html_part)
        m->preview = mime_preview(p->keeper.a, p->html_part, buf_str(&p->html));
    return m;
}

const struct mime_message *mime_parse(struct arena *a, str message, const struct mime_limits *limits)
{
    CLEANUP(mime_free) struct mime_parser *p = mime_new(a, limits);
    mime_feed(p, message);
    return mime_finish(p);
}

/* --- the tree --- */

bool mime_is_message(const struct mime_part *p)
{
    return str_eq(p->type, S("MESSAGE")) && (str_eq(p->subtype, S("RFC822")) || str_eq(p->subtype, S("GLOBAL")));
}

static const struct mime_part *child_at(const struct mime_part *part, uint32_t number)
{
    const struct mime_part *child = part->children;
    for (uint32_t i = 1; child && i < number; i++)
        child = child->next;
    return child;
}

const struct mime_part *mime_part_by_number(const struct mime_message *m, const uint32_t *path, size_t n)
{
    const struct mime_part *part = m->root;
    bool is_root = true; /* part is a message's root that has no number of its own yet */
    for (size_t i = 0; i < n && part; i++) {
        if (path[i] == 0)
            return NULL;
        if (!is_root && mime_is_message(part)) {
            part = part->children;
            is_root = true;
            if (!part)
                return NULL;
        }
        if (str_eq(part->type, S("MULTIPART")))
            part = child_at(part, path[i]);
        else if (!is_root || path[i] != 1)
            return NULL;
        is_root = false;
    }
    return part;
}
