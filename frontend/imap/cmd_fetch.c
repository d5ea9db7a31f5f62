/*
 * FETCH (RFC 3501 6.4.5, RFC 7162, RFC 8970). Messages come from the store in pages; small bodies come with the page,
 * large ones are streamed. \Seen is set for a whole page by one call, before its responses are written.
 */
#include "frontend/imap/commands.h"

#include "base/log.h"
#include "frontend/imap/fetch_body.h"
#include "frontend/imap/format.h"
#include "frontend/imap/view.h"
#include "mail/date.h"
#include "proto/store_calls.h"

/* responses gathered before they are written: structures of some messages */
#define OUT_MAX (4u << 20)
#define OUT_WRITE (128u * 1024)
#define UNREAD_MAX 20u /* messages of one command that are left out; then it gives up */

struct fetch_run {
    struct imap_session *s;
    struct imap_command *c;
    struct imap_fetch f;
    bool wants_flags, wants_parsed, sets_seen, enables_condstore;
    struct imap_raw_need raw;
    struct buf *out;
    size_t whole;      /* bytes of out that are whole responses */
    unsigned n_unread; /* messages whose body the store could not give */
    uint64_t n_gone;   /* messages that another session has removed */
};

/* The order of a response: UID, what is short, what is long, and literals last. Clients take the first UID for that of
 * all that follows (Thunderbird showed the body of another message), and some stop at the first literal. */
static unsigned rank(enum imap_fetch_kind kind)
{
    static const unsigned char ranks[] = {
        [FETCH_UID] = 0,         [FETCH_FLAGS] = 1,    [FETCH_MODSEQ] = 2, [FETCH_INTERNALDATE] = 3,
        [FETCH_RFC822_SIZE] = 4, [FETCH_ENVELOPE] = 5, [FETCH_BODY] = 6,   [FETCH_BODYSTRUCTURE] = 7,
        [FETCH_PREVIEW] = 8,     [FETCH_SECTION] = 9,
    };
    return ranks[kind];
}

/* Those of one rank stay in the order in which they were asked for. */
static void sort_items(struct imap_fetch *f)
{
    for (size_t i = 1; i < f->n_items; i++) {
        struct imap_fetch_item it = f->items[i];
        size_t k = i;
        for (; k > 0 && rank(f->items[k - 1].kind) > rank(it.kind); k--)
            f->items[k] = f->items[k - 1];
        f->items[k] = it;
    }
}

static void look_at_items(struct fetch_run *run)
{
    struct imap_fetch *f = &run->f;
    run->raw = imap_raw_need_of(f);
    run->wants_parsed = run->raw.parsed;
    bool has_uid = false, has_modseq = false;
    for (size_t i = 0; i < f->n_items; i++) {
        const struct imap_fetch_item *it = &f->items[i];
        run->wants_flags |= it->kind == FETCH_FLAGS;
        run->sets_seen |= it->sets_seen;
        has_uid |= it->kind == FETCH_UID;
        has_modseq |= it->kind == FETCH_MODSEQ;
        run->wants_parsed |= it->kind == FETCH_ENVELOPE || it->kind == FETCH_BODY || it->kind == FETCH_BODYSTRUCTURE ||
                             it->kind == FETCH_PREVIEW;
    }
    run->sets_seen = run->sets_seen && !run->s->view->is_readonly;
    run->enables_condstore = has_modseq || f->has_changed_since; /* RFC 7162 3.1.2 */
    /* A client that knows CONDSTORE gets MODSEQ with flags; CHANGEDSINCE implies it. */
    if (!has_modseq && (f->has_changed_since || (run->wants_flags && run->s->has_condstore)))
        f->items[f->n_items++] = (struct imap_fetch_item){.kind = FETCH_MODSEQ};
    if (!has_uid && run->c->is_uid)
        f->items[f->n_items++] = (struct imap_fetch_item){.kind = FETCH_UID};
    sort_items(f);
}

/* --- one message --- */

FIBER static bool add_item(struct fetch_run *run, const Thurn__Message *m, const Thurn__FetchReply *page,
                           const struct imap_fetch_item *it, struct err *err)
{
    struct buf *out = run->out;
    const Thurn__ParsedEmail *parsed = m->parsed;
    switch (it->kind) {
    case FETCH_FLAGS:
        buf_add(out, S("FLAGS "));
        imap_add_flags(out, m, imap_view_is_recent(run->s->view, m->uid), page->keyword_names, page->n_keyword_names);
        return true;
    case FETCH_UID:
        buf_printf(out, "UID %u", m->uid);
        return true;
    case FETCH_INTERNALDATE:
        buf_add(out, S("INTERNALDATE \""));
        date_add_imap(out, m->internal_unix, m->internal_zone);
        buf_addc(out, '"');
        return true;
    case FETCH_RFC822_SIZE:
        buf_printf(out, "RFC822.SIZE %llu", (unsigned long long)m->size);
        return true;
    case FETCH_ENVELOPE:
        buf_add(out, S("ENVELOPE "));
        imap_add_envelope(out, parsed ? parsed->envelope : NULL);
        return true;
    case FETCH_BODY:
    case FETCH_BODYSTRUCTURE:
        buf_add(out, it->kind == FETCH_BODY ? S("BODY ") : S("BODYSTRUCTURE "));
        imap_add_body(out, parsed ? parsed->root : NULL, m->size, it->kind == FETCH_BODYSTRUCTURE);
        return true;
    case FETCH_MODSEQ:
        buf_printf(out, "MODSEQ (%llu)", (unsigned long long)m->modseq);
        return true;
    case FETCH_PREVIEW:
        buf_add(out, S("PREVIEW "));
        imap_add_string(out, str_c(parsed ? parsed->preview : ""));
        return true;
    case FETCH_SECTION:
        return imap_fetch_section(run->s, run->c, m, it, out, err);
    }
    return true;
}

FIBER static bool write_out(struct fetch_run *run, struct err *err)
{
    bool ok = imap_write_buf(run->s, run->out, err);
    buf_clear(run->out);
    run->whole = 0;
    return ok;
}

/* The store failed within a response: what was gathered before it is whole. When part of that very response is on its
 * way already, the connection cannot go on. */
FIBER static void write_whole(struct fetch_run *run)
{
    struct err late = ERR_INIT;
    if (imap_is_broken(run->s))
        return;
    buf_truncate(run->out, MIN(run->whole, run->out->n));
    if (run->out->n && buf_ok(run->out))
        (void)write_out(run, &late); /* the end of the session says it */
}

/* \Seen was set by this very command, so the flags are told unasked. */
static void add_seen_flags(struct fetch_run *run, const Thurn__Message *m, const Thurn__FetchReply *page)
{
    struct buf *out = run->out;
    buf_add(out, S("FLAGS "));
    imap_add_flags(out, m, imap_view_is_recent(run->s->view, m->uid), page->keyword_names, page->n_keyword_names);
    if (run->s->has_condstore)
        buf_printf(out, " MODSEQ (%llu)", (unsigned long long)m->modseq);
}

FIBER static bool add_message(struct fetch_run *run, const Thurn__Message *m, uint32_t seq, bool seen_now,
                              const Thurn__FetchReply *page, struct err *err)
{
    struct buf *out = run->out;
    bool was_written = false, owes_flags = seen_now && !run->wants_flags;
    const char *gap = "";
    buf_printf(out, "* %u FETCH (", seq);
    for (size_t i = 0; i < run->f.n_items; i++) {
        const struct imap_fetch_item *it = &run->f.items[i];
        if (owes_flags && it->kind != FETCH_UID) {
            buf_add(out, str_c(gap));
            add_seen_flags(run, m, page);
            owes_flags = false;
            gap = " ";
        }
        buf_add(out, str_c(gap));
        gap = " ";
        size_t before = out->n;
        bool ok = add_item(run, m, page, it, err);
        was_written |= out->n < before; /* streaming wrote what was gathered */
        if (!ok && was_written)
            imap_end(run->s, IMAP_END_BROKEN);
        if (!ok)
            return false;
    }
    buf_add(out, S(")\r\n"));
    run->whole = out->n;
    return out->n < OUT_WRITE || write_out(run, err);
}

/* The store could not give a body, and nothing of the response has been written: the others go on without it.
 * NOT_FOUND: the message has just been removed. */
static bool leave_out(struct fetch_run *run, const Thurn__Message *m, uint32_t seq, bool seen_now,
                      const Thurn__FetchReply *page, const struct err *why)
{
    if (run->s->end != IMAP_END_NONE || why->kind == ERR_CANCELLED || why->kind == ERR_TIMEOUT ||
        run->n_unread == UNREAD_MAX)
        return false;
    bool is_gone = why->kind == ERR_NOT_FOUND;
    run->n_gone += is_gone;
    run->n_unread += !is_gone;
    if (!is_gone)
        log_error("imap.unreadable", KV_I64("account_id", run->s->account.account_id),
                  KV_I64("mailbox_id", run->s->view->mailbox_id), KV_I64("uid", m->uid), KV_ERR(why));
    buf_truncate(run->out, run->whole);
    if (seen_now)
        imap_add_flag_update(run->s, run->out, m, seq, run->c->is_uid, true, page->keyword_names,
                             page->n_keyword_names);
    run->whole = run->out->n;
    return true;
}

/* --- \Seen --- */

static const Thurn__Message *find_message(const Thurn__StoreFlagsReply *r, uint32_t uid)
{
    size_t low = 0, high = r->n_messages;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (r->messages[mid]->uid == uid)
            return r->messages[mid];
        if (r->messages[mid]->uid < uid)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* Set \Seen on those of the page that lack it, and let the page say so. *seen_now[i] for those. */
FIBER static bool set_seen(struct fetch_run *run, const Thurn__FetchReply *page, bool *seen_now, struct err *err)
{
    struct arena *a = run->c->arena;
    Thurn__Range **ranges = arena_array(a, Thurn__Range *, page->n_messages + 1);
    size_t n = 0;
    for (size_t i = 0; i < page->n_messages; i++) {
        uint32_t uid = page->messages[i]->uid;
        if (page->messages[i]->flags & THURN__FLAG__FLAG_SEEN)
            continue;
        if (n && ranges[n - 1]->last + 1 == uid) {
            ranges[n - 1]->last = uid;
            continue;
        }
        ranges[n] = arena_new(a, Thurn__Range);
        thurn__range__init(ranges[n]);
        ranges[n]->first = ranges[n]->last = uid;
        n++;
    }
    if (n == 0)
        return true;
    Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
    const Thurn__StoreFlagsReply *r;
    struct rpc_call call;
    q.account = &run->s->account;
    q.mailbox_id = run->s->view->mailbox_id;
    q.uids = ranges;
    q.n_uids = n;
    q.op = THURN__STORE_OP__STORE_ADD;
    q.flags = THURN__FLAG__FLAG_SEEN;
    imap_call(run->s, &call, a);
    if (!STORE_CALL(run->s, &call, store_store_flags, &q, &r))
        return imap_failed(run->c, IMAP_AT_MAILBOX, &call, err);
    imap_view_own(run->s, r, true);
    for (size_t i = 0; i < page->n_messages; i++) {
        const Thurn__Message *now = find_message(r, page->messages[i]->uid);
        if (!now)
            continue;
        page->messages[i]->flags = now->flags;
        page->messages[i]->modseq = now->modseq;
        seen_now[i] = true;
    }
    return true;
}

/* --- pages --- */

FIBER static bool write_page(struct fetch_run *run, const Thurn__FetchReply *page, struct err *err)
{
    bool *seen_now = arena_array(run->c->arena, bool, page->n_messages + 1);
    if (run->sets_seen && !set_seen(run, page, seen_now, err))
        return false;
    if ((run->wants_flags || run->sets_seen) &&
        imap_view_announce(run->s, page->keyword_names, page->n_keyword_names, run->out))
        run->whole = run->out->n;
    for (size_t i = 0; i < page->n_messages; i++) {
        const Thurn__Message *m = page->messages[i];
        uint32_t seq = uid_map_seq(&run->s->view->uids, m->uid);
        struct err why = ERR_INIT;
        if (seq && !add_message(run, m, seq, seen_now[i], page, &why) &&
            !leave_out(run, m, seq, seen_now[i], page, &why))
            return err_set(err, why.kind, "%s", why.msg);
        if (!fiber_yield_if_due(err))
            return false;
    }
    return true;
}

static uint64_t count_known(const struct imap_view *v, const Thurn__FetchReply *page)
{
    uint64_t n = 0;
    for (size_t i = 0; i < page->n_messages; i++)
        n += uid_map_seq(&v->uids, page->messages[i]->uid) != 0;
    return n;
}

FIBER static bool fetch_ranges(struct fetch_run *run, struct imap_ranges ranges, struct err *err)
{
    uint32_t from = 0;
    uint64_t n_missing = imap_view_count(run->s->view, ranges.v, ranges.n);
    do {
        Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
        const Thurn__FetchReply *page;
        struct rpc_call call;
        ARENA(a, IMAP_COMMAND_ARENA); /* a page at a time */
        struct arena *outer = run->c->arena;
        imap_ranges_skip(&ranges, from);
        if (ranges.n == 0)
            break;
        q.account = &run->s->account;
        q.mailbox_id = run->s->view->mailbox_id;
        q.uids = ranges.v;
        q.n_uids = ranges.n;
        q.changed_since = run->f.changed_since;
        q.with_parsed = run->wants_parsed;
        q.with_raw = run->raw.any;
        q.raw_length = run->raw.any && !run->raw.bodies ? IMAP_HEADER_PREFETCH : 0;
        imap_call(run->s, &call, &a);
        if (!STORE_CALL(run->s, &call, store_fetch, &q, &page))
            return imap_failed(run->c, IMAP_AT_MAILBOX, &call, err);
        run->c->arena = &a;
        bool ok = write_page(run, page, err);
        run->c->arena = outer;
        if (!ok)
            return false;
        n_missing -= MIN(n_missing, count_known(run->s->view, page));
        from = page->next_uid;
    } while (from);
    if (!run->f.has_changed_since) /* else those that did not change are missing too */
        run->n_gone += n_missing;
    return true;
}

FIBER bool cmd_fetch(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct fetch_run run = {.s = s, .c = c};
    struct imap_ranges ranges;
    if (!imap_parse_sp(&c->args) || !imap_parse_fetch(&c->args, c->arena, &run.f))
        return imap_bad(c, err, "Malformed FETCH.");
    if (!imap_set_resolve(&run.f.set, &s->view->uids, c->is_uid, true, c->arena, &ranges.v, &ranges.n))
        return imap_bad(c, err, "No such message number.");
    look_at_items(&run);
    if (run.enables_condstore && !imap_enable_condstore(s, err))
        return false;
    BUF(out, OUT_MAX);
    run.out = &out;
    while (ranges.n) {
        struct imap_ranges some = imap_ranges_take(&ranges, s->view, UINT64_MAX, c->arena);
        if (!fetch_ranges(&run, some, err)) {
            write_whole(&run);
            return false;
        }
    }
    if (out.n && !write_out(&run, err))
        return false;
    if (run.n_unread)
        return imap_no(c, err, ERR_UNAVAILABLE, "UNAVAILABLE", "Some messages could not be read.");
    return run.n_gone == 0 || c->is_uid || imap_view_lost(s, c, err);
}
