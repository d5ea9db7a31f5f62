#include "server/memory.h"

#include <stdio.h>
#include <unistd.h>

#include "base/num.h"
#include "base/str.h"

#define SHARE 8u
#define SHARE_MIN ((uint64_t)64 << 20)
#define TEXT_MAX 4096
#define PATH_ROOM 1024

/* A file of the kernel; what is not there or longer is empty. */
static str read_small(const char *path, char *space)
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(space, 1, TEXT_MAX, f) : 0;
    if (f)
        (void)fclose(f); /* only read */
    return str_trim(str_n(space, n < TEXT_MAX ? n : 0));
}

/* The limit of one group; "max", or no file: none. */
static uint64_t limit_at(const char *folder, str group, const char *file)
{
    char path[PATH_ROOM], text[TEXT_MAX];
    uint64_t limit;
    int n = snprintf(path, sizeof(path), "%s%.*s/%s", folder, STR_ARG(group), file);
    if (n < 0 || (size_t)n >= sizeof(path) || !num_u64(read_small(path, text), UINT64_MAX, &limit))
        return UINT64_MAX;
    return limit;
}

/* A group's limit is that of each group around it too. In a container the kernel's names may start at the container's
 * own group. */
static uint64_t lowest_limit(const char *root, const char *mount, str group, const char *file)
{
    char folder[PATH_ROOM];
    uint64_t limit = UINT64_MAX;
    (void)snprintf(folder, sizeof(folder), "%s%s", root, mount);
    for (;;) {
        limit = MIN(limit, limit_at(folder, group, file));
        ptrdiff_t slash = str_rfind(group, '/');
        if (slash < 0)
            return limit;
        group = str_slice(group, 0, (size_t)slash);
    }
}

/* A line of /proc/self/cgroup: "0::/group" is version 2, "4:memory:/group" the memory controller of version 1. */
static uint64_t limit_of_line(const char *root, str line)
{
    str number, controllers;
    if (!str_split(&line, ':', &number) || !str_split(&line, ':', &controllers))
        return UINT64_MAX;
    if (controllers.n == 0)
        return lowest_limit(root, "/sys/fs/cgroup", line, "memory.max");
    for (str one; str_split(&controllers, ',', &one);)
        if (str_eq(one, S("memory")))
            return lowest_limit(root, "/sys/fs/cgroup/memory", line, "memory.limit_in_bytes");
    return UINT64_MAX;
}

uint64_t memory_bytes(const char *root)
{
    char path[PATH_ROOM], text[TEXT_MAX];
    uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    (void)snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    str lines = read_small(path, text), line;
    while (str_split(&lines, '\n', &line))
        bytes = MIN(bytes, limit_of_line(root, line));
    return bytes;
}

uint64_t memory_share(uint64_t bytes)
{
    return MAX(bytes / SHARE, SHARE_MIN);
}
