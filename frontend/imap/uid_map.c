#include "frontend/imap/uid_map.h"

void uid_map_done(struct uid_map *m)
{
    xfree(m->v);
    *m = (struct uid_map){0};
}

static uint32_t run_length(const struct uid_run *r)
{
    return r->last - r->first + 1;
}

uint32_t uid_map_count(const struct uid_map *m)
{
    return m->n ? m->v[m->n - 1].seq + run_length(&m->v[m->n - 1]) - 1 : 0;
}

uint32_t uid_map_max(const struct uid_map *m)
{
    return m->n ? m->v[m->n - 1].last : 0;
}

static void make_room(struct uid_map *m)
{
    if (m->n < m->room)
        return;
    m->room = m->room ? m->room * 2 : 4;
    m->v = xrealloc(m->v, m->room * sizeof(*m->v));
}

bool uid_map_append(struct uid_map *m, uint32_t first, uint32_t last)
{
    uint32_t max = uid_map_max(m);
    if (first > last)
        return false;
    if (last <= max)
        return true;
    if (first <= max)
        first = max + 1;
    if (m->n && first == max + 1) {
        m->v[m->n - 1].last = last;
        return true;
    }
    make_room(m);
    m->v[m->n] = (struct uid_run){first, last, uid_map_count(m) + 1};
    m->n++;
    return true;
}

/* Index of the last run whose first UID is at most uid, or -1. */
static ptrdiff_t run_at_or_before(const struct uid_map *m, uint32_t uid)
{
    uint32_t low = 0, high = m->n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (m->v[mid].first <= uid)
            low = mid + 1;
        else
            high = mid;
    }
    return (ptrdiff_t)low - 1;
}

uint32_t uid_map_seq(const struct uid_map *m, uint32_t uid)
{
    ptrdiff_t i = run_at_or_before(m, uid);
    return i >= 0 && uid <= m->v[i].last ? m->v[i].seq + (uid - m->v[i].first) : 0;
}

uint32_t uid_map_uid(const struct uid_map *m, uint32_t seq)
{
    if (seq == 0 || seq > uid_map_count(m))
        return 0;
    uint32_t low = 0, high = m->n;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (m->v[mid].seq <= seq)
            low = mid;
        else
            high = mid;
    }
    return m->v[low].first + (seq - m->v[low].seq);
}

uint32_t uid_map_rank(const struct uid_map *m, uint32_t uid)
{
    ptrdiff_t i = run_at_or_before(m, uid);
    return i < 0 ? 0 : m->v[i].seq + (MIN(uid, m->v[i].last) - m->v[i].first);
}

/* Index of the first run that ends at uid or above. */
static uint32_t run_at_or_after(const struct uid_map *m, uint32_t uid)
{
    ptrdiff_t i = run_at_or_before(m, uid);
    return i < 0 ? 0 : (uint32_t)i + (m->v[i].last < uid);
}

void uid_map_within(const struct uid_map *m, uint32_t first, uint32_t last, struct uid_map *out)
{
    for (uint32_t i = run_at_or_after(m, first); i < m->n && m->v[i].first <= last; i++)
        (void)uid_map_append(out, MAX(m->v[i].first, first), MIN(m->v[i].last, last)); /* first <= last */
}

void uid_map_subtract(struct uid_map *m, const struct uid_map *gone)
{
    struct uid_map left = {0};
    uint32_t k = 0;
    if (m->n == 0 || gone->n == 0)
        return;
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t at = m->v[i].first, end = m->v[i].last;
        while (k < gone->n && gone->v[k].last < at)
            k++;
        for (uint32_t j = k; j < gone->n && gone->v[j].first <= end; j++) {
            if (gone->v[j].first > at)
                (void)uid_map_append(&left, (uint32_t)at, gone->v[j].first - 1);
            at = (uint64_t)gone->v[j].last + 1;
            k = j; /* it may reach into the next run */
        }
        if (at <= end)
            (void)uid_map_append(&left, (uint32_t)at, (uint32_t)end);
    }
    uid_map_done(m);
    *m = left;
}
