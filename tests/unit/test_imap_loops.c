/* Commands over a large mailbox: they give way, so that nobody waits for another's. Time is that of the processor,
 * whatever else the machine does. */
#include "unit/imap_rig.h"

#include <time.h>

#include "base/clock.h"
#include "base/metrics.h"

#define MESSAGES 20000u
/* Sanitizers make all of it several times slower, and a page of the store's answer is unpacked in one go. */
#define LONGEST_MS 40.0

static double cpu_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

struct watchdog {
    bool is_over;
    double longest_ms;
    unsigned turns;
};

/* Somebody else, who wants his turn all the time. */
static void look(void *arg)
{
    struct watchdog *w = arg;
    struct err err = ERR_INIT;
    double last = cpu_ms();
    while (!w->is_over && fiber_sleep_ms(0, &err) && fiber_yield(&err)) {
        double now = cpu_ms();
        w->longest_ms = MAX(w->longest_ms, now - last);
        last = now;
        w->turns++;
    }
}

/* Read and drop what comes, until the tagged line. */
static void drain(struct stream *s)
{
    struct err err = ERR_INIT;
    static char tail[16];
    size_t n = 0;
    for (str piece; stream_read_some(s, 65536, &piece, &err);) {
        for (size_t i = 0; i < piece.n; i++) {
            if (n < sizeof(tail))
                tail[n++] = piece.p[i];
            if (piece.p[i] != '\n')
                continue;
            if (n >= 5 && memcmp(tail, "t OK ", 5) == 0)
                return;
            assert_false(n >= 5 && (memcmp(tail, "t NO ", 5) == 0 || memcmp(tail, "t BAD", 5) == 0));
            n = 0;
        }
    }
    fail_msg("%s", err.msg);
}

static void large(struct imap_rig *r)
{
    static const char *const commands[] = {
        "FETCH 1:* (FLAGS UID)",
        "FETCH 1:* (ENVELOPE BODYSTRUCTURE)",
        "FETCH 1:* BODY.PEEK[HEADER.FIELDS (Subject From)]",
        "STORE 1:* +FLAGS (\\Seen)",
        "SEARCH ALL",
        "UID SEARCH RETURN (ALL) ALL",
        "UID COPY 1:* Other",
        "EXPUNGE",
    };
    struct err err = ERR_INIT;
    imap_rig_connect(r);
    assert_true(str_starts(imap_rig_command(r->client, "a1", "LOGIN alice@example.org x"), S("a1 OK")));
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        struct watchdog w = {.is_over = false};
        BUF(line, 256);
        assert_true(str_starts(imap_rig_command(r->client, "a2", "SELECT INBOX"), S("a2 OK")));
        r->expunges_all = strcmp(commands[i], "EXPUNGE") == 0;
        buf_printf(&line, "t %s\r\n", commands[i]);
        {
            FIBER_GROUP(g, 1);
            assert_true(fiber_group_spawn(&g, "watchdog", look, &w, &err));
            imap_rig_say(r->client, buf_z(&line));
            drain(r->client);
            w.is_over = true;
            assert_true(fiber_group_wait(&g, &err));
        }
        print_message("%-50s %6.1f ms at most, %u turns\n", commands[i], w.longest_ms, w.turns);
        assert_true(w.longest_ms < LONGEST_MS);
    }
}

static void many_messages(struct imap_rig *r)
{
    r->n_messages = MESSAGES;
}

static void test_large(void **state)
{
    (void)state;
    metrics_reset();
    imap_rig_run(many_messages, large, NULL);
}

/* A set of more than 64 KiB, as programs send it that name each message. */
static void long_set(struct imap_rig *r)
{
    BUF(line, 1 << 20);
    imap_rig_connect(r);
    assert_true(str_starts(imap_rig_command(r->client, "a1", "LOGIN alice@example.org x"), S("a1 OK")));
    assert_true(str_starts(imap_rig_command(r->client, "a2", "SELECT INBOX"), S("a2 OK")));
    buf_add(&line, S("t UID FETCH 1"));
    for (unsigned i = 3; line.n < 200 * 1024; i += 2)
        buf_printf(&line, ",%u", i);
    buf_add(&line, S(" (UID)\r\n"));
    imap_rig_say(r->client, buf_z(&line));
    assert_str(imap_rig_line(r->client), S("* 1 FETCH (UID 1)"));
    drain(r->client);
    imap_rig_connect(r); /* before the login nobody needs that much */
    buf_clear(&line);
    for (unsigned i = 0; i < 20 * 1024; i++)
        buf_addc(&line, 'x');
    imap_rig_say(r->client, buf_z(&line));
    assert_true(str_starts(imap_rig_line(r->client), S("* BYE")));
}

static void test_long_set(void **state)
{
    (void)state;
    metrics_reset();
    imap_rig_run(many_messages, long_set, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_long_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
