/* /proc/net/tcp and tcp6 know the socket's inode, /proc/PID/fd who has it. */
#include "net/port_holder.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#define INODES_MAX 16u /* a port may be listened to at several addresses */
#define STATE_LISTEN 0x0au

struct inodes {
    unsigned long v[INODES_MAX];
    size_t n;
};

static void listeners_in(const char *table, unsigned port, struct inodes *out)
{
    FILE *f = fopen(table, "re");
    char line[512];
    while (f && out->n < INODES_MAX && fgets(line, sizeof(line), f)) {
        unsigned local_port, state;
        unsigned long inode;
        /* sl local:port remote:port state tx:rx tr:when retransmits uid timeout inode */
        if (sscanf(
                line,
                " %*u: %*[0-9A-F]:%4x %*[0-9A-F]:%*4x %2x %*[0-9A-F]:%*[0-9A-F] %*[0-9A-F]:%*[0-9A-F] %*[0-9A-F] %*u %*d %lu",
                &local_port, &state, &inode) == 3 &&
            local_port == port && state == STATE_LISTEN)
            out->v[out->n++] = inode;
    }
    if (f)
        fclose(f);
}

static bool has_one_of(const char *pid, const struct inodes *wanted)
{
    char path[64], to[64];
    snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
    DIR *d = opendir(path);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        unsigned long inode;
        ssize_t n = readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1);
        to[MAX(n, 0)] = '\0';
        if (sscanf(to, "socket:[%lu]", &inode) != 1)
            continue;
        for (size_t i = 0; i < wanted->n; i++)
            found |= wanted->v[i] == inode;
    }
    if (d)
        closedir(d);
    return found;
}

static str name_of(const char *pid, struct arena *a)
{
    char path[64], name[64] = "";
    snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
    FILE *f = fopen(path, "re");
    if (f && !fgets(name, sizeof(name), f))
        name[0] = '\0';
    if (f)
        fclose(f);
    name[strcspn(name, "\n")] = '\0';
    return arena_printf(a, "%s (pid %.20s)", name[0] ? name : "a program", pid);
}

str port_holder(const struct net_addr *addr, struct arena *a)
{
    struct inodes wanted = {.n = 0};
    str found = STR_NONE;
    listeners_in("/proc/net/tcp", net_addr_port(addr), &wanted);
    listeners_in("/proc/net/tcp6", net_addr_port(addr), &wanted);
    DIR *d = wanted.n ? opendir("/proc") : NULL;
    for (struct dirent *e; d && !found.n && (e = readdir(d));)
        if (ascii_is_digit((unsigned char)e->d_name[0]) && has_one_of(e->d_name, &wanted))
            found = name_of(e->d_name, a);
    if (d)
        closedir(d);
    return found;
}
