/*
 * smtp_rig.h: an SMTP server over fake services, and a client that talks to it from a script.
 *
 * Everything runs on one fiber runtime; rig_run calls the test on a fiber. A script is lines "C: text" (sent with CRLF)
 * and "S: pattern" (a reply line must begin so; "S! pattern": the connection then closes). Consecutive C lines are sent
 * at once.
 */
#ifndef UNIT_SMTP_RIG_H
#define UNIT_SMTP_RIG_H

#include "unit/base_test.h"

#include "frontend/smtp/smtp.h"
#include "net/stream.h"
#include "unit/fake_services.h"

enum rig_kind { RIG_MX, RIG_SUBMISSION, RIG_LMTP };

struct rig {
    struct fake_services fake;
    struct smtp_opts opts;
    struct smtp_server *server;
    struct stream *client, *peer; /* our end, and the server's while its session lives */
    const char *peer_ip;          /* who we seem to be; default 192.0.2.1 */
    void (*test)(struct rig *r);
};
/* Run test with a fresh rig; prepare (may be NULL) may change opts and fake before the server is made. */
void rig_run(void (*prepare)(struct rig *r), void (*test)(struct rig *r));

/* A cmocka test, test_<name>, which runs name(rig) on a fresh rig with metrics at zero. */
#define RIG_TEST(name, prepare)                                                                                        \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        metrics_reset();                                                                                               \
        rig_run(prepare, name);                                                                                        \
    }
FIBER void rig_connect(struct rig *r, enum rig_kind kind);
FIBER void rig_close(struct rig *r);
/* Close the client and wait until the server has no session. */
FIBER void rig_end(struct rig *r);
FIBER void rig_send(struct rig *r, str bytes);
/* Wait until the server has read all that was sent. */
FIBER void rig_settle(struct rig *r);
/* The next reply line, without its end; in a static buffer. Empty: closed. */
FIBER str rig_line(struct rig *r);
/* All lines of one reply; the last one is returned. */
FIBER str rig_reply(struct rig *r);
FIBER void rig_expect(struct rig *r, const char *prefix);
FIBER void rig_expect_end(struct rig *r);
FIBER void rig_talk(struct rig *r, const char *script);
/* rig_connect, the greeting, and a hello. */
FIBER void rig_hello(struct rig *r, enum rig_kind kind);

#endif
