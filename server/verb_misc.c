/* thurn version, migrate, config, test: verbs that need no running server. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fiber/fiber.h"
#include "base/buf.h"
#include "mail/mime_json.h"
#include "server/confine.h"
#include "server/frontends.h"
#include "server/verbs.h"

#define MESSAGE_MAX_BYTES (1u << 30)

int verb_version(struct options *o)
{
    struct err err = ERR_INIT;
    if (!options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    puts("thurn " THURN_VERSION);
    return EXIT_DONE;
}

struct migration {
    struct options *o;
    bool is_dry, is_new;
    int status;
};

FIBER static void migrate(void *arg)
{
    struct migration *m = arg;
    struct err err = ERR_INIT;
    struct config c;
    struct node node = {0};
    unsigned applied = 0;
    bool ok = options_config(m->o, &c, &err) && confine_become(&c, &err) &&
              node_open_databases(&node, &c, m->is_new ? NODE_JOIN : NODE_AS_IT_IS, &err) &&
              node_migrate(&node, m->is_dry, &applied, &err);
    node_close(&node);
    config_done(&c);
    if (!ok) {
        m->status = verb_fail(&err);
        return;
    }
    printf("%u steps %s\n", applied, m->is_dry ? "would be applied" : "applied");
}

int verb_migrate(struct options *o)
{
    struct err err = ERR_INIT;
    struct migration m = {.o = o, .is_dry = options_flag(o, "--dry-run"), .is_new = options_flag(o, "--new")};
    if (m.is_dry && m.is_new) {
        (void)err_set(&err, ERR_INVALID, "--new makes databases, --dry-run makes nothing");
        return verb_fail(&err);
    }
    if (!options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    return fiber_main(migrate, &m) ? m.status : EXIT_FAILED;
}

/* A folder that was asked for and is not there has no settings that could be good. */
static bool is_set_up(const struct options *o, const struct config *c, struct err *err)
{
    struct stat st;
    if (c->file || !o->data)
        return true;
    if (stat(o->data, &st) != 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_DENIED,
                       "there is no folder '%.200s': %s; `thurn setup YOU@EXAMPLE.COM` makes a new server", o->data,
                       strerror(errno));
    return S_ISDIR(st.st_mode) ||
           err_set(err, ERR_INVALID, "'%.200s' is a file, and a folder is wanted: choose another by --data", o->data);
}

int verb_config(struct options *o)
{
    struct err err = ERR_INIT;
    if (!options_finish(o, 1, 1, &err))
        return verb_fail(&err);
    if (strcmp(o->args[0], "reference") == 0) {
        BUF(out, 1 << 20);
        config_reference(&out);
        fputs(buf_z(&out), stdout);
        return EXIT_DONE;
    }
    if (strcmp(o->args[0], "check") != 0) {
        return verb_unknown(o);
    }
    struct config c;
    bool ok = options_config(o, &c, &err) && is_set_up(o, &c, &err) && frontends_check(&c, &err);
    if (ok)
        printf("%s: good\n", c.file ? c.file : "no config file, the defaults");
    config_done(&c);
    return ok ? EXIT_DONE : verb_fail(&err);
}

int verb_test(struct options *o)
{
    struct err err = ERR_INIT;
    if (!options_finish(o, 1, 1, &err))
        return verb_fail(&err);
    if (strcmp(o->args[0], "mime") != 0) {
        return verb_unknown(o);
    }
    BUF(message, MESSAGE_MAX_BYTES);
    static char piece[65536];
    ssize_t n;
    while ((n = read(STDIN_FILENO, piece, sizeof(piece))) > 0)
        buf_add_n(&message, piece, (size_t)n);
    if (n < 0 || !buf_ok(&message)) {
        (void)err_set(&err, ERR_INVALID, "cannot read the message: %s", n < 0 ? strerror(errno) : "larger than 1 GiB");
        return verb_fail(&err);
    }
    BUF(json, MESSAGE_MAX_BYTES);
    ARENA(a, MESSAGE_MAX_BYTES);
    mime_to_json(&json, mime_parse(&a, buf_str(&message), NULL), buf_str(&message));
    buf_addc(&json, '\n');
    fwrite(json.p, 1, json.n, stdout);
    return EXIT_DONE;
}
