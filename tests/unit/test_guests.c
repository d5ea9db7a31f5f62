#include "unit/base_test.h"

#include <stdio.h>

#include "base/metrics.h"
#include "base/trouble.h"

#include "frontend/common/guests.h"

static struct net_addr addr(const char *text)
{
    struct err err = ERR_INIT;
    struct net_addr a;
    assert_ok(net_addr_parse(str_c(text), &a, &err), &err);
    return a;
}

static const unsigned none[GUEST_SERVICES_], few[GUEST_SERVICES_] = {3, 3, 3};

static void test_per_address(void **state)
{
    (void)state;
    struct guests *g = guests_new(none, 2);
    struct net_addr one = addr("192.0.2.1:25"), same = addr("192.0.2.1:26"), other = addr("192.0.2.2:25");
    struct guest v[4] = {0};
    assert_true(guest_enter(g, GUEST_SMTP, &v[0], &one));
    assert_true(guest_enter(g, GUEST_SMTP, &v[0], &one)); /* counted once */
    assert_true(guest_enter(g, GUEST_SMTP, &v[1], &same));
    assert_false(guest_enter(g, GUEST_SMTP, &v[2], &one));
    assert_true(guest_enter(g, GUEST_SMTP, &v[3], &other));
    assert_int_equal(guests_count(g, GUEST_SMTP), 3);
    guest_leave(&v[2]); /* was not counted */
    guest_leave(&v[1]);
    guest_leave(&v[1]);
    assert_int_equal(guests_count(g, GUEST_SMTP), 2);
    assert_true(guest_enter(g, GUEST_SMTP, &v[2], &one));
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        guest_leave(&v[i]);
    assert_int_equal(guests_count(g, GUEST_SMTP), 0);
    guests_free(g);
}

static void test_networks(void **state)
{
    (void)state;
    struct guests *g = guests_new(few, 1);
    struct net_addr a = addr("[2001:db8:1:2::1]:25"), near = addr("[2001:db8:1:2::2]:25"),
                    far = addr("[2001:db8:1:3::1]:25"), home = addr("127.0.0.1:25");
    struct guest v[6] = {0};
    assert_true(guest_enter(g, GUEST_SMTP, &v[0], &a));
    assert_false(guest_enter(g, GUEST_SMTP, &v[1], &near)); /* one /64 */
    assert_true(guest_enter(g, GUEST_SMTP, &v[1], &far));
    assert_true(guest_enter(g, GUEST_SMTP, &v[2], &home));
    assert_false(guest_enter(g, GUEST_SMTP, &v[3], &home)); /* all of them are too many */
    guest_leave(&v[0]);
    assert_true(guest_enter(g, GUEST_SMTP, &v[3], &home)); /* loopback is not limited by address */
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        guest_leave(&v[i]);
    guests_free(g);
}

/* Strangers at port 25, each below what one address may, take what submission and IMAP need of nobody. */
static void test_shares(void **state)
{
    (void)state;
    struct guests *g = guests_new(NULL, 100);
    struct guest *v = xcalloc(8192, sizeof(*v)), user[2] = {0};
    unsigned n = 0, refused = 0;
    metrics_reset();
    trouble_forget_all();
    for (unsigned i = 0; i < 8192; i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "192.0.%u.%u:1", 2 + i / 100 / 200, 1 + i / 100 % 200);
        struct net_addr a = addr(text);
        bool is_in = guest_enter(g, GUEST_SMTP, &v[i], &a);
        n += is_in;
        refused += !is_in;
    }
    assert_in_range(n, 1000, 3000);
    assert_int_equal(metric_get(M_CAPS_REACHED, "smtp.guests"), refused);
    BUF(b, 1024);
    assert_int_equal(trouble_print(&b), 1);
    assert_true(str_starts(buf_str(&b), S("degraded: cap.smtp.guests: ")));
    struct net_addr a = addr("198.51.100.1:1");
    assert_true(guest_enter(g, GUEST_SUBMISSION, &user[0], &a));
    assert_true(guest_enter(g, GUEST_IMAP, &user[1], &a));
    unsigned all = 0;
    static const unsigned shares[] = {
#define GUEST_(id, name, max) max,
        GUEST_SERVICES(GUEST_)
#undef GUEST_
    };
    for (size_t i = 0; i < ARRAY_LEN(shares); i++)
        all += shares[i];
    assert_in_range(all, 3000, 8192 - 5 * 256 - 1500); /* and handshakes; the rest is for who has logged in */
    for (unsigned i = 0; i < 8192; i++)
        guest_leave(&v[i]);
    guest_leave(&user[0]);
    guest_leave(&user[1]);
    free(v);
    guests_free(g);
    trouble_forget_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_per_address), cmocka_unit_test(test_networks),
                                       cmocka_unit_test(test_shares)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
