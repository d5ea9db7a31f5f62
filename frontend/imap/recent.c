#include "frontend/imap/recent.h"

#include "base/map.h"
#include "proto/store_calls.h"

#define MAILBOXES_MAX 200000u /* remembered; then all are forgotten */

struct imap_recents {
    struct map first_uid; /* account and mailbox id → first recent UID, as a pointer value */
};

struct imap_recents *imap_recents_new(void)
{
    struct imap_recents *r = xnew(struct imap_recents);
    map_init(&r->first_uid);
    return r;
}

void imap_recents_free(struct imap_recents *r)
{
    if (!r)
        return;
    map_done(&r->first_uid);
    xfree(r);
}

struct mailbox_key {
    int64_t account_id, mailbox_id;
};

static uint32_t known(const struct imap_recents *r, int64_t account_id, int64_t mailbox_id)
{
    const struct mailbox_key key = {account_id, mailbox_id};
    return (uint32_t)(uintptr_t)map_get(&r->first_uid, str_n(&key, sizeof(key)));
}

uint32_t imap_recent_known(const struct imap_session *s, int64_t mailbox_id)
{
    return known(s->server->recents, s->account.account_id, mailbox_id);
}

void imap_recent_told(struct imap_session *s, int64_t mailbox_id, uint32_t next_uid)
{
    struct imap_recents *r = s->server->recents;
    const struct mailbox_key key = {s->account.account_id, mailbox_id};
    if (next_uid <= known(r, key.account_id, mailbox_id))
        return;
    if (r->first_uid.n >= MAILBOXES_MAX) {
        map_done(&r->first_uid);
        map_init(&r->first_uid);
    }
    (void)map_put(&r->first_uid, str_n(&key, sizeof(key)), (void *)(uintptr_t)next_uid); /* a number, not owned */
}

/* One after the highest UID that has \Seen; 0 when the store does not say. */
FIBER static uint32_t after_last_seen(struct imap_session *s, struct imap_command *c, const Thurn__Mailbox *row)
{
    Thurn__SearchKey seen = THURN__SEARCH_KEY__INIT;
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    const Thurn__SearchReply *r;
    struct rpc_call call;
    uint32_t last = 0;
    seen.op = THURN__SEARCH_OP__SEARCH_FLAGS_SET;
    seen.number = THURN__FLAG__FLAG_SEEN;
    q.account = &s->account;
    q.mailbox_id = row->mailbox_id;
    q.key = &seen;
    do {
        imap_call(s, &call, c->arena);
        if (!STORE_CALL(s, &call, store_search, &q, &r))
            return 0;
        if (r->n_uids)
            last = (uint32_t)r->uids[r->n_uids - 1]->last;
        q.from_uid = r->next_uid;
    } while (q.from_uid);
    return last + 1;
}

FIBER uint32_t imap_recent_from(struct imap_session *s, struct imap_command *c, const Thurn__Mailbox *row)
{
    uint32_t uid = known(s->server->recents, s->account.account_id, row->mailbox_id);
    if (uid)
        return uid;
    if (row->unseen == 0)
        return row->uidnext;
    if (row->unseen >= row->total)
        return 1;
    uid = after_last_seen(s, c, row);
    return uid ? uid : row->uidnext;
}
