/* dialog SCRIPT KIND=ADDRESS…: one protocol script against a server that runs already (run.py starts it). */
#include <stdio.h>

#include "base/log.h"
#include "fiber/fiber.h"
#include "protocol/script.h"

FIBER static struct stream *dial(void *arg, str kind)
{
    char **argv = arg;
    for (char **p = argv + 2; *p; p++) {
        struct err err = ERR_INIT;
        struct net_addr addr;
        str address = str_c(*p), name;
        if (!str_split(&address, '=', &name) || !str_eq(name, kind))
            continue;
        struct stream *s = net_addr_parse(address, &addr, &err) ? stream_connect(&addr, NULL, NULL, &err) : NULL;
        if (!s)
            fprintf(stderr, "%s: %s\n", *p, err.msg);
        return s;
    }
    return NULL;
}

static void run(void *arg)
{
    char **argv = arg;
    script_run(argv[1], &(struct script_hooks){.dial = dial, .arg = argv});
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "dialog SCRIPT KIND=ADDRESS...\n");
        return 2;
    }
    log_configure(LOG_ERROR, LOG_LOGFMT);
    return fiber_main(run, argv) ? 0 : 1;
}
