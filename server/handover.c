#include "server/handover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"
#include "server/folder.h"

#define DEPTH_MAX 32 /* of folders in it; ours have three */
#define MARK "blobs/installation"

/* What a server makes in its folder; a mark says more, but a setup that failed has none yet. */
static const char *const own_names[] = {"thurn.yaml", "directory.db", "queue.db",     "mail.db",       "blobs",
                                        "tls",        "spool",        "control.sock", "services.sock", "lost+found"};
/* What SQLite, and we while we write, put behind a name. */
static const char *const own_ends[] = {"", "-wal", "-shm", "-journal", ".new"};

struct user {
    char name[64];
    uid_t uid;
    gid_t gid;
};

struct walk {
    const struct user *to;
    bool is_dry;
    size_t given;
};

static bool is_own_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(own_names); i++)
        for (size_t k = 0; k < ARRAY_LEN(own_ends); k++) {
            char one[64];
            snprintf(one, sizeof(one), "%s%s", own_names[i], own_ends[k]);
            if (strcmp(name, one) == 0)
                return true;
        }
    return strncmp(name, "worker-", 7) == 0; /* sockets of a server that was killed */
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Set up by us, or holding nothing but what a setup leaves; stranger is the name of something else. */
static bool is_ours(int folder, char stranger[NAME_MAX + 1])
{
    struct stat st;
    stranger[0] = '\0';
    if (fstatat(folder, MARK, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        return true;
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (const struct dirent *e; dir && !stranger[0] && (e = readdir(dir));)
        if (!is_dot(e->d_name) && !is_own_name(e->d_name))
            snprintf(stranger, NAME_MAX + 1, "%s", e->d_name);
    if (dir)
        (void)closedir(dir);
    return dir && !stranger[0];
}

/* fd: the thing itself (O_PATH), so that nobody can put another in its place between the look and the change. */
static bool give(struct walk *w, int fd, const char *name, const struct stat *st, struct err *err)
{
    if (st->st_uid == w->to->uid && st->st_gid == w->to->gid)
        return true;
    if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) /* root would give away what lies elsewhere */
        return err_set(err, ERR_DENIED,
                       "'%s' in the folder has another name (a hard link), and is not given to user %s: copy it", name,
                       w->to->name);
    w->given++;
    return w->is_dry || fchownat(fd, "", w->to->uid, w->to->gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ||
           err_set(err, ERR_DENIED, "cannot give '%s' to user %s: %s", name, w->to->name, strerror(errno));
}

static bool walk_folder(struct walk *w, int folder, unsigned depth, struct err *err);

static bool walk_one(struct walk *w, int folder, const char *name, unsigned depth, struct err *err)
{
    struct stat st;
    int fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || err_set(err, ERR_DENIED, "cannot look at '%s': %s", name, strerror(errno));
    bool ok = fstat(fd, &st) == 0 || err_set(err, ERR_DENIED, "cannot look at '%s': %s", name, strerror(errno));
    ok = ok && (!S_ISDIR(st.st_mode) || walk_folder(w, fd, depth + 1, err)) && give(w, fd, name, &st, err);
    (void)close(fd);
    return ok;
}

/* All that is in it, whatever disk it lies on. */
static bool walk_folder(struct walk *w, int folder, unsigned depth, struct err *err)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        (void)err_set(err, ERR_DENIED, "cannot list a folder in the data folder: %s", strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    bool ok = depth < DEPTH_MAX || err_set(err, ERR_INVALID, "the data folder is more than %d folders deep", DEPTH_MAX);
    for (const struct dirent *e; ok && (e = readdir(dir));)
        ok = is_dot(e->d_name) || walk_one(w, fd, e->d_name, depth, err);
    (void)closedir(dir);
    return ok;
}

/* The folder above data, or the lowest above it that is there. */
static void folder_above(const char *data, char out[PATH_MAX])
{
    struct stat st;
    snprintf(out, PATH_MAX, "%s", data);
    do {
        size_t n = strlen(out);
        while (n > 1 && out[n - 1] == '/')
            out[--n] = '\0';
        char *slash = strrchr(out, '/');
        if (!slash || slash == out) {
            snprintf(out, PATH_MAX, slash ? "/" : ".");
            return;
        }
        *slash = '\0';
    } while (stat(out, &st) != 0);
}

/* A folder that the user cannot get at would be a server that cannot start again. Asked as that user. */
static bool can_reach(const char *data, const struct user *u, struct err *err)
{
    char above[PATH_MAX];
    int status = 1;
    folder_above(data, above);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = initgroups(u->name, u->gid) == 0 && setresgid(u->gid, u->gid, u->gid) == 0 &&
                  setresuid(u->uid, u->uid, u->uid) == 0 && chdir(above) == 0;
        _exit(!ok);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
           err_set(
               err, ERR_DENIED,
               "user %s, whom the server becomes, cannot enter '%s': choose another folder by --data, or stay root by --user root",
               u->name, above);
}

static bool find_user(const struct handover *what, struct user *out, struct err *err)
{
    const struct passwd *p = getpwnam(what->user);
    *out = (struct user){.uid = (uid_t)-1, .gid = (gid_t)-1};
    snprintf(out->name, sizeof(out->name), "%s", what->user);
    if (p) {
        out->uid = p->pw_uid;
        out->gid = p->pw_gid;
    }
    return p || what->is_dry || err_set(err, ERR_INVALID, "there is no user '%.60s' on this machine", what->user);
}

static bool make_folder(const char *data, const struct user *u, struct err *err)
{
    mode_t before = umask(022); /* the user has to pass those above it, which are root's */
    bool ok = folder_make(data, err);
    (void)umask(before);
    return ok && (chown(data, u->uid, u->gid) == 0 ||
                  err_set(err, ERR_DENIED, "cannot give folder '%s' to user %s: %s", data, u->name, strerror(errno)));
}

static bool give_all(const char *data, int folder, const struct user *u, struct walk *w, struct err *err)
{
    struct stat st;
    *w = (struct walk){.to = u, .is_dry = w->is_dry};
    if (!walk_folder(w, folder, 0, err))
        return err_prefix(err, "%s", data);
    return fstat(folder, &st) != 0 || (st.st_uid == u->uid && st.st_gid == u->gid) ||
           (w->given++, w->is_dry || fchown(folder, u->uid, u->gid) == 0) ||
           err_set(err, ERR_DENIED, "cannot give folder '%s' to user %s: %s", data, u->name, strerror(errno));
}

/* folder: data, which is there. */
static bool give_found(const char *data, int folder, const struct handover *what, const struct user *u, size_t *given,
                       struct err *err)
{
    char stranger[NAME_MAX + 1];
    struct stat st;
    if (fstat(folder, &st) != 0)
        return err_set(err, ERR_DENIED, "cannot look at folder '%s': %s", data, strerror(errno));
    if (st.st_uid != 0 && st.st_uid != u->uid && !what->from_anybody)
        return true;
    if (!is_ours(folder, stranger))
        return st.st_uid == u->uid ||
               err_set(
                   err, ERR_INVALID,
                   "the folder '%s' was not set up by Thurn and holds other things ('%.40s'): it is not given to user %s; choose another",
                   data, stranger, u->name);
    struct walk w = {.is_dry = true};
    if (!give_all(data, folder, u, &w, err)) /* what would fail does so before anything is changed */
        return false;
    w.is_dry = what->is_dry;
    bool ok = w.is_dry || give_all(data, folder, u, &w, err);
    *given = w.given;
    return ok;
}

bool handover(const char *data, const struct handover *what, size_t *given, struct err *err)
{
    struct user u;
    struct stat st;
    *given = 0;
    if (geteuid() != 0)
        return err_set(err, ERR_DENIED, "a folder is given to a user by root: run this as root, or without --user");
    if (!find_user(what, &u, err))
        return false;
    if (u.uid == 0 || (stat(data, &st) == 0 && !S_ISDIR(st.st_mode)))
        return true; /* what is no folder is said by who wants one */
    if (u.uid != (uid_t)-1 && !can_reach(data, &u, err))
        return false;
    int folder = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 && errno != ENOENT)
        return err_set(err, ERR_DENIED, "cannot look at folder '%s': %s", data, strerror(errno));
    if (folder < 0)
        return what->is_dry || make_folder(data, &u, err);
    bool ok = give_found(data, folder, what, &u, given, err);
    (void)close(folder);
    return ok;
}
