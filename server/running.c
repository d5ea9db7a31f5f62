#include "server/running.h"

#include <stdio.h>
#include <unistd.h>

#include "net/addr.h"

/* The process that listens at the socket; 0 = none. */
static pid_t listener_of(const struct net_addr *addr)
{
    struct ucred peer = {0};
    socklen_t n = sizeof(peer);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    if (connect(fd, &addr->sa, addr->len) == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) != 0)
        peer.pid = 0;
    (void)close(fd);
    return peer.pid;
}

bool running_none(const struct config *c, struct err *err)
{
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 8];
    struct net_addr addr;
    str data = config_str(c, CFG_DATA);
    if (snprintf(path, sizeof(path), "unix:%.*s/control.sock", STR_ARG(data)) >= (int)sizeof(path))
        return true;               /* nobody can listen there */
    struct err ignored = ERR_INIT; /* likewise */
    pid_t pid = net_addr_parse(str_c(path), &addr, &ignored) ? listener_of(&addr) : 0;
    return !pid ||
           err_set(
               err, ERR_CONFLICT,
               "a thurn server with the folder '%.*s' is running (pid %d): use thurn account add and the other verbs, or stop it first",
               STR_ARG(data), (int)pid);
}
