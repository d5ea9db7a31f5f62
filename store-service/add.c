#include "store-service/add.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/num.h"
#include "store-service/message.h"

#define BATCH_REQUESTS 128u
#define QUEUE_MAX 5000u
#define COMMITTERS 2u     /* the second when a full batch waits, or when a locked account holds the first up */
#define TRIES 4
#define UID_MAX 0xfffffffeu

static const struct sql_stmt get_inboxes = {
    "s_get_inboxes", "i", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("m.") " FROM s_account a JOIN s_mailbox m ON m.account_id = a.account_id AND"
    " m.mailbox_id = a.inbox_id WHERE a.account_id = ?1",
    "SELECT " MAILBOX_COLS("m.") " FROM s_account a JOIN s_mailbox m ON m.account_id = a.account_id AND"
    " m.mailbox_id = a.inbox_id WHERE a.account_id = ANY ($1)",
    true};
static const struct sql_stmt get_mailboxes = {
    "s_get_mailboxes", "ii", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ?1 AND mailbox_id = ?2",
    "SELECT " MAILBOX_COLS("m.") " FROM unnest($1, $2) AS v (a, b) JOIN s_mailbox m ON m.account_id = v.a AND"
    " m.mailbox_id = v.b",
    true};
static const struct sql_stmt find_delivered = {
    "s_find_delivered", "ib", "ibii",
    "SELECT day, key, mailbox_id, uid FROM s_delivered WHERE day = ?1 AND key = ?2",
    "SELECT d.day, d.key, d.mailbox_id, d.uid FROM unnest($1, $2) AS v (day, key) JOIN s_delivered d ON d.day = v.day AND"
    " d.key = v.key",
    true};
static const struct sql_stmt find_requests = {
    "s_find_requests", "ibi", "ibb",
    "SELECT account_id, request_id, reply FROM s_request WHERE account_id = ?1 AND request_id = ?2 AND day >= ?3",
    "SELECT r.account_id, r.request_id, r.reply FROM unnest($1, $2, $3) AS v (a, id, day) JOIN s_request r ON"
    " r.account_id = v.a AND r.request_id = v.id AND r.day >= v.day",
    true};
static const struct sql_stmt find_threads = {
    "s_find_threads", "ii", "iii",
    "SELECT account_id, key, thread_id FROM s_thread_key WHERE account_id = ?1 AND key = ?2",
    "SELECT t.account_id, t.key, t.thread_id FROM unnest($1, $2) AS v (a, key) JOIN s_thread_key t ON t.account_id = v.a AND"
    " t.key = v.key",
    true};
static const struct sql_stmt lock_blobs = {
    "s_lock_blobs", "ib", "iib",
    "SELECT blob_id, tenant_id, hash FROM s_blob WHERE tenant_id = ?1 AND hash = ?2 AND is_ready = 1",
    "SELECT b.blob_id, b.tenant_id, b.hash FROM unnest($1, $2) AS v (t, hash) JOIN s_blob b ON b.tenant_id = v.t AND"
    " b.hash = v.hash AND b.is_ready = 1 ORDER BY b.blob_id FOR UPDATE OF b",
    true};
static const struct sql_stmt insert_blobs = {
    "s_insert_blobs", "iibiiiii", "",
    "INSERT INTO s_blob (blob_id, tenant_id, hash, size, tier, codec, is_ready, seg, off, stored_len, refs, zero_since,"
    " hold_until) VALUES (?1, ?2, ?3, ?4, 0, ?5, 1, 0, 0, ?6, ?7, 0, ?8)",
    "INSERT INTO s_blob (blob_id, tenant_id, hash, size, tier, codec, is_ready, seg, off, stored_len, refs, zero_since,"
    " hold_until) SELECT c1, c2, c3, c4, 0, c5, 1, 0, 0, c6, c7, 0, c8 FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
    " AS v (c1, c2, c3, c4, c5, c6, c7, c8)",
    true};
static const struct sql_stmt insert_inlines = {
    "s_insert_inlines", "ib", "", "INSERT INTO s_blob_inline (blob_id, data) VALUES (?1, ?2)",
    "INSERT INTO s_blob_inline (blob_id, data) SELECT * FROM unnest($1, $2)", true};
static const struct sql_stmt ref_blobs = {
    "s_ref_blobs", "ii", "", "UPDATE s_blob SET refs = refs + ?2 WHERE blob_id = ?1",
    "UPDATE s_blob b SET refs = refs + v.n FROM unnest($1, $2) AS v (blob_id, n) WHERE b.blob_id = v.blob_id", true};
static const struct sql_stmt insert_emails = {
    "s_insert_emails", "iiiiiibb", "",
    "INSERT INTO s_email (account_id, email_id, thread_id, blob_id, size, sent_unix, prefix, parsed)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    "INSERT INTO s_email (account_id, email_id, thread_id, blob_id, size, sent_unix, prefix, parsed)"
    " SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)",
    true};
static const struct sql_stmt insert_threads = {
    "s_insert_threads", "iii", "",
    "INSERT INTO s_thread_key (account_id, key, thread_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    "INSERT INTO s_thread_key (account_id, key, thread_id) SELECT * FROM unnest($1, $2, $3) ON CONFLICT DO NOTHING", true};
static const struct sql_stmt insert_delivered = {
    "s_insert_delivered", "ibiii", "",
    "INSERT INTO s_delivered (day, key, account_id, mailbox_id, uid) VALUES (?1, ?2, ?3, ?4, ?5)",
    "INSERT INTO s_delivered (day, key, account_id, mailbox_id, uid) SELECT * FROM unnest($1, $2, $3, $4, $5)", true};
static const struct sql_stmt insert_requests = {
    "s_insert_requests", "ibib", "",
    "INSERT INTO s_request (account_id, request_id, day, reply) VALUES (?1, ?2, ?3, ?4)",
    "INSERT INTO s_request (account_id, request_id, day, reply) SELECT * FROM unnest($1, $2, $3, $4)", true};

/* --- what the body works on --- */

struct box { /* a mailbox of an account in this batch, beside its row in the account's list */
    struct change_item *items;
    size_t n, cap;
    int64_t modseq; /* of the change row that is being filled */
    bool is_touched;
};
struct acct {
    const Thurn__AccountRef *ref;
    bool is_found, wants_all, wants_inbox, wants_keywords;
    struct account_row row;
    struct mailbox_list boxes;
    struct box *states; /* as many as boxes.cap when made */
    size_t n_states;
    struct keywords keywords;
};
struct slot { /* one body that this batch refers to */
    int64_t tenant_id, blob_id, refs;
    const struct content *content;
    bool is_stored;
};
/* Rows to be inserted, as flat values; room for all that the batch can need is made at once. */
struct rows {
    struct sql_value *v;
    size_t n;
};

struct add_tx { /* one transaction: the argument of the body, and what it tells afterwards */
    struct shard *shard;
    struct add_request **requests;
    size_t n_requests, n_adds, n_keys;
    bool needs_prepare;
    struct arena *arena;             /* lives longer than the transaction */
    const Thurn__AccountRef **to_prepare;
    size_t n_to_prepare;
    struct account_row *touched;     /* for the beacons */
    size_t n_touched;
};

struct work {
    struct sql_tx *tx;
    struct add_tx *t;
    struct arena *a;
    int64_t now_unix;
    struct acct *accts; /* ascending */
    size_t n_accts;
    struct slot *slots;
    size_t n_slots;
    struct map slot_map, key_map;    /* tenant and hash → slot; delivery day and key → struct add */
    struct map64 threads;            /* account and key, mixed → thread id */
    struct rows emails, thread_keys, delivered, requests;
    struct msg_insert *msgs;
    size_t n_msgs;
    struct change *changes;
    size_t n_changes;
    struct sql_result r_accounts, r_inboxes, r_boxes, r_all, r_keywords, r_delivered, r_requests, r_threads, r_blobs;
};

static int compare_acct(const void *a, const void *b)
{
    int64_t x = ((const struct acct *)a)->ref->account_id, y = ((const struct acct *)b)->ref->account_id;
    return x < y ? -1 : x > y;
}

static struct acct *acct_of(struct work *w, int64_t account_id)
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

/* --- the first round trip: lock, and read all that decisions need --- */

static str slot_key(struct work *w, int64_t tenant_id, const unsigned char *hash)
{
    char *p = arena_alloc(w->a, 8 + BLOB_HASH_SIZE);
    memcpy(p, &tenant_id, 8);
    memcpy(p + 8, hash, BLOB_HASH_SIZE);
    return str_n(p, 8 + BLOB_HASH_SIZE);
}

static struct slot *slot_of(struct work *w, const struct add *ad)
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

static void queue_reads(struct work *w)
{
    size_t n = w->t->n_adds;
    struct sql_value *boxes = arena_array(w->a, struct sql_value, n * 2), *keys = arena_array(w->a, struct sql_value, n * 2);
    struct sql_value *reqs = arena_array(w->a, struct sql_value, w->t->n_requests * 3);
    struct sql_value *threads = arena_array(w->a, struct sql_value, w->t->n_keys * 2);
    struct sql_value *blobs = arena_array(w->a, struct sql_value, w->n_slots * 2);
    size_t n_boxes = 0, n_delivered = 0, n_reqs = 0, n_threads = 0;
    for (size_t i = 0; i < w->t->n_requests; i++) {
        const struct add_request *rq = w->t->requests[i];
        if (rq->request_id.n) {
            reqs[n_reqs * 3] = sql_i(rq->v[0].ref->account_id);
            reqs[n_reqs * 3 + 1] = sql_s(rq->request_id);
            reqs[n_reqs++ * 3 + 2] = sql_i(w->now_unix / DAY_S - 2);
        }
        for (size_t k = 0; k < rq->n; k++) {
            const struct add *ad = &rq->v[k];
            struct acct *ac = acct_of(w, ad->ref->account_id);
            ac->wants_all |= ad->target == ADD_TO_PATH || ad->target == ADD_TO_ROLE;
            ac->wants_inbox |= ad->target == ADD_TO_INBOX;
            ac->wants_keywords |= ad->n_keywords > 0;
            if (ad->key.n) {
                keys[n_delivered * 2] = sql_i(ad->day);
                keys[n_delivered++ * 2 + 1] = sql_s(ad->key);
            }
            for (size_t t = 0; t < ad->content->n_thread_keys; t++) {
                threads[n_threads * 2] = sql_i(ad->ref->account_id);
                threads[n_threads++ * 2 + 1] = sql_i(ad->content->thread_keys[t]);
            }
        }
    }
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++) {
            const struct add *ad = &w->t->requests[i]->v[k];
            if (ad->target != ADD_TO_ID || acct_of(w, ad->ref->account_id)->wants_all)
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
    sql_queue(w->tx, &find_delivered, keys, n_delivered, &w->r_delivered);
    sql_queue(w->tx, &find_requests, reqs, n_reqs, &w->r_requests);
    sql_queue(w->tx, &find_threads, threads, n_threads, &w->r_threads);
    sql_queue(w->tx, &lock_blobs, blobs, w->n_slots, &w->r_blobs);
}

static uint64_t thread_map_key(int64_t account_id, int64_t key)
{
    return (uint64_t)account_id * 0x9e3779b97f4a7c15ull ^ (uint64_t)key;
}

static void take_boxes(struct work *w, const struct sql_result *r)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        struct mailbox_row row = mailbox_take(r, i);
        struct acct *ac = acct_of(w, row.account_id);
        if (!mailbox_list_id(&ac->boxes, row.mailbox_id))
            mailbox_list_add(&ac->boxes, row);
    }
}

/* False: accounts have to be prepared first. */
static bool take_reads(struct work *w)
{
    struct add_tx *t = w->t;
    for (size_t i = 0; i < w->r_accounts.n_rows; i++) {
        struct account_row row = account_take(&w->r_accounts, i);
        struct acct *ac = acct_of(w, row.account_id);
        ac->row = row;
        ac->is_found = true;
    }
    t->to_prepare = arena_array(t->arena, const Thurn__AccountRef *, w->n_accts);
    for (size_t i = 0; i < w->n_accts; i++)
        if (!w->accts[i].is_found || account_needs_prepare(&w->accts[i].row))
            t->to_prepare[t->n_to_prepare++] = w->accts[i].ref;
    if (t->n_to_prepare)
        return false;
    take_boxes(w, &w->r_inboxes);
    take_boxes(w, &w->r_boxes);
    take_boxes(w, &w->r_all);
    for (size_t i = 0; i < w->n_accts; i++) {
        struct acct *ac = &w->accts[i];
        ac->boxes.n_stored = ac->boxes.n;
        if (ac->wants_keywords)
            ac->keywords = keywords_take(w->a, &w->r_keywords, ac->ref->account_id);
    }
    for (size_t i = 0; i < w->r_threads.n_rows; i++)
        map64_put(&w->threads, thread_map_key(sql_at(&w->r_threads, i, 0)->i, sql_at(&w->r_threads, i, 1)->i),
                  (void *)(uintptr_t)sql_at(&w->r_threads, i, 2)->i);
    for (size_t i = 0; i < w->r_blobs.n_rows; i++) {
        str hash = sql_at(&w->r_blobs, i, 2)->s;
        struct slot *s = map_get(&w->slot_map, slot_key(w, sql_at(&w->r_blobs, i, 1)->i, (const unsigned char *)hash.p));
        s->blob_id = sql_at(&w->r_blobs, i, 0)->i;
        s->is_stored = true;
    }
    return true;
}

/* --- decisions --- */

static struct box *box_of(struct work *w, struct acct *ac, const struct mailbox_row *m)
{
    size_t i = (size_t)(m - ac->boxes.v);
    if (i >= ac->n_states) {
        size_t n = MAX(ac->boxes.n, 4);
        struct box *states = arena_array(w->a, struct box, n);
        if (ac->n_states)
            memcpy(states, ac->states, ac->n_states * sizeof *states);
        ac->states = states;
        ac->n_states = n;
    }
    return &ac->states[i];
}

static struct mailbox_row *by_role(struct acct *ac, int64_t role)
{
    for (size_t i = 0; i < ac->boxes.n; i++)
        if (ac->boxes.v[i].role == role)
            return &ac->boxes.v[i];
    return NULL;
}

static struct mailbox_row *find_box(struct work *w, struct acct *ac, const struct add *ad, struct err *err)
{
    struct mailbox_row *m = NULL;
    switch (ad->target) {
    case ADD_TO_PATH:
        return mailbox_list_walk(&ac->boxes, &ac->row, ad->path, ad->n_path, true, &w->t->shard->store->limits, w->now_unix,
                                 err);
    case ADD_TO_ROLE:
        m = by_role(ac, ad->role);
        break;
    case ADD_TO_ID:
        m = mailbox_list_id(&ac->boxes, ad->mailbox_id);
        if (!m)
            (void)err_set(err, ERR_NOT_FOUND, "no such mailbox");
        return m;
    case ADD_TO_INBOX:
        break;
    }
    if (!m)
        m = mailbox_list_id(&ac->boxes, ac->row.inbox_id);
    if (!m)
        (void)err_set(err, ERR_INTERNAL, "account %lld has no INBOX", (long long)ac->row.account_id);
    return m;
}

static uint64_t add_size(const struct add *ad)
{
    return ad->content->size + ad->content->prefix.n;
}

static bool check_quota(const struct acct *ac, uint64_t bytes, uint64_t messages, struct err *err)
{
    const Thurn__AccountRef *q = ac->ref;
    if ((q->quota_bytes && (uint64_t)ac->row.used_bytes + bytes > q->quota_bytes) ||
        (q->quota_messages && (uint64_t)ac->row.used_messages + messages > q->quota_messages))
        return err_set(err, ERR_LIMIT, "account %lld is over quota", (long long)ac->row.account_id);
    return true;
}

/* The key was used before, in an earlier transaction or earlier in this batch. */
static bool is_duplicate(struct work *w, struct add *ad)
{
    if (!ad->key.n)
        return false;
    for (size_t i = 0; i < w->r_delivered.n_rows; i++) {
        if (sql_at(&w->r_delivered, i, 0)->i != ad->day || !str_eq(sql_at(&w->r_delivered, i, 1)->s, ad->key))
            continue;
        ad->in_mailbox_id = sql_at(&w->r_delivered, i, 2)->i;
        ad->uid = sql_at(&w->r_delivered, i, 3)->i;
        return ad->is_duplicate = true;
    }
    const struct add *earlier = map_get(&w->key_map, ad->key);
    if (!earlier || earlier->day != ad->day)
        return false;
    ad->in_mailbox_id = earlier->in_mailbox_id;
    ad->uid = earlier->uid;
    return ad->is_duplicate = true;
}

static bool check(struct work *w, struct add *ad, struct mailbox_row **m, str *kw, struct err *err)
{
    struct acct *ac = acct_of(w, ad->ref->account_id);
    const struct slot *s = slot_of(w, ad);
    if (!account_check(&ac->row, ad->ref, err) || !check_quota(ac, add_size(ad), 1, err))
        return false;
    if (!s->is_stored && !s->content->is_inline)
        return content_lost(str_n(s->content->hash, BLOB_HASH_SIZE), err);
    if (!keywords_check(ad->keywords, ad->n_keywords, err) ||
        !keywords_encode(&ac->keywords, ad->keywords, ad->n_keywords, true, kw, err))
        return false;
    *m = find_box(w, ac, ad, err);
    return *m && ((*m)->uidnext <= UID_MAX || err_set(err, ERR_LIMIT, "the mailbox has no UIDs left"));
}

static int64_t thread_of(struct work *w, const struct add *ad, int64_t email_id)
{
    const struct content *c = ad->content;
    int64_t account_id = ad->ref->account_id, thread_id = 0;
    for (size_t i = 0; i < c->n_thread_keys && !thread_id; i++)
        thread_id = (int64_t)(uintptr_t)map64_get(&w->threads, thread_map_key(account_id, c->thread_keys[i]));
    if (!thread_id)
        thread_id = email_id;
    for (size_t i = 0; i < c->n_thread_keys; i++) {
        uint64_t key = thread_map_key(account_id, c->thread_keys[i]);
        if (map64_get(&w->threads, key))
            continue;
        map64_put(&w->threads, key, (void *)(uintptr_t)thread_id);
        struct sql_value *v = w->thread_keys.v + w->thread_keys.n++ * 3;
        v[0] = sql_i(account_id);
        v[1] = sql_i(c->thread_keys[i]);
        v[2] = sql_i(thread_id);
    }
    return thread_id;
}

static void box_log(struct work *w, struct acct *ac, struct box *b, int64_t mailbox_id)
{
    w->changes[w->n_changes++] = (struct change){ac->row.account_id, b->modseq, ac->row.week, mailbox_id, CHANGE_ADDED,
                                                 change_items(w->a, b->items, b->n)};
    b->n = 0;
}

static void box_add(struct work *w, struct acct *ac, struct box *b, struct mailbox_row *m, struct change_item item)
{
    if (b->n == CHANGE_ITEMS_MAX)
        box_log(w, ac, b, m->mailbox_id);
    if (b->n == 0) {
        b->modseq = account_next_modseq(&ac->row, w->now_unix);
        m->highestmodseq = b->modseq;
    }
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 4;
        struct change_item *v = arena_array(w->a, struct change_item, b->cap);
        if (b->n)
            memcpy(v, b->items, b->n * sizeof *v);
        b->items = v;
    }
    b->items[b->n++] = item;
    b->is_touched = true;
}

static void apply(struct work *w, struct add *ad, struct mailbox_row *m, str kw)
{
    struct acct *ac = acct_of(w, ad->ref->account_id);
    struct slot *s = slot_of(w, ad);
    struct box *b = box_of(w, ac, m);
    int64_t size = (int64_t)add_size(ad);
    ac->row.email_seq = MAX(ac->row.email_seq + 1, blob_new_id());
    ad->email_id = ac->row.email_seq;
    ad->in_mailbox_id = m->mailbox_id;
    ad->uidvalidity = m->uidvalidity;
    ad->uid = m->uidnext++;
    int64_t thread_id = thread_of(w, ad, ad->email_id);
    box_add(w, ac, b, m, (struct change_item){(uint32_t)ad->uid, ad->email_id, thread_id});
    mailbox_count(m, &ac->row, ad->flags, size, 1);
    if (!s->is_stored && !s->blob_id)
        s->blob_id = blob_new_id();
    s->refs++;
    w->msgs[w->n_msgs++] = (struct msg_insert){
        ad->ref->account_id, m->mailbox_id,
        {.uid = (uint32_t)ad->uid, .modseq = b->modseq, .flags = ad->flags, .kw = kw, .email_id = ad->email_id,
         .thread_id = thread_id, .size = size, .internal_unix = ad->internal_unix ? ad->internal_unix : w->now_unix,
         .internal_zone = ad->internal_zone, .saved_unix = w->now_unix}};
    struct sql_value *e = w->emails.v + w->emails.n++ * 8;
    const int64_t cols[] = {ad->ref->account_id, ad->email_id, thread_id, s->blob_id, size, ad->content->sent_unix};
    for (size_t i = 0; i < ARRAY_LEN(cols); i++)
        e[i] = sql_i(cols[i]);
    e[6] = ad->content->prefix.n ? sql_s(ad->content->prefix) : sql_null();
    e[7] = sql_s(ad->content->packed);
    if (!ad->key.n)
        return;
    struct sql_value *d = w->delivered.v + w->delivered.n++ * 5;
    d[0] = sql_i(ad->day);
    d[1] = sql_s(ad->key);
    d[2] = sql_i(ad->ref->account_id);
    d[3] = sql_i(ad->in_mailbox_id);
    d[4] = sql_i(ad->uid);
    map_put(&w->key_map, ad->key, ad);
}

static void add_each(struct work *w, struct add_request *rq)
{
    for (size_t i = 0; i < rq->n; i++) {
        struct mailbox_row *m;
        str kw;
        if (!is_duplicate(w, &rq->v[i]) && check(w, &rq->v[i], &m, &kw, &rq->v[i].err))
            apply(w, &rq->v[i], m, kw);
    }
}

/* The same request id earlier in this very batch: the second gets the first one's reply. */
static bool is_repeat(struct work *w, struct add_request *rq, size_t at)
{
    if (!rq->request_id.n)
        return false;
    for (size_t i = 0; i < w->r_requests.n_rows; i++) {
        if (sql_at(&w->r_requests, i, 0)->i == rq->v[0].ref->account_id &&
            str_eq(sql_at(&w->r_requests, i, 1)->s, rq->request_id)) {
            rq->reply = arena_str(rq->arena, sql_at(&w->r_requests, i, 2)->s);
            return true;
        }
    }
    for (size_t i = 0; i < at; i++) {
        const struct add_request *o = w->t->requests[i];
        if (str_eq(o->request_id, rq->request_id) && o->v[0].ref->account_id == rq->v[0].ref->account_id) {
            rq->reply = arena_str(rq->arena, o->reply);
            rq->item.err = o->item.err;
            return true;
        }
    }
    return false;
}

static void set_reply(struct work *w, struct add_request *rq)
{
    Thurn__AppendReply r;
    thurn__append_reply__init(&r);
    r.uidvalidity = (uint32_t)rq->v[0].uidvalidity;
    r.modseq = (uint64_t)acct_of(w, rq->v[0].ref->account_id)->row.modseq;
    r.uids = arena_array(w->a, uint32_t, rq->n);
    r.email_ids = arena_array(w->a, int64_t, rq->n);
    r.n_uids = r.n_email_ids = rq->n;
    for (size_t i = 0; i < rq->n; i++) {
        r.uids[i] = (uint32_t)rq->v[i].uid;
        r.email_ids[i] = rq->v[i].email_id;
    }
    uint8_t *p = arena_alloc(rq->arena, thurn__append_reply__get_packed_size(&r));
    rq->reply = str_n(p, thurn__append_reply__pack(&r, p));
    if (!rq->request_id.n)
        return;
    struct sql_value *v = w->requests.v + w->requests.n++ * 4;
    v[0] = sql_i(rq->v[0].ref->account_id);
    v[1] = sql_s(rq->request_id);
    v[2] = sql_i(w->now_unix / DAY_S);
    v[3] = sql_s(rq->reply);
}

/* Checked as a whole before anything of it is applied. */
static void add_all(struct work *w, struct add_request *rq, size_t at)
{
    struct mailbox_row *m = NULL;
    str *kw = arena_array(w->a, str, rq->n);
    uint64_t bytes = 0;
    if (is_repeat(w, rq, at))
        return;
    for (size_t i = 0; i < rq->n; i++) {
        if (!check(w, &rq->v[i], &m, &kw[i], &rq->item.err))
            return;
        bytes += add_size(&rq->v[i]);
    }
    if (!check_quota(acct_of(w, rq->v[0].ref->account_id), bytes, rq->n, &rq->item.err))
        return;
    for (size_t i = 0; i < rq->n; i++)
        apply(w, &rq->v[i], m, kw[i]);
    set_reply(w, rq);
}

/* --- the second round trip: everything is written --- */

static void queue_blobs(struct work *w)
{
    struct sql_value *rows = arena_array(w->a, struct sql_value, w->n_slots * 8);
    struct sql_value *data = arena_array(w->a, struct sql_value, w->n_slots * 2);
    struct sql_value *refs = arena_array(w->a, struct sql_value, w->n_slots * 2);
    size_t n_new = 0, n_refs = 0;
    for (size_t i = 0; i < w->n_slots; i++) {
        const struct slot *s = &w->slots[i];
        if (s->refs == 0)
            continue;
        if (s->is_stored) {
            refs[n_refs * 2] = sql_i(s->blob_id);
            refs[n_refs++ * 2 + 1] = sql_i(s->refs);
            continue;
        }
        struct sql_value *v = rows + n_new * 8;
        v[0] = sql_i(s->blob_id);
        v[1] = sql_i(s->tenant_id);
        v[2] = sql_s(str_n(s->content->hash, BLOB_HASH_SIZE));
        v[3] = sql_i((int64_t)s->content->size);
        v[4] = sql_i(s->content->codec);
        v[5] = sql_i((int64_t)s->content->data.n);
        v[6] = sql_i(s->refs);
        v[7] = sql_i(0);
        data[n_new * 2] = sql_i(s->blob_id);
        data[n_new++ * 2 + 1] = sql_s(s->content->data);
    }
    sql_queue(w->tx, &insert_blobs, rows, n_new, NULL);
    sql_queue(w->tx, &insert_inlines, data, n_new, NULL);
    sql_queue(w->tx, &ref_blobs, refs, n_refs, NULL);
}

static void queue_account(struct work *w, struct acct *ac, struct mailbox_row *changed, size_t *n_changed)
{
    size_t n = ac->boxes.n, n_new = n - ac->boxes.n_stored;
    for (size_t i = 0; i < n; i++) {
        struct mailbox_row *m = &ac->boxes.v[i];
        struct box *b = box_of(w, ac, m);
        if (i >= ac->boxes.n_stored)
            w->changes[w->n_changes++] = (struct change){ac->row.account_id, m->created_modseq, ac->row.week, m->mailbox_id,
                                                         CHANGE_MBOX_CREATED, STR_NONE};
        if (!b->is_touched)
            continue;
        box_log(w, ac, b, m->mailbox_id);
        if (i < ac->boxes.n_stored)
            changed[(*n_changed)++] = *m;
    }
    mailbox_queue_insert(w->tx, ac->boxes.v + ac->boxes.n_stored, n_new);
    if (ac->wants_keywords)
        keywords_queue_insert(w->tx, &ac->keywords, ac->row.account_id);
}

static void queue_writes(struct work *w)
{
    struct add_tx *t = w->t;
    size_t n_boxes = 0, n_changed = 0;
    for (size_t i = 0; i < w->n_accts; i++)
        n_boxes += w->accts[i].boxes.n;
    struct mailbox_row *changed = arena_array(w->a, struct mailbox_row, n_boxes);
    t->touched = arena_array(t->arena, struct account_row, w->n_accts);
    for (size_t i = 0; i < w->n_accts; i++) {
        struct acct *ac = &w->accts[i];
        struct account_row before = account_take(&w->r_accounts, i);
        queue_account(w, ac, changed, &n_changed);
        assert(before.account_id == ac->row.account_id); /* the lock statement answers in the order of the ids */
        if (ac->row.modseq != before.modseq)
            t->touched[t->n_touched++] = ac->row;
    }
    queue_blobs(w);
    sql_queue(w->tx, &insert_emails, w->emails.v, w->emails.n, NULL);
    messages_queue_insert(w->tx, w->msgs, w->n_msgs);
    sql_queue(w->tx, &insert_threads, w->thread_keys.v, w->thread_keys.n, NULL);
    sql_queue(w->tx, &insert_delivered, w->delivered.v, w->delivered.n, NULL);
    sql_queue(w->tx, &insert_requests, w->requests.v, w->requests.n, NULL);
    change_queue(w->tx, w->changes, w->n_changes);
    mailbox_queue_update(w->tx, changed, n_changed);
    account_queue_update(w->tx, t->touched, t->n_touched);
}

static void make_room(struct work *w)
{
    size_t n = w->t->n_adds;
    w->emails.v = arena_array(w->a, struct sql_value, n * 8);
    w->thread_keys.v = arena_array(w->a, struct sql_value, w->t->n_keys * 3);
    w->delivered.v = arena_array(w->a, struct sql_value, n * 5);
    w->requests.v = arena_array(w->a, struct sql_value, w->t->n_requests * 4);
    w->msgs = arena_array(w->a, struct msg_insert, n);
    /* At most one change row for each message, and one for each mailbox that a path can make. */
    w->changes = arena_array(w->a, struct change, n * (1 + MAILBOX_DEPTH_MAX));
}

static void reset_results(struct add_tx *t)
{
    t->n_to_prepare = t->n_touched = 0;
    for (size_t i = 0; i < t->n_requests; i++) {
        struct add_request *rq = t->requests[i];
        err_clear(&rq->item.err);
        rq->reply = STR_NONE;
        for (size_t k = 0; k < rq->n; k++) {
            err_clear(&rq->v[k].err);
            rq->v[k].is_duplicate = false;
        }
    }
}

FIBER static bool decide_and_write(struct work *w, struct err *err)
{
    if (!sql_run(w->tx, err))
        return false;
    if (!take_reads(w)) {
        w->t->needs_prepare = true;
        return err_set(err, ERR_UNAVAILABLE, "accounts are not ready");
    }
    make_room(w);
    for (size_t i = 0; i < w->t->n_requests; i++) {
        if (w->t->requests[i]->is_all_or_none)
            add_all(w, w->t->requests[i], i);
        else
            add_each(w, w->t->requests[i]);
    }
    queue_writes(w);
    return true;
}

FIBER static bool add_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct add_tx *t = arg;
    struct work *w = arena_new(sql_arena(tx), struct work);
    w->tx = tx;
    w->t = t;
    w->a = sql_arena(tx);
    w->now_unix = clock_unix();
    t->needs_prepare = false;
    reset_results(t);
    map_init(&w->slot_map);
    map_init(&w->key_map);
    map64_init(&w->threads);
    collect_accounts(w);
    collect_slots(w);
    queue_reads(w);
    bool ok = decide_and_write(w, err);
    map_done(&w->slot_map);
    map_done(&w->key_map);
    map64_done(&w->threads);
    return ok;
}

/* --- the committer --- */

FIBER static bool run_once(struct add_tx *t, struct err *err)
{
    if (sql_write(t->shard->db, add_body, t, err) || err->kind == ERR_TIMEOUT) {
        for (size_t i = 0; i < t->n_touched; i++)
            beacon_publish(t->shard->store, t->touched[i].account_id, t->touched[i].modseq,
                           KIND_EMAIL | KIND_MAILBOX | KIND_THREAD);
        return !err_is_set(err);
    }
    if (!t->needs_prepare)
        return false;
    err_clear(err);
    for (size_t i = 0; i < t->n_to_prepare; i++)
        if (!account_prepare(t->shard, t->to_prepare[i], err))
            return false;
    return err_set(err, ERR_CONFLICT, "accounts were not ready");
}

/* A unique key that another transaction took at the same moment (the same body, mostly) is found by the next try. */
FIBER static bool run_transaction(struct shard *sh, struct add_request **requests, size_t n, struct err *err)
{
    ARENA(arena, 16 << 20);
    struct add_tx t = {.shard = sh, .requests = requests, .n_requests = n, .arena = &arena};
    for (size_t i = 0; i < n; i++) {
        t.n_adds += requests[i]->n;
        for (size_t k = 0; k < requests[i]->n; k++)
            t.n_keys += requests[i]->v[k].content->n_thread_keys;
    }
    for (int i = 0; i < TRIES; i++) {
        err_clear(err);
        if (run_once(&t, err))
            return true;
        if (err->kind != ERR_EXISTS && err->kind != ERR_CONFLICT)
            break;
    }
    return false;
}

FIBER static void commit(struct shard *sh, struct add_request **requests, size_t n)
{
    struct err err = ERR_INIT;
    if (run_transaction(sh, requests, n, &err))
        return;
    /* One that no statement can digest must not take the others with it. */
    if (n > 1 && !err_is_temporary(&err)) {
        for (size_t i = 0; i < n; i++)
            commit(sh, &requests[i], 1);
        return;
    }
    for (size_t i = 0; i < n; i++)
        requests[i]->item.err = err;
}

FIBER static void add_batch(void *ctx, struct batch_item **items, size_t n)
{
    struct shard *sh = ctx;
    struct add_request *requests[BATCH_REQUESTS];
    size_t k = 0, n_adds = 0;
    for (size_t i = 0; i < n; i++) {
        struct add_request *rq = CONTAINER_OF(items[i], struct add_request, item);
        if (k > 0 && n_adds + rq->n > ADDS_PER_TX) {
            commit(sh, requests, k);
            k = n_adds = 0;
        }
        requests[k++] = rq;
        n_adds += rq->n;
    }
    commit(sh, requests, k);
}

struct batch *add_batch_new(struct shard *sh)
{
    return batch_new("store-add", add_batch, sh, BATCH_REQUESTS, QUEUE_MAX, COMMITTERS);
}

bool add_run(struct shard *sh, struct add_request *r, struct err *err)
{
    assert(r->n >= 1 && r->n <= ADDS_PER_TX);
    r->item.key = (uint64_t)r->v[0].ref->account_id;
    return batch_run(sh->adds, &r->item, err);
}
