#include "data/sqlite_vfs.h"

#include <pthread.h>
#include <sqlite3.h>

#include "base/base.h"

/* the default file system takes less than 128 KiB in one write */
#define GATHER_MAX ((size_t)64 * 1024)

/* A log file; the default file system's own file follows it in SQLite's memory. */
struct log_file {
    sqlite3_file base;
    sqlite3_file *real;
    char *gathered; /* GATHER_MAX bytes, once something was written */
    size_t n;
    sqlite3_int64 at; /* where gathered[0] belongs */
};

static sqlite3_vfs *default_vfs;

static struct log_file *of(sqlite3_file *f)
{
    return CONTAINER_OF(f, struct log_file, base);
}

static int write_out(struct log_file *l)
{
    size_t n = l->n;
    l->n = 0;
    return n ? l->real->pMethods->xWrite(l->real, l->gathered, (int)n, l->at) : SQLITE_OK;
}

static int log_write(sqlite3_file *f, const void *p, int n_bytes, sqlite3_int64 at)
{
    struct log_file *l = of(f);
    size_t n = (size_t)n_bytes;
    if (l->n && (at != l->at + (sqlite3_int64)l->n || n > GATHER_MAX - l->n)) {
        int rc = write_out(l);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (n > GATHER_MAX)
        return l->real->pMethods->xWrite(l->real, p, n_bytes, at);
    if (!l->gathered)
        l->gathered = xmalloc(GATHER_MAX);
    if (l->n == 0)
        l->at = at;
    memcpy(l->gathered + l->n, p, n);
    l->n += n;
    return SQLITE_OK;
}

static int log_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    int rc = write_out(of(f));
    return rc == SQLITE_OK ? of(f)->real->pMethods->xRead(of(f)->real, p, n, at) : rc;
}

static int log_sync(sqlite3_file *f, int flags)
{
    int rc = write_out(of(f));
    return rc == SQLITE_OK ? of(f)->real->pMethods->xSync(of(f)->real, flags) : rc;
}

static int log_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = write_out(of(f));
    return rc == SQLITE_OK ? of(f)->real->pMethods->xTruncate(of(f)->real, size) : rc;
}

static int log_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    int rc = write_out(of(f));
    return rc == SQLITE_OK ? of(f)->real->pMethods->xFileSize(of(f)->real, size) : rc;
}

static int log_close(sqlite3_file *f)
{
    struct log_file *l = of(f);
    int written = write_out(l), closed = l->real->pMethods->xClose(l->real);
    xfree(l->gathered);
    l->gathered = NULL;
    return written == SQLITE_OK ? closed : written;
}

static int log_lock(sqlite3_file *f, int level)
{
    return of(f)->real->pMethods->xLock(of(f)->real, level);
}

static int log_unlock(sqlite3_file *f, int level)
{
    return of(f)->real->pMethods->xUnlock(of(f)->real, level);
}

static int log_check_reserved_lock(sqlite3_file *f, int *is_held)
{
    return of(f)->real->pMethods->xCheckReservedLock(of(f)->real, is_held);
}

static int log_file_control(sqlite3_file *f, int op, void *arg)
{
    return of(f)->real->pMethods->xFileControl(of(f)->real, op, arg);
}

static int log_sector_size(sqlite3_file *f)
{
    return of(f)->real->pMethods->xSectorSize(of(f)->real);
}

static int log_device_characteristics(sqlite3_file *f)
{
    return of(f)->real->pMethods->xDeviceCharacteristics(of(f)->real);
}

/* Version 1: shared memory and mapped pages belong to the database file, never to the log. */
static const sqlite3_io_methods log_methods = {
    .iVersion = 1,
    .xClose = log_close,
    .xRead = log_read,
    .xWrite = log_write,
    .xTruncate = log_truncate,
    .xSync = log_sync,
    .xFileSize = log_file_size,
    .xLock = log_lock,
    .xUnlock = log_unlock,
    .xCheckReservedLock = log_check_reserved_lock,
    .xFileControl = log_file_control,
    .xSectorSize = log_sector_size,
    .xDeviceCharacteristics = log_device_characteristics,
};

/* Every other file is the default file system's own, at the start of the memory that is meant for ours. */
static int open_file(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *flags_out)
{
    (void)vfs;
    if (!(flags & SQLITE_OPEN_WAL))
        return default_vfs->xOpen(default_vfs, name, f, flags, flags_out);
    struct log_file *l = of(f);
    *l = (struct log_file){.real = (sqlite3_file *)(void *)(l + 1)};
    int rc = default_vfs->xOpen(default_vfs, name, l->real, flags, flags_out);
    if (l->real->pMethods)
        l->base.pMethods = &log_methods; /* SQLite closes it, also after a failure */
    return rc;
}

static sqlite3_vfs writer_vfs;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_registered;

static void make(void)
{
    default_vfs = sqlite3_vfs_find(NULL);
    if (!default_vfs)
        return;
    writer_vfs = *default_vfs;
    writer_vfs.pNext = NULL;
    writer_vfs.zName = "thurn-writer";
    writer_vfs.szOsFile = (int)sizeof(struct log_file) + default_vfs->szOsFile;
    writer_vfs.xOpen = open_file;
    is_registered = sqlite3_vfs_register(&writer_vfs, 0) == SQLITE_OK;
}

const char *sqlite_writer_vfs(void)
{
    (void)pthread_once(&once, make);
    return is_registered ? writer_vfs.zName : NULL;
}
