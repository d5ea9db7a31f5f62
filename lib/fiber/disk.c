#include "fiber/disk.h"

#include <errno.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "base/trouble.h"

#define LOOK_EVERY_MS 1000
#define RESERVE_MIN ((uint64_t)64 << 20)
#define RESERVE_MAX ((uint64_t)256 << 20)
#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

struct disk_room {
    char *folder;
    uint64_t reserve_bytes; /* 0: a share */
    int64_t looked_mono_ms; /* 0: not yet */
    uint64_t free_bytes, wanted_bytes;
};

struct disk_room *disk_room_new(const char *folder, uint64_t reserve_bytes)
{
    struct disk_room *r = xnew(struct disk_room);
    r->folder = xstrdup(folder);
    r->reserve_bytes = reserve_bytes;
    r->free_bytes = UINT64_MAX;
    return r;
}

void disk_room_free(struct disk_room *r)
{
    if (!r)
        return;
    xfree(r->folder);
    xfree(r);
}

static bool is_low(const struct disk_room *r)
{
    return r->free_bytes < r->wanted_bytes;
}

/* Its owner or mode was changed under us: what is open goes on, and the next new file fails. */
static void look_at_rights(const struct disk_room *r)
{
    char why[512];
    if (access(r->folder, W_OK | X_OK) == 0) {
        trouble_over("folder");
        return;
    }
    snprintf(why, sizeof(why), "cannot write in folder '%.300s': %s; it has to be the server's own", r->folder,
             strerror(errno));
    trouble_note("folder", why);
}

static void look(struct disk_room *r)
{
    struct statvfs st;
    bool was_low = is_low(r);
    r->looked_mono_ms = clock_mono_ms();
    look_at_rights(r);
    if (statvfs(r->folder, &st) != 0)
        return;
    uint64_t share = (uint64_t)st.f_blocks * st.f_frsize / 100;
    r->free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    r->wanted_bytes = r->reserve_bytes ? r->reserve_bytes : MIN(MAX(share, RESERVE_MIN), RESERVE_MAX);
    if (!was_low && is_low(r))
        log_error("disk.low", KV_Z("folder", r->folder), KV_I64("free", (int64_t)r->free_bytes),
                  KV_I64("reserve", (int64_t)r->wanted_bytes));
    else if (was_low && !is_low(r))
        log_info("disk.room", KV_Z("folder", r->folder), KV_I64("free", (int64_t)r->free_bytes));
}

bool disk_room_check(struct disk_room *r, struct err *err)
{
    if (!r)
        return true;
    if (!r->looked_mono_ms || clock_mono_ms() - r->looked_mono_ms >= LOOK_EVERY_MS)
        look(r);
    if (!is_low(r))
        return true;
    return err_set(err, ERR_UNAVAILABLE, "the disk of '%s' has %llu MiB left, less than the reserve of %llu MiB",
                   r->folder, MIB(r->free_bytes), MIB(r->wanted_bytes));
}

bool disk_room_take(struct disk_room *r, const char *what, struct err *err)
{
    if (disk_room_check(r, err))
        return true;
    metric_inc_label(M_DISK_REFUSED, what);
    return false;
}
