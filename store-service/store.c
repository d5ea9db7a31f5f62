#include "store-service/store.h"

#include "fiber/work.h"
#include "store-service/blob/backend.h"
#include "store-service/mailbox/leaving.h"
#include "store-service/message/add.h"
#include "store-service/watch/beacon.h"
#include "store-service/search/search.h"

static void set_default(unsigned *value, unsigned def)
{
    if (!*value)
        *value = def;
}

static bool set_limits(struct store *s, const struct store_limits *given, struct err *err)
{
    struct store_limits *l = &s->limits;
    *l = *given;
    if (!l->message_bytes)
        l->message_bytes = (uint64_t)50 << 20;
    set_default(&l->mailboxes, 10000);
    set_default(&l->search_ms, 200);
    set_default(&l->watch_linger_ms, 20);
    set_default(&l->change_days, 60);
    set_default(&l->delivered_days, 14);
    if (l->message_bytes > (uint64_t)1 << 30)
        return err_set(err, ERR_INVALID, "the largest message may be 1 GiB");
    return true;
}

struct store *store_new(const struct store_opts *opts, struct err *err)
{
    struct store *s = xnew(struct store);
    s->magic = STORE_MAGIC;
    service_init(s);
    bool ok = set_limits(s, &opts->limits, err);
    if (ok && opts->n_shards == 0)
        ok = err_set(err, ERR_INVALID, "the store needs a database");
    if (ok)
        s->blobs = opts->blobs.kind == STORE_BLOBS_S3 ? blob_s3_new(&opts->blobs, err)
                                                      : blob_segment_new(opts->blobs.folder, err);
    if (!s->blobs) {
        xfree(s);
        return NULL;
    }
    s->room = opts->room;
    s->spool_folder = str_dup(str_empty(opts->spool_folder) ? S("/tmp") : opts->spool_folder);
    s->n_shards = opts->n_shards;
    s->shards = xcalloc(opts->n_shards, sizeof *s->shards);
    for (unsigned i = 0; i < opts->n_shards; i++) {
        s->shards[i] = (struct shard){.store = s, .db = opts->shards[i], .number = i + 1};
        s->shards[i].adds = add_batch_new(&s->shards[i]);
        fiber_cond_init(&s->shards[i].left);
    }
    s->parsed = parsed_cache_new();
    s->searcher = search_lane_new();
    s->beacons = beacons_new(opts->redis, s->limits.watch_linger_ms);
    return s;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    CHECK(s, STORE_MAGIC);
    for (unsigned i = 0; i < s->n_shards; i++) {
        mailbox_leaving_stop(&s->shards[i]);
        batch_free(s->shards[i].adds);
    }
    beacons_free(s->beacons);
    work_lane_free(s->searcher);
    parsed_cache_free(s->parsed);
    s->blobs->free(s->blobs);
    xfree(s->shards);
    xfree(s->spool_folder);
    s->magic = 0;
    xfree(s);
}
