#include "test.h"

#include "net/listener.h"

#define SIG "\r\n\r\n\0\r\nQUIT\n"
#define IN4 "\300\0\2\1\300\0\2\2\234\100\0\31"

static const struct {
    const char *name;
    str input;
    enum proxy_result result;
    const char *source; /* NULL = local */
    size_t rest;        /* bytes behind the header */
} cases[] = {
    {"v1 tcp4", S_INIT("PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\nEHLO"), PROXY_OK, "192.0.2.1:40000", 4},
    {"v1 tcp6", S_INIT("PROXY TCP6 2001:db8::1 2001:db8::2 40000 25\r\n"), PROXY_OK, "[2001:db8::1]:40000", 0},
    {"v1 unknown", S_INIT("PROXY UNKNOWN\r\n"), PROXY_OK, NULL, 0},
    {"v1 unknown with words", S_INIT("PROXY UNKNOWN a b c d\r\n"), PROXY_OK, NULL, 0},
    {"v1 wrong family", S_INIT("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n"), PROXY_BAD, NULL, 0},
    {"v1 bad port", S_INIT("PROXY TCP4 192.0.2.1 192.0.2.2 70000 25\r\n"), PROXY_BAD, NULL, 0},
    {"v1 two spaces", S_INIT("PROXY TCP4  192.0.2.1 192.0.2.2 1 25\r\n"), PROXY_BAD, NULL, 0},
    {"v1 one word more", S_INIT("PROXY TCP4 192.0.2.1 192.0.2.2 1 25 9\r\n"), PROXY_BAD, NULL, 0},
    {"v1 bare LF", S_INIT("PROXY TCP4 192.0.2.1 192.0.2.2 1 25\n"), PROXY_MORE, NULL, 0},
    {"v1 too long",
     S_INIT("PROXY UNKNOWN aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
     PROXY_BAD, NULL, 0},
    {"v2 tcp4", S_INIT(SIG "\x21\x11\0\x0c" IN4 "EHLO"), PROXY_OK, "192.0.2.1:40000", 4},
    {"v2 tcp4 with TLV", S_INIT(SIG "\x21\x11\0\x0f" IN4 "\4\0\0X"), PROXY_OK, "192.0.2.1:40000", 1},
    {"v2 local", S_INIT(SIG "\x20\0\0\0"), PROXY_OK, NULL, 0},
    {"v2 unspec", S_INIT(SIG "\x21\0\0\1x"), PROXY_OK, NULL, 0},
    {"v2 short addresses",
     S_INIT(SIG "\x21\x11\0\x04"
                "abcd"),
     PROXY_BAD, NULL, 0},
    {"v2 version 3", S_INIT(SIG "\x31\x11\0\x0c" IN4), PROXY_BAD, NULL, 0},
    {"v2 command 2", S_INIT(SIG "\x22\x11\0\x0c" IN4), PROXY_BAD, NULL, 0},
    {"v2 huge", S_INIT(SIG "\x21\x11\xff\xff"), PROXY_BAD, NULL, 0},
    {"smtp", S_INIT("EHLO x\r\n"), PROXY_BAD, NULL, 0},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct proxy_header h;
        enum proxy_result r = proxy_parse(cases[i].input, &h);
        if (r != cases[i].result)
            fail_msg("%s: %d", cases[i].name, r);
        if (r != PROXY_OK)
            continue;
        char text[NET_ADDR_TEXT_MAX];
        assert_int_equal(h.length, cases[i].input.n - cases[i].rest);
        assert_int_equal(h.is_local, cases[i].source == NULL);
        if (cases[i].source)
            assert_string_equal(net_addr_format(&h.source, text).p, cases[i].source);
        for (size_t n = 0; n < h.length; n++) {
            struct proxy_header part;
            assert_int_equal(proxy_parse(str_n(cases[i].input.p, n), &part), PROXY_MORE);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
