#include "base_test.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/memory.h"
#include "server/metrics_join.h"
#include "server/options.h"
#include "tmp.h"

static char *words[32];

/* A command line that options_parse may reorder. */
static bool parse(struct options *o, struct err *err, const char *line)
{
    static char copy[512];
    snprintf(copy, sizeof(copy), "thurn %s", line);
    int n = 0;
    for (char *p = copy; *p;) {
        words[n++] = p;
        p += strcspn(p, " ");
        if (*p)
            *p++ = '\0';
    }
    words[n] = NULL;
    return options_parse(o, n, words, err);
}

static void takes_globals_before_and_after_the_verb(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--data /d --dev account add x@y --quota 1G", "account --dev add --data=/d x@y --quota 1G",
        "account add x@y --quota 1G --data /d --dev", "account add x@y --quota 1G -- --data /d --dev"};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct options o;
        struct err err = ERR_INIT;
        const char *quota;
        assert_ok(parse(&o, &err, lines[i]), &err);
        assert_string_equal(o.verb, "account");
        assert_string_equal(o.data, "/d");
        assert_true(o.is_dev);
        assert_ok(options_take(&o, "--quota", &quota, &err), &err);
        assert_string_equal(quota, "1G");
        assert_ok(options_finish(&o, 2, 2, &err), &err);
        assert_string_equal(o.args[1], "x@y");
    }
}

static void refuses_what_it_does_not_know(void **state)
{
    (void)state;
    struct options o;
    struct err err = ERR_INIT;
    const char *value;
    assert_fails(parse(&o, &err, "serve --data"), &err, ERR_INVALID);
    assert_fails(parse(&o, &err, "serve --dev=1"), &err, ERR_INVALID);
    err_clear(&err);
    assert_ok(parse(&o, &err, "serve --colour --database x"), &err);
    assert_fails(options_finish(&o, 0, 9, &err), &err, ERR_INVALID);
    assert_non_null(strstr(err.msg, "--colour"));
    err_clear(&err);
    assert_ok(parse(&o, &err, "account list --domain"), &err);
    assert_fails(options_take(&o, "--domain", &value, &err), &err, ERR_INVALID);
    err_clear(&err);
    assert_ok(parse(&o, &err, ""), &err);
    assert_null(o.verb);
}

static void dev_stays_on_loopback(void **state)
{
    (void)state;
    struct options o;
    struct err err = ERR_INIT;
    struct config c;
    assert_ok(parse(&o, &err, "serve --dev --data /nowhere --port-offset 7000 --roles store,auth"), &err);
    assert_ok(options_config(&o, &c, &err), &err);
    size_t n;
    assert_str(config_list(&c, CFG_LISTEN_SMTP, &n)[0], S("127.0.0.1:25"));
    assert_int_equal(n, 1);
    assert_str(config_list(&c, CFG_LISTEN_LMTP, &n)[0], S("127.0.0.1:24"));
    assert_str(config_str(&c, CFG_PLAIN_LOGIN), S("loopback"));
    assert_int_equal(config_int(&c, CFG_PORT_OFFSET), 7000);
    assert_str(config_list(&c, CFG_ROLES, &n)[1], S("auth"));
    assert_int_equal(n, 2);
    assert_true(config_str(&c, CFG_HOSTNAME).n > 0);
    config_done(&c);
}

static void joins_pages(void **state)
{
    (void)state;
    static const char own[] = "# HELP a x\n# TYPE a counter\na 1\n# HELP b x\n# TYPE b gauge\n";
    static const char other[] =
        "# HELP a x\n# TYPE a counter\na 2\n# HELP b x\n# TYPE b gauge\nb{l=\"x y\"} 0.25\nb{l=\"z\"} 1\n";
    static const char strange[] = "# HELP z x\n# TYPE z counter\nz 2\n# HELP b x\n# TYPE b gauge\nb 1\n";
    const struct metrics_page pages[] = {{0, str_c(own)}, {1, str_c(other)}, {2, str_c(strange)}, {3, STR_NONE}};
    BUF(out, 4096);
    metrics_join(pages, ARRAY_LEN(pages), &out);
    assert_str(buf_str(&out), S("# HELP a x\n# TYPE a counter\na 1\na{worker=\"1\"} 2\n# HELP b x\n# TYPE b gauge\n"
                                "b{worker=\"1\",l=\"x y\"} 0.25\nb{worker=\"1\",l=\"z\"} 1\n"));
}

static void write_file(const char *folder, const char *name, const char *content)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    for (char *p = path + strlen(folder) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(content, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* The lowest limit of all groups around the process counts, in both versions of control groups. */
static void finds_the_memory(void **state)
{
    (void)state;
    char folder[300];
    (void)snprintf(folder, sizeof(folder), "%s/thurn-memory-%d", test_tmp(), (int)getpid());
    assert_int_equal(mkdir(folder, 0700), 0);
    uint64_t machine = memory_bytes(folder); /* no control groups at all */
    assert_true(machine > 1 << 20);
    write_file(folder, "proc/self/cgroup", "0::/a/b\n");
    write_file(folder, "sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_int_equal(memory_bytes(folder), machine);
    write_file(folder, "sys/fs/cgroup/a/memory.max", "20000000\n");
    assert_int_equal(memory_bytes(folder), 20000000);
    write_file(folder, "sys/fs/cgroup/memory.max", "10000000\n"); /* a container's own, whatever it is called outside */
    assert_int_equal(memory_bytes(folder), 10000000);
    write_file(folder, "proc/self/cgroup", "5:cpu,memory:/x\n1:name=systemd:/a\n");
    assert_int_equal(memory_bytes(folder), machine);
    /* none, in version 1 */
    write_file(folder, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(memory_bytes(folder), machine);
    write_file(folder, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "5000000\n");
    assert_int_equal(memory_bytes(folder), 5000000);
    assert_int_equal(memory_share((uint64_t)16 << 30), (uint64_t)2 << 30);
    assert_int_equal(memory_share(5000000), 64 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_globals_before_and_after_the_verb),
        cmocka_unit_test(refuses_what_it_does_not_know),
        cmocka_unit_test(dev_stays_on_loopback),
        cmocka_unit_test(joins_pages),
        cmocka_unit_test(finds_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
