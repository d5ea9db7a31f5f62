#include "protocol/script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "fiber/fiber.h"

#define LINE_MAX_BYTES (1u << 20)
#define WAIT_MS 60000 /* a busy machine is no failure */

struct script {
    const char *path;
    unsigned line;
    str rest;          /* of the file, after this line */
    unsigned literal_client; /* who sends the L: lines */
    const struct script_hooks *hooks;
    struct stream *clients[SCRIPT_CLIENTS];
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

/* "..." is any text. */
static bool glob(str pattern, str text)
{
    ptrdiff_t dots = str_find_str(pattern, S("..."));
    if (dots < 0)
        return str_eq(pattern, text);
    if (!str_starts(text, str_slice(pattern, 0, (size_t)dots)))
        return false;
    pattern = str_slice(pattern, (size_t)dots + 3, SIZE_MAX);
    for (size_t i = (size_t)dots; i <= text.n; i++)
        if (glob(pattern, str_slice(text, i, SIZE_MAX)))
            return true;
    return false;
}

FIBER static bool read_line(struct script *s, unsigned client, str *line, struct err *err)
{
    FIBER_DEADLINE(WAIT_MS);
    return stream_read_line(s->clients[client - 1], LINE_MAX_BYTES, false, line, err);
}

FIBER static void connect_client(struct script *s, unsigned client)
{
    struct err err = ERR_INIT;
    str greeting;
    if (s->clients[client - 1])
        return;
    s->clients[client - 1] = s->hooks->dial(s->hooks->arg);
    stream_set_input_max(s->clients[client - 1], LINE_MAX_BYTES);
    if (!read_line(s, client, &greeting, &err))
        fail(s, "no greeting: %s", err.msg);
}

FIBER void script_send(struct script *s, unsigned client, str line)
{
    struct err err = ERR_INIT;
    connect_client(s, client);
    struct stream *c = s->clients[client - 1];
    if (!stream_write(c, line, &err) || !stream_write(c, S("\r\n"), &err) || !stream_flush(c, &err))
        fail(s, "cannot send: %s", err.msg);
}

FIBER void script_expect(struct script *s, unsigned client, str pattern, bool skip)
{
    struct err err = ERR_INIT;
    str line;
    connect_client(s, client);
    do {
        if (!read_line(s, client, &line, &err))
            fail(s, "expected '%.*s', got nothing: %s", STR_ARG(pattern), err.msg);
        if (getenv("THURN_VERBOSE"))
            printf("# S%u %.*s\n", client, STR_ARG(line));
    } while (skip && !glob(pattern, line));
    if (!glob(pattern, line))
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

/* "C2: text": which client, and what. False when it is no such line. */
static bool split(str line, char who, unsigned *client, char *mode, str *text)
{
    size_t i = 1;
    if (line.n < 2 || line.p[0] != who)
        return false;
    *client = 1;
    *mode = 0;
    if (ascii_is_digit((unsigned char)line.p[i]))
        *client = (unsigned)(line.p[i++] - '0');
    if (i < line.n && (line.p[i] == '~' || line.p[i] == 'X'))
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
    BUF(line, 65536);
    ptrdiff_t at = str_find_str(text, S("{?"));
    if (at >= 0) {
        buf_printf(&line, "%.*s{%zu", (int)at, text.p, literal_length(s));
        buf_add(&line, str_slice(text, (size_t)at + 2, SIZE_MAX));
        s->literal_client = client;
        text = buf_str(&line);
    }
    script_send(s, client, text);
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
        send_counted(s, client, text);
    else if (str_starts(line, S("L:")))
        send_literal(s, line);
    else if (split(line, 'S', &client, &mode, &text) && mode == 'X')
        expect_end(s, client);
    else if (split(line, 'S', &client, &mode, &text))
        script_expect(s, client, text, mode == '~');
    else if (!s->hooks->command(s->hooks->arg, s, line))
        fail(s, "what is '%.*s'?", STR_ARG(line));
}

FIBER void script_run(const char *path, const struct script_hooks *hooks)
{
    struct script s = {.path = path, .hooks = hooks};
    BUF(content, 1u << 20);
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
}
