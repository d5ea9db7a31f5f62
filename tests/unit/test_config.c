#include "base_test.h"

#include <stdio.h>
#include <unistd.h>

#include "base/config.h"

static bool parse(struct config *c, const char *yaml, struct err *err)
{
    config_init(c);
    return config_parse(c, "t.yaml", str_c(yaml), err);
}

static void has_defaults(void **state)
{
    (void)state;
    struct config c;
    struct err err = ERR_INIT;
    assert_ok(parse(&c, "", &err), &err);
    size_t n;
    const str *roles = config_list(&c, CFG_ROLES, &n);
    assert_int_equal(n, 4);
    assert_str(roles[0], S("frontend"));
    assert_str(config_str(&c, CFG_LOG_LEVEL), S("info"));
    assert_int_equal(config_int(&c, CFG_MESSAGE_MAX), 50 << 20);
    assert_int_equal(config_int(&c, CFG_DRAIN_TIMEOUT), 30000);
    assert_false(config_is_set(&c, CFG_LOG_LEVEL));
    config_done(&c);
}

static void reads_values(void **state)
{
    (void)state;
    struct config c;
    struct err err = ERR_INIT;
    setenv("THURN_TEST_SECRET", "from-env", 1);
    char path[] = "/tmp/thurn-secret-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "from-file\n", 10) == 10);
    close(fd);
    char yaml[1000];
    snprintf(yaml, sizeof(yaml),
             "# comment\nhostname: mx.example.net\nroles: [frontend, auth]\nworkers: 2\n"
             "listen:\n  smtp: 127.0.0.1:2525\n  imap: []\n  lmtp:\n    - 127.0.0.1:24\n    - '[::1]:24'\n"
             "limits: { message_size: 10M }\ndirectory.database: {env: THURN_TEST_SECRET}\n"
             "store:\n  shards: [{file: %s}, postgresql://x]\noutbound:\n  allow_private_addresses: yes\n",
             path);
    assert_ok(parse(&c, yaml, &err), &err);
    size_t n;
    assert_str(config_str(&c, CFG_HOSTNAME), S("mx.example.net"));
    assert_int_equal(config_int(&c, CFG_WORKERS), 2);
    assert_str(config_list(&c, CFG_LISTEN_SMTP, &n)[0], S("127.0.0.1:2525"));
    assert_int_equal(n, 1);
    (void)config_list(&c, CFG_LISTEN_IMAP, &n);
    assert_int_equal(n, 0);
    assert_str(config_list(&c, CFG_LISTEN_LMTP, &n)[1], S("[::1]:24"));
    assert_int_equal(config_int(&c, CFG_MESSAGE_MAX), 10 << 20);
    assert_str(config_str(&c, CFG_DIRECTORY_DB), S("from-env"));
    assert_str(config_list(&c, CFG_SHARDS, &n)[0], S("from-file"));
    assert_str(config_list(&c, CFG_SHARDS, &n)[1], S("postgresql://x"));
    assert_true(config_bool(&c, CFG_OUT_PRIVATE));
    config_done(&c);
    unlink(path);
}

static void complains_with_file_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *want;
    } cases[] = {
        {"hostname: a\nlisten:\n  smpt: x\n", "t.yaml:3: unknown setting 'listen.smpt'; did you mean 'listen.smtp'?"},
        {"zzz: 1\n", "t.yaml:1: unknown setting 'zzz' (see 'thurn config reference')"},
        {"\nworkers: many\n", "t.yaml:2: 'workers' must be a whole number from 0 to 64, not 'many'"},
        {"workers: 65\n", "t.yaml:1: 'workers' must be a whole number from 0 to 64, not '65'"},
        {"workers: [1]\n", "t.yaml:1: 'workers' takes one value, not a list"},
        {"workers: 1\nworkers: 2\n", "t.yaml:2: 'workers' was set before in line 1"},
        {"log:\n  level: loud\n", "t.yaml:2: 'log.level' must be one of: info error warn debug, not 'loud'"},
        {"listen: 5\n", "t.yaml:1: 'listen' is a group of settings, not a value"},
        {"hostname: {a: b}\n", "t.yaml:1: 'hostname' takes a single value here"},
        {"- a\n", "t.yaml:1: settings (name: value) are expected"},
        {"hostname: &a x\ndata: *a\n", "t.yaml:2: YAML aliases are not used here; write the value out"},
        {"hostname: a\n---\ndata: b\n", "t.yaml:2: a second document is not read; put all settings into one"},
        {"redis:\n  url: {env: THURN_NO_SUCH}\n", "t.yaml:2: environment variable 'THURN_NO_SUCH' is not set"},
        {"redis:\n  url: {file: /no/such}\n",
         "t.yaml:2: cannot read secret file '/no/such': No such file or directory"},
        {"redis:\n  url: {fil: x}\n", "t.yaml:2: a secret is text, { file: PATH } or { env: NAME }"},
        {"drain_timeout: 30\n", "t.yaml:1: 'drain_timeout' must be a time such as 500ms, 30s, 5m, 4h or 2d, from 0 to "
                                "3600000 ms, not '30'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config c;
        struct err err = ERR_INIT;
        assert_false(parse(&c, cases[i].yaml, &err));
        assert_string_equal(err.msg, cases[i].want);
        config_done(&c);
    }
    struct config c;
    struct err err = ERR_INIT;
    assert_false(parse(&c, "listen.smtp: [\n", &err));
    assert_non_null(strstr(err.msg, "t.yaml:2: not valid YAML"));
    config_done(&c);
}

static void takes_overrides(void **state)
{
    (void)state;
    struct config c;
    struct err err = ERR_INIT;
    assert_ok(parse(&c, "roles: [auth]\nworkers: 3\n", &err), &err);
    assert_ok(config_override(&c, CFG_ROLES, S("store"), &err), &err);
    assert_ok(config_override(&c, CFG_ROLES, S("queue"), &err), &err);
    size_t n;
    const str *roles = config_list(&c, CFG_ROLES, &n);
    assert_int_equal(n, 2);
    assert_str(roles[1], S("queue"));
    err_clear(&err);
    assert_false(config_complain(&c, CFG_WORKERS, &err, "needs the frontend role"));
    assert_string_equal(err.msg, "t.yaml:2: 'workers' needs the frontend role");
    assert_fails(config_override(&c, CFG_WORKERS, S("-1"), &err), &err, ERR_INVALID);
    config_done(&c);
}

static void exports_what_is_named(void **state)
{
    (void)state;
    static const enum config_id ids[] = {CFG_HOSTNAME,    CFG_LISTEN_SMTP, CFG_WORKERS,   CFG_DRAIN_TIMEOUT,
                                         CFG_MESSAGE_MAX, CFG_OUT_PRIVATE, CFG_LOG_LEVEL, CFG_RPC_STORE};
    struct config c, again;
    struct err err = ERR_INIT;
    assert_ok(parse(&c,
                    "hostname: \"a: \\\"b\\\" #c\"\nlisten.smtp: [\"*:25\", \"[::1]:26\"]\nlog.level: debug\n"
                    "redis.url: secret\n",
                    &err),
              &err);
    BUF(out, 65536);
    config_export(&c, ids, ARRAY_LEN(ids), &out);
    assert_null(strstr(buf_z(&out), "secret"));
    assert_ok(parse(&again, buf_z(&out), &err), &err);
    size_t n;
    assert_str(config_str(&again, CFG_HOSTNAME), S("a: \"b\" #c"));
    assert_str(config_list(&again, CFG_LISTEN_SMTP, &n)[1], S("[::1]:26"));
    assert_int_equal(config_int(&again, CFG_DRAIN_TIMEOUT), 30000);
    assert_str(config_str(&again, CFG_LOG_LEVEL), S("debug"));
    (void)config_list(&again, CFG_RPC_STORE, &n);
    assert_int_equal(n, 0);
    config_done(&c);
    config_done(&again);
}

static void prints_its_reference(void **state)
{
    (void)state;
    BUF(out, 1 << 20);
    config_reference(&out);
    assert_non_null(strstr(buf_z(&out), "`listen.smtp`"));
    assert_non_null(strstr(buf_z(&out), "One of: never loopback always."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_defaults),
        cmocka_unit_test(reads_values),
        cmocka_unit_test(complains_with_file_and_line),
        cmocka_unit_test(takes_overrides),
        cmocka_unit_test(exports_what_is_named),
        cmocka_unit_test(prints_its_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
