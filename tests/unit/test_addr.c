#include "test.h"

#include "net/addr.h"

static const struct {
    const char *text, *printed; /* printed NULL = refused */
} addresses[] = {
    {"192.0.2.1:25", "192.0.2.1:25"},
    {"[2001:db8::1]:25", "[2001:db8::1]:25"},
    {"[::ffff:192.0.2.1]:25", "192.0.2.1:25"},
    {"*:0", "[::]:0"},
    {"unix:/run/x.sock", "unix:/run/x.sock"},
    {"unix:", NULL},
    {"192.0.2.1", NULL},
    {"192.0.2.1:", NULL},
    {"192.0.2.1:65536", NULL},
    {"192.0.2.1:-1", NULL},
    {"192.0.2.300:25", NULL},
    {"2001:db8::1:25", NULL},
    {"[192.0.2.1]:25", "192.0.2.1:25"},
    {"localhost:25", NULL},
    {"", NULL},
    {":25", NULL},
};

static void test_parse(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        struct err err = ERR_INIT;
        struct net_addr a;
        char text[NET_ADDR_TEXT_MAX];
        bool ok = net_addr_parse(str_c(addresses[i].text), &a, &err);
        assert_int_equal(ok, addresses[i].printed != NULL);
        assert_int_equal(err.kind, ok ? ERR_NONE : ERR_INVALID);
        if (ok)
            assert_string_equal(net_addr_format(&a, text).p, addresses[i].printed);
    }
}

static const struct {
    const char *cidr, *ip;
    bool is_in;
} networks[] = {
    {"10.0.0.0/8", "10.255.0.1", true},         {"10.0.0.0/8", "11.0.0.1", false},
    {"10.0.0.0/9", "10.127.0.1", true},         {"10.0.0.0/9", "10.128.0.1", false},
    {"0.0.0.0/0", "192.0.2.1", true},           {"0.0.0.0/0", "2001:db8::1", false},
    {"192.0.2.1", "192.0.2.1", true},           {"192.0.2.1", "192.0.2.2", false},
    {"2001:db8::/33", "2001:db8::1", true},     {"2001:db8::/33", "2001:db8:8000::1", false},
    {"192.0.2.0/24", "::ffff:192.0.2.9", true},
};

static void test_cidr(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(networks); i++) {
        struct err err = ERR_INIT;
        struct net_cidr c;
        struct net_addr a;
        assert_true(net_cidr_parse(str_c(networks[i].cidr), &c, &err));
        assert_true(net_ip_parse(str_c(networks[i].ip), &a));
        assert_int_equal(net_cidr_contains(&c, &a), networks[i].is_in);
    }
    static const char *const bad[] = {"10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "x", ""};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        struct net_cidr c;
        assert_false(net_cidr_parse(str_c(bad[i]), &c, &err));
    }
}

static void test_facts(void **state)
{
    (void)state;
    struct net_addr a, b;
    char key[NET_ADDR_TEXT_MAX];
    assert_true(net_ip_parse(S("127.8.9.1"), &a) && net_addr_is_loopback(&a));
    assert_true(net_ip_parse(S("::1"), &a) && net_addr_is_loopback(&a));
    assert_true(net_ip_parse(S("128.0.0.1"), &a) && !net_addr_is_loopback(&a));
    assert_string_equal(net_addr_limit_key(&a, key).p, "128.0.0.1");
    assert_true(net_ip_parse(S("2001:db8:1:2:3:4:5:6"), &a) && net_ip_parse(S("2001:db8:1:2::"), &b));
    assert_string_equal(net_addr_limit_key(&a, key).p, "2001:db8:1:2::");
    assert_false(net_addr_equal_ip(&a, &b));
    net_addr_set_port(&b, 993);
    assert_int_equal(net_addr_port(&b), 993);
}

static void test_collides(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool collide;
    } cases[] = {
        {"127.0.0.1:25", "127.0.0.1:25", true},
        {"127.0.0.1:25", "127.0.0.1:26", false},
        {"127.0.0.1:25", "127.0.0.2:25", false},
        {"*:25", "127.0.0.1:25", true},
        {"*:25", "[::1]:25", true},
        {"*:25", "0.0.0.0:25", true},
        {"0.0.0.0:25", "127.0.0.1:25", true},
        {"0.0.0.0:25", "[::1]:25", false},
        {"*:25", "*:143", false},
        {"127.0.0.1:0", "127.0.0.1:0", false},
        {"unix:/a", "unix:/a", true},
        {"unix:/a", "unix:/b", false},
        {"unix:/a", "*:25", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct net_addr a, b;
        struct err err = ERR_INIT;
        assert_true(net_addr_parse(str_c(cases[i].a), &a, &err) && net_addr_parse(str_c(cases[i].b), &b, &err));
        assert_int_equal(net_addr_collides(&a, &b), cases[i].collide);
        assert_int_equal(net_addr_collides(&b, &a), cases[i].collide);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_cidr),
                                       cmocka_unit_test(test_facts), cmocka_unit_test(test_collides)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
