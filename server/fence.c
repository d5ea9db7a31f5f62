#include "server/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <link.h>
#include <sched.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

/* --- files --- */

#define CREATE_RULESET 444 /* Landlock's three calls have one number on all machines */
#define ADD_RULE 445
#define RESTRICT_SELF 446
#define RULESET_VERSION 1u
#define RULE_PATH_BENEATH 1
/* Meant for a file; the others are for folders alone. */
#define OF_FILES (FENCE_EXECUTE | FENCE_WRITE_FILE | FENCE_READ_FILE | FENCE_TRUNCATE)

bool fence_begin(struct fence *f, uint64_t handled, struct err *err)
{
    f->fd = -1;
    long version = syscall(CREATE_RULESET, NULL, (size_t)0, RULESET_VERSION);
    if (version < 1) {
        log_warn("server.fence", KV_Z("missing", "Landlock"), KV_Z("reason", strerror(errno)));
        return false;
    }
    /* The first two releases of it know less: REFER came second, TRUNCATE third. */
    f->handled = handled & (version == 1   ? (UINT64_C(1) << 13) - 1
                            : version == 2 ? (UINT64_C(1) << 14) - 1
                                           : UINT64_MAX);
    f->fd = (int)syscall(CREATE_RULESET, &f->handled, sizeof(f->handled), 0u);
    return f->fd >= 0 || err_set(err, ERR_INTERNAL, "Landlock: %s", strerror(errno));
}

static void allow_fd(struct fence *f, int fd, uint64_t access)
{
    struct {
        uint64_t allowed;
        int32_t parent_fd;
    } __attribute__((packed)) rule = {access & f->handled, fd};
    struct stat st;
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rule.allowed &= OF_FILES;
    if (rule.allowed && syscall(ADD_RULE, f->fd, RULE_PATH_BENEATH, &rule, 0u) != 0)
        log_warn("server.fence", KV_Z("missing", "a rule of Landlock"),
                 KV_Z("reason", strerror(errno))); /* then less is allowed */
}

void fence_allow(struct fence *f, const char *path, uint64_t access)
{
    if (f->fd < 0)
        return;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return;
    allow_fd(f, fd, access);
    (void)close(fd);
}

static int find_interpreter(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    const char **out = arg;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_INTERP)
            *out = (const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr); // NOLINT: where the loader put it
    return 1;                                                                    /* the program itself is the first */
}

void fence_allow_self(struct fence *f)
{
    const char *interpreter = NULL;
    fence_allow(f, "/proc/self/exe", FENCE_EXECUTE | FENCE_READ_FILE);
    (void)dl_iterate_phdr(find_interpreter, &interpreter);
    if (interpreter)
        fence_allow(f, interpreter, FENCE_EXECUTE | FENCE_READ_FILE);
}

bool fence_end(struct fence *f, struct err *err)
{
    if (f->fd < 0)
        return true;
    bool ok = syscall(RESTRICT_SELF, f->fd, 0u) == 0 || err_set(err, ERR_INTERNAL, "Landlock: %s", strerror(errno));
    (void)close(f->fd);
    f->fd = -1;
    return ok;
}

/* --- system calls --- */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef ARCH

static const int programs[] = {SYS_execve, SYS_execveat};

// clang-format off
static const int unneeded[] = {
    /* into other processes */
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_perf_event_open, SYS_bpf, SYS_userfaultfd,
#ifndef THURN_SANITIZED                                                                                             /* whose leak check traces itself */
    SYS_ptrace,
#endif
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare, SYS_name_to_handle_at, SYS_open_by_handle_at, /* other views of files */
#ifdef SYS_fsopen
    SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_move_mount, SYS_open_tree,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load,                                           /* the kernel and the machine */
    SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_sethostname, SYS_setdomainname,
    SYS_syslog, SYS_quotactl, SYS_personality, SYS_vhangup,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef __x86_64__
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
    SYS_add_key, SYS_request_key, SYS_keyctl,                                                                       /* the kernel's keys */
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,                                                  /* calls past this list */
#endif
};
// clang-format on

#define CALLS_MAX 100u
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define REFUSE ANSWER(SECCOMP_RET_ERRNO | EPERM)
/* The next statement is for this value alone. */
#define IF_IS(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, 1)
/* New user, mount, process, network … namespaces: a way to be root in one's own world. */
#define NAMESPACES                                                                                                     \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* In all threads: the kernel says so, or names one that could not have it. EPERM: a fence around us (of a container, of
 * systemd) keeps the call itself. */
static bool install(struct sock_filter *code, size_t n, struct err *err)
{
    struct sock_fprog program = {.len = (unsigned short)n, .filter = code};
    long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    if (r == 0)
        return true;
    if (r < 0 && (errno == ENOSYS || errno == EINVAL || errno == EPERM)) {
        log_warn("server.fence", KV_Z("missing", "seccomp"), KV_Z("reason", strerror(errno)));
        return true;
    }
    return err_set(err, ERR_INTERNAL, "seccomp: %s", r < 0 ? strerror(errno) : "a thread has other filters");
}

static size_t begin(struct sock_filter *out)
{
    const struct sock_filter head[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        ANSWER(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
#ifdef __x86_64__
        /* The same calls by other numbers. */
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
        ANSWER(SECCOMP_RET_KILL_PROCESS),
#endif
    };
    memcpy(out, head, sizeof(head));
    return ARRAY_LEN(head);
}

static size_t refuse(struct sock_filter *out, const int *calls, size_t n_calls)
{
    for (size_t i = 0; i < n_calls; i++) {
        out[2 * i] = (struct sock_filter)IF_IS(calls[i]);
        out[2 * i + 1] = (struct sock_filter)REFUSE;
    }
    return 2 * n_calls;
}

bool fence_calls(bool no_programs, struct err *err)
{
    struct sock_filter code[2 * CALLS_MAX];
    const struct sock_filter tail[] = {
        /* its flags are out of reach here: the C library goes by clone then */
        IF_IS(SYS_clone3),
        ANSWER(SECCOMP_RET_ERRNO | ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1),
        REFUSE,
        ANSWER(SECCOMP_RET_ALLOW),
    };
    static_assert(ARRAY_LEN(unneeded) + ARRAY_LEN(programs) + 10 < CALLS_MAX, "room");
    size_t n = begin(code);
    n += refuse(code + n, unneeded, ARRAY_LEN(unneeded));
    if (no_programs)
        n += refuse(code + n, programs, ARRAY_LEN(programs));
    memcpy(code + n, tail, sizeof(tail));
    return install(code, n + ARRAY_LEN(tail), err);
}

#ifdef SYS_io_uring_setup
bool fence_no_rings(struct err *err)
{
    static const int rings[] = {SYS_io_uring_setup};
    struct sock_filter code[16];
    size_t n = begin(code);
    n += refuse(code + n, rings, ARRAY_LEN(rings));
    code[n++] = (struct sock_filter)ANSWER(SECCOMP_RET_ALLOW);
    return install(code, n, err);
}
#else
bool fence_no_rings(struct err *err)
{
    (void)err;
    return true; /* this C library cannot make any */
}
#endif

bool fence_no_unix_sockets(struct err *err)
{
    struct sock_filter code[16];
    const struct sock_filter tail[] = {
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
        LOAD(args[0]),
        IF_IS(AF_UNIX),
        REFUSE,
        ANSWER(SECCOMP_RET_ALLOW),
    };
    size_t n = begin(code);
    memcpy(code + n, tail, sizeof(tail));
    return install(code, n + ARRAY_LEN(tail), err);
}

#else

bool fence_no_rings(struct err *err)
{
    (void)err;
    return true; /* fence_calls says it */
}

bool fence_calls(bool no_programs, struct err *err)
{
    (void)no_programs, (void)err;
    log_warn("server.fence", KV_Z("missing", "seccomp"), KV_Z("reason", "not for this machine's processor"));
    return true;
}

bool fence_no_unix_sockets(struct err *err)
{
    (void)err;
    return true; /* said already */
}

#endif
