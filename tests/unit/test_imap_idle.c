/* IDLE while a service fails: how often each of its methods is asked, and that those who wait are told in the end. */
#include "unit/imap_rig.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/metrics.h"

#define SESSIONS 30u
#define MINUTE 600u /* ticks */
#define TICK_MS 100

static unsigned *calls(struct imap_rig *r, const char *method)
{
    bool is_store = protobuf_c_service_descriptor_get_method_by_name(&thurn__store__descriptor, method) != NULL;
    struct imap_rig_service *s = is_store ? &r->store : &r->auth;
    return &s->calls[imap_rig_method(s, method)];
}

/* What is ready runs, I/O included. */
static void settle(void)
{
    struct err err = ERR_INIT;
    for (int i = 0; i < 24; i++)
        assert_ok(fiber_yield(&err), &err);
}

static void tick(void)
{
    clock_advance_ms(TICK_MS);
    settle();
}

static void fail_all(struct imap_rig_service *s, enum err_kind kind)
{
    for (unsigned i = 0; i < IMAP_RIG_METHODS; i++)
        s->fails[i] = kind;
}

static void open_sessions(struct imap_rig *r, struct stream **s)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        s[i] = imap_rig_dial(r);
        (void)imap_rig_command(s[i], "a1", "LOGIN alice@example.org x");
        (void)imap_rig_command(s[i], "a2", "SELECT INBOX");
        imap_rig_say(s[i], "a3 IDLE\r\n");
        assert_str(imap_rig_line(s[i]), S("+ idling"));
    }
}

/* Until every session has asked once more: the beacon has arrived. */
static void until_asked(struct imap_rig *r, unsigned before)
{
    for (unsigned i = 0; i < MINUTE && *calls(r, "Sync") < before + SESSIONS; i++)
        tick();
    assert_true(*calls(r, "Sync") >= before + SESSIONS);
}

static void away_for_a_minute(struct imap_rig *r)
{
    /* At most so many calls in a minute: of a session, or of the process. */
    static const struct {
        const char *method;
        unsigned most;
    } bounds[] = {
        {"Sync", SESSIONS * 8}, {"Watch", 24}, {"States", 3}, {"Credentials", 21}, {"Lease", 3},
    };
    const enum err_kind *kind = r->arg;
    struct stream *s[SESSIONS];
    unsigned before[ARRAY_LEN(bounds)];
    clock_freeze(1000000000000, 1000000);
    random_seed(7);
    open_sessions(r, s);
    tick(); /* the watch is told */
    unsigned synced = *calls(r, "Sync");
    r->store.fails[imap_rig_method(&r->store, "Sync")] = *kind;
    imap_rig_change(r);
    until_asked(r, synced);
    fail_all(&r->store, *kind);
    fail_all(&r->auth, *kind);
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++)
        before[i] = *calls(r, bounds[i].method);
    for (unsigned i = 0; i < MINUTE; i++)
        tick();
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        unsigned n = *calls(r, bounds[i].method) - before[i];
        /* LIMIT: the changes are asked for alone (view.c) */
        unsigned most = bounds[i].most * (*kind == ERR_LIMIT && i == 0 ? 2 : 1);
        if (n == 0 || n > most)
            fail_msg("%s: %u calls of %s, not 1 to %u", err_kind_name(*kind), n, bounds[i].method, most);
    }
    /* It comes back: everybody is told, not all at the same time. */
    fail_all(&r->store, ERR_NONE);
    fail_all(&r->auth, ERR_NONE);
    r->n_messages++;
    synced = *calls(r, "Sync");
    unsigned at_once = 0, last = synced;
    for (unsigned i = 0; i < 3 * MINUTE / 2; i++) {
        tick();
        at_once = MAX(at_once, *calls(r, "Sync") - last);
        last = *calls(r, "Sync");
    }
    assert_in_range(last - synced, SESSIONS, 2 * SESSIONS);
    assert_in_range(at_once, 1, SESSIONS / 3);
    for (unsigned i = 0; i < SESSIONS; i++) {
        imap_rig_say(s[i], "DONE\r\n");
        assert_true(str_starts(imap_rig_until(s[i], "a3 "), S("a3 OK")));
        stream_close(s[i]);
    }
    random_seed(0);
    clock_real();
}

static void test_away(void **state)
{
    (void)state;
    enum err_kind kinds[] = {ERR_UNAVAILABLE, ERR_BUSY, ERR_INTERNAL, ERR_CONFLICT, ERR_LIMIT};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        metrics_reset();
        imap_rig_run(NULL, away_for_a_minute, &kinds[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
