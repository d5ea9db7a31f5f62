#include "server/installation.h"

#include "server/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

#define WHAT_MAX (NODE_PATH_MAX + 64)

/* One thing that belongs to the installation: a database, or (db NULL) the folder of bodies. */
struct member {
    struct sql_db *db;
    char name[24];       /* in the set */
    char what[WHAT_MAX]; /* for people: a file, or a setting */
    char id[SQL_SET_ID_SIZE];
    bool is_empty, is_away; /* is_away: it could not be asked now */
    struct err err;
};

struct members {
    struct node *node;
    struct member *v;
    size_t n, next;
};

#define ASKERS_MAX 32u

static void add(struct members *m, struct sql_db *db, const char *name, enum config_id setting, size_t number,
                const char *file)
{
    struct member *one = &m->v[m->n++];
    const struct config *c = m->node->config;
    size_t n_dsns;
    *one = (struct member){.db = db};
    snprintf(one->name, sizeof(one->name), "%s", name);
    bool is_set = number ? (config_list(c, setting, &n_dsns), n_dsns > 0) : config_str(c, setting).n > 0;
    if (!is_set)
        snprintf(one->what, sizeof(one->what), "'%s/%s'", m->node->data, file);
    else if (number)
        snprintf(one->what, sizeof(one->what), "shard %zu of 'store.shards'", number);
    else
        snprintf(one->what, sizeof(one->what), "the database of '%s.database'", name);
}

static bool keeps_bodies(const struct node *n)
{
    return (n->roles & ROLE_STORE_BIT) && !str_eq(config_str(n->config, CFG_BLOBS_KIND), S("s3"));
}

static void members_init(struct members *m, struct node *n)
{
    *m = (struct members){.node = n, .v = xcalloc(n->n_shards + 3, sizeof(*m->v))};
    if (n->directory_db)
        add(m, n->directory_db, "directory", CFG_DIRECTORY_DB, 0, "directory.db");
    if (n->queue_db)
        add(m, n->queue_db, "queue", CFG_QUEUE_DB, 0, "queue.db");
    for (size_t i = 0; i < n->n_shards; i++) {
        char name[24];
        snprintf(name, sizeof(name), "shard %zu", i + 1);
        add(m, n->shards[i], name, CFG_SHARDS, i + 1, "mail.db");
    }
    if (keeps_bodies(n)) {
        struct member *one = &m->v[m->n++];
        *one = (struct member){.name = "bodies"};
        snprintf(one->what, sizeof(one->what), "'%s/blobs'", n->data);
    }
}

static void members_done(struct members *m)
{
    free(m->v);
}

/* --- the folder of bodies: its id is a file --- */

static void mark_path(const struct node *n, char out[WHAT_MAX])
{
    snprintf(out, WHAT_MAX, "%s/blobs/installation", n->data);
}

static bool look_at_folder(const struct node *n, struct member *one, struct err *err)
{
    char path[WHAT_MAX];
    mark_path(n, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    one->id[0] = '\0';
    one->is_empty = fd < 0 && errno == ENOENT;
    if (fd < 0)
        return one->is_empty || err_set(err, ERR_UNAVAILABLE, "cannot read '%s': %s", path, strerror(errno));
    ssize_t got = read(fd, one->id, sizeof(one->id) - 1);
    (void)close(fd); /* only read */
    one->id[MAX(got, 0)] = '\0';
    one->id[strcspn(one->id, "\n")] = '\0';
    return true;
}

static bool mark_folder(const struct node *n, const char *id, struct err *err)
{
    char folder[WHAT_MAX], path[WHAT_MAX], draft[WHAT_MAX];
    snprintf(folder, sizeof(folder), "%s/blobs", n->data);
    mark_path(n, path);
    snprintf(draft, sizeof(draft), "%s/blobs/installation.new", n->data);
    if (!folder_make(folder, err))
        return false;
    /* Written whole or not at all: half of it would be of no installation, and no command could mend that. */
    int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
        dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    size_t len = strlen(id);
    bool ok = fd >= 0 && dir >= 0 && write(fd, id, len) == (ssize_t)len && fsync(fd) == 0 && rename(draft, path) == 0 &&
              fsync(dir) == 0;
    if (!ok)
        (void)err_set(err, ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
    if (fd >= 0)
        (void)close(fd); /* synced */
    if (dir >= 0)
        (void)close(dir);
    return ok;
}

/* --- asking --- */

FIBER static void ask_some(void *arg)
{
    struct members *m = arg;
    while (m->next < m->n) {
        struct member *one = &m->v[m->next++];
        bool ok = one->db ? sql_set_look(one->db, one->name, one->id, &one->is_empty, &one->err)
                          : look_at_folder(m->node, one, &one->err);
        one->is_away = !ok;
    }
}

/* All at once: one that is silent keeps nobody waiting. */
FIBER static bool ask_all(struct members *m, struct err *err)
{
    FIBER_GROUP(g, ASKERS_MAX);
    m->next = 0;
    for (unsigned i = 0; i < ASKERS_MAX && i < m->n; i++)
        if (!fiber_group_spawn(&g, "server.installation", ask_some, m, err))
            return false;
    return fiber_group_wait(&g, err);
}

static const struct member *first_known(const struct members *m)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->v[i].id[0])
            return &m->v[i];
    return NULL;
}

/* All ids that there are must be one. Without may_lack, all that answered must have it. */
static bool judge(const struct members *m, bool may_lack, struct err *err)
{
    const struct member *known = first_known(m);
    for (size_t i = 0; known && i < m->n; i++) {
        const struct member *one = &m->v[i];
        if (one->id[0] && strcmp(one->id, known->id) != 0)
            return err_set(err, ERR_CONFLICT, "%s and %s belong to two installations: one of them is not the right one",
                           known->what, one->what);
        if (!one->id[0] && !one->is_away && !may_lack)
            return err_set(
                err, ERR_CONFLICT,
                "%s is %s, but %s is that of an installation: mount it or put it back; `thurn migrate --new` makes an empty one in its place",
                one->what, one->is_empty ? "missing or empty" : "of no installation", known->what);
    }
    return true;
}

FIBER static bool look(struct members *m, enum installation_verdict *out, struct err *err)
{
    struct node *n = m->node;
    if (!ask_all(m, err) || !judge(m, false, err))
        return false;
    const struct member *known = first_known(m);
    if (known)
        snprintf(n->set.id, sizeof(n->set.id), "%s", known->id);
    bool is_away = false;
    for (size_t i = 0; i < m->n; i++) {
        if (m->v[i].is_away && !err_is_temporary(&m->v[i].err)) {
            *err = m->v[i].err;
            return err_prefix(err, "%s", m->v[i].what);
        }
        is_away |= m->v[i].is_away;
    }
    bool has_tables = false;
    for (size_t i = 0; i < m->n; i++)
        has_tables |= m->v[i].db && !m->v[i].is_empty && !m->v[i].is_away;
    *out = known || m->n == 0 || is_away ? INSTALLATION_OURS : has_tables ? INSTALLATION_UNMARKED : INSTALLATION_EMPTY;
    n->set.is_enforced = true;
    return true;
}

bool installation_look(struct node *n, enum installation_verdict *out, struct err *err)
{
    struct members m;
    members_init(&m, n);
    bool ok = look(&m, out, err);
    members_done(&m);
    return ok;
}

static bool refuse_folder(str data, struct err *err)
{
    return err_set(
        err, ERR_CONFLICT,
        "the folder '%.*s' was never set up: is it the right one, and mounted? `thurn setup YOU@EXAMPLE.COM` makes a new server",
        STR_ARG(data));
}

bool installation_glance(const struct config *c, unsigned roles, struct err *err)
{
    static const struct {
        unsigned role;
        const char *file;
    } files[] = {{ROLE_AUTH_BIT, "directory.db"},
                 {ROLE_QUEUE_BIT, "queue.db"},
                 {ROLE_STORE_BIT, "mail.db"},
                 {ROLE_STORE_BIT, "blobs/installation"}};
    size_t n, asked = 0;
    (void)config_list(c, CFG_SHARDS, &n);
    if (config_str(c, CFG_DIRECTORY_DB).n || config_str(c, CFG_QUEUE_DB).n || n)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[WHAT_MAX];
        if (!(roles & files[i].role))
            continue;
        asked++;
        snprintf(path, sizeof(path), "%.*s/%s", STR_ARG(config_str(c, CFG_DATA)), files[i].file);
        if (access(path, F_OK) == 0 || errno != ENOENT)
            return true;
    }
    return !asked || refuse_folder(config_str(c, CFG_DATA), err);
}

bool installation_refuse(const struct node *n, enum installation_verdict verdict, struct err *err)
{
    if (verdict == INSTALLATION_UNMARKED)
        return err_set(
            err, ERR_CONFLICT,
            "these databases were made by a release that did not mark what belongs together: `thurn migrate --new`, once, marks them");
    if (node_on_sqlite(n))
        return refuse_folder(str_c(n->data), err);
    return err_set(
        err, ERR_CONFLICT,
        "these databases were never set up: are they the right ones? `thurn migrate --new` makes a new installation in them");
}

/* Nobody can say later which databases belong together, so the first time all are named. */
static bool names_all(const struct node *n, struct err *err)
{
    unsigned all = ROLE_AUTH_BIT | ROLE_STORE_BIT | ROLE_QUEUE_BIT;
    return (n->roles & all) == all ||
           err_set(
               err, ERR_INVALID,
               "a new installation is made by a config with the roles auth, store and queue, that names all its databases");
}

static void make_id(char id[SQL_SET_ID_SIZE])
{
    unsigned char raw[(SQL_SET_ID_SIZE - 1) / 2];
    random_bytes(raw, sizeof(raw));
    for (size_t i = 0; i < sizeof(raw); i++)
        snprintf(&id[2 * i], 3, "%02x", raw[i]);
}

FIBER static bool make(struct members *m, bool may_join, unsigned *made, struct err *err)
{
    struct node *n = m->node;
    if (!ask_all(m, err))
        return false;
    for (size_t i = 0; i < m->n; i++)
        if (m->v[i].is_away) {
            *err = m->v[i].err;
            return err_prefix(err, "%s", m->v[i].what);
        }
    if (!judge(m, may_join, err))
        return false;
    const struct member *known = first_known(m);
    if (known)
        snprintf(n->set.id, sizeof(n->set.id), "%s", known->id);
    else if (!names_all(n, err))
        return false;
    else
        make_id(n->set.id);
    for (size_t i = 0; i < m->n; i++) {
        struct member *one = &m->v[i];
        if (one->id[0])
            continue;
        if (one->db ? !sql_set_join(one->db, one->name, n->set.id, err) : !mark_folder(n, n->set.id, err))
            return err_prefix(err, "%s", one->what);
        ++*made;
    }
    return true;
}

bool installation_make(struct node *n, bool may_join, unsigned *made, struct err *err)
{
    struct members m;
    members_init(&m, n);
    *made = 0;
    bool ok = m.n == 0 || make(&m, may_join, made, err);
    n->set.is_enforced = ok;
    members_done(&m);
    return ok;
}
