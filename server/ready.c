#include "server/ready.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/trouble.h"

#define ASK_EVERY_MS 1000
#define SILENCE_MS 3000 /* without an answer for so long it counts as away, whatever it may say later */

struct probe {
    struct ready *all;
    struct sql_db *db;
    ready_migrate migrate;
    char *what;
    bool is_current; /* its schema was seen to be */
    bool is_asking, has_answered;
    int64_t asked_mono_ms; /* the question under way */
    struct err verdict;    /* the last; none: it answers */
};

struct ready {
    struct probe *probes;
    size_t n;
    struct fiber_timer timer;
    unsigned n_asking;
    struct fiber *closer; /* waits for n_asking to become 0 */
};

struct ready *ready_new(void)
{
    return xnew(struct ready);
}

void ready_add(struct ready *r, struct sql_db *db, ready_migrate migrate, const char *what)
{
    r->probes = xrealloc(r->probes, (r->n + 1) * sizeof(*r->probes));
    struct probe *p = &r->probes[r->n++];
    *p = (struct probe){.all = r, .db = db, .migrate = migrate, .what = xstrdup(what)};
    (void)err_set(&p->verdict, ERR_UNAVAILABLE, "%s was not asked yet", what);
}

FIBER static bool ask(struct probe *p, struct err *err)
{
    unsigned missing = 0;
    if (p->is_current)
        return sql_ping(p->db, err);
    if (!p->migrate(p->db, true, &missing, err))
        return false;
    p->is_current = missing == 0;
    return p->is_current ||
           err_set(err, ERR_INVALID, "its schema lacks %u step%s: run thurn migrate", missing, missing == 1 ? "" : "s");
}

FIBER static void asking(void *arg)
{
    struct probe *p = arg;
    struct err err = ERR_INIT;
    if (!ask(p, &err))
        (void)err_prefix(&err, "%s", p->what);
    p->verdict = err;
    p->has_answered = true;
    metric_set_label(M_DATABASE_READY, sql_name(p->db), !err_is_set(&err));
    p->is_asking = false;
    p->all->n_asking--;
    if (p->all->closer)
        fiber_wake(p->all->closer);
}

static int64_t silent_ms(const struct probe *p)
{
    return p->is_asking ? clock_mono_ms() - p->asked_mono_ms : 0;
}

/* The process that suffers names what is away, whether it stays ready or not. */
static void tell(const struct ready *r, const struct probe *p)
{
    struct err err = ERR_INIT;
    char what[48];
    (void)snprintf(what, sizeof(what), "database.%s", sql_name(p->db));
    if (ready_verdict(r, p->db, &err))
        trouble_over(what);
    else if (p->has_answered || silent_ms(p) >= SILENCE_MS) /* not while the first question is under way */
        trouble_note(what, err.msg);
}

static void ask_all(void *arg)
{
    struct ready *r = arg;
    for (size_t i = 0; i < r->n; i++) {
        struct probe *p = &r->probes[i];
        tell(r, p);
        struct err err = ERR_INIT; /* no fiber to be had: the last verdict stands, and the next second comes */
        if (p->is_asking || !fiber_spawn_vital("server.ready", asking, p, FIBER_NO_DEADLINE, &err))
            continue;
        p->is_asking = true;
        p->asked_mono_ms = clock_mono_ms();
        r->n_asking++;
    }
    fiber_timer_start(&r->timer, ASK_EVERY_MS, ask_all, r);
}

void ready_start(struct ready *r)
{
    ask_all(r);
}

bool ready_verdict(const struct ready *r, const struct sql_db *db, struct err *err)
{
    const struct probe *p = r->probes;
    while (p->db != db)
        assert(++p < r->probes + r->n);
    if (silent_ms(p) >= SILENCE_MS)
        return err_set(err, ERR_UNAVAILABLE, "%s has not answered for %lld s", p->what, (long long)silent_ms(p) / 1000);
    if (err_is_set(&p->verdict))
        *err = p->verdict;
    return !err_is_set(&p->verdict);
}

void ready_free(struct ready *r)
{
    if (!r)
        return;
    fiber_timer_stop(&r->timer);
    r->closer = fiber_self();
    while (r->n_asking > 0)
        fiber_wait_uninterrupted();
    for (size_t i = 0; i < r->n; i++)
        free(r->probes[i].what);
    free(r->probes);
    free(r);
}
