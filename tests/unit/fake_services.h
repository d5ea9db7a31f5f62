/*
 * fake_services.h: auth, store and queue in memory, for tests of front-ends: settable answers, failures, and what was
 * asked.
 */
#ifndef UNIT_FAKE_SERVICES_H
#define UNIT_FAKE_SERVICES_H

#include "base/arena.h"
#include "base/buf.h"
#include "proto/auth.pb-c.h"
#include "proto/queue.pb-c.h"
#include "proto/store.pb-c.h"
#include "rpc/call.h"

#define FAKE_MAX 64

/* Someone, or (targets set) an alias: addresses with a space between. */
struct fake_address {
    const char *address, *password, *targets;
    int64_t account_id, tenant_id;
    Thurn__AccountState state;
    int64_t version;       /* of the credentials; 1 at first, 0: may not be logged in */
    enum err_kind deliver; /* what Deliver says of this account */
};
struct fake_message {   /* what the store or the queue was given */
    struct buf content; /* prefix, then body */
    size_t prefix_n;
    struct buf text; /* accounts, or "sender>rcpt,rcpt" */
    unsigned char key[32];
    uint32_t day;
    bool was_blob;
};
struct fake_fail {
    enum err_kind kind; /* of calls of this method; ERR_NONE = works */
    unsigned times;     /* so many; 0 = always */
    bool after;         /* the call takes effect all the same */
    int64_t delay_ms;   /* before the answer */
    unsigned calls;     /* counted */
};
struct fake_services {
    Thurn__Auth_Service auth;
    Thurn__Store_Service store;
    Thurn__Queue_Service queue;
    struct fake_address addresses[FAKE_MAX];
    size_t n_addresses;
    const char *domains; /* ours, with a space between */
    struct fake_fail authenticate, credentials, resolve, may_send_as, take, deliver, put_blob, enqueue;
    const char *refused_limit;
    struct fake_message delivered[FAKE_MAX], queued[FAKE_MAX], blobs[FAKE_MAX];
    size_t n_delivered, n_queued, n_blobs; /* of the first FAKE_MAX the content is kept */
    size_t blob_stop_at;                   /* PutBlob fails when it has read so much; 0 = never */
    struct arena arena;                    /* of the last Enqueue */
    const Thurn__EnqueueRequest *last_enqueue;
};
void fake_services_init(struct fake_services *f, const char *domains);
void fake_services_done(struct fake_services *f);
/* Strings are borrowed. */
struct fake_address *fake_account(struct fake_services *f, const char *address, const char *password,
                                  int64_t account_id);
struct fake_address *fake_alias(struct fake_services *f, const char *address, const char *targets);

#endif
