#include "server/metrics_process.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void head(struct buf *out, const char *name, const char *kind, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void print_memory(struct buf *out)
{
    unsigned long long size, resident;
    FILE *f = fopen("/proc/self/statm", "re");
    bool ok = f && fscanf(f, "%llu %llu", &size, &resident) == 2;
    if (f)
        (void)fclose(f); /* only read */
    unsigned long long page = (unsigned long long)sysconf(_SC_PAGESIZE);
    head(out, "process_resident_memory_bytes", "gauge", "resident memory");
    if (ok)
        buf_printf(out, "process_resident_memory_bytes %llu\n", resident * page);
    head(out, "process_virtual_memory_bytes", "gauge", "virtual memory; of fibers' stacks most is never touched");
    if (ok)
        buf_printf(out, "process_virtual_memory_bytes %llu\n", size * page);
}

static void print_cpu(struct buf *out)
{
    struct rusage u;
    head(out, "process_cpu_seconds_total", "counter", "processor time, user and system");
    if (getrusage(RUSAGE_SELF, &u) == 0)
        buf_printf(out, "process_cpu_seconds_total %.3f\n",
                   (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
}

static void print_descriptors(struct buf *out)
{
    struct rlimit limit;
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
        n += e->d_name[0] != '.';
    if (d)
        (void)closedir(d); /* only read */
    head(out, "process_open_fds", "gauge", "open file descriptors");
    if (d)
        buf_printf(out, "process_open_fds %u\n", n - 1); /* without the one that looked */
    head(out, "process_max_fds", "gauge", "how many there may be");
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        buf_printf(out, "process_max_fds %llu\n", (unsigned long long)limit.rlim_cur);
}

void metrics_process_print(int64_t start_unix, struct buf *out)
{
    print_memory(out);
    print_cpu(out);
    print_descriptors(out);
    head(out, "process_start_time_seconds", "gauge", "since when it runs, Unix time");
    buf_printf(out, "process_start_time_seconds %lld\n", (long long)start_unix);
}
