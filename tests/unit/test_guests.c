#include "unit/base_test.h"

#include "frontend/common/guests.h"

static struct net_addr addr(const char *text)
{
    struct err err = ERR_INIT;
    struct net_addr a;
    assert_ok(net_addr_parse(str_c(text), &a, &err), &err);
    return a;
}

static void test_per_address(void **state)
{
    (void)state;
    struct guests *g = guests_new(0, 2);
    struct net_addr one = addr("192.0.2.1:25"), same = addr("192.0.2.1:26"), other = addr("192.0.2.2:25");
    struct guest v[4] = {0};
    assert_true(guest_enter(g, &v[0], &one));
    assert_true(guest_enter(g, &v[0], &one)); /* counted once */
    assert_true(guest_enter(g, &v[1], &same));
    assert_false(guest_enter(g, &v[2], &one));
    assert_true(guest_enter(g, &v[3], &other));
    assert_int_equal(guests_count(g), 3);
    guest_leave(&v[2]); /* was not counted */
    guest_leave(&v[1]);
    guest_leave(&v[1]);
    assert_int_equal(guests_count(g), 2);
    assert_true(guest_enter(g, &v[2], &one));
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        guest_leave(&v[i]);
    assert_int_equal(guests_count(g), 0);
    guests_free(g);
}

static void test_networks(void **state)
{
    (void)state;
    struct guests *g = guests_new(3, 1);
    struct net_addr a = addr("[2001:db8:1:2::1]:25"), near = addr("[2001:db8:1:2::2]:25"), far = addr("[2001:db8:1:3::1]:25"),
                    home = addr("127.0.0.1:25");
    struct guest v[6] = {0};
    assert_true(guest_enter(g, &v[0], &a));
    assert_false(guest_enter(g, &v[1], &near)); /* one /64 */
    assert_true(guest_enter(g, &v[1], &far));
    assert_true(guest_enter(g, &v[2], &home));
    assert_false(guest_enter(g, &v[3], &home)); /* all of them are too many */
    guest_leave(&v[0]);
    assert_true(guest_enter(g, &v[3], &home)); /* loopback is not limited by address */
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        guest_leave(&v[i]);
    guests_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_per_address), cmocka_unit_test(test_networks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
