#include "server/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "rpc/rights.h"
#include "server/fence.h"
#include "server/folder.h"

/* --- the user --- */

struct target {
    char name[64]; /* or the number */
    uid_t uid;
    gid_t gid;
    bool is_known; /* has groups of its own */
};

static void take_passwd(const struct passwd *p, struct target *out)
{
    *out = (struct target){.uid = p->pw_uid, .gid = p->pw_gid, .is_known = true};
    snprintf(out->name, sizeof(out->name), "%s", p->pw_name);
}

/* Whom to become; root: nobody else is named, and the folder is root's or not there. */
static bool find_target(const struct config *c, const char *data, struct target *out, struct err *err)
{
    CLEANUP(xfree_char) char *name = str_dup(config_str(c, CFG_USER));
    struct stat st;
    *out = (struct target){.name = "root"};
    if (name[0]) {
        const struct passwd *p = getpwnam(name);
        if (!p)
            return config_complain(c, CFG_USER, err, "names no user of this machine");
        take_passwd(p, out);
        return true;
    }
    if (stat(data, &st) != 0 || st.st_uid == 0)
        return true;
    const struct passwd *p = getpwuid(st.st_uid);
    if (p) {
        take_passwd(p, out);
    } else {
        *out = (struct target){.uid = st.st_uid, .gid = st.st_gid};
        snprintf(out->name, sizeof(out->name), "%u", (unsigned)st.st_uid);
    }
    return true;
}

/* Theirs, or it becomes theirs when it is new. */
static bool give_folder(const char *data, const struct target *t, struct err *err)
{
    struct stat st;
    if (stat(data, &st) != 0) {
        mode_t before = umask(022); /* the user has to pass those above it, which are root's */
        bool ok = folder_make(data, err);
        (void)umask(before);
        if (!ok)
            return false;
        return chown(data, t->uid, t->gid) == 0 ||
               err_set(err, ERR_DENIED, "cannot give folder '%s' to user %s: %s", data, t->name, strerror(errno));
    }
    return st.st_uid == t->uid ||
           err_set(err, ERR_DENIED,
                   "folder '%s' belongs to another user than %s; give it to that user: chown -R %s '%s'", data, t->name,
                   t->name, data);
}

static bool drop_capabilities(struct err *err)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* one who may not has none to gain: no_new_privs comes */
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &head, none) == 0 ||
           err_set(err, ERR_INTERNAL, "capabilities cannot be dropped: %s", strerror(errno));
}

static bool switch_to(const struct target *t, struct err *err)
{
    bool ok = t->is_known ? initgroups(t->name, t->gid) == 0 : setgroups(1, &t->gid) == 0;
    if (!ok || setresgid(t->gid, t->gid, t->gid) != 0 || setresuid(t->uid, t->uid, t->uid) != 0)
        return err_set(err, ERR_DENIED, "cannot become user %s: %s", t->name, strerror(errno));
    if (setuid(0) == 0 || geteuid() != t->uid)
        return err_set(err, ERR_INTERNAL, "could become root again after becoming user %s", t->name);
    return true;
}

bool confine_become(const struct config *c, struct err *err)
{
    struct target t;
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    if (geteuid() != 0)
        return drop_capabilities(err);
    if (!find_target(c, data, &t, err))
        return false;
    if (t.uid == 0)
        return drop_capabilities(err);
    if (!give_folder(data, &t, err) || !switch_to(&t, err) || !drop_capabilities(err))
        return false;
    log_info("server.user", KV_Z("user", t.name));
    return true;
}

/* --- files --- */

#define READ (FENCE_READ_FILE | FENCE_READ_DIR)

/* Where programs and their data are. */
static const char *const system_folders[] = {"/usr", "/lib", "/lib64", "/proc", "/sys", "/dev", "/run/systemd/resolve"};
/* Where settings and secrets may lie: our own as well, which a worker has no business with (its settings come from its
 * parent). */
static const char *const settings_folders[] = {"/etc", "/run/secrets", "/var/run/secrets"};
/* What of it the libraries of a worker read. */
static const char *const library_files[] = {
    "/etc/ssl",         "/etc/pki",           "/etc/ca-certificates", "/etc/crypto-policies", "/etc/resolv.conf",
    "/etc/hosts",       "/etc/host.conf",     "/etc/nsswitch.conf",   "/etc/gai.conf",        "/etc/services",
    "/etc/protocols",   "/etc/passwd",        "/etc/group",           "/etc/localtime",       "/etc/timezone",
    "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives",
};

/* The folder of a file, which may not be there. */
static void allow_folder_of(struct fence *f, str path, uint64_t access)
{
    CLEANUP(xfree_char) char *folder = str_dup(path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        fence_allow(f, ".", access);
    else if (slash == folder)
        fence_allow(f, "/", access);
    else {
        *slash = '\0';
        fence_allow(f, folder, access);
    }
}

/* Where a link leads out of /etc: the folder, for what is there is replaced. */
static void allow_link(struct fence *f, const char *path)
{
    CLEANUP(xfree_char) char *real = realpath(path, NULL);
    if (real && strncmp(real, "/etc/", 5) != 0)
        allow_folder_of(f, str_c(real), READ);
}

/* Where a link leads, too: Landlock asks about the file itself. */
static void allow_reading_file(struct fence *f, str path)
{
    CLEANUP(xfree_char) char *given = str_dup(path);
    CLEANUP(xfree_char) char *real = realpath(given, NULL);
    allow_folder_of(f, path, READ);
    if (real)
        allow_folder_of(f, str_c(real), READ);
}

static void allow_sqlite(struct fence *f, str dsn)
{
    if (str_starts(dsn, S("sqlite:")))
        allow_folder_of(f, str_slice(dsn, 7, SIZE_MAX), FENCE_WRITE);
}

/* The socket is made there, and one that was left is taken away. */
static void allow_sockets(struct fence *f, const struct config *c, enum config_id id)
{
    size_t n;
    const str *list = config_list(c, id, &n);
    for (size_t i = 0; i < n; i++)
        if (str_starts(list[i], S("unix:")))
            allow_folder_of(f, str_slice(list[i], 5, SIZE_MAX), FENCE_SOCKETS);
}

static void allow_writing(struct fence *f, const struct config *c)
{
    static const enum config_id listens[] = {CFG_LISTEN_SMTP, CFG_LISTEN_SUBMISSION, CFG_LISTEN_SUBMISSIONS,
                                             CFG_LISTEN_LMTP, CFG_LISTEN_IMAP,       CFG_LISTEN_IMAPS,
                                             CFG_LISTEN_HTTP, CFG_LISTEN_HTTPS,      CFG_RPC_LISTEN};
    size_t n;
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    const str *shards = config_list(c, CFG_SHARDS, &n);
    fence_allow(f, data, FENCE_WRITE);
    fence_allow(f, "/dev/null", FENCE_WRITE_FILE);
    allow_sqlite(f, config_str(c, CFG_DIRECTORY_DB));
    allow_sqlite(f, config_str(c, CFG_QUEUE_DB));
    for (size_t i = 0; i < n; i++)
        allow_sqlite(f, shards[i]);
    for (size_t i = 0; i < ARRAY_LEN(listens); i++)
        allow_sockets(f, c, listens[i]);
}

/* What a front-end reads: certificates too, which SIGHUP reads again. */
static void allow_reading(struct fence *f, const struct config *c, const struct confine *what)
{
    static const enum config_id files[] = {CFG_RPC_CERTIFICATE, CFG_RPC_KEY, CFG_RPC_CA, CFG_DNS_TRUST_ANCHOR};
    size_t n;
    BUF(own, 4096);
    for (size_t i = 0; i < ARRAY_LEN(system_folders); i++)
        fence_allow(f, system_folders[i], READ);
    for (size_t i = 0; i < ARRAY_LEN(settings_folders) && !what->is_worker; i++)
        fence_allow(f, settings_folders[i], READ);
    for (size_t i = 0; i < ARRAY_LEN(library_files) && what->is_worker; i++)
        fence_allow(f, library_files[i], READ);
    allow_link(f, "/etc/resolv.conf"); /* mostly it is one */
    buf_printf(&own, "%.*s%s", STR_ARG(config_str(c, CFG_DATA)), what->is_worker ? "/tls" : "");
    fence_allow(f, buf_z(&own), READ);
    if (what->config_file && !what->is_worker)
        allow_reading_file(f, str_c(what->config_file));
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (config_str(c, files[i]).n)
            allow_reading_file(f, config_str(c, files[i]));
    const str *pairs = config_list(c, CFG_TLS_CERTIFICATES, &n);
    for (size_t i = 0; i < n; i++) {
        str rest = str_trim(pairs[i]), one;
        while (rest.n && str_split(&rest, ' ', &one))
            if (one.n)
                allow_reading_file(f, one);
    }
}

bool confine_fence(const struct config *c, const struct confine *what, struct err *err)
{
    bool is_only_frontend = what->roles == RPC_BY_FRONTEND;
    struct fence f;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(err, ERR_INTERNAL, "no_new_privs: %s", strerror(errno));
    if (fence_begin(&f, is_only_frontend ? FENCE_WRITE | FENCE_EXECUTE | READ : FENCE_WRITE | FENCE_EXECUTE, err)) {
        if (what->starts_workers)
            fence_allow_self(&f);
        if (!what->is_worker)
            allow_writing(&f, c);
        if (is_only_frontend)
            allow_reading(&f, c, what);
    }
    return !err_is_set(err) && fence_end(&f, err) && fence_calls(!what->starts_workers, err);
}

bool confine_loop(struct err *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(err, ERR_INTERNAL, "no_new_privs: %s", strerror(errno));
    return fence_no_rings(err);
}

bool confine_sockets(struct err *err)
{
    return fence_no_unix_sockets(err);
}
