#include "base/num.h"
#include "store-service/index/page.h"

struct index *index_new(void)
{
    struct index *ix = xnew(struct index);
    ix->bytes = sizeof *ix;
    ix->is_dirty = true;
    return ix;
}

void index_free(struct index *ix)
{
    if (!ix)
        return;
    for (size_t i = 0; i < ix->n_pages; i++)
        page_free(ix->pages[i]);
    free(ix->pages);
    free(ix);
}

/* Place of the first page that is not below no. */
static size_t place_of(const struct index *ix, uint32_t no)
{
    size_t lo = 0, hi = ix->n_pages;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ix->pages[mid]->no < no)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct index_page *index_page_of(const struct index *ix, uint32_t uid)
{
    uint32_t no = uid / INDEX_PAGE_UIDS;
    size_t i = place_of(ix, no);
    return i < ix->n_pages && ix->pages[i]->no == no ? ix->pages[i] : NULL;
}

struct index_page *index_add_page(struct index *ix, uint32_t no)
{
    size_t i = place_of(ix, no);
    if (ix->n_pages == ix->cap_pages) {
        ix->cap_pages = MAX(ix->cap_pages * 2, 4u);
        ix->pages = xrealloc(ix->pages, size_mul(ix->cap_pages, sizeof *ix->pages));
    }
    memmove(&ix->pages[i + 1], &ix->pages[i], (ix->n_pages - i) * sizeof *ix->pages);
    ix->n_pages++;
    ix->pages[i] = page_new(no);
    ix->bytes += page_bytes(ix->pages[i]) + sizeof *ix->pages;
    return ix->pages[i];
}

struct index_row index_row_at(const struct index_page *p, size_t i)
{
    assert(i < p->n && p->has[INDEX_STATE] && p->has[INDEX_FACTS]);
    return (struct index_row){.uid = index_uid(p, i),
                              .flags = p->flags[i],
                              .kw = index_kw(p, i),
                              .modseq = p->modseq[i],
                              .email_id = p->email_id[i],
                              .thread_id = p->thread_id[i],
                              .internal_unix = p->internal_unix[i],
                              .saved_unix = p->saved_unix[i],
                              .sent_unix = p->sent_unix[i],
                              .size = p->size[i],
                              .internal_zone = p->internal_zone[i]};
}

bool index_can_put(const struct index *ix, uint32_t uid)
{
    const struct index_page *p = index_page_of(ix, uid);
    return !p || (p->has[INDEX_STATE] && p->has[INDEX_FACTS]);
}

bool index_can_set(const struct index *ix, uint32_t uid)
{
    const struct index_page *p = index_page_of(ix, uid);
    return !p || p->has[INDEX_STATE];
}

void index_put(struct index *ix, const struct index_row *row)
{
    struct index_page *p = index_page_of(ix, row->uid);
    if (!p) {
        p = index_add_page(ix, row->uid / INDEX_PAGE_UIDS);
        ix->bytes -= page_bytes(p);
        page_take_group(p, INDEX_STATE);
        page_take_group(p, INDEX_FACTS);
        ix->bytes += page_bytes(p);
    }
    size_t before = page_bytes(p);
    ix->n += page_put(p, row);
    ix->bytes += page_bytes(p) - before;
    ix->is_dirty = true;
}

void index_set(struct index *ix, uint32_t uid, uint8_t flags, str kw, int64_t modseq)
{
    struct index_page *p = index_page_of(ix, uid);
    if (!p)
        return;
    size_t before = page_bytes(p);
    ix->is_dirty |= page_set(p, uid, flags, kw, modseq);
    ix->bytes += page_bytes(p) - before;
}

void index_remove(struct index *ix, const struct uidset *uids)
{
    size_t at = 0, kept = 0, i = uids->n ? place_of(ix, (uint32_t)(uids->v[0].first / INDEX_PAGE_UIDS)) : ix->n_pages;
    kept = i;
    for (; i < ix->n_pages; i++) {
        struct index_page *p = ix->pages[i];
        while (at < uids->n && uids->v[at].last < (uint64_t)p->no * INDEX_PAGE_UIDS)
            at++;
        if (at < uids->n && uids->v[at].first < ((uint64_t)p->no + 1) * INDEX_PAGE_UIDS) {
            size_t gone = page_remove(p, uids, &at);
            ix->n -= gone;
            ix->is_dirty |= gone > 0;
        }
        if (p->n) {
            ix->pages[kept++] = p;
        } else {
            ix->bytes -= page_bytes(p) + sizeof *ix->pages;
            page_free(p);
        }
    }
    ix->n_pages = kept;
}

void index_uids(const struct index *ix, uint32_t from, struct uidset *out)
{
    for (size_t i = place_of(ix, from / INDEX_PAGE_UIDS); i < ix->n_pages; i++) {
        const struct index_page *p = ix->pages[i];
        size_t k = index_lower(p, from);
        while (k < p->n) {
            size_t run = k + 1;
            if (p->offset[p->n - 1] - p->offset[k] == (int)(p->n - 1 - k)) /* to the end without a gap */
                run = p->n;
            while (run < p->n && p->offset[run] == p->offset[run - 1] + 1)
                run++;
            uidset_add_range(out, index_uid(p, k), index_uid(p, run - 1));
            k = run;
        }
    }
}

uint32_t index_first_unseen(const struct index *ix)
{
    for (size_t i = 0; i < ix->n_pages; i++)
        if (ix->pages[i]->n_unseen)
            return index_uid(ix->pages[i], ix->pages[i]->first_unseen);
    return 0;
}

uint64_t index_n_unseen(const struct index *ix)
{
    uint64_t n = 0;
    for (size_t i = 0; i < ix->n_pages; i++)
        n += ix->pages[i]->n_unseen;
    return n;
}

void index_clean(struct index *ix)
{
    ix->is_dirty = false;
    for (size_t i = 0; i < ix->n_pages; i++)
        ix->pages[i]->is_dirty[INDEX_STATE] = ix->pages[i]->is_dirty[INDEX_FACTS] = false;
}
