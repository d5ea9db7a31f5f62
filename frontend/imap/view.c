#include "frontend/imap/view.h"

#include "base/metrics.h"
#include "frontend/imap/contents.h"
#include "frontend/imap/format.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/recent.h"
#include "proto/store_calls.h"

#define PIECE_MAX (64u * 1024)

/* --- watching --- */

static bool is_own(const struct imap_view *v, uint64_t modseq)
{
    unsigned n = MIN(v->n_own, IMAP_OWN_CHANGES);
    for (unsigned i = 0; i < n; i++)
        if (modseq >= v->own[i].first && modseq <= v->own[i].last)
            return true;
    return false;
}

void imap_view_heard(struct imap_session *s, uint64_t modseq, uint64_t n)
{
    if (modseq <= s->synced_modseq)
        return;
    if (modseq - n <= s->synced_modseq)
        s->synced_modseq = modseq; /* nothing between what was told and our own */
    else
        s->is_dirty = true;
}

void imap_view_own(struct imap_session *s, const Thurn__StoreFlagsReply *r, bool tells_flags)
{
    Thurn__Message *const *changed = r->messages;
    size_t n = r->n_messages;
    struct imap_view *v = s->view;
    if (n == 0)
        return;
    uint64_t first = changed[0]->modseq, last = first;
    for (size_t i = 1; i < n; i++) {
        first = MIN(first, changed[i]->modseq);
        last = MAX(last, changed[i]->modseq);
    }
    bool is_next =
        first <= s->synced_modseq + 1 || (r->modseq_before && r->modseq_before <= MAX(s->synced_modseq, v->modseq));
    if (!is_next && !tells_flags) { /* the same messages may have been changed by others before */
        s->is_dirty = true;
        return;
    }
    if (v->n_own && v->own[(v->n_own - 1) % IMAP_OWN_CHANGES].last + 1 == first) { /* as the slices of one STORE are */
        v->own[(v->n_own - 1) % IMAP_OWN_CHANGES].last = last;
    } else {
        v->own[v->n_own % IMAP_OWN_CHANGES].first = first;
        v->own[v->n_own++ % IMAP_OWN_CHANGES].last = last;
    }
    if (is_next)
        s->synced_modseq = MAX(s->synced_modseq, last);
}

static void on_change(void *arg, uint64_t modseq)
{
    struct imap_session *s = arg;
    CHECK(s, IMAP_SESSION_MAGIC);
    if (!s->view || modseq <= s->synced_modseq)
        return;
    s->beacon_modseq = MAX(s->beacon_modseq, modseq);
    if (modseq <= s->view->modseq || is_own(s->view, modseq))
        return;
    s->is_dirty = true;
    if (s->idle_tag)
        imap_wake_to_push(s);
}

/* --- opening --- */

bool imap_view_is_recent(const struct imap_view *v, uint32_t uid)
{
    return uid_map_seq(&v->recents, uid) != 0;
}

/* The UIDs from recent_from on are \Recent here; in a read-write session then nowhere else. */
static void claim_recents(struct imap_session *s, uint32_t recent_from)
{
    struct imap_view *v = s->view;
    for (uint32_t i = 0; i < v->uids.n; i++)
        if (v->uids.v[i].last >= recent_from)
            (void)uid_map_append(&v->recents, MAX(v->uids.v[i].first, recent_from), v->uids.v[i].last); /* ascending */
    if (!v->is_readonly)
        imap_recent_told(s, v->mailbox_id, uid_map_max(&v->uids) + 1);
}

/* A message came while the mailbox is open: \Recent for the first session that tells of it. */
static void add_new(struct imap_session *s, uint32_t uid)
{
    struct imap_view *v = s->view;
    if (uid <= uid_map_max(&v->uids))
        return;
    (void)uid_map_append(&v->uids, uid, uid); /* first == last */
    if (uid >= imap_recent_known(s, v->mailbox_id))
        (void)uid_map_append(&v->recents, uid, uid);
    if (!v->is_readonly)
        imap_recent_told(s, v->mailbox_id, uid + 1);
}

static bool is_inbox(const Thurn__Mailbox *box)
{
    return box->role == THURN__MAILBOX_ROLE__ROLE_INBOX;
}

FIBER bool imap_view_open(struct imap_session *s, const Thurn__Mailbox *box, bool is_readonly, uint32_t *first_unseen,
                          struct err *err)
{
    struct imap_contents now = {0};
    if (!imap_contents_load(s, box->mailbox_id, 0, &now, err)) {
        imap_contents_done(&now);
        return false;
    }
    imap_view_close(s);
    s->view = xnew(struct imap_view);
    *s->view = (struct imap_view){
        .mailbox_id = box->mailbox_id,
        .uidvalidity = box->uidvalidity,
        .is_readonly = is_readonly,
        .is_inbox = is_inbox(box),
        .uids = now.uids,
        .modseq = box->highestmodseq, /* read before the UIDs: what came in between is told once more */
    };
    map_init(&s->view->announced);
    claim_recents(s, imap_recent_from(s, box->mailbox_id, &now));
    *first_unseen = uid_map_seq(&now.uids, now.first_unseen);
    s->state = IMAP_SELECTED;
    s->is_dirty = false;
    s->synced_modseq = s->beacon_modseq = s->listed_modseq;
    s->watch.fn = on_change;
    s->watch.arg = s;
    watch_add(s->server->watch, &s->watch, &s->account);
    metric_add(M_IMAP_SELECTED, 1);
    return true;
}

void imap_view_close(struct imap_session *s)
{
    if (!s->view)
        return;
    watch_remove(s->server->watch, &s->watch);
    uid_map_done(&s->view->uids);
    uid_map_done(&s->view->recents);
    for (unsigned i = 0; i < s->view->n_keywords; i++)
        xfree(s->view->keywords[i]);
    map_done(&s->view->announced);
    xfree(s->view->keywords);
    xfree(s->view);
    s->view = NULL;
    s->is_dirty = s->is_behind = false;
    s->state = IMAP_AUTH;
    metric_add(M_IMAP_SELECTED, -1);
}

/* --- keywords --- */

#define SYSTEM_FLAGS "\\Answered \\Flagged \\Deleted \\Seen \\Draft"
/* the store has no more at a time; some may have been given back meanwhile */
#define KEYWORDS_ANNOUNCED_MAX 6000u
static const char *const usual_keywords[] = {"$Forwarded", "$MDNSent", "$Junk", "$NotJunk", "$Phishing"};

void imap_view_add_flags(const struct imap_view *v, struct buf *out)
{
    BUF(names, IMAP_FLAGS_MAX / 2 - 256);
    buf_add(&names, S(SYSTEM_FLAGS));
    for (size_t i = 0; i < ARRAY_LEN(usual_keywords); i++)
        buf_printf(&names, " %s", usual_keywords[i]);
    for (unsigned i = 0; i < v->n_keywords; i++)
        buf_printf(&names, " %s", v->keywords[i]);
    buf_printf(out, "* FLAGS (%s)\r\n", buf_z(&names));
    if (v->is_readonly)
        buf_add(out, S("* OK [PERMANENTFLAGS ()] Read-only.\r\n"));
    else
        buf_printf(out, "* OK [PERMANENTFLAGS (%s%s)] Limited.\r\n", buf_z(&names), v->is_keywords_full ? "" : " \\*");
}

/* False: it was announced before. Their letters' case does not matter (RFC 9051 2.3.2). */
static bool note_announced(struct imap_view *v, const char *name)
{
    char fold[256];
    size_t n = strlen(name);
    if (n > sizeof fold)
        return false; /* the store has none so long */
    for (size_t i = 0; i < n; i++)
        fold[i] = (char)ascii_lower((unsigned char)name[i]);
    if (map_get(&v->announced, str_n(fold, n)))
        return false;
    (void)map_put(&v->announced, str_n(fold, n), v);
    return true;
}

bool imap_view_announce(struct imap_session *s, Thurn__Keyword *const *names, size_t n, struct buf *out)
{
    struct imap_view *v = s->view;
    unsigned before = v->n_keywords;
    for (size_t i = 0; v->announced.n == 0 && i < ARRAY_LEN(usual_keywords); i++)
        (void)note_announced(v, usual_keywords[i]);
    for (size_t i = 0; i < n && v->n_keywords < KEYWORDS_ANNOUNCED_MAX; i++) {
        if (!note_announced(v, names[i]->name))
            continue;
        if (v->n_keywords == v->keywords_room) {
            v->keywords_room = MAX(2 * v->keywords_room, 16u);
            v->keywords = xrealloc(v->keywords, v->keywords_room * sizeof(*v->keywords));
        }
        v->keywords[v->n_keywords++] = xstrdup(names[i]->name);
    }
    if (v->n_keywords == before)
        return false;
    if (out)
        imap_view_add_flags(v, out);
    return true;
}

/* --- telling --- */

void imap_add_flag_update(const struct imap_session *s, struct buf *out, const Thurn__Message *m, uint32_t seq,
                          bool with_uid, bool with_flags, Thurn__Keyword *const *names, size_t n_names)
{
    const char *gap = "";
    buf_printf(out, "* %u FETCH (", seq);
    if (with_uid) {
        buf_printf(out, "UID %u", m->uid);
        gap = " ";
    }
    if (with_flags) {
        buf_printf(out, "%sFLAGS ", gap);
        imap_add_flags(out, m, imap_view_is_recent(s->view, m->uid), names, n_names);
        gap = " ";
    }
    if (s->has_condstore)
        buf_printf(out, "%sMODSEQ (%llu)", gap, (unsigned long long)m->modseq);
    buf_add(out, S(")\r\n"));
}

FIBER static bool write_piece(struct imap_session *s, struct buf *out, bool is_last, struct err *err)
{
    if (out->n == 0 || (!is_last && out->n < PIECE_MAX / 2))
        return true;
    bool ok = imap_write_buf(s, out, err);
    buf_clear(out);
    return ok;
}

void imap_view_within(const struct imap_view *v, Thurn__Range *const *ranges, size_t n, struct uid_map *out)
{
    for (size_t i = 0; i < n; i++)
        if (ranges[i]->first <= UINT32_MAX)
            uid_map_within(&v->uids, (uint32_t)ranges[i]->first, (uint32_t)MIN(ranges[i]->last, (uint64_t)UINT32_MAX),
                           out);
}

/* From the highest down: each number is as it is at that moment, and no lower one has moved. */
FIBER static bool tell_gone(struct imap_session *s, const struct uid_map *gone, struct err *err)
{
    BUF(out, PIECE_MAX);
    for (uint32_t i = gone->n; i-- > 0;) {
        const struct uid_run *run = &gone->v[i];
        uint32_t first = uid_map_seq(&s->view->uids, run->first);
        for (uint32_t seq = first + (run->last - run->first); seq >= first; seq--) {
            buf_printf(&out, "* %u EXPUNGE\r\n", seq);
            struct err late = ERR_INIT; /* what was begun is told to its end: the client counts along */
            if (!write_piece(s, &out, false, err))
                return false;
            (void)!fiber_yield_if_due(&late);
        }
    }
    uid_map_subtract(&s->view->uids, gone);
    uid_map_subtract(&s->view->recents, gone);
    return write_piece(s, &out, true, err);
}

FIBER bool imap_view_expunge(struct imap_session *s, Thurn__Range *const *ranges, size_t n, struct err *err)
{
    struct uid_map gone = {0};
    imap_view_within(s->view, ranges, n, &gone);
    bool ok = tell_gone(s, &gone, err);
    uid_map_done(&gone);
    return ok;
}

/* New messages enlarge the view; changed ones are told with their flags (*updates). */
FIBER static bool take_messages(struct imap_session *s, Thurn__Message *const *v, size_t n,
                                Thurn__Keyword *const *names, size_t n_names, struct buf *updates, struct err *why)
{
    (void)imap_view_announce(s, names, n_names, updates); /* it goes out with them */
    for (size_t i = 0; i < n; i++) {
        uint32_t seq = uid_map_seq(&s->view->uids, v[i]->uid);
        if (!seq)
            add_new(s, v[i]->uid);
        else if (!is_own(s->view, v[i]->modseq))
            imap_add_flag_update(s, updates, v[i], seq, s->has_condstore, true, names, n_names);
        if (!fiber_yield_if_due(why))
            return false;
    }
    return true;
}

/* The pages after the first come from Fetch, which knows where to go on. */
FIBER static bool sync_rest(struct imap_session *s, struct arena *a, uint32_t from_uid, uint64_t since,
                            struct buf *updates, struct err *why)
{
    while (from_uid) {
        struct rpc_call call;
        Thurn__Range range = THURN__RANGE__INIT, *ranges[] = {&range};
        Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
        const Thurn__FetchReply *r;
        range.first = from_uid;
        range.last = UINT32_MAX;
        q.account = &s->account;
        q.mailbox_id = s->view->mailbox_id;
        q.uids = ranges;
        q.n_uids = 1;
        q.changed_since = since;
        imap_call(s, &call, a);
        if (!STORE_CALL(s, &call, store_fetch, &q, &r))
            return err_set(why, call.err.kind, "%s", call.err.msg);
        if (!take_messages(s, r->messages, r->n_messages, r->keyword_names, r->n_keyword_names, updates, why))
            return false;
        from_uid = r->next_uid;
    }
    return true;
}

/* The store did not answer. Whatever is missing is asked for again. */
static bool sync_failed(struct imap_session *s, enum err_kind kind, struct err *err)
{
    s->is_dirty = s->is_behind = true;
    if (kind != ERR_NOT_FOUND)
        return true;
    imap_end(s, IMAP_END_MAILBOX_GONE);
    return err_set(err, ERR_NOT_FOUND, "the selected mailbox is gone");
}

/* RFC 3501 6.3.5: after RENAME INBOX the messages are in another mailbox, and INBOX is a new one with a UIDVALIDITY of
 * its own, which no response can put in the place of the selected one. */
static bool check_inbox(const struct imap_view *v, const Thurn__SyncReply *r, struct err *why)
{
    return !v->is_inbox || !r->mailbox || is_inbox(r->mailbox) || err_set(why, ERR_NOT_FOUND, "INBOX was renamed");
}

/*
 * Ask what has changed, and what of the view is gone. When more has vanished than a reply can hold (LIMIT), the changes
 * are asked for alone, and then which UIDs there are: what goes in between is told now, and once more later, when it is
 * unknown.
 */
FIBER static bool ask_changes(struct imap_session *s, struct arena *a, const Thurn__SyncReply **r, struct uid_map *gone,
                              struct err *why)
{
    struct imap_view *v = s->view;
    Thurn__SyncRequest q = THURN__SYNC_REQUEST__INIT;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = v->mailbox_id;
    q.since_modseq = v->modseq;
    imap_call(s, &call, a);
    if (STORE_CALL(s, &call, store_sync, &q, r)) {
        imap_view_within(v, (*r)->vanished, (*r)->n_vanished, gone);
        return true;
    }
    if (call.err.kind != ERR_LIMIT)
        return err_set(why, call.err.kind, "%s", call.err.msg);
    Thurn__Range above_all = THURN__RANGE__INIT, *known[] = {&above_all};
    above_all.first = above_all.last = UINT32_MAX;
    q.known_uids = known;
    q.n_known_uids = 1;
    imap_call(s, &call, a);
    if (!STORE_CALL(s, &call, store_sync, &q, r))
        return err_set(why, call.err.kind, "%s", call.err.msg);
    struct imap_contents there = {0};
    bool ok = imap_contents_load(s, v->mailbox_id, 0, &there, why);
    if (ok) {
        uid_map_within(&v->uids, 1, UINT32_MAX, gone);
        uid_map_subtract(gone, &there.uids);
    }
    imap_contents_done(&there);
    return ok;
}

/* After ask_changes. */
FIBER static bool tell_news(struct imap_session *s, struct arena *a, const Thurn__SyncReply *r, bool may_expunge,
                            const struct uid_map *gone, uint64_t heard, struct err *err)
{
    struct imap_view *v = s->view;
    bool holds_back = !may_expunge && gone->n;
    if (!holds_back && !tell_gone(s, gone, err))
        return false;
    BUF(updates, 64u << 20);
    struct err why = ERR_INIT;
    uint32_t before = uid_map_count(&v->uids);
    bool is_whole =
        take_messages(s, r->messages, r->n_messages, r->keyword_names, r->n_keyword_names, &updates, &why) &&
        sync_rest(s, a, r->next_uid, r->is_from_start ? 0 : v->modseq, &updates, &why);
    uint32_t now = uid_map_count(&v->uids);
    if (now != before && !imap_printf(s, err, "* %u EXISTS\r\n* %u RECENT\r\n", now, uid_map_count(&v->recents)))
        return false;
    if ((updates.n || !buf_ok(&updates)) && !imap_write_buf(s, &updates, err))
        return false;
    if (!is_whole)
        return sync_failed(s, why.kind, err);
    if (holds_back) {
        s->is_dirty = true;
        return true;
    }
    if (r->mailbox)
        v->modseq = MAX(v->modseq, r->mailbox->highestmodseq);
    s->synced_modseq = MAX(s->synced_modseq, MAX(heard, v->modseq));
    return true;
}

FIBER bool imap_view_sync(struct imap_session *s, struct arena *a, bool may_expunge, struct err *err)
{
    const Thurn__SyncReply *r = NULL;
    struct uid_map gone = {0};
    struct err why = ERR_INIT;
    uint64_t heard = s->beacon_modseq;
    s->is_dirty = s->is_behind = false; /* a beacon that comes meanwhile sets is_dirty again */
    bool ok = ask_changes(s, a, &r, &gone, &why) && check_inbox(s->view, r, &why)
                  ? tell_news(s, a, r, may_expunge, &gone, heard, err)
                  : sync_failed(s, why.kind, err);
    uid_map_done(&gone);
    return ok;
}

bool imap_view_lost(struct imap_session *s, struct imap_command *c, struct err *err)
{
    s->is_dirty = true;     /* the next command that may tells them */
    if (str_empty(c->code)) /* RFC 7162 3.1.3: MODIFIED says more */
        c->code = S("EXPUNGEISSUED");
    c->text = S("Some of the messages no longer exist.");
    return err_set(err, ERR_NOT_FOUND, "some of the messages no longer exist");
}

uint64_t imap_view_count(const struct imap_view *v, Thurn__Range *const *ranges, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += uid_map_rank(&v->uids, (uint32_t)MIN(ranges[i]->last, (uint64_t)UINT32_MAX)) -
                 uid_map_rank(&v->uids, (uint32_t)ranges[i]->first - 1); /* UIDs begin at 1 */
    return count;
}

/* --- slices --- */

struct imap_ranges imap_ranges_of(const struct uid_map *m, struct arena *a)
{
    Thurn__Range *ranges = arena_array(a, Thurn__Range, m->n);
    struct imap_ranges out = {arena_array(a, Thurn__Range *, m->n), m->n};
    for (uint32_t i = 0; i < m->n; i++) {
        thurn__range__init(&ranges[i]);
        ranges[i].first = m->v[i].first;
        ranges[i].last = m->v[i].last;
        out.v[i] = &ranges[i];
    }
    return out;
}

void imap_ranges_skip(struct imap_ranges *ranges, uint32_t from_uid)
{
    while (ranges->n && ranges->v[0]->last < from_uid) {
        ranges->v++;
        ranges->n--;
    }
    if (ranges->n)
        ranges->v[0]->first = MAX(ranges->v[0]->first, (uint64_t)from_uid);
}

struct imap_ranges imap_ranges_take(struct imap_ranges *rest, const struct imap_view *view, uint64_t max,
                                    struct arena *a)
{
    size_t room = MIN(rest->n, (size_t)IMAP_RANGES_MAX);
    struct imap_ranges out = {arena_array(a, Thurn__Range *, room + 1), 0};
    uint64_t left = max;
    while (rest->n && out.n < room && left) {
        Thurn__Range *r = rest->v[0], *taken = arena_new(a, Thurn__Range);
        uint64_t n = imap_view_count(view, &r, 1);
        *taken = *r;
        out.v[out.n++] = taken;
        if (n > left) {
            taken->last = uid_map_uid(&view->uids, uid_map_rank(&view->uids, (uint32_t)r->first - 1) + (uint32_t)left);
            imap_ranges_skip(rest, (uint32_t)taken->last + 1);
            break;
        }
        left -= n;
        rest->v++;
        rest->n--;
    }
    return out;
}
