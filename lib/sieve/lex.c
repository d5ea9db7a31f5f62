#include "sieve/lex.h"

#define NUMBER_MAX ((uint64_t)1 << 62)

void lexer_init(struct lexer *l, str script, struct arena *a)
{
    *l = (struct lexer){.p = script.p, .end = script.p + script.n, .line_start = script.p, .line = 1, .arena = a};
}

const char *token_name(enum token_kind k)
{
    static const char *const names[] = {"the end of the script",
                                        "a word",
                                        "a tag",
                                        "a number",
                                        "a string",
                                        "';'",
                                        "','",
                                        "'('",
                                        "')'",
                                        "'{'",
                                        "'}'",
                                        "'['",
                                        "']'",
                                        "something else"};
    return names[k];
}

static void bad(struct token *t, const char *what)
{
    t->kind = T_BAD;
    t->text = str_c(what);
}

static void new_line(struct lexer *l) /* p is behind the LF */
{
    l->line++;
    l->line_start = l->p;
}

/* White space and comments. False: the comment that begins at *open is not closed. */
static bool skip(struct lexer *l, struct token *open)
{
    while (l->p < l->end) {
        char c = *l->p;
        if (c == '\n') {
            l->p++;
            new_line(l);
        } else if (c == ' ' || c == '\t' || c == '\r') {
            l->p++;
        } else if (c == '#') {
            while (l->p < l->end && *l->p != '\n')
                l->p++;
        } else if (c == '/' && l->end - l->p > 1 && l->p[1] == '*') {
            *open = (struct token){.line = l->line, .column = (unsigned)(l->p - l->line_start) + 1};
            for (l->p += 2;; l->p++) {
                if (l->end - l->p < 2)
                    return false;
                if (*l->p == '*' && l->p[1] == '/')
                    break;
                if (*l->p == '\n') {
                    l->line++;
                    l->line_start = l->p + 1;
                }
            }
            l->p += 2;
        } else {
            break;
        }
    }
    return true;
}

static bool is_word(unsigned char c)
{
    return ascii_is_alnum(c) || c == '_';
}

static str word(struct lexer *l)
{
    const char *from = l->p;
    while (l->p < l->end && is_word((unsigned char)*l->p))
        l->p++;
    return str_n(from, (size_t)(l->p - from));
}

static void number(struct lexer *l, struct token *t)
{
    uint64_t n = 0;
    t->kind = T_NUMBER;
    for (; l->p < l->end && ascii_is_digit((unsigned char)*l->p); l->p++) {
        n = n * 10 + (uint64_t)(*l->p - '0');
        if (n > NUMBER_MAX) {
            bad(t, "the number is too large");
            return;
        }
    }
    unsigned shift = 0;
    if (l->p < l->end) {
        char c = (char)ascii_lower((unsigned char)*l->p);
        shift = c == 'k' ? 10 : c == 'm' ? 20 : c == 'g' ? 30 : 0;
        l->p += shift > 0;
    }
    if (l->p < l->end && is_word((unsigned char)*l->p)) {
        bad(t, "a number ends with a digit or with K, M or G");
        return;
    }
    if (n > NUMBER_MAX >> shift) {
        bad(t, "the number is too large");
        return;
    }
    t->number = n << shift;
}

static void finish_string(struct token *t, const char *from, const char *to, struct buf *changed, struct arena *a)
{
    t->text = changed->n ? arena_str(a, buf_str(changed)) : str_n(from, (size_t)(to - from));
    t->kind = T_STRING;
    if (!utf8_valid(t->text.p, t->text.n) || memchr(t->text.p ? t->text.p : "", 0, t->text.n))
        bad(t, "the string is not UTF-8, or has a NUL in it");
}

/* 2.4.2: a backslash takes the next character as it is. */
static void quoted(struct lexer *l, struct token *t)
{
    BUF(changed, 2 * (size_t)(l->end - l->p) + 1);
    const char *from = ++l->p, *run = from;
    bool is_changed = false;
    for (; l->p < l->end && *l->p != '"'; l->p++) {
        if (*l->p == '\\' && l->end - l->p > 1) {
            buf_add_n(&changed, run, (size_t)(l->p - run));
            run = ++l->p;
            is_changed = true;
        }
        if (*l->p == '\n') {
            l->line++;
            l->line_start = l->p + 1;
            if (l->p == from || l->p[-1] != '\r') { /* lines of a message end with CRLF */
                buf_add_n(&changed, run, (size_t)(l->p - run));
                buf_addc(&changed, '\r');
                run = l->p;
                is_changed = true;
            }
        }
    }
    if (l->p == l->end) {
        bad(t, "a string that begins here is not closed by a '\"'");
        return;
    }
    if (is_changed)
        buf_add_n(&changed, run, (size_t)(l->p - run));
    finish_string(t, is_changed ? "" : from, is_changed ? "" : l->p, &changed, l->arena);
    l->p++;
}

/* 8.1 multi-line: behind "text:", up to a line with a dot alone; a dot in front of a line is doubled; lines end with
 * CRLF. */
static void multi_line(struct lexer *l, struct token *t)
{
    BUF(out, 2 * (size_t)(l->end - l->p) + 2);
    while (l->p < l->end && (*l->p == ' ' || *l->p == '\t'))
        l->p++;
    if (l->p < l->end && *l->p == '#')
        while (l->p < l->end && *l->p != '\n')
            l->p++;
    if (l->p < l->end && *l->p == '\r')
        l->p++;
    if (l->p == l->end || *l->p != '\n') {
        bad(t, "behind text: comes a new line");
        return;
    }
    l->p++;
    new_line(l);
    while (l->p < l->end) {
        const char *lf = memchr(l->p, '\n', (size_t)(l->end - l->p)), *stop = lf ? lf : l->end, *end = stop;
        if (end > l->p && end[-1] == '\r')
            end--;
        if (end - l->p == 1 && *l->p == '.') {
            l->p = lf ? lf + 1 : l->end;
            new_line(l);
            t->text = arena_str(l->arena, buf_str(&out));
            BUF(none, 1);
            finish_string(t, t->text.p, t->text.p + t->text.n, &none, l->arena);
            return;
        }
        const char *from = l->p + (*l->p == '.' && end - l->p > 1 && l->p[1] == '.');
        buf_add_n(&out, from, (size_t)(end - from));
        buf_add(&out, S("\r\n"));
        l->p = lf ? lf + 1 : l->end;
        new_line(l);
    }
    bad(t, "a text: that begins here is not closed by a line with a dot");
}

void lex(struct lexer *l, struct token *t)
{
    static const char punctuation[] = ";,(){}[]";
    struct token open = {0};
    bool ok = skip(l, &open);
    *t = ok ? (struct token){.line = l->line, .column = (unsigned)(l->p - l->line_start) + 1} : open;
    if (!ok) {
        bad(t, "a comment is not closed by */");
        l->p = l->end;
        return;
    }
    if (l->p == l->end)
        return;
    unsigned char c = (unsigned char)*l->p;
    const char *at = c ? strchr(punctuation, c) : NULL;
    if (at) {
        t->kind = T_SEMICOLON + (enum token_kind)(at - punctuation);
        l->p++;
    } else if (c == '"') {
        quoted(l, t);
    } else if (ascii_is_digit(c)) {
        number(l, t);
    } else if (c == ':' && l->end - l->p > 1 && (ascii_is_alpha((unsigned char)l->p[1]) || l->p[1] == '_')) {
        l->p++;
        t->kind = T_TAG;
        t->text = word(l);
    } else if (ascii_is_alpha(c) || c == '_') {
        t->text = word(l);
        t->kind = T_IDENTIFIER;
        if (str_eq_nocase(t->text, S("text")) && l->p < l->end && *l->p == ':') {
            l->p++;
            multi_line(l, t);
        }
    } else {
        bad(t, "a character that nothing begins with");
        l->p++;
    }
}
