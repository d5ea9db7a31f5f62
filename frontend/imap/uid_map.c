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

bool uid_map_last_within(const struct uid_map *m, uint32_t first, uint32_t last, struct uid_run *out)
{
    ptrdiff_t i = run_at_or_before(m, last);
    if (i < 0 || m->v[i].last < first)
        return false;
    const struct uid_run *r = &m->v[i];
    out->first = MAX(r->first, first);
    out->last = MIN(r->last, last);
    out->seq = r->seq + (out->first - r->first);
    return true;
}

static void renumber(struct uid_map *m, uint32_t from)
{
    for (uint32_t i = from; i < m->n; i++)
        m->v[i].seq = i ? m->v[i - 1].seq + run_length(&m->v[i - 1]) : 1;
}

void uid_map_remove(struct uid_map *m, uint32_t first, uint32_t last)
{
    if (first > last || m->n == 0)
        return;
    ptrdiff_t at = run_at_or_before(m, first);
    uint32_t i = at < 0 ? 0 : (uint32_t)at;
    if (i < m->n && m->v[i].last < first)
        i++;
    uint32_t from = i;
    if (i < m->n && m->v[i].first < first && m->v[i].last > last) { /* in the middle of one run: split it */
        make_room(m);
        memmove(&m->v[i + 1], &m->v[i], (m->n - i) * sizeof(*m->v));
        m->n++;
        m->v[i].last = first - 1;
        m->v[i + 1].first = last + 1;
        renumber(m, from);
        return;
    }
    if (i < m->n && m->v[i].first < first) {
        m->v[i].last = first - 1;
        i++;
    }
    uint32_t gone = i;
    while (gone < m->n && m->v[gone].last <= last)
        gone++;
    if (gone < m->n && m->v[gone].first <= last)
        m->v[gone].first = last + 1;
    if (gone < m->n)
        memmove(&m->v[i], &m->v[gone], (m->n - gone) * sizeof(*m->v));
    m->n -= gone - i;
    renumber(m, from);
}
