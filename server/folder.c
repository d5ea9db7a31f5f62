#include "server/folder.h"

#include <errno.h>
#include <ftw.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define PATH_ROOM 1200

bool folder_make(const char *path, struct err *err)
{
    char part[PATH_ROOM];
    if (strlen(path) >= sizeof(part) - 64)
        return err_set(err, ERR_INVALID, "folder name is longer than %zu bytes", sizeof(part) - 64);
    for (size_t i = 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        snprintf(part, sizeof(part), "%.*s", (int)i, path);
        if (mkdir(part, 0755) != 0 && errno != EEXIST) /* the umask says who may pass */
            return err_set(err, ERR_DENIED, "cannot make folder '%s': %s; make it, or choose another by --data", part,
                           strerror(errno));
    }
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return err_set(err, ERR_INVALID, "'%s' is a file, and a folder is wanted: choose another by --data", path);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_set(err, ERR_DENIED, "cannot make folder '%s': %s; make it, or choose another by --data", path,
                       strerror(errno));
    if (access(path, W_OK | X_OK) != 0)
        return err_set(err, ERR_DENIED,
                       "cannot write in folder '%s': %s; run as its owner, or choose another by --data", path,
                       strerror(errno));
    return true;
}

static unsigned n_narrowed;

static int narrow_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)at;
    if (type == FTW_SL || type == FTW_NS || type == FTW_DNR || st->st_uid != geteuid() || !(st->st_mode & 077))
        return 0;
    if (chmod(path, st->st_mode & 0700) == 0)
        n_narrowed++;
    else
        log_warn("server.modes", KV_Z("path", path), KV_Z("reason", strerror(errno)));
    return 0;
}

void folder_narrow(const char *path)
{
    n_narrowed = 0;
    (void)nftw(path, narrow_one, 16, FTW_PHYS | FTW_MOUNT); /* a folder that is not there has none */
    if (n_narrowed)
        log_info("server.narrowed", KV_Z("folder", path), KV_I64("n", n_narrowed));
}

const char *folder_user(unsigned uid, char room[24])
{
    const struct passwd *pw = getpwuid(uid);
    if (pw)
        return pw->pw_name;
    snprintf(room, 24, "#%u", uid);
    return room;
}

bool folder_denied(const char *path, struct err *err)
{
    char part[PATH_ROOM], uid[24];
    struct stat st;
    bool is_file = true;
    snprintf(part, sizeof(part), "%s", path);
    while (stat(part, &st) != 0) { /* the lowest that can be seen is the one in the way */
        char *slash = strrchr(part, '/');
        if (!slash || slash == part) {
            snprintf(part, sizeof(part), slash ? "/" : ".");
            if (stat(part, &st) != 0)
                return err_set(err, ERR_DENIED, "cannot read '%s': %s", path, strerror(EACCES));
        } else {
            *slash = '\0';
        }
        is_file = false;
    }
    if (st.st_uid == geteuid())
        return err_set(err, ERR_DENIED, "cannot read '%s': %s: the mode of '%s' forbids it", path, strerror(EACCES),
                       part);
    const char *user = folder_user(st.st_uid, uid);
    const char *end = strrchr(path, '/');
    bool is_own = is_file || (end && str_eq(str_n(path, (size_t)(end - path)), str_c(part)));
    return err_set(
        err, ERR_DENIED,
        "cannot read '%s': %s (the %s%s%s%s belongs to user %s): run this as that user (sudo -u %s) or as root", path,
        strerror(EACCES), is_file ? "file" : "folder", is_own ? "" : " '", is_own ? "" : part, is_own ? "" : "'", user,
        user);
}
