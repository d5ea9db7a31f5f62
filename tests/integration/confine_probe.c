/*
 * confine_probe DIR KIND: go behind the fences of a process of this kind, whose data folder is DIR/data and whose
 * certificates are in DIR/certs, and say for each thing that a program gone bad would try what the kernel answered.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "rpc/rights.h"
#include "server/confine.h"

static const char *dir;

static const char *path(const char *name)
{
    static char out[400];
    snprintf(out, sizeof(out), "%s/%s", dir, name);
    return out;
}

static void say(const char *what, bool ok)
{
    printf("%s %s\n", what, ok ? "ok" : strerrorname_np(errno));
}

static void try_open(const char *what, const char *name, int flags)
{
    int fd = open(path(name), flags | O_CLOEXEC, 0600);
    say(what, fd >= 0);
    if (fd >= 0)
        close(fd);
}

static void try_connect(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path("other/.s.PGSQL.5432"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    say("connect-database", fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    if (fd >= 0)
        close(fd);
}

/* Without a fork handler of the sanitizer's: vfork's child only says why it could not. */
static void try_exec(const char *what, char *const args[])
{
    static volatile int failed;
    failed = 0;
    pid_t pid = vfork();
    if (pid == 0) {
        execv(args[0], args);
        failed = errno;
        _exit(0);
    }
    int status = 0;
    if (pid > 0)
        waitpid(pid, &status, 0);
    errno = pid < 0 ? errno : failed;
    say(what, errno == 0);
}

static void *nothing(void *arg)
{
    return arg;
}

static void try_thread(void)
{
    pthread_t t;
    errno = pthread_create(&t, NULL, nothing, NULL);
    say("thread", errno == 0);
    if (errno == 0)
        pthread_join(t, NULL);
}

static void try_calls(void)
{
    char byte = 0;
    struct {
        void *p;
        size_t n;
    } piece = {&byte, 1};
    say("keyctl", syscall(SYS_keyctl, 0, -3, 0) >= 0);
    say("mount", mount("none", path("other"), "tmpfs", 0, NULL) == 0);
    say("unshare", unshare(CLONE_FS) == 0);
    say("user-namespace", syscall(SYS_clone, CLONE_NEWUSER | 17 /* SIGCHLD */, 0, 0, 0, 0) > 0);
    say("bpf", syscall(SYS_bpf, 0, NULL, 0) >= 0);
    say("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), &piece, 1, &piece, 1, 0) >= 0);
    say("io_uring", syscall(SYS_io_uring_setup, 1, NULL) >= 0);
}

static bool configure(struct config *c, struct err *err)
{
    BUF(yaml, 1000);
    buf_printf(&yaml, "data: %s/data\ntls.certificates: ['%s/certs/c.pem %s/certs/c.key']\n", dir, dir, dir);
    config_init(c);
    return config_parse(c, "probe", buf_str(&yaml), err);
}

int main(int argc, char **argv)
{
    struct config c;
    struct err err = ERR_INIT;
    if (argc == 2 && strcmp(argv[1], "again") == 0)
        return 0;
    if (argc != 3)
        return 2;
    dir = argv[1];
    bool is_worker = !strcmp(argv[2], "worker"), is_frontend = !strcmp(argv[2], "frontend"),
         is_front_parent = !strcmp(argv[2], "frontend-parent");
    bool is_parent = !strcmp(argv[2], "parent") || is_front_parent;
    struct confine what = {.roles = is_worker || is_frontend || is_front_parent ? RPC_BY_FRONTEND : RPC_ROLES_ALL,
                           .is_worker = is_worker,
                           .starts_workers = is_parent};
    if (!configure(&c, &err) || !confine_become(&c, &err) || !confine_fence(&c, &what, &err) ||
        (is_frontend && !confine_sockets(&err))) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    try_open("read-database", "data/mail.db", O_RDONLY);
    try_open("read-certificate", "certs/c.key", O_RDONLY);
    try_open("read-other", "other/file", O_RDONLY);
    /* any file there that is no library's */
    say("read-settings", open("/etc/debian_version", O_RDONLY | O_CLOEXEC) >= 0);
    try_open("write-data", "data/new", O_WRONLY | O_CREAT);
    try_open("write-other", "other/new", O_WRONLY | O_CREAT);
    say("remove-other", unlink(path("other/file")) == 0);
    try_connect();
    try_exec("exec", (char *[]){(char[]){"/bin/true"}, NULL});
    try_exec("exec-self", (char *[]){(char[]){"/proc/self/exe"}, (char[]){"again"}, NULL});
    try_thread();
    try_calls();
    config_done(&c);
    return 0;
}
