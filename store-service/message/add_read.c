#include "base/num.h"
#include "store-service/account/op.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/add_work.h"
#include "store-service/message/keyword.h"

// clang-format off
static const struct sql_stmt get_inboxes = {
    "s_get_inboxes", "i", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("m.") " FROM s_account a JOIN s_mailbox m ON m.account_id = a.account_id AND"
    " m.mailbox_id = a.inbox_id WHERE a.account_id = ?1",
    "SELECT " MAILBOX_COLS("m.") " FROM s_account a JOIN s_mailbox m ON m.account_id = a.account_id AND"
    " m.mailbox_id = a.inbox_id WHERE a.account_id = ANY ($1)",
    true};
static const struct sql_stmt get_mailboxes = {
    "s_get_mailboxes", "ii", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ?1 AND mailbox_id = ?2 AND parent_id >= 0",
    "SELECT " MAILBOX_COLS("m.") " FROM {rows} AS v (a, b) JOIN s_mailbox m ON m.account_id = v.a AND"
    " m.mailbox_id = v.b AND m.parent_id >= 0",
    true};
static const struct sql_stmt find_delivered = {
    "s_find_delivered", "ib", "ibii",
    "SELECT day, key, mailbox_id, uid FROM s_delivered WHERE day = ?1 AND key = ?2",
    "SELECT d.day, d.key, d.mailbox_id, d.uid FROM {rows} AS v (day, key) JOIN s_delivered d ON d.day = v.day AND"
    " d.key = v.key",
    true};
static const struct sql_stmt find_threads = {
    "s_find_threads", "ii", "iii",
    "SELECT account_id, key, thread_id FROM s_thread_key WHERE account_id = ?1 AND key = ?2",
    "SELECT t.account_id, t.key, t.thread_id FROM {rows} AS v (a, key) JOIN s_thread_key t ON t.account_id = v.a AND"
    " t.key = v.key",
    true};
static const struct sql_stmt lock_blobs = {
    "s_lock_blobs", "ib", "iib",
    "SELECT blob_id, tenant_id, hash FROM s_blob WHERE tenant_id = ?1 AND hash = ?2 AND is_ready = 1",
    "SELECT b.blob_id, b.tenant_id, b.hash FROM {rows} AS v (t, hash) JOIN s_blob b ON b.tenant_id = v.t AND"
    " b.hash = v.hash AND b.is_ready = 1 ORDER BY b.blob_id FOR UPDATE OF b",
    true};
// clang-format on

/* --- what the requests speak of --- */

static int compare_acct(const void *a, const void *b)
{
    int64_t x = ((const struct acct *)a)->ref->account_id, y = ((const struct acct *)b)->ref->account_id;
    return x < y ? -1 : x > y;
}

struct acct *work_acct(struct work *w, int64_t account_id)
{
    size_t lo = 0, hi = w->n_accts;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int64_t id = w->accts[mid].ref->account_id;
        if (id == account_id)
            return &w->accts[mid];
        if (id < account_id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static void collect_accounts(struct work *w)
{
    w->accts = arena_array(w->a, struct acct, w->t->n_adds);
    size_t n = 0, out = 0;
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++)
            w->accts[n++].ref = w->t->requests[i]->v[k].ref;
    qsort(w->accts, n, sizeof *w->accts, compare_acct);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || w->accts[i].ref->account_id != w->accts[out - 1].ref->account_id)
            w->accts[out++] = w->accts[i];
    w->n_accts = out;
    for (size_t i = 0; i < out; i++)
        w->accts[i].boxes.arena = w->a;
}

static str slot_key(struct work *w, int64_t tenant_id, const unsigned char *hash)
{
    char *p = arena_alloc(w->a, 8 + BLOB_HASH_SIZE);
    memcpy(p, &tenant_id, 8);
    memcpy(p + 8, hash, BLOB_HASH_SIZE);
    return str_n(p, 8 + BLOB_HASH_SIZE);
}

struct slot *work_slot(struct work *w, const struct add *ad)
{
    return map_get(&w->slot_map, slot_key(w, ad->ref->tenant_id, ad->content->hash));
}

static int compare_slots(const void *a, const void *b)
{
    const struct slot *x = a, *y = b;
    if (x->tenant_id != y->tenant_id)
        return x->tenant_id < y->tenant_id ? -1 : 1;
    return memcmp(x->content->hash, y->content->hash, BLOB_HASH_SIZE);
}

/* In the order of their hashes: two batches that insert the same bodies then never wait for each other in a circle. */
static void collect_slots(struct work *w)
{
    struct slot *all = arena_array(w->a, struct slot, w->t->n_adds);
    size_t n = 0;
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++) {
            const struct add *ad = &w->t->requests[i]->v[k];
            all[n++] = (struct slot){.tenant_id = ad->ref->tenant_id, .content = ad->content};
        }
    qsort(all, n, sizeof *all, compare_slots);
    w->slots = all;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || compare_slots(&all[i], &all[w->n_slots - 1]) != 0)
            all[w->n_slots++] = all[i];
        else if (all[i].content->is_inline) /* whoever brings the content along will do */
            all[w->n_slots - 1].content = all[i].content;
    for (size_t i = 0; i < w->n_slots; i++)
        map_put(&w->slot_map, slot_key(w, all[i].tenant_id, all[i].content->hash), &all[i]);
}

/* --- the first round trip --- */

static void queue_accounts(struct work *w)
{
    int64_t *ids = arena_array(w->a, int64_t, w->n_accts);
    struct sql_value *inbox = arena_array(w->a, struct sql_value, w->n_accts);
    int64_t *all = arena_array(w->a, int64_t, w->n_accts), *kw = arena_array(w->a, int64_t, w->n_accts);
    size_t n_inbox = 0, n_all = 0, n_kw = 0;
    for (size_t i = 0; i < w->n_accts; i++) {
        struct acct *ac = &w->accts[i];
        ids[i] = ac->ref->account_id;
        if (ac->wants_all)
            all[n_all++] = ids[i];
        else if (ac->wants_inbox)
            inbox[n_inbox++] = sql_i(ids[i]);
        if (ac->wants_keywords)
            kw[n_kw++] = ids[i];
    }
    account_queue_lock(w->tx, ids, w->n_accts, &w->r_accounts);
    sql_queue(w->tx, &get_inboxes, inbox, n_inbox, &w->r_inboxes);
    mailbox_queue_all(w->tx, all, n_all, &w->r_all);
    keywords_queue_load(w->tx, kw, n_kw, &w->r_keywords);
}

bool work_queue_keys(struct work *w, bool refused_only)
{
    struct sql_value *keys = arena_array(w->a, struct sql_value, w->t->n_adds * 2);
    size_t n = 0;
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++) {
            const struct add *ad = &w->t->requests[i]->v[k];
            if (!ad->key.n || (refused_only && !err_is_set(&ad->err)))
                continue;
            keys[n * 2] = sql_i(ad->day);
            keys[n++ * 2 + 1] = sql_s(ad->key);
        }
    sql_queue(w->tx, &find_delivered, keys, n, &w->r_delivered);
    return n > 0;
}

void work_queue_reads(struct work *w)
{
    collect_accounts(w);
    collect_slots(w);
    size_t n = w->t->n_adds;
    struct sql_value *boxes = arena_array(w->a, struct sql_value, n * 2);
    struct sql_value *named = arena_array(w->a, struct sql_value, w->t->n_requests * 2);
    struct sql_value *reqs = arena_array(w->a, struct sql_value, w->t->n_requests * 3);
    struct sql_value *threads = arena_array(w->a, struct sql_value, w->t->n_keys * 2);
    struct sql_value *blobs = arena_array(w->a, struct sql_value, w->n_slots * 2);
    size_t n_boxes = 0, n_named = 0, n_reqs = 0, n_threads = 0;
    for (size_t i = 0; i < w->t->n_requests; i++) {
        const struct add_request *rq = w->t->requests[i];
        if (rq->request_id.n) {
            reqs[n_reqs * 3] = sql_i(rq->v[0].ref->account_id);
            reqs[n_reqs * 3 + 1] = sql_s(rq->request_id);
            reqs[n_reqs++ * 3 + 2] = sql_i(w->now_unix / DAY_S - ONCE_DAYS);
        }
        if (rq->v[0].target == ADD_TO_NAME) {
            named[n_named * 2] = sql_i(rq->v[0].ref->account_id);
            named[n_named++ * 2 + 1] = sql_s(rq->v[0].name);
        }
        for (size_t k = 0; k < rq->n; k++) {
            const struct add *ad = &rq->v[k];
            struct acct *ac = work_acct(w, ad->ref->account_id);
            ac->wants_all |= ad->target == ADD_TO_PATH || ad->target == ADD_TO_ROLE;
            ac->wants_inbox |= ad->target == ADD_TO_INBOX;
            ac->wants_keywords |= ad->n_keywords > 0;
            for (size_t t = 0; t < ad->content->n_thread_keys; t++) {
                threads[n_threads * 2] = sql_i(ad->ref->account_id);
                threads[n_threads++ * 2 + 1] = sql_i(ad->content->thread_keys[t]);
            }
        }
    }
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++) {
            const struct add *ad = &w->t->requests[i]->v[k];
            if (ad->target != ADD_TO_ID || work_acct(w, ad->ref->account_id)->wants_all)
                continue;
            boxes[n_boxes * 2] = sql_i(ad->ref->account_id);
            boxes[n_boxes++ * 2 + 1] = sql_i(ad->mailbox_id);
        }
    for (size_t i = 0; i < w->n_slots; i++) {
        blobs[i * 2] = sql_i(w->slots[i].tenant_id);
        blobs[i * 2 + 1] = sql_s(str_n(w->slots[i].content->hash, BLOB_HASH_SIZE));
    }
    queue_accounts(w);
    sql_queue(w->tx, &get_mailboxes, boxes, n_boxes, &w->r_boxes);
    sql_queue(w->tx, &mailbox_find, named, n_named, &w->r_named);
    if (w->t->looks_up_keys)
        work_queue_keys(w, false);
    sql_queue(w->tx, &once_find, reqs, n_reqs, &w->r_requests);
    sql_queue(w->tx, &find_threads, threads, n_threads, &w->r_threads);
    sql_queue(w->tx, &lock_blobs, blobs, w->n_slots, &w->r_blobs);
}

uint64_t work_thread_key(int64_t account_id, int64_t key)
{
    return (uint64_t)account_id * 0x9e3779b97f4a7c15ull ^ (uint64_t)key;
}

/* first_col: where the columns of a mailbox begin. */
static void take_boxes(struct work *w, const struct sql_result *r, size_t first_col)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        struct mailbox_row row = mailbox_of_cols(sql_at(r, i, first_col));
        struct acct *ac = work_acct(w, row.account_id);
        if (!mailbox_list_id(&ac->boxes, row.mailbox_id))
            mailbox_list_add(&ac->boxes, row);
    }
}

bool work_take_reads(struct work *w)
{
    struct add_tx *t = w->t;
    for (size_t i = 0; i < w->r_accounts.n_rows; i++) {
        struct account_row row = account_take(&w->r_accounts, i);
        struct acct *ac = work_acct(w, row.account_id);
        ac->row = row;
        ac->is_found = true;
    }
    t->to_prepare = arena_array(t->arena, const Thurn__AccountRef *, w->n_accts);
    for (size_t i = 0; i < w->n_accts; i++)
        if (!w->accts[i].is_found ||
            (account_needs_prepare(&w->accts[i].row) && account_is_ours(&w->accts[i].row, w->accts[i].ref)))
            t->to_prepare[t->n_to_prepare++] = w->accts[i].ref;
    if (t->n_to_prepare)
        return false;
    take_boxes(w, &w->r_inboxes, 0);
    take_boxes(w, &w->r_boxes, 0);
    take_boxes(w, &w->r_named, 1);
    take_boxes(w, &w->r_all, 0);
    for (size_t i = 0; i < w->n_accts; i++) {
        struct acct *ac = &w->accts[i];
        ac->boxes.n_stored = ac->boxes.n;
        if (ac->wants_keywords)
            ac->keywords = keywords_take(w->a, &w->r_keywords, ac->ref->account_id);
    }
    for (size_t i = 0; i < w->r_threads.n_rows; i++)
        map64_put(&w->threads, work_thread_key(sql_at(&w->r_threads, i, 0)->i, sql_at(&w->r_threads, i, 1)->i),
                  (void *)(uintptr_t)sql_at(&w->r_threads, i, 2)->i);
    for (size_t i = 0; i < w->r_blobs.n_rows; i++) {
        str hash = sql_at(&w->r_blobs, i, 2)->s;
        struct slot *s =
            map_get(&w->slot_map, slot_key(w, sql_at(&w->r_blobs, i, 1)->i, (const unsigned char *)hash.p));
        s->blob_id = sql_at(&w->r_blobs, i, 0)->i;
        s->is_stored = true;
    }
    return true;
}
