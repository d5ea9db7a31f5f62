#include "mail/address.h"

#include "mail/charset.h"
#include "mail/encoded_word.h"

#define TOKENS_MAX 256u /* words of one mailbox; more are dropped */

enum token_kind { TOKEN_WORD, TOKEN_QUOTED, TOKEN_AT, TOKEN_DOT };

struct token {
    str text;
    enum token_kind kind;
    bool has_space; /* white space before it */
};

struct list_parser {
    struct arena *a;
    struct cursor c;
    struct address_list *out;
    size_t max;
    struct token *tokens;
    size_t n_tokens;
    str comment; /* the last one of this mailbox */
    bool has_space, in_group;
    bool has_angle;
    size_t angle_from; /* tokens from here on are of the <…>, up to angle_to */
    size_t angle_to;
    str route; /* of the <…> */
};

/* --- lexing --- */

static str take_comment(struct list_parser *p)
{
    char *out = arena_alloc(p->a, cur_left(&p->c) + 1);
    size_t n = 0;
    unsigned depth = 0;
    while (p->c.p < p->c.end) {
        unsigned char ch = *p->c.p++;
        if (ch == '\\' && p->c.p < p->c.end) {
            ch = *p->c.p++;
        } else if (ch == '(') {
            if (depth++ == 0)
                continue;
        } else if (ch == ')' && --depth == 0) {
            break;
        }
        if (ch != '\r' && ch != '\n' && ch != '\0')
            out[n++] = (char)ch;
    }
    return str_trim(str_n(out, n));
}

static str take_quoted(struct list_parser *p)
{
    p->c.p++;
    /* No closing quote: the quote is dropped and the rest read as words. */
    char *out = arena_alloc(p->a, cur_left(&p->c) + 1);
    size_t n = 0;
    while (p->c.p < p->c.end) {
        unsigned char ch = *p->c.p++;
        if (ch == '"')
            break;
        if (ch == '\\' && p->c.p < p->c.end)
            ch = *p->c.p++;
        if (ch != '\r' && ch != '\n' && ch != '\0')
            out[n++] = (char)ch;
    }
    return str_n(out, n);
}

static bool is_word_char(unsigned char c)
{
    return c > ' ' && c != 0x7f && !memchr("()<>@,;:\".[]", c, 12);
}

static bool is_space(unsigned char c)
{
    return c <= ' ' || c == 0x7f;
}

static void push(struct list_parser *p, enum token_kind kind, str text)
{
    if (p->n_tokens < TOKENS_MAX)
        p->tokens[p->n_tokens++] = (struct token){text, kind, p->has_space};
    p->has_space = false;
}

/* --- one mailbox from its tokens --- */

static str make_utf8(struct arena *a, str s)
{
    if (utf8_valid(s.p, s.n))
        return s;
    BUF(out, s.n * 3 + 1);
    charset_guess_utf8(s, &out);
    return arena_str(a, buf_str(&out));
}

/* Tokens as text. For an address, white space around dots and "@" goes; for a name it is one space. */
static str join(struct list_parser *p, size_t from, size_t to, bool keep_spaces)
{
    size_t n = 0;
    for (size_t i = from; i < to; i++)
        n += p->tokens[i].text.n + 1;
    char *out = arena_alloc(p->a, n + 1);
    n = 0;
    for (size_t i = from; i < to; i++) {
        if (keep_spaces && i > from && p->tokens[i].has_space)
            out[n++] = ' ';
        memcpy(out + n, p->tokens[i].text.p, p->tokens[i].text.n);
        n += p->tokens[i].text.n;
    }
    out[n] = '\0';
    return str_n(out, n);
}

static str decode(struct list_parser *p, str raw)
{
    if (ascii_only(raw.p, raw.n) && str_find_str(raw, S("=?")) < 0)
        return raw;
    BUF(out, raw.n * 4 + 16);
    encoded_word_decode(&out, raw);
    return arena_str(p->a, buf_str(&out));
}

static void emit(struct list_parser *p, struct mail_address row)
{
    if (p->out->n == p->max) {
        p->out->is_cut = true;
        return;
    }
    if ((p->out->n & (p->out->n + 1)) == 0) { /* sizes 0, 1, 3, 7, …: double */
        struct mail_address *v = arena_array(p->a, struct mail_address, (p->out->n + 1) * 2);
        if (p->out->n)
            memcpy(v, p->out->v, p->out->n * sizeof(*v));
        p->out->v = v;
    }
    p->out->v[p->out->n++] = row;
}

static void set_address(struct list_parser *p, struct mail_address *row, size_t from, size_t to)
{
    size_t at = to;
    for (size_t i = from; i < to; i++)
        if (p->tokens[i].kind == TOKEN_AT)
            at = i;
    row->local = make_utf8(p->a, join(p, from, at, false));
    row->domain = at < to ? make_utf8(p->a, join(p, at + 1, to, false)) : S("");
}

static void set_name(struct list_parser *p, struct mail_address *row, str raw)
{
    row->raw_name = raw;
    row->name = decode(p, raw);
}

/* Whether token i belongs to the same address as its left neighbour. Spaces around dots are believed in the domain
 * only: to the left of it, "Dr. a@b" is seen more often than the obsolete "a . b@c". */
static bool is_joined(const struct list_parser *p, size_t i, bool in_domain)
{
    enum token_kind left = p->tokens[i - 1].kind, kind = p->tokens[i].kind;
    return !p->tokens[i].has_space || kind == TOKEN_AT || left == TOKEN_AT ||
           (in_domain && (kind == TOKEN_DOT || left == TOKEN_DOT));
}

/* "Joe Doe joe@x.org" and the proper "joe@x.org": the words around the last "@" are the address. */
static void set_bare(struct list_parser *p, struct mail_address *row, size_t at)
{
    size_t from = at, to = at + 1;
    while (from > 0 && is_joined(p, from, false))
        from--;
    while (to < p->n_tokens && is_joined(p, to, true))
        to++;
    set_address(p, row, from, to);
    str name = from > 0 ? join(p, 0, from, true) : join(p, to, p->n_tokens, true);
    set_name(p, row, str_empty(name) ? p->comment : name);
}

static void flush(struct list_parser *p)
{
    struct mail_address row = {.name = S(""), .raw_name = S(""), .local = S(""), .domain = S(""), .route = S("")};
    size_t at = SIZE_MAX;
    for (size_t i = 0; i < p->n_tokens; i++)
        if (p->tokens[i].kind == TOKEN_AT)
            at = i;
    bool is_something = true;
    if (p->has_angle) {
        set_address(p, &row, p->angle_from, p->angle_to);
        row.route = p->route;
        str name = join(p, 0, p->angle_from, true);
        if (str_empty(name))
            name = join(p, p->angle_to, p->n_tokens, true);
        set_name(p, &row, str_empty(name) ? p->comment : name);
        is_something = row.local.n || row.domain.n || row.name.n;
    } else if (at != SIZE_MAX) {
        set_bare(p, &row, at);
    } else if (p->n_tokens == 1 && p->tokens[0].kind == TOKEN_WORD) {
        row.local = make_utf8(p->a, p->tokens[0].text);
        set_name(p, &row, p->comment);
    } else if (p->n_tokens) {
        set_name(p, &row, join(p, 0, p->n_tokens, true));
    } else {
        is_something = false; /* a comment alone is nobody */
    }
    if (is_something)
        emit(p, row);
    p->n_tokens = 0;
    p->comment = p->route = S("");
    p->has_angle = p->has_space = false;
}

/* "<" [route ":"] addr-spec ">" */
static void take_angle(struct list_parser *p)
{
    p->c.p++;
    bool is_second = p->has_angle;
    size_t from = p->n_tokens;
    while (p->c.p < p->c.end && *p->c.p != '>') {
        unsigned char ch = *p->c.p;
        if (is_space(ch)) {
            p->has_space = true;
            p->c.p++;
        } else if (ch == '(') {
            (void)take_comment(p);
        } else if (ch == '"') {
            push(p, TOKEN_QUOTED, take_quoted(p));
        } else if (ch == '@') {
            p->c.p++;
            push(p, TOKEN_AT, S("@"));
        } else if (ch == ':' && p->n_tokens > from && p->tokens[from].kind == TOKEN_AT) {
            p->c.p++; /* end of a source route (RFC 5322 4.4) */
            p->route = make_utf8(p->a, join(p, from, p->n_tokens, false));
            p->n_tokens = from;
        } else if (ch == '<') { /* "<<a@b>>" */
            p->c.p++;
            p->n_tokens = from;
        } else {
            const unsigned char *start = p->c.p++;
            while (p->c.p < p->c.end && !is_space(*p->c.p) && !memchr("<>@\"(:", *p->c.p, 6))
                p->c.p++;
            push(p, TOKEN_WORD, str_n(start, (size_t)(p->c.p - start)));
        }
    }
    while (cur_skip(&p->c, '>'))
        ;
    if (is_second) { /* one address a mailbox: the first */
        p->n_tokens = from;
        return;
    }
    p->has_angle = true;
    p->angle_from = from;
    p->angle_to = p->n_tokens;
}

static void begin_group(struct list_parser *p)
{
    str name = decode(p, join(p, 0, p->n_tokens, true));
    p->n_tokens = 0;
    p->has_space = false;
    emit(p, (struct mail_address){.name = S(""),
                                  .raw_name = S(""),
                                  .local = S(""),
                                  .domain = S(""),
                                  .route = S(""),
                                  .group_start = str_empty(name) ? S("") : name});
    p->in_group = true;
}

static void end_group(struct list_parser *p)
{
    if (p->in_group)
        emit(p, (struct mail_address){.name = S(""),
                                      .raw_name = S(""),
                                      .local = S(""),
                                      .domain = S(""),
                                      .route = S(""),
                                      .is_group_end = true});
    p->in_group = false;
}

static bool has_at(const struct list_parser *p)
{
    for (size_t i = 0; i < p->n_tokens; i++)
        if (p->tokens[i].kind == TOKEN_AT)
            return true;
    return false;
}

static void take_literal(struct list_parser *p)
{
    const unsigned char *start = p->c.p;
    while (p->c.p < p->c.end && *p->c.p != ']')
        p->c.p++;
    cur_skip(&p->c, ']');
    push(p, TOKEN_WORD, str_n(start, (size_t)(p->c.p - start)));
}

static void step(struct list_parser *p)
{
    unsigned char ch = *p->c.p;
    switch (ch) {
    case ',':
        p->c.p++;
        flush(p);
        break;
    case ';':
        p->c.p++;
        flush(p);
        end_group(p);
        break;
    case ':':
        p->c.p++;
        if (!p->in_group && !p->has_angle && !has_at(p))
            begin_group(p);
        else
            push(p, TOKEN_WORD, S(":"));
        break;
    case '<':
        take_angle(p);
        break;
    case '(':
        p->comment = take_comment(p);
        p->has_space = true;
        break;
    case '"':
        push(p, TOKEN_QUOTED, take_quoted(p));
        break;
    case '@':
        p->c.p++;
        push(p, TOKEN_AT, S("@"));
        break;
    case '.':
        p->c.p++;
        push(p, TOKEN_DOT, S("."));
        break;
    case '[':
        take_literal(p);
        break;
    default:
        if (is_space(ch) || ch == '>' || ch == ')' || ch == ']') {
            p->c.p++;
            p->has_space = true;
            break;
        }
        push(p, TOKEN_WORD, cur_take_while(&p->c, is_word_char, SIZE_MAX));
    }
}

void address_list_parse(struct arena *a, str value, size_t max, struct address_list *out)
{
    *out = (struct address_list){0};
    if (max == 0)
        return;
    struct list_parser p = {
        .a = a, .c = cur_of(arena_str(a, value)), .out = out, .max = max, .comment = S(""), .route = S("")};
    struct token tokens[TOKENS_MAX];
    p.tokens = tokens;
    while (p.c.p < p.c.end && !out->is_cut)
        step(&p);
    flush(&p);
    end_group(&p);
}
