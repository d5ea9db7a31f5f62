#include "base/num.h"
#include "store-service/log/change.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/add_work.h"
#include "store-service/message/keyword.h"

#define UID_MAX 0xfffffffeu

// clang-format off
static const struct sql_stmt insert_blobs = {
    "s_insert_blobs", "iibiiiii", "",
    "INSERT INTO s_blob (blob_id, tenant_id, hash, size, tier, codec, is_ready, seg, off, stored_len, refs, zero_since,"
    " hold_until) VALUES (?1, ?2, ?3, ?4, 0, ?5, 1, 0, 0, ?6, ?7, 0, ?8)",
    "INSERT INTO s_blob (blob_id, tenant_id, hash, size, tier, codec, is_ready, seg, off, stored_len, refs, zero_since,"
    " hold_until) SELECT c1, c2, c3, c4, 0, c5, 1, 0, 0, c6, c7, 0, c8 FROM {rows}"
    " AS v (c1, c2, c3, c4, c5, c6, c7, c8)",
    true};
static const struct sql_stmt insert_inlines = {
    "s_insert_inlines", "ib", "", "INSERT INTO s_blob_inline (blob_id, data) VALUES (?1, ?2)",
    "INSERT INTO s_blob_inline (blob_id, data) SELECT * FROM {rows} AS v", true};
static const struct sql_stmt ref_blobs = {
    "s_ref_blobs", "ii", "", "UPDATE s_blob SET refs = refs + ?2 WHERE blob_id = ?1",
    "UPDATE s_blob b SET refs = refs + v.n FROM {rows} AS v (blob_id, n) WHERE b.blob_id = v.blob_id", true};
static const struct sql_stmt insert_emails = {
    "s_insert_emails", "iiiiiibb", "",
    "INSERT INTO s_email (account_id, email_id, thread_id, blob_id, size, sent_unix, prefix, parsed)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    "INSERT INTO s_email (account_id, email_id, thread_id, blob_id, size, sent_unix, prefix, parsed)"
    " SELECT * FROM {rows} AS v",
    true};
static const struct sql_stmt insert_threads = {
    "s_insert_threads", "iii", "",
    "INSERT INTO s_thread_key (account_id, key, thread_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    "INSERT INTO s_thread_key (account_id, key, thread_id) SELECT * FROM {rows} AS v ON CONFLICT DO NOTHING", true};
static const struct sql_stmt insert_delivered = {
    "s_insert_delivered", "ibiii", "",
    "INSERT INTO s_delivered (day, key, account_id, mailbox_id, uid) VALUES (?1, ?2, ?3, ?4, ?5)",
    "INSERT INTO s_delivered (day, key, account_id, mailbox_id, uid) SELECT * FROM {rows} AS v", true};
// clang-format on

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

static struct mailbox_row *by_name(struct work *w, struct acct *ac, const struct add *ad, struct err *err)
{
    for (size_t i = 0; i < w->r_named.n_rows; i++) {
        struct mailbox_row found = mailbox_of_cols(sql_at(&w->r_named, i, 1));
        if (found.account_id != ac->row.account_id || !str_eq(sql_at(&w->r_named, i, 0)->s, ad->name) ||
            (ad->mailbox_id && found.mailbox_id != ad->mailbox_id))
            continue;
        return mailbox_list_id(&ac->boxes, found.mailbox_id);
    }
    (void)err_set(err, ERR_NOT_FOUND, "no mailbox '%.*s'", STR_ARG(ad->name));
    return NULL;
}

static struct mailbox_row *find_box(struct work *w, struct acct *ac, const struct add *ad, struct err *err)
{
    struct mailbox_row *m = NULL;
    switch (ad->target) {
    case ADD_TO_PATH:
        return mailbox_list_walk(&ac->boxes, &ac->row, ad->path, ad->n_path, true, &w->t->shard->store->limits,
                                 w->now_unix, err);
    case ADD_TO_NAME:
        return by_name(w, ac, ad, err);
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
        return err_set(err, ERR_QUOTA, "account %lld is over quota", (long long)ac->row.account_id);
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

/* Names of keywords that are new are in the account's list then: who does not use them puts the list back. */
static bool check(struct work *w, struct add *ad, struct mailbox_row **m, str *kw, struct err *err)
{
    struct acct *ac = work_acct(w, ad->ref->account_id);
    const struct slot *s = work_slot(w, ad);
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
        thread_id = (int64_t)(uintptr_t)map64_get(&w->threads, work_thread_key(account_id, c->thread_keys[i]));
    if (!thread_id)
        thread_id = email_id;
    for (size_t i = 0; i < c->n_thread_keys; i++) {
        uint64_t key = work_thread_key(account_id, c->thread_keys[i]);
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
    w->changes[w->n_changes++] = (struct change){ac->row.account_id, b->modseq,    ac->row.week,
                                                 mailbox_id,         CHANGE_ADDED, change_items(w->a, b->items, b->n)};
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
    struct acct *ac = work_acct(w, ad->ref->account_id);
    struct slot *s = work_slot(w, ad);
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
    w->msgs[w->n_msgs++] = (struct msg_insert){ad->ref->account_id,
                                               m->mailbox_id,
                                               {.uid = (uint32_t)ad->uid,
                                                .modseq = b->modseq,
                                                .flags = ad->flags,
                                                .kw = kw,
                                                .email_id = ad->email_id,
                                                .thread_id = thread_id,
                                                .size = size,
                                                .internal_unix = ad->internal_unix ? ad->internal_unix : w->now_unix,
                                                .internal_zone = ad->internal_zone,
                                                .saved_unix = w->now_unix}};
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
        struct keywords *k = &work_acct(w, rq->v[i].ref->account_id)->keywords, before = *k;
        struct mailbox_row *m;
        str kw;
        if (is_duplicate(w, &rq->v[i]))
            continue;
        if (check(w, &rq->v[i], &m, &kw, &rq->v[i].err))
            apply(w, &rq->v[i], m, kw);
        else
            *k = before;
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
    r.modseq = (uint64_t)work_acct(w, rq->v[0].ref->account_id)->row.modseq;
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

static bool check_all(struct work *w, struct add_request *rq, struct mailbox_row **m, str *kw)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < rq->n; i++) {
        if (!check(w, &rq->v[i], m, &kw[i], &rq->item.err))
            return false;
        bytes += add_size(&rq->v[i]);
    }
    return check_quota(work_acct(w, rq->v[0].ref->account_id), bytes, rq->n, &rq->item.err);
}

/* Checked as a whole before anything of it is applied. */
static void add_all(struct work *w, struct add_request *rq, size_t at)
{
    struct keywords *k = &work_acct(w, rq->v[0].ref->account_id)->keywords, before = *k;
    struct mailbox_row *m = NULL;
    str *kw = arena_array(w->a, str, rq->n);
    if (is_repeat(w, rq, at))
        return;
    rq->is_dictionary_full = false;
    if (!check_all(w, rq, &m, kw)) {
        rq->is_dictionary_full = k->is_full;
        *k = before;
        return;
    }
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
            w->changes[w->n_changes++] = (struct change){ac->row.account_id, m->created_modseq,   ac->row.week,
                                                         m->mailbox_id,      CHANGE_MBOX_CREATED, STR_NONE};
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

static bool queue_writes(struct work *w, struct err *err)
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
        /* the lock statement answers in the order of the ids */
        if (!HOLDS(before.account_id == ac->row.account_id, err))
            return false;
        if (ac->row.modseq != before.modseq)
            t->touched[t->n_touched++] = ac->row;
    }
    queue_blobs(w);
    sql_queue(w->tx, &insert_emails, w->emails.v, w->emails.n, NULL);
    messages_queue_insert(w->tx, w->msgs, w->n_msgs);
    sql_queue(w->tx, &insert_threads, w->thread_keys.v, w->thread_keys.n, NULL);
    sql_queue(w->tx, &insert_delivered, w->delivered.v, w->delivered.n, NULL);
    sql_queue(w->tx, &once_insert, w->requests.v, w->requests.n, NULL);
    change_queue(w->tx, w->changes, w->n_changes);
    mailbox_queue_counts(w->tx, changed, n_changed);
    account_queue_update(w->tx, t->touched, t->n_touched);
    return true;
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

/* What was delivered before is answered so, whatever stands against it now. */
FIBER static bool reconsider_refused(struct work *w, struct err *err)
{
    if (w->t->looks_up_keys || !work_queue_keys(w, true))
        return true;
    if (!sql_run(w->tx, err))
        return false;
    for (size_t i = 0; i < w->t->n_requests; i++)
        for (size_t k = 0; k < w->t->requests[i]->n; k++) {
            struct add *ad = &w->t->requests[i]->v[k];
            if (err_is_set(&ad->err) && is_duplicate(w, ad))
                err_clear(&ad->err);
        }
    return true;
}

FIBER bool work_write(struct work *w, struct err *err)
{
    make_room(w);
    for (size_t i = 0; i < w->t->n_requests; i++) {
        if (w->t->requests[i]->is_all_or_none)
            add_all(w, w->t->requests[i], i);
        else
            add_each(w, w->t->requests[i]);
    }
    return reconsider_refused(w, err) && queue_writes(w, err);
}
