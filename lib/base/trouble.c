#include "base/trouble.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

struct trouble {
    char what[48], why[160]; /* what: empty = a free place */
    int64_t noted_mono_ms;
    bool works; /* somebody said so, and nobody else since */
};
static struct trouble all[TROUBLES_MAX];

static struct trouble *find(const char *what)
{
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (strncmp(all[i].what, what, sizeof(all[i].what) - 1) == 0)
            return &all[i];
    return NULL;
}

static void end(struct trouble *t)
{
    log_info("trouble.over", KV_Z("what", t->what));
    metric_set_label(M_DEGRADED, t->what, 0);
    t->what[0] = '\0';
}

static void end_forgotten(void)
{
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i].what[0] && clock_mono_ms() - all[i].noted_mono_ms >= (all[i].works ? TROUBLE_SETTLE_MS : TROUBLE_MS))
            end(&all[i]);
}

void trouble_note(const char *what, const char *why)
{
    struct trouble *t = find(what);
    if (!t) {
        end_forgotten();
        log_warn("trouble.begins", KV_Z("what", what), KV_Z("why", why));
        metric_set_label(M_DEGRADED, what, 1);
        t = find("");
    }
    if (!t)
        return;
    (void)snprintf(t->what, sizeof(t->what), "%s", what);
    (void)snprintf(t->why, sizeof(t->why), "%s", why);
    t->noted_mono_ms = clock_mono_ms();
    t->works = false;
}

void trouble_over(const char *what)
{
    struct trouble *t = find(what);
    if (!t)
        return;
    t->works = true;
    end_forgotten();
}

bool trouble_is(const char *what)
{
    return find(what) != NULL;
}

size_t trouble_print(struct buf *out)
{
    size_t n = 0;
    end_forgotten();
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i].what[0]) {
            buf_printf(out, "degraded: %s: %s\n", all[i].what, all[i].why);
            n++;
        }
    return n;
}

void trouble_forget_all(void)
{
    memset(all, 0, sizeof(all));
}
