#include "store-service/index/page.h"

#include "base/num.h"
#include "proto/store.pb-c.h"

#define FIRST_CAP 16u

static size_t row_bytes(const struct index_page *p)
{
    return sizeof *p->offset + (p->has[INDEX_STATE] ? 1 + sizeof *p->kw + sizeof *p->modseq : 0) +
           (p->has[INDEX_FACTS] ? 6 * sizeof *p->email_id + sizeof *p->internal_zone : 0);
}

size_t page_bytes(const struct index_page *p)
{
    size_t n = sizeof *p + p->cap * row_bytes(p) + p->n_kw_sets * sizeof *p->kw_sets;
    for (size_t i = 0; i < p->n_kw_sets; i++)
        n += p->kw_sets[i].len;
    return n;
}

struct index_page *page_new(uint32_t no)
{
    struct index_page *p = xnew(struct index_page);
    p->no = no;
    return p;
}

static void free_kw_sets(struct index_page *p)
{
    for (size_t i = 0; i < p->n_kw_sets; i++)
        free(p->kw_sets[i].ids);
    free(p->kw_sets);
    p->kw_sets = NULL;
    p->n_kw_sets = 0;
}

void page_free(struct index_page *p)
{
    if (!p)
        return;
    free_kw_sets(p);
    free(p->offset);
    free(p->flags);
    free(p->kw);
    free(p->modseq);
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        free(*facts[i]);
    free(p->internal_zone);
    free(p);
}

static void *resized(void *p, size_t count, size_t size)
{
    return xrealloc(p, size_mul(MAX(count, 1u), size));
}

void page_resize(struct index_page *p, uint32_t cap)
{
    p->cap = cap;
    p->offset = resized(p->offset, cap, sizeof *p->offset);
    if (p->has[INDEX_STATE]) {
        p->flags = resized(p->flags, cap, sizeof *p->flags);
        p->kw = resized(p->kw, cap, sizeof *p->kw);
        p->modseq = resized(p->modseq, cap, sizeof *p->modseq);
    }
    if (p->has[INDEX_FACTS]) {
        int64_t **facts[] = PAGE_FACTS(p);
        for (size_t i = 0; i < ARRAY_LEN(facts); i++)
            *facts[i] = resized(*facts[i], cap, sizeof **facts[i]);
        p->internal_zone = resized(p->internal_zone, cap, sizeof *p->internal_zone);
    }
}

void page_take_group(struct index_page *p, enum index_group g)
{
    if (p->has[g])
        return;
    p->has[g] = true;
    if (g == INDEX_STATE) {
        p->kw_sets = xnew(struct index_kw_set);
        p->n_kw_sets = 1;
    }
    page_resize(p, MAX(p->cap, FIRST_CAP));
}

void page_drop_group(struct index_page *p, enum index_group g)
{
    p->has[g] = false;
    if (g == INDEX_STATE) {
        free_kw_sets(p);
        free(p->flags);
        free(p->kw);
        free(p->modseq);
        p->flags = NULL;
        p->kw = NULL;
        p->modseq = NULL;
        return;
    }
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
        free(*facts[i]);
        *facts[i] = NULL;
    }
    free(p->internal_zone);
    p->internal_zone = NULL;
}

/* --- sets of keywords: few of them are shared by many messages --- */

uint16_t page_kw_ref(struct index_page *p, str ids)
{
    size_t unused = 0;
    if (str_empty(ids))
        return 0;
    for (size_t i = 1; i < p->n_kw_sets; i++) {
        struct index_kw_set *s = &p->kw_sets[i];
        if (s->refs && str_eq(str_n(s->ids, s->len), ids)) {
            s->refs++;
            return (uint16_t)i;
        }
        if (!s->refs)
            unused = i;
    }
    if (!unused) { /* at most one a message, and one more while a message changes */
        unused = p->n_kw_sets++;
        p->kw_sets = resized(p->kw_sets, p->n_kw_sets, sizeof *p->kw_sets);
        p->kw_sets[unused] = (struct index_kw_set){0};
    }
    struct index_kw_set *s = &p->kw_sets[unused];
    free(s->ids);
    *s = (struct index_kw_set){.refs = 1, .len = (uint32_t)ids.n, .ids = xmalloc(ids.n)};
    memcpy(s->ids, ids.p, ids.n);
    return (uint16_t)unused;
}

static void kw_unref(struct index_page *p, uint16_t at)
{
    if (at)
        p->kw_sets[at].refs--;
}

/* --- messages --- */

size_t index_lower(const struct index_page *p, uint32_t uid)
{
    size_t lo = 0, hi = p->n;
    uint32_t no = uid / INDEX_PAGE_UIDS, offset = uid % INDEX_PAGE_UIDS;
    if (no != p->no)
        return no < p->no ? 0 : p->n;
    if (hi > 0 && p->offset[hi - 1] < offset) /* new messages go to the end */
        return hi;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->offset[mid] < offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool is_unseen(const struct index_page *p, size_t i)
{
    return !(p->flags[i] & THURN__FLAG__FLAG_SEEN);
}

void page_count_unseen(struct index_page *p)
{
    p->n_unseen = 0;
    p->first_unseen = 0;
    for (size_t i = p->n; i-- > 0;) {
        if (is_unseen(p, i)) {
            p->n_unseen++;
            p->first_unseen = (uint16_t)i;
        }
    }
}

/* Message i has lost its \Seen, or is new without it; or the other way round. */
static void recount(struct index_page *p, size_t i, bool was_unseen)
{
    bool is = is_unseen(p, i);
    if (is == was_unseen)
        return;
    p->n_unseen += is ? 1 : -1u;
    if (is && (p->n_unseen == 1 || i < p->first_unseen))
        p->first_unseen = (uint16_t)i;
    else if (!is && i == p->first_unseen)
        while (p->n_unseen && !is_unseen(p, p->first_unseen))
            p->first_unseen++;
}

static void move_up(void *column, size_t at, size_t n, size_t size)
{
    memmove((char *)column + (at + 1) * size, (char *)column + at * size, (n - at) * size);
}

/* Room for a message at this place. */
static void open_gap(struct index_page *p, size_t at)
{
    if (p->n == p->cap)
        page_resize(p, MIN(MAX(p->cap * 2, FIRST_CAP), INDEX_PAGE_UIDS));
    move_up(p->offset, at, p->n, sizeof *p->offset);
    move_up(p->flags, at, p->n, sizeof *p->flags);
    move_up(p->kw, at, p->n, sizeof *p->kw);
    move_up(p->modseq, at, p->n, sizeof *p->modseq);
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        move_up(*facts[i], at, p->n, sizeof **facts[i]);
    move_up(p->internal_zone, at, p->n, sizeof *p->internal_zone);
    if (p->n_unseen && at <= p->first_unseen)
        p->first_unseen++;
    p->n++;
    p->flags[at] = THURN__FLAG__FLAG_SEEN; /* counts for nothing yet */
    p->kw[at] = 0;
}

static void set_state(struct index_page *p, size_t i, uint8_t flags, str kw, int64_t modseq)
{
    bool was_unseen = is_unseen(p, i);
    uint16_t set = page_kw_ref(p, kw);
    kw_unref(p, p->kw[i]);
    p->kw[i] = set;
    p->flags[i] = flags;
    p->modseq[i] = modseq;
    p->is_dirty[INDEX_STATE] = true;
    recount(p, i, was_unseen);
}

bool page_put(struct index_page *p, const struct index_row *row)
{
    size_t i = index_lower(p, row->uid);
    bool is_new = i == p->n || index_uid(p, i) != row->uid;
    assert(p->has[INDEX_STATE] && p->has[INDEX_FACTS] && row->uid / INDEX_PAGE_UIDS == p->no);
    if (is_new) {
        open_gap(p, i);
        p->offset[i] = (uint16_t)(row->uid % INDEX_PAGE_UIDS);
    }
    set_state(p, i, row->flags, row->kw, row->modseq);
    p->email_id[i] = row->email_id;
    p->thread_id[i] = row->thread_id;
    p->internal_unix[i] = row->internal_unix;
    p->saved_unix[i] = row->saved_unix;
    p->sent_unix[i] = row->sent_unix;
    p->size[i] = row->size;
    p->internal_zone[i] = (int16_t)row->internal_zone;
    p->is_dirty[INDEX_FACTS] = true;
    return is_new;
}

bool page_set(struct index_page *p, uint32_t uid, uint8_t flags, str kw, int64_t modseq)
{
    size_t i = index_lower(p, uid);
    assert(p->has[INDEX_STATE]);
    if (i == p->n || index_uid(p, i) != uid)
        return false;
    set_state(p, i, flags, kw, modseq);
    return true;
}

static void move_row(struct index_page *p, size_t to, size_t from)
{
    if (to == from)
        return;
    p->offset[to] = p->offset[from];
    p->flags[to] = p->flags[from];
    p->kw[to] = p->kw[from];
    p->modseq[to] = p->modseq[from];
    if (!p->has[INDEX_FACTS])
        return;
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        (*facts[i])[to] = (*facts[i])[from];
    p->internal_zone[to] = p->internal_zone[from];
}

size_t page_remove(struct index_page *p, const struct uidset *uids, size_t *at)
{
    size_t kept = 0, i = 0, before = p->n;
    assert(p->has[INDEX_STATE]);
    for (; i < p->n; i++) {
        uint32_t uid = index_uid(p, i);
        while (*at < uids->n && uids->v[*at].last < uid)
            ++*at;
        if (*at < uids->n && uids->v[*at].first <= uid)
            kw_unref(p, p->kw[i]);
        else
            move_row(p, kept++, i);
    }
    p->n = (uint32_t)kept;
    if (kept < before) {
        p->is_dirty[INDEX_STATE] = true;
        p->is_dirty[INDEX_FACTS] = true; /* also when it is not loaded: what is stored has more rows */
        page_count_unseen(p);
    }
    return before - kept;
}
