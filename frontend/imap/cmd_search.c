/* SEARCH (RFC 3501 6.4.4, RFC 7162 3.1.5) and its extended result (RFC 4731). */
#include "frontend/imap/commands.h"

#include "base/metrics.h"
#include "frontend/imap/contents.h"
#include "frontend/imap/parse_search.h"
#include "mail/charset.h"
#include "proto/store_calls.h"

#define OUT_MAX (64u << 20)

struct search {
    struct imap_session *s;
    struct uid_map *found;
    uint64_t modseq;
};
static bool take_found(void *arg, const Thurn__SearchReply *r, struct err *err UNUSED)
{
    struct search *run = arg;
    for (size_t i = 0; i < r->n_uids; i++) /* of those that the client knows */
        uid_map_within(&run->s->view->uids, (uint32_t)r->uids[i]->first, (uint32_t)r->uids[i]->last, run->found);
    run->modseq = MAX(run->modseq, r->highest_modseq);
    return true;
}

FIBER static bool run_search(struct imap_session *s, Thurn__SearchKey *key, struct uid_map *found, uint64_t *modseq,
                             struct err *err)
{
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    struct search run = {s, found, *modseq};
    q.mailbox_id = s->view->mailbox_id;
    q.key = key;
    bool ok = imap_search_pages(s, &q, take_found, &run, err);
    *modseq = run.modseq;
    return ok;
}

/* Found messages as numbers or UIDs, ascending, as runs. */
struct hit {
    uint32_t first, last;
};
static size_t hits_of(const struct imap_view *v, const struct uid_map *found, bool is_uid, struct arena *a,
                      struct hit **out)
{
    struct hit *hits = arena_alloc(a, ((size_t)found->n + 1) * sizeof(*hits));
    size_t n = 0;
    for (uint32_t i = 0; i < found->n; i++) {
        const struct uid_run *run = &found->v[i];
        uint32_t first = is_uid ? run->first : uid_map_seq(&v->uids, run->first),
                 last = first + (run->last - run->first);
        if (n && hits[n - 1].last + 1 == first)
            hits[n - 1].last = last;
        else
            hits[n++] = (struct hit){first, last};
    }
    *out = hits;
    return n;
}

FIBER static bool add_plain(struct buf *out, const struct hit *hits, size_t n, struct err *err)
{
    buf_add(out, S("* SEARCH"));
    for (size_t i = 0; i < n; i++)
        for (uint64_t k = hits[i].first; k <= hits[i].last; k++) {
            buf_addc(out, ' ');
            buf_add_u64(out, k);
            if (!fiber_yield_if_due(err))
                return false;
        }
    return true;
}

FIBER static bool add_extended(struct buf *out, const struct imap_command *c, const struct imap_search *q,
                               const struct hit *hits, size_t n, uint64_t count, struct err *err)
{
    buf_printf(out, "* ESEARCH (TAG \"%.*s\")%s", STR_ARG(c->tag), c->is_uid ? " UID" : "");
    if (q->wants_min && n)
        buf_printf(out, " MIN %u", hits[0].first);
    if (q->wants_max && n)
        buf_printf(out, " MAX %u", hits[n - 1].last);
    if (q->wants_count)
        buf_printf(out, " COUNT %llu", (unsigned long long)count);
    for (size_t i = 0; q->wants_all && i < n; i++) {
        buf_add(out, i ? S(",") : S(" ALL "));
        buf_add_u64(out, hits[i].first);
        if (hits[i].last > hits[i].first)
            buf_printf(out, ":%u", hits[i].last);
        if (!fiber_yield_if_due(err))
            return false;
    }
    return true;
}

/* RFC 4731 3.2: with MIN and MAX alone the modseq is that of the messages named. 0: the store did not say. */
FIBER static uint64_t modseq_of_ends(struct imap_session *s, struct imap_command *c, const struct imap_search *q,
                                     const struct hit *hits, size_t n)
{
    Thurn__Range ends[2] = {THURN__RANGE__INIT, THURN__RANGE__INIT}, *ranges[2] = {&ends[0], &ends[1]};
    Thurn__FetchRequest f = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r;
    struct rpc_call call;
    uint64_t modseq = 0;
    uint32_t first = hits[0].first, last = hits[n - 1].last;
    if (!q->wants_min)
        first = last;
    if (!q->wants_max)
        last = first;
    ends[0].first = ends[0].last = c->is_uid ? first : uid_map_uid(&s->view->uids, first);
    ends[1].first = ends[1].last = c->is_uid ? last : uid_map_uid(&s->view->uids, last);
    f.account = &s->account;
    f.mailbox_id = s->view->mailbox_id;
    f.uids = ranges;
    f.n_uids = first == last ? 1 : 2;
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_fetch, &f, &r))
        return 0;
    for (size_t i = 0; i < r->n_messages; i++)
        modseq = MAX(modseq, r->messages[i]->modseq);
    return modseq;
}

/* RFC 3501 7.1 */
static bool bad_charset(struct imap_command *c, struct err *err)
{
    BUF(names, 16 * 1024);
    charset_add_names(&names);
    str code = arena_printf(c->arena, "BADCHARSET (%s)", buf_z(&names));
    return imap_no(c, err, ERR_INVALID, code.p, "Unknown charset.");
}

FIBER static bool answer(struct imap_session *s, struct imap_command *c, const struct imap_search *q,
                         const struct uid_map *found, uint64_t modseq, struct err *err)
{
    struct hit *hits;
    size_t n = hits_of(s->view, found, c->is_uid, c->arena, &hits);
    BUF(out, OUT_MAX);
    if (q->has_return ? !add_extended(&out, c, q, hits, n, uid_map_count(found), err) : !add_plain(&out, hits, n, err))
        return false;
    if (q->has_modseq && n && q->has_return && !q->wants_all && !q->wants_count)
        modseq = modseq_of_ends(s, c, q, hits, n);
    if (q->has_modseq && n)
        buf_printf(&out, q->has_return ? " MODSEQ %llu" : " (MODSEQ %llu)", (unsigned long long)modseq);
    buf_add(&out, S("\r\n"));
    return imap_write_buf(s, &out, err);
}

FIBER bool cmd_search(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct imap_search q = {0};
    struct uid_map found = {0};
    uint64_t modseq = 0;
    if (!imap_parse_sp(&c->args) || !imap_parse_search(&c->args, c->arena, &s->view->uids, &s->view->recents, &q)) {
        if (q.is_unknown_charset)
            return bad_charset(c, err);
        if (q.is_too_large) {
            metric_inc_label(M_IMAP_REFUSED, "search");
            return imap_no(c, err, ERR_LIMIT, "LIMIT", "Too many keys, or too deep.");
        }
        return imap_bad(c, err, "Malformed SEARCH.");
    }
    bool ok = (!q.has_modseq || imap_enable_condstore(s, err)) && run_search(s, q.key, &found, &modseq, err) &&
              answer(s, c, &q, &found, modseq, err);
    uid_map_done(&found);
    return ok;
}
