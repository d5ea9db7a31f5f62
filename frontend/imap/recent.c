#include "frontend/imap/recent.h"

#include "base/map.h"

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

uint32_t imap_recent_from(const struct imap_session *s, int64_t mailbox_id, const struct imap_contents *now)
{
    uint32_t uid = imap_recent_known(s, mailbox_id);
    if (uid)
        return uid;
    return (now->says_seen ? now->last_seen : uid_map_max(&now->uids)) + 1;
}
