#include "protocol/script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "fiber/fiber.h"

#define LINE_MAX_BYTES (1u << 20)
#define WAIT_MS 60000 /* a busy machine is no failure */

struct script {
    const char *path;
    unsigned line;
    str rest;                /* of the file, after this line */
    unsigned literal_client; /* who sends the L: lines */
    const struct script_hooks *hooks;
    struct stream *clients[SCRIPT_CLIENTS];
    struct arena a; /* of the names */
    struct {
        str name, value;
    } names[16]; /* "{name}", and what it stood for */
    size_t n_names;
};

/* On a fiber's stack nothing can be unwound to: say it and end. */
static void fail(const struct script *s, const char *fmt, ...) PRINTF(2, 3) NORETURN;
static void fail(const struct script *s, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "%s:%u: ", s->path, s->line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    _exit(1);
}

/* Length of the "{name}" that text begins with, or 0. */
static size_t name_length(str text)
{
    size_t n = 1;
    if (!text.n || text.p[0] != '{')
        return 0;
    while (n < text.n && text.p[n] >= 'a' && text.p[n] <= 'z')
        n++;
    return n > 1 && n < text.n && text.p[n] == '}' ? n + 1 : 0;
}

/* Names that have stood for something stand for it again. */
static str expand(struct script *s, str text, struct buf *out)
{
    while (text.n) {
        size_t n = name_length(text), i = 0;
        while (i < s->n_names && !str_eq(s->names[i].name, str_slice(text, 0, n)))
            i++;
        if (i == s->n_names)
            n = 1;
        buf_add(out, i < s->n_names ? s->names[i].value : str_slice(text, 0, 1));
        text = str_slice(text, n, SIZE_MAX);
    }
    return buf_str(out);
}

static void name_word(struct script *s, str name, str value)
{
    if (s->n_names == ARRAY_LEN(s->names))
        fail(s, "more than %zu names", s->n_names);
    s->names[s->n_names].name = arena_str(&s->a, name);
    s->names[s->n_names++].value = arena_str(&s->a, value);
}

/* "..." is any text, "{name}" a word. */
static bool matches(struct script *s, str pattern, str text)
{
    for (; pattern.n; pattern = str_slice(pattern, 1, SIZE_MAX), text = str_slice(text, 1, SIZE_MAX)) {
        if (str_starts(pattern, S("..."))) {
            for (size_t i = 0; i <= text.n; i++)
                if (matches(s, str_slice(pattern, 3, SIZE_MAX), str_slice(text, i, SIZE_MAX)))
                    return true;
            return false;
        }
        size_t n = name_length(pattern), word = 0;
        if (n) {
            while (word < text.n && !memchr(" ()[]", text.p[word], 5))
                word++;
            if (!word || !matches(s, str_slice(pattern, n, SIZE_MAX), str_slice(text, word, SIZE_MAX)))
                return false;
            name_word(s, str_slice(pattern, 0, n), str_slice(text, 0, word));
            return true;
        }
        if (!text.n || pattern.p[0] != text.p[0])
            return false;
    }
    return !text.n;
}

FIBER static bool read_line(struct script *s, unsigned client, str *line, struct err *err)
{
    FIBER_DEADLINE(WAIT_MS);
    return stream_read_line(s->clients[client - 1], LINE_MAX_BYTES, false, line, err);
}

FIBER void script_dial(struct script *s, unsigned client, str kind)
{
    struct stream **c = &s->clients[client - 1];
    stream_close(*c);
    *c = s->hooks->dial(s->hooks->arg, kind);
    if (!*c)
        fail(s, "no connection to '%.*s'", STR_ARG(kind));
    stream_set_input_max(*c, LINE_MAX_BYTES);
}

FIBER static void connect_client(struct script *s, unsigned client)
{
    struct err err = ERR_INIT;
    str greeting;
    if (s->clients[client - 1])
        return;
    script_dial(s, client, S("imap"));
    if (!read_line(s, client, &greeting, &err))
        fail(s, "no greeting: %s", err.msg);
}

FIBER static void say(struct script *s, unsigned client, str bytes, str end)
{
    struct err err = ERR_INIT;
    connect_client(s, client);
    struct stream *c = s->clients[client - 1];
    if (!stream_write(c, bytes, &err) || !stream_write(c, end, &err) || !stream_flush(c, &err))
        fail(s, "cannot send: %s", err.msg);
}

FIBER void script_send(struct script *s, unsigned client, str line)
{
    say(s, client, line, S("\r\n"));
}

FIBER void script_expect(struct script *s, unsigned client, str text, bool skip)
{
    struct err err = ERR_INIT;
    str line;
    bool is_it;
    BUF(expanded, LINE_MAX_BYTES);
    str pattern = expand(s, text, &expanded);
    connect_client(s, client);
    do {
        if (!read_line(s, client, &line, &err))
            fail(s, "expected '%.*s', got nothing: %s", STR_ARG(pattern), err.msg);
        if (getenv("THURN_VERBOSE"))
            printf("# S%u %.*s\n", client, STR_ARG(line));
        is_it = matches(s, pattern, line);
    } while (skip && !is_it);
    if (!is_it)
        fail(s, "expected '%.*s', got '%.*s'", STR_ARG(pattern), STR_ARG(line));
}

FIBER bool script_tagged(struct script *s, unsigned client, str tag)
{
    struct err err = ERR_INIT;
    str line;
    for (;;) {
        if (!read_line(s, client, &line, &err))
            fail(s, "no tagged reply: %s", err.msg);
        if (getenv("THURN_VERBOSE"))
            printf("# S%u %.*s\n", client, STR_ARG(line));
        if (!str_starts(line, tag) || line.n < tag.n + 4 || line.p[tag.n] != ' ')
            continue;
        str rest = str_slice(line, tag.n + 1, SIZE_MAX);
        if (str_starts(rest, S("OK")))
            return true;
        if (!str_starts(rest, S("NO [UNAVAILABLE]")))
            fail(s, "'%.*s'", STR_ARG(line));
        return false;
    }
}

FIBER static void expect_end(struct script *s, unsigned client)
{
    struct err err = ERR_INIT;
    str line;
    connect_client(s, client);
    if (read_line(s, client, &line, &err))
        fail(s, "expected the end, got '%.*s'", STR_ARG(line));
    if (err.kind != ERR_UNAVAILABLE)
        fail(s, "expected the end: %s", err.msg);
    stream_close(s->clients[client - 1]);
    s->clients[client - 1] = NULL;
}

/* "C2~: text": which client, how, and what. False when it is no such line. */
static bool split(str line, char who, unsigned *client, char *mode, str *text)
{
    size_t i = 1;
    if (line.n < 2 || line.p[0] != who)
        return false;
    *client = 1;
    *mode = 0;
    if (ascii_is_digit((unsigned char)line.p[i]))
        *client = (unsigned)(line.p[i++] - '0');
    if (i < line.n && memchr(who == 'C' ? "\\" : "~X", line.p[i], who == 'C' ? 1 : 2))
        *mode = line.p[i++];
    if (i >= line.n || line.p[i] != ':' || *client < 1 || *client > SCRIPT_CLIENTS)
        return false;
    *text = str_slice(line, i + 1, SIZE_MAX);
    if (text->n && text->p[0] == ' ')
        *text = str_slice(*text, 1, SIZE_MAX);
    return true;
}

/* Bytes of the L: lines that come next. */
static size_t literal_length(const struct script *s)
{
    str rest = s->rest, line;
    size_t n = 0;
    bool began = false;
    while (str_split(&rest, '\n', &line)) {
        bool is_literal = str_starts(line, S("L:"));
        if (is_literal)
            n += (began ? 2 : 0) + (line.n > 3 ? line.n - 3 : 0);
        else if (began)
            break;
        began |= is_literal;
    }
    return n;
}

/* "{?+}" gets its number. */
FIBER static void send_counted(struct script *s, unsigned client, str text)
{
    BUF(line, LINE_MAX_BYTES);
    BUF(expanded, LINE_MAX_BYTES);
    text = expand(s, text, &expanded);
    ptrdiff_t at = str_find_str(text, S("{?"));
    if (at >= 0) {
        buf_printf(&line, "%.*s{%zu", (int)at, text.p, literal_length(s));
        buf_add(&line, str_slice(text, (size_t)at + 2, SIZE_MAX));
        s->literal_client = client;
        text = buf_str(&line);
    }
    script_send(s, client, text);
}

/* "\r", "\n" and "\\" are the bytes they name, and nothing is added. */
FIBER static void send_bytes(struct script *s, unsigned client, str text)
{
    BUF(bytes, LINE_MAX_BYTES);
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c == '\\' && i + 1 < text.n) {
            c = text.p[++i];
            c = c == 'r' ? '\r' : c == 'n' ? '\n' : c;
        }
        buf_addc(&bytes, c);
    }
    say(s, client, buf_str(&bytes), S(""));
}

/* The line ends of a literal are between its lines; the command's own follows the last. */
FIBER static void send_literal(struct script *s, str line)
{
    script_send(s, s->literal_client, str_slice(line, 3, SIZE_MAX));
}

FIBER static void run_line(struct script *s, str line)
{
    unsigned client;
    char mode;
    str text;
    if (line.n == 0 || line.p[0] == '#')
        return;
    if (split(line, 'C', &client, &mode, &text))
        (mode ? send_bytes : send_counted)(s, client, text);
    else if (str_starts(line, S("L:")))
        send_literal(s, line);
    else if (split(line, 'S', &client, &mode, &text) && mode == 'X')
        expect_end(s, client);
    else if (split(line, 'S', &client, &mode, &text))
        script_expect(s, client, text, mode == '~');
    else if (!script_word(s, line) && !(s->hooks->command && s->hooks->command(s->hooks->arg, s, line)))
        fail(s, "what is '%.*s'?", STR_ARG(line));
}

FIBER void script_run(const char *path, const struct script_hooks *hooks)
{
    struct script s = {.path = path, .hooks = hooks};
    BUF(content, 1u << 20);
    arena_init(&s.a, 65536);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail(&s, "no such script");
    char chunk[1024];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_add_n(&content, chunk, n);
    fclose(f);
    str line;
    s.rest = buf_str(&content);
    while (str_split(&s.rest, '\n', &line)) {
        s.line++;
        run_line(&s, line);
    }
    for (unsigned i = 0; i < SCRIPT_CLIENTS; i++)
        stream_close(s.clients[i]);
    arena_done(&s.a);
}
