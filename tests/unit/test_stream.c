#include "test.h"

#include <fcntl.h>
#include <unistd.h>

#include <uv.h>

#include "base/clock.h"
#include "net/stream.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"

/* A stream and the bare socket at its other end. */
struct pair {
    struct stream *s;
    int fd;
};
static struct pair open_pair(const struct stream_opts *opts)
{
    int fds[2];
    struct err err = ERR_INIT;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    struct pair p = {.s = stream_from_fd(fds[0], opts, &err), .fd = fds[1]};
    assert_non_null(p.s);
    return p;
}
static void say(int fd, str bytes)
{
    assert_int_equal(write(fd, bytes.p, bytes.n), bytes.n);
}
/* All that arrives until the end, or until n bytes have. */
static size_t hear(int fd, char *to, size_t n)
{
    struct err err = ERR_INIT;
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, to + got, n - got);
        if (r == 0)
            break;
        if (r > 0)
            got += (size_t)r;
        else
            assert_true(fiber_sleep_ms(1, &err));
    }
    return got;
}
static void expect_heard(int fd, str want)
{
    char got[4096];
    assert_true(want.n <= sizeof(got));
    assert_int_equal(hear(fd, got, want.n), want.n);
    assert_memory_equal(got, want.p, want.n);
}

/* --- lines --- */

static const char pipelined[] = "EHLO x\r\nMAIL FROM:<a@b>\r\n\r\nRCPT\r\n";
static const char *const lines[] = {"EHLO x", "MAIL FROM:<a@b>", "", "RCPT"};

static void read_lines(struct stream *s, bool strict)
{
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        str line;
        assert_true(stream_read_line(s, 100, strict, &line, &err));
        assert_true(str_eq(line, str_c(lines[i])));
    }
}

static void say_rest(void *arg)
{
    struct pair *p = ((void **)arg)[0];
    str *rest = ((void **)arg)[1];
    say(p->fd, *rest);
}

static void lines_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str all = str_c(pipelined);
    struct pair p = open_pair(NULL);
    for (size_t cut = 0; cut <= all.n; cut++) { /* every split point */
        str rest = str_slice(all, cut, SIZE_MAX);
        void *args[] = {&p, &rest};
        say(p.fd, str_slice(all, 0, cut));
        assert_true(fiber_sleep_ms(0, &err) && fiber_yield(&err));
        assert_true(fiber_spawn("rest", say_rest, args, FIBER_NO_DEADLINE, &err));
        read_lines(p.s, true);
        assert_int_equal(stream_input(p.s).n, 0);
    }
    for (size_t i = 0; i < all.n; i++) { /* byte by byte */
        say(p.fd, str_slice(all, i, i + 1));
        assert_true(fiber_yield(&err));
    }
    read_lines(p.s, true);
    stream_close(p.s);
    (void)close(p.fd);
}

/* The process stands still between two looks at its sockets, for longer than it would wait. What came meanwhile was in
 * time. */
static void stand_still(uv_idle_t *h)
{
    const struct pair *p = h->data;
    say(p->fd, S("250 ok\r\n"));
    clock_advance_ms(30000);
    uv_close((uv_handle_t *)h, NULL);
}
static void paused_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str line;
    struct pair p = open_pair(NULL);
    uv_idle_t pause = {.data = &p};
    clock_freeze(1800000000000, clock_mono_ms());
    assert_int_equal(uv_idle_init(fiber_loop(), &pause), 0);
    assert_int_equal(uv_idle_start(&pause, stand_still), 0);
    {
        FIBER_DEADLINE(20000);
        if (!stream_read_line(p.s, 100, true, &line, &err))
            fail_msg("%s", err.msg);
        assert_true(str_eq(line, S("250 ok")));
    }
    clock_real();
    {
        FIBER_DEADLINE(20); /* and what does not come is missed as ever */
        assert_false(stream_read_line(p.s, 100, true, &line, &err));
        assert_int_equal(err.kind, ERR_TIMEOUT);
    }
    stream_close(p.s);
    (void)close(p.fd);
}

static void strict_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str line;
    struct pair p = open_pair(NULL);
    static const char *const bad[] = {"a\nb\r\n", "a\rb\r\n", "\n", "\r\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        say(p.fd, str_c(bad[i]));
        assert_false(stream_read_line(p.s, 100, true, &line, &err));
        assert_int_equal(err.kind, ERR_INVALID);
        err_clear(&err);
        if (i == 0) {
            assert_true(stream_read_line(p.s, 100, true, &line, &err));
            assert_true(str_eq(line, S("b")));
        }
        assert_int_equal(stream_input(p.s).n, 0);
    }
    say(p.fd, S("lenient\nlines\r\n"));
    assert_true(stream_read_line(p.s, 100, false, &line, &err) && str_eq(line, S("lenient")));
    assert_true(stream_read_line(p.s, 100, false, &line, &err) && str_eq(line, S("lines")));

    say(p.fd, S("12345\r\n"));
    assert_true(stream_read_line(p.s, 5, true, &line, &err) && str_eq(line, S("12345")));
    say(p.fd, S("123456\r\n"));
    assert_false(stream_read_line(p.s, 5, true, &line, &err));
    assert_int_equal(err.kind, ERR_LIMIT);
    err_clear(&err);
    assert_true(str_eq(stream_input(p.s), S("123456\r\n")));
    stream_consume(p.s, 8);
    say(p.fd, S("12345678"));
    assert_false(stream_read_line(p.s, 5, true, &line, &err));
    assert_int_equal(err.kind, ERR_LIMIT);
    stream_close(p.s);
    (void)close(p.fd);
}

/* A line stays where it is while its reader does something else and more arrives. */
static void lent_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str line;
    struct pair p = open_pair(NULL);
    say(p.fd, S("first\r\n"));
    assert_true(stream_read_line(p.s, 100, true, &line, &err));
    static char much[30000];
    memset(much, 'x', sizeof(much));
    much[sizeof(much) - 1] = '\n';
    for (int i = 0; i < 2; i++) {
        say(p.fd, str_n(much, sizeof(much)));
        for (int turns = 0; turns < 5; turns++)
            assert_true(fiber_sleep_ms(1, &err));
        assert_true(str_eq(line, S("first")));
    }
    for (int i = 0; i < 2; i++) {
        assert_true(stream_read_line(p.s, sizeof(much), false, &line, &err));
        assert_true(str_eq(line, str_n(much, sizeof(much) - 1)));
    }
    stream_close(p.s);
    (void)close(p.fd);
}

/* --- exact counts, caps, ends --- */

static void input_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct stream_opts opts = {.input_max = 1000};
    struct pair p = open_pair(&opts);
    static char much[10000], got[10000];
    for (size_t i = 0; i < sizeof(much); i++)
        much[i] = (char)(i * 7);
    say(p.fd, str_n(much, sizeof(much)));
    for (int i = 0; i < 10; i++)
        assert_true(fiber_yield(&err));
    assert_true(stream_fill(p.s, &err));
    assert_int_equal(stream_input(p.s).n, 1000); /* no more is taken than the cap allows */
    assert_false(stream_fill(p.s, &err));
    assert_int_equal(err.kind, ERR_LIMIT);
    err_clear(&err);
    assert_true(stream_read_exact(p.s, got, sizeof(got), &err));
    assert_memory_equal(got, much, sizeof(got));

    FIBER_DEADLINE(5);
    assert_false(stream_fill(p.s, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    stream_close(p.s);
    (void)close(p.fd);
}

static void end_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str line;
    struct pair p = open_pair(NULL);
    say(p.fd, S("last\r\nrest"));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    while (!stream_at_end(p.s)) {
        assert_true(stream_read_line(p.s, 100, true, &line, &err)); /* input that came before stays readable */
        assert_true(str_eq(line, S("last")));
        assert_false(stream_read_line(p.s, 100, true, &line, &err));
    }
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    err_clear(&err);
    assert_true(str_eq(stream_input(p.s), S("rest")));
    assert_true(stream_printf(p.s, &err, "%d bye\r\n", 221)); /* half closed: we can still talk */
    stream_close(p.s);
    expect_heard(p.fd, S("221 bye\r\n"));
    char more;
    assert_int_equal(hear(p.fd, &more, 1), 0);
    (void)close(p.fd);
}

/* --- output --- */

struct writing {
    struct pair p;
    size_t n_written;
    bool is_done;
};
static char pattern[1 << 20];

static void write_much(void *arg)
{
    struct writing *w = arg;
    struct err err = ERR_INIT;
    for (size_t at = 0; at < sizeof(pattern); at += 4096) {
        assert_true(stream_write(w->p.s, str_n(pattern + at, 4096), &err));
        w->n_written += 4096;
        assert_true(stream_output_pending(w->p.s) <= (32 + 4) * 1024);
    }
    assert_true(stream_flush(w->p.s, &err));
    assert_int_equal(stream_output_pending(w->p.s), 0);
    w->is_done = true;
}

static void slow_reader_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct stream_opts opts = {.output_high = 32 * 1024};
    struct writing w = {.p = open_pair(&opts)};
    int small = 16 * 1024;
    assert_int_equal(setsockopt(w.p.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (char)(i ^ (i >> 8));
    assert_true(fiber_spawn("writer", write_much, &w, FIBER_NO_DEADLINE, &err));
    for (int i = 0; i < 20; i++)
        assert_true(fiber_sleep_ms(1, &err));
    assert_true(w.n_written < sizeof(pattern) && !w.is_done); /* it waits for the reader */
    static char got[sizeof(pattern)];
    assert_int_equal(hear(w.p.fd, got, sizeof(got)), sizeof(got));
    assert_memory_equal(got, pattern, sizeof(got));
    while (!w.is_done)
        assert_true(fiber_sleep_ms(1, &err));
    stream_close(w.p.s);
    (void)close(w.p.fd);
}

/* What was written is sent although the stream is closed at once, and the peer has sent what nobody read. */
static void close_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct stream_opts opts = {.output_high = 2 * 1024 * 1024};
    struct pair p = open_pair(&opts);
    say(p.fd, S("unread"));
    assert_true(stream_write(p.s, str_n(pattern, sizeof(pattern)), &err));
    stream_close(p.s);
    static char got[sizeof(pattern)];
    assert_int_equal(hear(p.fd, got, sizeof(got)), sizeof(got));
    assert_memory_equal(got, pattern, sizeof(got));
    (void)close(p.fd);

    p = open_pair(NULL); /* a peer that never reads is waited for two seconds at most; abort does not wait */
    assert_true(stream_write(p.s, str_n(pattern, 200000), &err));
    stream_abort(p.s);
    (void)close(p.fd);
    stream_close(NULL);
    stream_abort(NULL);
}

static void broken_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct stream_opts opts = {.output_high = 32 * 1024};
    struct pair p = open_pair(&opts);
    (void)close(p.fd);
    bool ok = true;
    for (int i = 0; ok && i < 100; i++)
        ok = stream_write(p.s, str_n(pattern, 4096), &err) && stream_flush(p.s, &err);
    assert_false(ok);
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_false(stream_try_write(p.s, S("x")));
    stream_close(p.s);
}

/* --- idle --- */

struct idling {
    struct pair p;
    int n_ready;
    bool again;
    struct fiber *main;
};
static void on_ready(void *arg)
{
    struct idling *i = arg;
    assert_null(fiber_self());
    i->n_ready++;
    if (i->again)
        stream_idle(i->p.s, on_ready, i);
    fiber_wake(i->main);
}

static void idle_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    str line;
    struct idling i = {.p = open_pair(NULL), .main = fiber_self()};
    stream_idle(i.p.s, on_ready, &i);
    for (int turns = 0; turns < 5; turns++)
        assert_true(fiber_yield(&err));
    assert_int_equal(i.n_ready, 0);
    say(i.p.fd, S("half"));
    while (i.n_ready == 0)
        assert_true(fiber_wait(&err));
    assert_true(str_eq(stream_input(i.p.s), S("half")));
    stream_idle(i.p.s, on_ready, &i); /* what was seen does not count */
    for (int turns = 0; turns < 5; turns++)
        assert_true(fiber_yield(&err));
    assert_int_equal(i.n_ready, 1);
    say(i.p.fd, S(" a line\r\n"));
    while (i.n_ready == 1)
        assert_true(fiber_wait(&err));
    assert_true(stream_read_line(i.p.s, 100, true, &line, &err) && str_eq(line, S("half a line")));

    say(i.p.fd, S("came unseen"));
    for (int turns = 0; turns < 5; turns++)
        assert_true(fiber_yield(&err));
    stream_idle(i.p.s, on_ready, &i);
    while (i.n_ready == 2)
        assert_true(fiber_wait(&err));

    stream_consume(i.p.s, stream_input(i.p.s).n);
    stream_idle(i.p.s, on_ready, &i);
    assert_true(stream_try_write(i.p.s, S("* BYE\r\n")));
    assert_true(stream_try_write(i.p.s, S("* and more\r\n")));
    expect_heard(i.p.fd, S("* BYE\r\n* and more\r\n"));
    stream_idle_stop(i.p.s);
    say(i.p.fd, S("x"));
    for (int turns = 0; turns < 5; turns++)
        assert_true(fiber_yield(&err));
    assert_int_equal(i.n_ready, 3);
    stream_consume(i.p.s, stream_input(i.p.s).n);

    stream_idle(i.p.s, on_ready, &i);
    (void)close(i.p.fd); /* the end wakes too */
    while (i.n_ready == 3)
        assert_true(fiber_wait(&err));
    assert_true(stream_at_end(i.p.s));
    stream_close(i.p.s);
}

/* --- least rate --- */

static void move_clock(void *arg)
{
    struct pair *p = arg;
    struct err err = ERR_INIT;
    for (int i = 0; i < 100; i++) { /* 10 bytes a second; and the loop polls (loop.h) before the next */
        clock_advance_ms(1000);
        (void)!write(p->fd, "0123456789", 10);
        for (int turns = 0; turns < 40; turns++)
            if (!fiber_yield(&err))
                return;
    }
}

static void rate_main(void *arg)
{
    (void)arg;
    static const uint64_t rates[] = {5, 20};
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct err err = ERR_INIT;
        struct pair p = open_pair(NULL);
        clock_freeze(0, clock_mono_ms());
        stream_set_min_rate(p.s, rates[i]);
        size_t n = 0;
        int64_t began = clock_mono_ms();
        {
            FIBER_GROUP(g, 1);
            assert_true(fiber_group_spawn(&g, "clock", move_clock, &p, &err));
            while (n < 900 && stream_fill(p.s, &err)) {
                n += stream_input(p.s).n;
                stream_consume(p.s, stream_input(p.s).n);
            }
        }
        if (rates[i] == 5) {
            assert_true(n >= 900);
        } else {
            assert_int_equal(err.kind, ERR_TIMEOUT);
            assert_true(clock_mono_ms() - began >= 30000 && clock_mono_ms() - began <= 33000);
        }
        clock_real();
        stream_abort(p.s);
        (void)close(p.fd);
    }
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(lines)
RUN(strict)
RUN(paused)
RUN(lent)
RUN(input)
RUN(end)
RUN(slow_reader)
RUN(close)
RUN(broken)
RUN(idle)
RUN(rate)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),       cmocka_unit_test(test_strict), cmocka_unit_test(test_lent),
        cmocka_unit_test(test_paused),      cmocka_unit_test(test_input),  cmocka_unit_test(test_end),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_close),  cmocka_unit_test(test_broken),
        cmocka_unit_test(test_idle),        cmocka_unit_test(test_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
