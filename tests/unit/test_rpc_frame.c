#include "test.h"

#include <sys/stat.h>

#include "rpc/frame.h"

static struct rpc_frame round_trip(const struct rpc_frame *f)
{
    static struct buf b;
    if (!b.cap)
        buf_init(&b, 4 * 1024 * 1024);
    buf_clear(&b);
    rpc_frame_add(&b, f, NULL);
    struct rpc_frame out;
    size_t used;
    for (size_t n = 0; n < b.n; n++) /* every split point asks for more */
        assert_int_equal(rpc_frame_parse(str_n(b.p, n), &out, &used), RPC_FRAME_MORE);
    size_t whole = b.n;
    buf_add(&b, S("next"));
    assert_int_equal(rpc_frame_parse(buf_str(&b), &out, &used), RPC_FRAME_OK);
    assert_int_equal(used, whole);
    return out;
}

static void test_round_trips(void **state)
{
    (void)state;
    struct rpc_frame f = {.type = RPC_HELLO};
    f.hello.version_min = 1;
    f.hello.version_max = 3;
    f.hello.roles = S("frontend queue");
    f.hello.services[0] = S("thurn.Store");
    f.hello.services[1] = S("thurn.Auth");
    f.hello.n_services = 2;
    f.hello.set = S("0123456789abcdef0123456789abcdef");
    struct rpc_frame g = round_trip(&f);
    assert_int_equal(g.hello.version_max, 3);
    assert_true(str_eq(g.hello.services[1], S("thurn.Auth")) && str_eq(g.hello.roles, S("frontend queue")) &&
                str_eq(g.hello.set, f.hello.set));

    f = (struct rpc_frame){.type = RPC_REQUEST, .call = 0xfffffffe, .payload = S("\0message")};
    f.request.method = 300;
    f.request.flags = RPC_FLAG_BODY;
    f.request.ms_left = 5000;
    rpc_pass_make(&(struct rpc_principal){.account_id = -1, .tenant_id = INT64_MAX, .is_admin = true}, &f.request.pass);
    f.request.trace_id = UINT64_MAX;
    f.request.route_key = 7;
    g = round_trip(&f);
    assert_memory_equal(&g.request, &f.request, sizeof(f.request));
    assert_true(g.call == f.call && str_eq(g.payload, f.payload));

    const struct rpc_frame others[] = {
        {.type = RPC_REPLY, .call = 1, .payload = S_INIT("")},
        {.type = RPC_ERROR, .call = 2, .kind = ERR_LIMIT, .payload = S_INIT("over quota")},
        {.type = RPC_DATA, .call = 3, .payload = S_INIT("bytes")},
        {.type = RPC_DATA_END, .call = 3, .kind = ERR_NONE, .payload = S_INIT("")},
        {.type = RPC_WINDOW_MORE, .call = 3, .credit = 65536},
        {.type = RPC_CANCEL, .call = 3},
        {.type = RPC_PING, .number = 1ull << 63},
        {.type = RPC_PONG, .number = 1},
        {.type = RPC_GOAWAY},
    };
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        g = round_trip(&others[i]);
        assert_true(g.type == others[i].type && g.call == others[i].call && g.kind == others[i].kind &&
                    g.credit == others[i].credit && g.number == others[i].number &&
                    str_eq(g.payload, others[i].payload));
    }
}

static const struct {
    const char *name;
    str bytes;
} bad[] = {
    {"length 0", S_INIT("\0\0\0\0")},
    {"too long", S_INIT("\0\x10\x04\x01")},
    {"unknown type", S_INIT("\0\0\0\1\x63")},
    {"hello without magic", S_INIT("\0\0\0\5\1HTTP")},
    {"hello with ranges reversed", S_INIT("\0\0\0\x0b\1THRN\0\2\0\1\0\0")},
    {"error without kind", S_INIT("\0\0\0\6\4\0\0\0\1\0")},
    {"empty data", S_INIT("\0\0\0\5\5\0\0\0\1")},
    {"long cancel", S_INIT("\0\0\0\6\x08\0\0\0\1x")},
    {"short request", S_INIT("\0\0\0\5\2\0\0\0\1")},
    {"http", S_INIT("GET / HTTP/1.1\r\n")},
};
static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct rpc_frame f;
        size_t used;
        if (rpc_frame_parse(bad[i].bytes, &f, &used) != RPC_FRAME_BAD)
            fail_msg("%s", bad[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trips), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
