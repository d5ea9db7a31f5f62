/*
 * store_world.h: a store on a fresh database and a temporary folder, and short ways to call it. Every case ends with an
 * audit: counters, references and dictionaries against what is counted.
 */
#ifndef UNIT_STORE_WORLD_H
#define UNIT_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/store_calls.h"
#include "store-service/store.h"
#include "unit/testdb.h"

struct world {
    enum testdb_kind kind;
    struct sql_db *db;
    struct sql_db *db2; /* second shard, when n_shards is 2 */
    struct store *store;
    struct store_opts opts;
    ProtobufCService *service;
    struct arena a;
    Thurn__AccountRef ref;   /* account 1 */
    struct err err;          /* of the last call */
    struct rpc_source *body; /* for the next call */
    struct rpc_sink *out;
    char folder[128];
    unsigned n_shards;
    struct http_client *http;
};

/* Run fn on a fiber with a store. setup may change the options before the store is made. */
void world_run(enum testdb_kind kind, unsigned n_shards, void (*setup)(struct world *w), void (*fn)(struct world *w));
/* Close and open the store, as a restart does. */
void world_restart(struct world *w);
void world_audit(struct world *w);
Thurn__AccountRef world_account(struct world *w, int64_t id);

void world_call_init(struct world *w, struct rpc_call *c);
/* CALL(w, append, &q, &r): true on success; w->err says why not. */
#define CALL(w, method, q, r)                                                                                          \
    __extension__({                                                                                                    \
        struct rpc_call call_;                                                                                         \
        world_call_init((w), &call_);                                                                                  \
        bool ok_ = store_##method(&call_, (w)->service, (q), (r));                                                     \
        (w)->err = call_.err;                                                                                          \
        ok_;                                                                                                           \
    })
#define MUST(w, method, q, r)                                                                                          \
    do {                                                                                                               \
        if (!CALL(w, method, q, r))                                                                                    \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #method, (w)->err.msg);                                      \
    } while (0)
#define MUST_FAIL(w, method, q, r, want)                                                                               \
    do {                                                                                                               \
        assert_false(CALL(w, method, q, r));                                                                           \
        if ((w)->err.kind != (want))                                                                                   \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, err_kind_name((w)->err.kind), (w)->err.msg);                 \
    } while (0)

/* --- short forms for account 1 --- */
int64_t world_mailbox(struct world *w, const char *name);          /* id of a top-level mailbox; 0 = none */
Thurn__Mailbox *world_status(struct world *w, int64_t mailbox_id); /* as ListMailboxes has it */
int64_t world_create(struct world *w, const char *name);
uint32_t world_append(struct world *w, int64_t mailbox_id, const char *text, uint32_t flags);
bool world_deliver(struct world *w, const char *text, const char *key, uint32_t day, Thurn__DeliverReply__Result *out);
const Thurn__FetchReply *world_fetch(struct world *w, int64_t mailbox_id, bool parsed, bool raw);
/* "1:3,7" of a reply's ranges. */
const char *world_ranges(struct world *w, Thurn__Range *const *v, size_t n);
void world_expunge(struct world *w, int64_t mailbox_id, uint64_t first, uint64_t last);
bool world_flags(struct world *w, int64_t mailbox_id, uint64_t first, uint64_t last, Thurn__StoreOp op, uint32_t flags,
                 const char *keyword, const Thurn__StoreFlagsReply **r);
Thurn__Range **world_range(struct world *w, uint64_t first, uint64_t last);
int64_t world_sql(struct world *w, const char *sql); /* one number, asked of the database itself */
/* One statement that changes something behind the store's back; NULL: nothing in this database. */
void world_change(struct world *w, const char *sqlite, const char *pg);

/* A body to send, and one that is received. */
struct memory_source {
    struct rpc_source source;
    str rest;
    size_t piece;
};
void memory_source_init(struct memory_source *s, str content, size_t piece);
struct memory_sink {
    struct rpc_sink sink;
    struct buf buf;
};
void memory_sink_init(struct memory_sink *s);
/* Put a body; the reference, or NULL with w->err set. */
const Thurn__BlobRef *world_put(struct world *w, str content);
str world_read(struct world *w, int64_t mailbox_id, uint32_t uid, uint64_t offset, uint64_t length);
/* A message of about that many bytes that does not compress, different for each seed. */
str world_message(struct world *w, unsigned seed, size_t bytes);

/* Run each case for both databases. */
struct world_case {
    const char *name;
    void (*fn)(struct world *w);
};
int world_main(const struct world_case *cases, size_t n, unsigned n_shards, void (*setup)(struct world *w));

#endif
