/* The columns against a plain array of rows: whatever is done to both, they say the same, also after a way through the
 * database. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/clock.h"
#include "proto/store.pb-c.h"
#include "store-service/index/ask.h"

#define MODEL_UIDS 20000u /* five pages */

struct model {
    struct index_row rows[MODEL_UIDS]; /* uid 0: none */
    char kw[MODEL_UIDS][6];
    struct index *ix;
};

static void make_row(struct model *m, uint32_t uid)
{
    struct index_row *r = &m->rows[uid];
    size_t n_kw = random_below(8) ? 0 : 1 + random_below(2);
    for (size_t i = 0; i < n_kw; i++) {
        m->kw[uid][2 * i] = 0;
        m->kw[uid][2 * i + 1] = (char)(1 + 3 * i + random_below(3));
    }
    *r = (struct index_row){.uid = uid,
                            .flags = (uint8_t)random_below(32),
                            .kw = str_n(m->kw[uid], 2 * n_kw),
                            .modseq = (int64_t)random_below(1 << 20),
                            .email_id = (int64_t)random_u64(),
                            .thread_id = (int64_t)random_below(1000),
                            .internal_unix = (int64_t)random_below(2000000000),
                            .saved_unix = (int64_t)random_below(2000000000),
                            .sent_unix = (int64_t)random_below(4000000000u) - 2000000000,
                            .size = (int64_t)random_below(100000),
                            .internal_zone = (int32_t)random_below(1440) - 720};
}

static void assert_same_row(const struct index_row *a, const struct index_row *b)
{
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->flags, b->flags);
    assert_true(str_eq(a->kw, b->kw));
    assert_true(a->modseq == b->modseq && a->email_id == b->email_id && a->thread_id == b->thread_id &&
                a->size == b->size);
    assert_true(a->internal_unix == b->internal_unix && a->saved_unix == b->saved_unix && a->sent_unix == b->sent_unix);
    assert_int_equal(a->internal_zone, b->internal_zone);
}

static void assert_same_uids(const struct model *m)
{
    ARENA(a, 16 << 20);
    struct uidset want = uidset_of(&a), got = uidset_of(&a);
    uint32_t first = 0, n_unseen = 0, n = 0;
    for (uint32_t uid = 1; uid < MODEL_UIDS; uid++) {
        if (!m->rows[uid].uid)
            continue;
        uidset_add(&want, uid);
        n++;
        if (m->rows[uid].flags & THURN__FLAG__FLAG_SEEN)
            continue;
        n_unseen++;
        first = first ? first : uid;
    }
    index_uids(m->ix, 1, &got);
    assert_int_equal(want.n, got.n);
    for (size_t i = 0; i < want.n; i++)
        assert_true(want.v[i].first == got.v[i].first && want.v[i].last == got.v[i].last);
    assert_int_equal(m->ix->n, n);
    assert_int_equal(index_n_unseen(m->ix), n_unseen);
    assert_int_equal(index_first_unseen(m->ix), first);
}

static void assert_same(const struct model *m)
{
    size_t n = 0;
    assert_same_uids(m);
    for (size_t i = 0; i < m->ix->n_pages; i++) {
        const struct index_page *p = m->ix->pages[i];
        assert_true(p->n > 0);
        for (size_t k = 0; k < p->n; k++, n++) {
            struct index_row row = index_row_at(p, k);
            assert_same_row(&row, &m->rows[row.uid]);
        }
    }
    assert_int_equal(n, m->ix->n);
}

static void put(struct model *m, uint32_t uid)
{
    make_row(m, uid);
    assert_true(index_can_put(m->ix, uid));
    index_put(m->ix, &m->rows[uid]);
}

static void set(struct model *m, uint32_t uid)
{
    struct index_row *r = &m->rows[uid], before = *r;
    bool is_there = before.uid != 0;
    make_row(m, uid);
    struct index_row changed = *r;
    index_set(m->ix, uid, changed.flags, changed.kw, changed.modseq);
    if (!is_there) {
        r->uid = 0;
        return;
    }
    before.flags = changed.flags;
    before.kw = changed.kw;
    before.modseq = changed.modseq;
    *r = before;
}

static void remove_range(struct model *m, uint32_t first, uint32_t last)
{
    ARENA(a, 1 << 16);
    struct uidset gone = uidset_of(&a);
    uidset_add_range(&gone, first, last);
    if (last + 10 < MODEL_UIDS) { /* and one more, with a gap */
        uidset_add(&gone, last + 5);
        m->rows[last + 5].uid = 0;
    }
    index_remove(m->ix, &gone);
    for (uint32_t uid = first; uid <= last; uid++)
        m->rows[uid].uid = 0;
}

/* Everything to the database, and a new index from there. */
static void go_round(struct model *m)
{
    BUF(head, 1 << 20);
    struct err err = ERR_INIT;
    index_pack_head(m->ix, &head);
    struct index *again = index_unpack_head(buf_str(&head), &err);
    assert_non_null(again);
    struct index *old = m->ix;
    m->ix = again;
    assert_same_uids(m); /* the head alone knows them */
    assert_int_equal(again->modseq, old->modseq);
    assert_int_equal(again->n_pages, old->n_pages);
    for (size_t i = 0; i < old->n_pages; i++) {
        struct index_page *p = again->pages[i];
        assert_false(index_can_set(again, index_uid(p, 0)));
        for (enum index_group g = 0; g < INDEX_GROUPS; g++) {
            BUF(packed, 1 << 20);
            index_pack_page(old->pages[i], g, &packed);
            assert_true(buf_ok(&packed));
            assert_true(index_unpack_page(again, p, g, buf_str(&packed), &err));
        }
        assert_true(index_can_put(again, index_uid(p, 0)));
        assert_false(p->is_dirty[INDEX_STATE] || p->is_dirty[INDEX_FACTS]);
    }
    assert_false(again->is_dirty);
    index_free(old);
}

static void test_model(void **state)
{
    (void)state;
    static struct model m;
    m.ix = index_new();
    uint32_t uidnext = 1;
    for (unsigned i = 0; i < 40000; i++) {
        uint32_t uid = 1 + (uint32_t)random_below(MODEL_UIDS - 1);
        switch (random_below(8)) {
        case 0:
        case 1:
        case 2:
            if (uidnext < MODEL_UIDS)
                put(&m, uidnext++);
            break;
        case 3: /* out of order, or again */
            put(&m, uid);
            break;
        case 4:
            if (random_below(60) == 0) {
                uint32_t last = uid + (uint32_t)random_below(random_below(4) ? 30 : 6000);
                remove_range(&m, uid, MIN(last, MODEL_UIDS - 1));
            }
            break;
        default:
            set(&m, uid);
        }
        if (i % 5000 == 0) {
            assert_same(&m);
            go_round(&m);
            assert_same(&m);
        }
    }
    assert_same(&m);
    remove_range(&m, 1, MODEL_UIDS - 1);
    assert_same(&m);
    assert_int_equal(m.ix->n_pages, 0);
    index_free(m.ix);
}

/* The count of unseen messages, where each change can move the first of them. */
static void test_unseen(void **state)
{
    (void)state;
    static struct model m;
    m.ix = index_new();
    for (uint32_t uid = 10; uid < 40; uid++)
        put(&m, uid);
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t uid = 5 + (uint32_t)random_below(40);
        if (random_below(3) == 0)
            put(&m, uid);
        else if (random_below(3) == 0)
            remove_range(&m, uid, uid);
        else
            set(&m, uid);
        assert_same_uids(&m);
    }
    remove_range(&m, 1, 50);
    index_free(m.ix);
}

/* What comes from the database may be damaged: it is refused, whatever it says, and the page can be filled from the
 * rows. */
static void test_damage(void **state)
{
    (void)state;
    static struct model m;
    m.ix = index_new();
    for (uint32_t uid = 1; uid < 300; uid++)
        put(&m, uid);
    BUF(head, 1 << 20);
    index_pack_head(m.ix, &head);
    for (unsigned i = 0; i < 20000; i++) {
        struct err err = ERR_INIT;
        BUF(bad, 1 << 20);
        buf_add(&bad, buf_str(&head));
        for (size_t k = 0; k <= random_below(3); k++)
            bad.p[random_below(bad.n)] = (char)random_u64();
        if (random_below(2))
            buf_truncate(&bad, random_below(bad.n + 1));
        struct index *ix = index_unpack_head(buf_str(&bad), &err);
        assert_true(ix || err.kind == ERR_INTERNAL);
        index_free(ix);
    }
    for (enum index_group g = 0; g < INDEX_GROUPS; g++) {
        BUF(packed, 1 << 20);
        index_pack_page(m.ix->pages[0], g, &packed);
        for (size_t n = 0; n < packed.n; n++) { /* each shorter one */
            struct err err = ERR_INIT;
            assert_false(index_unpack_page(m.ix, m.ix->pages[0], g, str_slice(buf_str(&packed), 0, n), &err));
            assert_int_equal(err.kind, ERR_INTERNAL);
        }
        for (unsigned i = 0; i < 20000; i++) {
            struct err err = ERR_INIT;
            BUF(bad, 1 << 20);
            buf_add(&bad, buf_str(&packed));
            bad.p[random_below(bad.n)] = (char)random_u64();
            /* it may be another value that is sound */
            IGNORE(index_unpack_page(m.ix, m.ix->pages[0], g, buf_str(&bad), &err));
        }
        struct err err = ERR_INIT;
        assert_true(index_unpack_page(m.ix, m.ix->pages[0], g, buf_str(&packed), &err));
    }
    assert_same(&m);
    /* A group of other UIDs is not believed. */
    BUF(packed, 1 << 20);
    struct err err = ERR_INIT;
    index_pack_page(m.ix->pages[0], INDEX_STATE, &packed);
    remove_range(&m, 7, 7);
    assert_false(index_unpack_page(m.ix, m.ix->pages[0], INDEX_STATE, buf_str(&packed), &err));
    index_free(m.ix);
}

/* --- searches --- */

static Thurn__SearchKey *random_key(struct arena *a, unsigned depth)
{
    static const Thurn__SearchOp leaves[] = {
        THURN__SEARCH_OP__SEARCH_ALL,     THURN__SEARCH_OP__SEARCH_UIDS,   THURN__SEARCH_OP__SEARCH_FLAGS_SET,
        THURN__SEARCH_OP__SEARCH_KEYWORD, THURN__SEARCH_OP__SEARCH_LARGER, THURN__SEARCH_OP__SEARCH_SMALLER,
        THURN__SEARCH_OP__SEARCH_BEFORE,  THURN__SEARCH_OP__SEARCH_MODSEQ, THURN__SEARCH_OP__SEARCH_SENT_BEFORE};
    Thurn__SearchKey *k = arena_new(a, Thurn__SearchKey);
    thurn__search_key__init(k);
    if (depth < 4 && random_below(2)) {
        k->op = THURN__SEARCH_OP__SEARCH_AND + (int)random_below(3);
        k->n_keys = k->op == THURN__SEARCH_OP__SEARCH_NOT ? 1 : random_below(4);
        k->keys = arena_array(a, Thurn__SearchKey *, k->n_keys);
        for (size_t i = 0; i < k->n_keys; i++)
            k->keys[i] = random_key(a, depth + 1);
        return k;
    }
    k->op = leaves[random_below(ARRAY_LEN(leaves))];
    k->number = k->op == THURN__SEARCH_OP__SEARCH_FLAGS_SET ? random_below(32)
                : k->op == THURN__SEARCH_OP__SEARCH_BEFORE  ? random_below(2000000000)
                : k->op == THURN__SEARCH_OP__SEARCH_MODSEQ  ? random_below(1 << 20)
                                                            : random_below(100000);
    k->is_local = random_below(2);
    k->text = (char *)(uintptr_t)(random_below(2) ? "One" : "Two");
    if (k->op == THURN__SEARCH_OP__SEARCH_UIDS) {
        k->n_uids = random_below(4);
        k->uids = arena_array(a, Thurn__Range *, k->n_uids);
        uint64_t at = 1 + random_below(3000);
        for (size_t i = 0; i < k->n_uids; i++) {
            k->uids[i] = arena_new(a, Thurn__Range);
            thurn__range__init(k->uids[i]);
            k->uids[i]->first = at;
            k->uids[i]->last = at + random_below(3000);
            at = k->uids[i]->last + 2 + random_below(3000);
        }
    }
    return k;
}

/* The same answers as from the rows, for random trees; what needs the message is said to. */
static void test_search(void **state)
{
    (void)state;
    static struct model m;
    m.ix = index_new();
    for (uint32_t uid = 1; uid < MODEL_UIDS; uid += 1 + (uint32_t)random_below(3))
        put(&m, uid);
    char one[] = "One", two[] = "Two";
    struct keywords k = {.n = 2};
    k.v = xcalloc(2, sizeof *k.v);
    k.v[0].id = 1, k.v[0].name = str_c(one);
    k.v[1].id = 4, k.v[1].name = str_c(two);
    size_t n_yes = 0, n_maybe = 0;
    for (unsigned round = 0; round < 400; round++) {
        ARENA(a, 1 << 20);
        struct search_tree t;
        struct err err = ERR_INIT;
        assert_true(search_compile(&t, random_key(&a, 0), &a, &err));
        search_set_keywords(&t, &k);
        for (size_t i = 0; i < m.ix->n_pages; i++) {
            const struct index_page *p = m.ix->pages[i];
            struct index_bits yes, maybe;
            index_ask(&t, p, &yes, &maybe);
            for (size_t at = 0; at < INDEX_PAGE_UIDS; at++) {
                bool is_yes = yes.w[at / 64] >> (at % 64) & 1, is_maybe = maybe.w[at / 64] >> (at % 64) & 1;
                enum search_answer want = SEARCH_NO;
                if (at < p->n) {
                    struct index_row r = index_row_at(p, at);
                    struct msg_row row = {.uid = r.uid,
                                          .modseq = r.modseq,
                                          .flags = r.flags,
                                          .size = r.size,
                                          .kw = r.kw,
                                          .internal_unix = r.internal_unix,
                                          .internal_zone = r.internal_zone};
                    struct search_subject subject = {.row = &row, .arena = &a};
                    want = search_ask(&t, &subject, SEARCH_ROW);
                }
                assert_int_equal(is_maybe ? SEARCH_NEEDS_MORE : is_yes ? SEARCH_YES : SEARCH_NO, want);
                n_yes += is_yes;
                n_maybe += is_maybe;
            }
        }
        search_done(&t);
    }
    assert_true(n_yes > 1000 && n_maybe > 1000);
    free(k.v);
    index_free(m.ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model), cmocka_unit_test(test_unseen),
                                       cmocka_unit_test(test_damage), cmocka_unit_test(test_search)};
    random_seed(20);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
