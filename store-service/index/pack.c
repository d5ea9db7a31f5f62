/*
 * The values in the database. Numbers are varints; columns are differences from row to row, which are small where
 * messages came one after the other. Every value begins with its format's number; a page's groups repeat the UIDs that
 * they are of, so that a group which does not belong to the page as it is now is refused instead of believed.
 */
#include "base/num.h"
#include "base/varint.h"
#include "store-service/index/page.h"

#define FORMAT 1u
#define KW_SET_MAX (2u * 4096) /* bytes: more ids than a message can have */

static bool damaged(struct err *err, const char *what)
{
    return err_set(err, ERR_INTERNAL, "an index %s in the database is damaged, or of another release", what);
}

/* --- UIDs of a page: runs, as gap and length in turn --- */

static void put_offsets(struct buf *out, const struct index_page *p)
{
    uint32_t next = 0;
    varint_put(out, p->n);
    for (size_t i = 0; i < p->n;) {
        size_t run = i + 1;
        while (run < p->n && p->offset[run] == p->offset[run - 1] + 1)
            run++;
        varint_put(out, p->offset[i] - next);
        varint_put(out, run - i);
        next = p->offset[run - 1] + 1u;
        i = run;
    }
}

/* How many there are, and each in turn: into the page, or compared with it. */
static bool get_offsets(struct cursor *c, struct index_page *p, bool compare)
{
    uint64_t n, gap, run, next = 0;
    if (!varint_get(c, &n) || n > INDEX_PAGE_UIDS || (compare && n != p->n))
        return false;
    if (!compare) {
        page_resize(p, (uint32_t)n);
        p->n = (uint32_t)n;
    }
    for (uint64_t i = 0; i < n;) {
        if (!varint_get(c, &gap) || !varint_get(c, &run) || gap >= INDEX_PAGE_UIDS || run < 1 || run > n - i ||
            next + gap + run > INDEX_PAGE_UIDS)
            return false;
        next += gap;
        for (; run > 0; run--, i++, next++) {
            if (!compare)
                p->offset[i] = (uint16_t)next;
            else if (p->offset[i] != next)
                return false;
        }
    }
    return true;
}

/* --- the head --- */

void index_pack_head(const struct index *ix, struct buf *out)
{
    uint32_t last = 0;
    varint_put(out, FORMAT);
    varint_put(out, ix->modseq);
    varint_put(out, ix->n_pages);
    for (size_t i = 0; i < ix->n_pages; i++) {
        const struct index_page *p = ix->pages[i];
        varint_put(out, p->no - last);
        last = p->no;
        varint_put(out, p->n_unseen);
        varint_put(out, p->first_unseen);
        put_offsets(out, p);
    }
}

static bool unpack_page(struct cursor *c, struct index *ix, uint64_t *no, bool is_first)
{
    uint64_t step, n_unseen, first_unseen;
    if (!varint_get(c, &step) || !varint_get(c, &n_unseen) || !varint_get(c, &first_unseen) ||
        (step == 0 && !is_first) || step > UINT32_MAX / INDEX_PAGE_UIDS - *no)
        return false;
    *no += step;
    struct index_page *p = index_add_page(ix, (uint32_t)*no);
    ix->bytes -= page_bytes(p);
    bool ok = get_offsets(c, p, false) && p->n > 0 && n_unseen <= p->n && first_unseen < p->n;
    ix->bytes += page_bytes(p);
    ix->n += p->n;
    p->n_unseen = (uint32_t)n_unseen;
    p->first_unseen = (uint16_t)first_unseen;
    return ok;
}

struct index *index_unpack_head(str packed, struct err *err)
{
    struct cursor c = cur_of(packed);
    struct index *ix = index_new();
    uint64_t format, n_pages, no = 0;
    bool ok = varint_get(&c, &format) && format == FORMAT && varint_get(&c, &ix->modseq) && varint_get(&c, &n_pages);
    for (uint64_t i = 0; ok && i < n_pages; i++)
        ok = unpack_page(&c, ix, &no, i == 0);
    if (ok && cur_left(&c) == 0) {
        ix->is_dirty = false;
        return ix;
    }
    index_free(ix);
    (void)damaged(err, "head");
    return NULL;
}

/* --- groups --- */

static void put_column(struct buf *out, const int64_t *v, size_t n)
{
    uint64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        varint_put(out, zigzag((uint64_t)v[i] - last));
        last = (uint64_t)v[i];
    }
}

static bool get_column(struct cursor *c, int64_t *v, size_t n)
{
    uint64_t last = 0, d;
    for (size_t i = 0; i < n; i++) {
        if (!varint_get(c, &d))
            return false;
        last += unzigzag(d);
        v[i] = (int64_t)last;
    }
    return true;
}

/* Sets that no message has any more are left out, so they are numbered anew. */
static void pack_state(const struct index_page *p, struct buf *out)
{
    uint16_t *numbers = xcalloc(p->n_kw_sets, sizeof *numbers), n = 0;
    for (size_t i = 1; i < p->n_kw_sets; i++)
        if (p->kw_sets[i].refs)
            numbers[i] = ++n;
    varint_put(out, n);
    for (size_t i = 1; i < p->n_kw_sets; i++) {
        const struct index_kw_set *s = &p->kw_sets[i];
        if (!s->refs)
            continue;
        varint_put(out, s->len);
        buf_add_n(out, s->ids, s->len);
    }
    buf_add_n(out, p->flags, p->n);
    for (size_t i = 0; n && i < p->n; i++)
        varint_put(out, numbers[p->kw[i]]);
    put_column(out, p->modseq, p->n);
    free(numbers);
}

static bool unpack_state(struct cursor *c, struct index_page *p)
{
    uint64_t n_sets, len, set;
    if (!varint_get(c, &n_sets) || n_sets > INDEX_PAGE_UIDS)
        return false;
    for (uint64_t i = 0; i < n_sets; i++) {
        if (!varint_get(c, &len) || len < 1 || len > KW_SET_MAX || len > cur_left(c))
            return false;
        str ids = cur_take(c, len);
        if (page_kw_ref(p, ids) != i + 1) /* none is there twice */
            return false;
    }
    for (uint64_t i = 1; i <= n_sets; i++)
        p->kw_sets[i].refs = 0; /* counted below */
    str flags = cur_take(c, p->n);
    if (flags.n != p->n)
        return false;
    memcpy(p->flags, flags.p, p->n);
    for (size_t i = 0; i < p->n; i++) {
        set = 0;
        if (n_sets && (!varint_get(c, &set) || set > n_sets))
            return false;
        p->kw[i] = (uint16_t)set;
        p->kw_sets[set].refs++;
    }
    return get_column(c, p->modseq, p->n);
}

static void pack_facts(struct index_page *p, struct buf *out)
{
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        put_column(out, *facts[i], p->n);
    int64_t last = 0;
    for (size_t i = 0; i < p->n; i++) {
        varint_put(out, zigzag((uint64_t)(p->internal_zone[i] - last)));
        last = p->internal_zone[i];
    }
}

static bool unpack_facts(struct cursor *c, struct index_page *p)
{
    int64_t **facts[] = PAGE_FACTS(p);
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        if (!get_column(c, *facts[i], p->n))
            return false;
    uint64_t last = 0, d;
    for (size_t i = 0; i < p->n; i++) {
        if (!varint_get(c, &d))
            return false;
        last += unzigzag(d);
        p->internal_zone[i] = (int16_t)last;
    }
    return true;
}

void index_pack_page(const struct index_page *p, enum index_group g, struct buf *out)
{
    assert(p->has[g]);
    varint_put(out, FORMAT);
    put_offsets(out, p);
    if (g == INDEX_STATE)
        pack_state(p, out);
    else
        pack_facts((struct index_page *)(uintptr_t)p, out); /* which only reads */
}

bool index_unpack_page(struct index *ix, struct index_page *p, enum index_group g, str packed, struct err *err)
{
    struct cursor c = cur_of(packed);
    uint64_t format;
    if (!varint_get(&c, &format) || format != FORMAT || !get_offsets(&c, p, true))
        return damaged(err, "page");
    ix->bytes -= page_bytes(p);
    page_drop_group(p, g);
    page_take_group(p, g);
    bool ok = (g == INDEX_STATE ? unpack_state(&c, p) : unpack_facts(&c, p)) && cur_left(&c) == 0;
    if (!ok)
        page_drop_group(p, g);
    else if (g == INDEX_STATE)
        page_count_unseen(p);
    p->is_dirty[g] = false;
    ix->bytes += page_bytes(p);
    return ok || damaged(err, "page");
}
