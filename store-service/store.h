/*
 * store.h: the store service of one process: mailboxes, messages, changes and bodies. store.proto is its contract.
 *
 * Every row of an account lives on one shard database; bodies live inline in it, in segment files of a folder, or as S3
 * objects. Once a day or so one process of the cluster calls Sweep: it makes partitions for the coming weeks, drops old
 * changes and keys, removes bodies without references, and compacts segments. The service keeps nothing that a restart
 * could lose: any process of the cluster can serve any account.
 */
#ifndef STORE_SERVICE_STORE_H
#define STORE_SERVICE_STORE_H

#include <protobuf-c/protobuf-c.h>

#include "data/redis.h"
#include "data/sql.h"
#include "fiber/disk.h"
#include "net/http_client.h"

struct store;

enum store_blob_kind {
    STORE_BLOBS_FOLDER,
    STORE_BLOBS_S3,
};
struct store_blob_opts {
    enum store_blob_kind kind;
    str folder;               /* FOLDER: where the segment files are; made when missing. One process at a time. */
    struct http_client *http; /* S3: outlives the store */
    str endpoint;             /* S3: "https://s3.example.net"; path-style addresses */
    str bucket, access_key, secret_key, region;
    str ca_file; /* S3: for a private CA; empty = the system's */
};

struct store_limits {
    uint64_t message_bytes;   /* of one body; default 50 MiB, at most 1 GiB */
    unsigned mailboxes;       /* of one account; default 10,000 */
    unsigned search_ms;       /* time of one Search call; default 200 */
    unsigned watch_linger_ms; /* how long a beacon waits for more; default 20 */
    unsigned change_days;     /* how long the change log is kept; default 60 */
    unsigned delivered_days;  /* how long delivery keys and request ids are kept; default 14 */
};

struct store_opts {
    struct sql_db *const *shards; /* number i + 1 is shards[i]; they outlive the store */
    unsigned n_shards;
    struct store_blob_opts blobs;
    str spool_folder;       /* for bodies while they arrive; default /tmp */
    struct disk_room *room; /* of the databases or bodies when they are files here; NULL = not looked at. Borrowed */
    struct redis *redis;    /* carries beacons between processes; NULL = one process only */
    struct store_limits limits; /* zero = default */
};

/* The strings of opts are copied. Opens the folder's newest segment and repairs its end. Suspends.
 * Errors: INVALID (options), UNAVAILABLE (the folder). */
FIBER struct store *store_new(const struct store_opts *opts, struct err *err) WARN_UNUSED;
/* The service object for local callers and rpc_server; lives as long as the store. */
ProtobufCService *store_service(struct store *s);
/* Waits for what is in flight. */
FIBER void store_free(struct store *s);

/* Bring one shard's schema up to date; see sql_migrate. */
FIBER bool store_migrate(struct sql_db *shard, bool dry_run, unsigned *applied, struct err *err) WARN_UNUSED;
/* Write into a migrated database which shard it is, from 1, or see that it is the same as ever: CONFLICT when it is
 * another's. A store that is given databases in another order makes no account in them and answers UNAVAILABLE. */
FIBER bool store_claim(struct sql_db *shard, uint32_t number, struct err *err) WARN_UNUSED;

#endif
