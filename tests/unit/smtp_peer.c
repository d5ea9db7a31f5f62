#include "test.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/num.h"
#include "fiber/fiber.h"
#include "smtp_peer.h"

struct talk {
    struct peer *p;
    struct stream *s;
    const char *script;
};

/* Say it, with the pause where the split falls. */
FIBER static bool say(struct talk *t, str text)
{
    struct peer *p = t->p;
    struct err err = ERR_INIT;
    size_t before = p->n_said;
    p->n_said += text.n;
    if (p->split < before || p->split > p->n_said)
        return stream_write(t->s, text, &err);
    str head = str_slice(text, 0, p->split - before);
    if (!stream_write(t->s, head, &err) || !stream_flush(t->s, &err))
        return false;
    for (int i = 0; i < 5; i++)
        if (!fiber_yield(&err))
            return false;
    return stream_write(t->s, str_slice(text, head.n, SIZE_MAX), &err);
}

FIBER static bool say_line(struct talk *t, str text)
{
    BUF(b, 65536);
    buf_add(&b, text);
    buf_add(&b, S("\r\n"));
    return say(t, buf_str(&b));
}

static void complain(struct talk *t, str step, str got)
{
    if (!t->p->failure[0])
        (void)snprintf(t->p->failure, sizeof(t->p->failure), "'%.*s' expected, got '%.*s'", STR_ARG(step),
                       STR_ARG(got));
}

FIBER static bool next_line(struct talk *t, str *line)
{
    struct err err = ERR_INIT;
    if (!stream_read_line(t->s, 8192, true, line, &err))
        return false;
    buf_add(&t->p->lines, *line);
    buf_addc(&t->p->lines, '\n');
    return true;
}

FIBER static bool read_data(struct talk *t)
{
    struct err err = ERR_INIT;
    str line;
    do {
        if (!stream_read_line(t->s, 1u << 20, true, &line, &err))
            return false;
        buf_add(&t->p->content, line);
        buf_add(&t->p->content, S("\r\n"));
    } while (!str_eq(line, S(".")));
    return true;
}

FIBER static bool read_chunk(struct talk *t)
{
    struct err err = ERR_INIT;
    str line, word;
    uint32_t n;
    if (!next_line(t, &line) || !str_split(&line, ' ', &word) || !str_eq(word, S("BDAT")) ||
        !str_split(&line, ' ', &word) || !num_u32(word, 1u << 20, &n))
        return false;
    while (n > 0) {
        str piece;
        if (!stream_read_some(t->s, n, &piece, &err))
            return false;
        buf_add(&t->p->content, piece);
        n -= (uint32_t)piece.n;
    }
    return true;
}

FIBER static bool say_raw(struct talk *t, str text)
{
    BUF(b, 8192);
    for (size_t i = 0; i < text.n; i++) {
        bool is_escape = text.p[i] == '\\' && i + 1 < text.n;
        buf_addc(&b, !is_escape ? text.p[i] : text.p[i + 1] == 'r' ? '\r' : '\n');
        i += is_escape;
    }
    return say(t, buf_str(&b));
}

/* Seconds of the frozen clock; everybody runs at each of them. */
FIBER static bool let_pass(struct talk *t, str seconds)
{
    struct err err = ERR_INIT;
    uint32_t n = 0;
    if (!num_u32(seconds, 86400, &n))
        return false;
    for (uint32_t i = 0; i < n && !stream_at_end(t->s); i++) {
        clock_advance_ms(1000);
        for (int k = 0; k < 4; k++)
            if (!fiber_yield(&err))
                return false;
    }
    return true;
}

/* One step; false ends the connection. */
FIBER static bool step(struct talk *t, str what)
{
    struct err err = ERR_INIT;
    str arg = str_slice(what, 2, SIZE_MAX), line = S("the end");
    switch (what.p[0]) {
    case 'S':
        return say_line(t, arg);
    case 'R':
        return say_raw(t, arg);
    case 'N':
        for (int i = 0; i < 1000; i++)
            if (!say_line(t, arg))
                return true; /* the client has had enough */
        return true;
    case 'C':
        if (next_line(t, &line) && str_starts(line, arg))
            return true;
        complain(t, what, line);
        return false;
    case 'D':
        if (read_data(t))
            return true;
        complain(t, what, line);
        return false;
    case 'B':
        if (read_chunk(t))
            return true;
        complain(t, what, line);
        return false;
    case 'T':
        return stream_start_tls_server(t->s, t->p->tls, NULL, &err);
    case 'W':
        return let_pass(t, arg);
    case 'X':
        if (!stream_flush(t->s, &err))
            return false;
        stream_abort(t->s);
        t->s = NULL;
        return false;
    default:
        complain(t, S("a step"), what);
        return false;
    }
}

FIBER static void serve(void *arg)
{
    struct talk *t = arg;
    str script = str_c(t->script), line;
    bool ok = true;
    while (ok && str_split(&script, '\n', &line))
        if (line.n)
            ok = step(t, line);
    while (ok && next_line(t, &line))
        ;
    stream_close(t->s);
    t->p->n_running--;
    free(t);
}

static void on_accept(void *arg, struct stream *s)
{
    struct peer *p = arg;
    struct err err = ERR_INIT;
    struct talk *t = xnew(struct talk);
    unsigned i = MIN(p->n_connections, PEER_SCRIPTS_MAX - 1);
    *t = (struct talk){p, s, p->scripts[i] ? p->scripts[i] : "X"};
    p->n_connections++;
    p->n_running++;
    p->n_said = 0;
    if (!fiber_spawn("peer", serve, t, FIBER_NO_DEADLINE, &err))
        fail_msg("%s", err.msg);
}

uint16_t peer_start(struct peer *p, const char *ip, uint16_t port)
{
    struct err err = ERR_INIT;
    struct listener_opts opts = {.name = "peer", .max_connections = 1000, .accept = on_accept, .arg = p};
    *p = (struct peer){.split = SIZE_MAX};
    opts.stream.input_max = 1u << 20;
    buf_init(&p->lines, 1u << 20);
    buf_init(&p->content, 8u << 20);
    if (!net_ip_parse(str_c(ip), &opts.addr))
        fail_msg("%s is no address", ip);
    net_addr_set_port(&opts.addr, port);
    p->listener = listener_start(&opts, &err);
    if (!p->listener)
        fail_msg("%s", err.msg);
    return net_addr_port(listener_addr(p->listener));
}

void peer_script(struct peer *p, const char *first, const char *second, const char *third)
{
    const char *scripts[] = {first, second, third};
    memset(p->scripts, 0, sizeof(p->scripts));
    memcpy(p->scripts, scripts, sizeof(scripts));
    buf_clear(&p->lines);
    buf_clear(&p->content);
    p->n_connections = 0;
    p->failure[0] = '\0';
}

void peer_check(struct peer *p, unsigned n_connections)
{
    struct err err = ERR_INIT;
    for (int i = 0; p->n_running > 0 && i < 1000; i++)
        if (!fiber_sleep_ms(5, &err))
            break;
    if (p->n_running)
        fail_msg("the peer has %u connections still; it heard:\n%s", p->n_running, buf_z(&p->lines));
    if (p->failure[0])
        fail_msg("%s; the peer heard:\n%s", p->failure, buf_z(&p->lines));
    assert_int_equal(p->n_connections, n_connections);
}

void peer_stop(struct peer *p)
{
    listener_free(p->listener);
    buf_done(&p->lines);
    buf_done(&p->content);
}
