#include "unit/base_test.h"

#include "base/clock.h"
#include "frontend/common/resolver.h"
#include "unit/fake_services.h"

static struct fake_services fake;

static Thurn__RecipientKind kind_of(struct resolver *r, const char *address)
{
    struct err err = ERR_INIT;
    struct resolved *a;
    assert_ok(resolver_get(r, str_c(address), &a, &err), &err);
    Thurn__RecipientKind kind = a->answer->kind;
    resolved_unref(a);
    return kind;
}

static void lives(struct resolver *r)
{
    struct err err = ERR_INIT;
    struct resolved *held;
    clock_freeze(1000000000, 1000000);
    assert_int_equal(kind_of(r, "alice@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
    assert_int_equal(kind_of(r, "alice@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
    assert_int_equal(fake.resolve.calls, 1);
    clock_advance_ms(4999);
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, 1);
    clock_advance_ms(1);
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, 2);
    /* An account that is added is found at once. */
    assert_int_equal(kind_of(r, "new@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN);
    fake_account(&fake, "new@example.org", "x", 99);
    assert_int_equal(kind_of(r, "new@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
    /* Auth away: what was local still is, for a while; nothing else is made up. */
    assert_ok(resolver_get(r, S("alice@example.org"), &held, &err), &err);
    fake.resolve.kind = ERR_UNAVAILABLE;
    clock_advance_ms(500000);
    assert_int_equal(kind_of(r, "alice@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
    struct resolved *a;
    assert_fails(resolver_get(r, S("nobody@example.org"), &a, &err), &err, ERR_UNAVAILABLE);
    clock_advance_ms(200000);
    assert_fails(resolver_get(r, S("alice@example.org"), &a, &err), &err, ERR_UNAVAILABLE);
    fake.resolve.kind = ERR_NONE;
    assert_int_equal(held->answer->targets[0]->account->account_id, 11); /* what is held lives on */
    resolver_forget(r, S("alice@example.org"));
    assert_int_equal(held->answer->n_targets, 1);
    resolved_unref(held);
    clock_real();
}

static bool is_full(struct resolver *r, const char *address, uint64_t size)
{
    struct err err = ERR_INIT;
    struct resolved *a;
    assert_ok(resolver_get(r, str_c(address), &a, &err), &err);
    bool is = resolved_is_full(a, size);
    resolved_unref(a);
    return is;
}

static void full(struct resolver *r)
{
    clock_freeze(1000000000, 1000000);
    (void)kind_of(r, "alice@example.org");
    (void)kind_of(r, "both@example.org");
    resolver_mark_full(r, S("alice@example.org"), 5000);
    resolver_mark_full(r, S("both@example.org"), 5000); /* more than one mailbox: says nothing about either */
    assert_true(is_full(r, "alice@example.org", 5000));
    assert_false(is_full(r, "alice@example.org", 4999)); /* what is smaller may fit */
    assert_false(is_full(r, "alice@example.org", 0));
    assert_false(is_full(r, "both@example.org", 5000));
    resolver_mark_full(r, S("alice@example.org"), 300);
    resolver_mark_full(r, S("alice@example.org"), 9000);
    assert_true(is_full(r, "alice@example.org", 300));
    clock_advance_ms(6000); /* asked again, and still full */
    assert_true(is_full(r, "alice@example.org", 300));
    for (int i = 0; i < 4; i++) { /* being asked for does not keep it full */
        clock_advance_ms(5000);
        (void)is_full(r, "alice@example.org", 300);
    }
    assert_true(is_full(r, "alice@example.org", 300));
    clock_advance_ms(6000);
    assert_false(is_full(r, "alice@example.org", 300));
    resolver_mark_full(r, S("alice@example.org"), 9000); /* what was long ago counts no more */
    assert_false(is_full(r, "alice@example.org", 8999));
    clock_real();
}

/* A change of the directory makes every answer old, and lets nobody stay full; soon after it answers live shorter. */
static void outdated(struct resolver *r)
{
    clock_freeze(1000000000, 1000000);
    (void)kind_of(r, "alice@example.org");
    resolver_mark_full(r, S("alice@example.org"), 300);
    assert_true(is_full(r, "alice@example.org", 300));
    assert_int_equal(fake.resolve.calls, 1);
    resolver_outdate(r);
    assert_false(is_full(r, "alice@example.org", 300));
    assert_int_equal(fake.resolve.calls, 2);
    clock_advance_ms(999);
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, 2);
    clock_advance_ms(1); /* the node that gave it may not have heard yet */
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, 3);
    clock_advance_ms(4999);
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, 3);
    /* While nobody can be asked, what was known still serves. */
    resolver_outdate(r);
    fake.resolve.kind = ERR_UNAVAILABLE;
    assert_int_equal(kind_of(r, "alice@example.org"), THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
    clock_real();
}

#define BOUND ((size_t)64 * 1024)
static char names[32][128];

/* Bounded in bytes; and what strangers can make up (unknown names, details, names under a catch-all) pushes out no
 * mailbox. */
static void bounded(struct resolver *r)
{
    (void)kind_of(r, "alice@example.org");
    for (int i = 0; i < 2000; i++) {
        char address[128];
        snprintf(address, sizeof(address), i % 2 ? "nobody%d@example.org" : "made-up%d@example.org", i);
        if (i % 2 == 0)
            fake_alias(&fake, memcpy(names[i / 2 % 32], address, sizeof(address)), "alice@example.org");
        (void)kind_of(r, address);
        fake.n_addresses = 2; /* and forget it again */
        assert_true(resolver_bytes(r) <= BOUND);
    }
    assert_true(resolver_count(r) > 2 && resolver_bytes(r) < BOUND / 2);
    unsigned asked = fake.resolve.calls;
    (void)kind_of(r, "alice@example.org");
    assert_int_equal(fake.resolve.calls, asked); /* it is still there */
    size_t before = resolver_bytes(r);
    (void)kind_of(r, "nobody@example.org");
    assert_int_equal(resolver_bytes(r), before); /* what is not to be remembered takes no room */
}

struct job {
    void (*fn)(struct resolver *r);
    struct resolver_opts opts;
};
static void on_fiber(void *arg)
{
    struct job *j = arg;
    struct resolver *r = resolver_new(&fake.auth.base, &j->opts);
    j->fn(r);
    resolver_free(r);
}
static void run(void (*fn)(struct resolver *r), struct resolver_opts opts)
{
    struct job j = {fn, opts};
    fake_services_init(&fake, "example.org");
    fake_account(&fake, "alice@example.org", "x", 11);
    fake_alias(&fake, "both@example.org", "alice@example.org bob@elsewhere.example");
    assert_true(fiber_main(on_fiber, &j));
    fake_services_done(&fake);
}

static void test_outdated(void **state)
{
    (void)state;
    run(outdated, (struct resolver_opts){0});
}

static void test_lives(void **state)
{
    (void)state;
    run(lives, (struct resolver_opts){.local_ms = 0});
}
static void test_full(void **state)
{
    (void)state;
    run(full, (struct resolver_opts){.local_ms = 0});
}
static void test_bounded(void **state)
{
    (void)state;
    run(bounded, (struct resolver_opts){.bytes_max = BOUND, .other_ms = 60000, .local_ms = 60000});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lives), cmocka_unit_test(test_full),
                                       cmocka_unit_test(test_outdated), cmocka_unit_test(test_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
