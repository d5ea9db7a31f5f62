#include "unit/redis_peer.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/needs.h"

#define SERVER "/usr/bin/redis-server"

bool redis_peer_make(struct redis_peer *p)
{
    *p = (struct redis_peer){.dir = "/tmp/thurn-redis-XXXXXX"};
    if (!needs("redis", access(SERVER, X_OK) == 0, "install redis-server"))
        return false;
    if (!mkdtemp(p->dir))
        panic("no folder %s", p->dir);
    (void)snprintf(p->socket, sizeof(p->socket), "%s/socket", p->dir);
    (void)snprintf(p->url, sizeof(p->url), "unix:%s", p->socket);
    return true;
}

static bool answers(const struct redis_peer *p)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", p->socket);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return ok;
}

void redis_peer_start(struct redis_peer *p)
{
    (void)unlink(p->socket); /* of one that was killed */
    p->pid = fork();
    if (p->pid == 0) {
        execl(SERVER, "redis-server", "--port", "0", "--unixsocket", p->socket, "--save", "", "--dir", p->dir,
              "--logfile", "/dev/null", (char *)NULL);
        _exit(1);
    }
    for (int i = 0; i < 10000 && !answers(p); i++)
        usleep(1000);
}

void redis_peer_kill(struct redis_peer *p)
{
    if (p->pid <= 0)
        return;
    kill(p->pid, SIGKILL);
    (void)waitpid(p->pid, NULL, 0); /* it is ours, and dead */
    p->pid = 0;
}

void redis_peer_done(struct redis_peer *p)
{
    redis_peer_kill(p);
    (void)unlink(p->socket);
    (void)rmdir(p->dir);
}
