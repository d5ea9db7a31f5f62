#include "store-service/index/ask.h"

#include "proto/store.pb-c.h"

/* What is known: it matches; it may match. Every match is in both while the tree is asked. */
struct answer {
    struct index_bits yes, may;
};

static unsigned groups_of(const struct search_node *n)
{
    unsigned groups = 0;
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_FLAGS_SET:
    case THURN__SEARCH_OP__SEARCH_KEYWORD:
    case THURN__SEARCH_OP__SEARCH_MODSEQ:
        return 1u << INDEX_STATE;
    case THURN__SEARCH_OP__SEARCH_LARGER:
    case THURN__SEARCH_OP__SEARCH_SMALLER:
    case THURN__SEARCH_OP__SEARCH_BEFORE:
        return 1u << INDEX_FACTS;
    default:
        for (size_t i = 0; i < n->n_keys; i++)
            groups |= groups_of(&n->keys[i]);
        return groups;
    }
}

unsigned index_ask_groups(const struct search_tree *t)
{
    return groups_of(&t->root);
}

static size_t words(const struct index_page *p)
{
    return (p->n + 63) / 64;
}

/* The bits of COND for each message i, 64 at a time, so that the compiler sees a loop without branches. */
#define FILL(bits, p, COND)                                                                                            \
    for (size_t w_ = 0, i = 0; w_ < words(p); w_++) {                                                                  \
        uint64_t word_ = 0;                                                                                            \
        for (unsigned b_ = 0; b_ < 64 && i < (p)->n; b_++, i++)                                                        \
            word_ |= (uint64_t)(COND) << b_;                                                                           \
        (bits)->w[w_] = word_;                                                                                         \
    }

static void fill_uids(const struct uidset *uids, const struct index_page *p, struct index_bits *out)
{
    memset(out, 0, words(p) * sizeof *out->w);
    uint64_t first = (uint64_t)p->no * INDEX_PAGE_UIDS;
    for (size_t r = 0; r < uids->n && uids->v[r].first < first + INDEX_PAGE_UIDS; r++) {
        if (uids->v[r].last < first)
            continue;
        size_t from = index_lower(p, (uint32_t)MAX(uids->v[r].first, first));
        uint64_t last = MIN(uids->v[r].last, first + INDEX_PAGE_UIDS - 1);
        for (size_t i = from; i < p->n && index_uid(p, i) <= last; i++)
            out->w[i / 64] |= UINT64_C(1) << (i % 64);
    }
}

static void fill_keyword(uint32_t id, const struct index_page *p, struct index_bits *out)
{
    bool *has = xcalloc(p->n_kw_sets, sizeof *has);
    for (size_t s = 1; id && s < p->n_kw_sets; s++)
        has[s] = p->kw_sets[s].refs && kw_has(str_n(p->kw_sets[s].ids, p->kw_sets[s].len), id);
    FILL(out, p, has[p->kw[i]]);
    free(has);
}

static void fill(const struct search_node *n, const struct index_page *p, struct index_bits *out)
{
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_UIDS:
        fill_uids(&n->uids, p, out);
        break;
    case THURN__SEARCH_OP__SEARCH_FLAGS_SET:
        FILL(out, p, (p->flags[i] & n->number) == n->number);
        break;
    case THURN__SEARCH_OP__SEARCH_KEYWORD:
        fill_keyword(n->keyword_id, p, out);
        break;
    case THURN__SEARCH_OP__SEARCH_LARGER:
        FILL(out, p, (uint64_t)p->size[i] > n->number);
        break;
    case THURN__SEARCH_OP__SEARCH_SMALLER:
        FILL(out, p, (uint64_t)p->size[i] < n->number);
        break;
    case THURN__SEARCH_OP__SEARCH_BEFORE:
        FILL(out, p, p->internal_unix[i] + (n->is_local ? p->internal_zone[i] * 60 : 0) < (int64_t)n->number);
        break;
    case THURN__SEARCH_OP__SEARCH_MODSEQ:
        FILL(out, p, (uint64_t)p->modseq[i] >= n->number);
        break;
    default: /* ALL */
        FILL(out, p, true);
    }
}

static void ask(const struct search_node *n, const struct index_page *p, struct answer *out);

static void ask_keys(const struct search_node *n, const struct index_page *p, struct answer *out)
{
    bool is_and = n->op == THURN__SEARCH_OP__SEARCH_AND;
    memset(out, is_and ? 0xff : 0, sizeof *out);
    struct answer *one = xnew(struct answer); /* the tree is as deep as a stack must not be */
    for (size_t k = 0; k < n->n_keys; k++) {
        ask(&n->keys[k], p, one);
        for (size_t w = 0; w < words(p); w++) {
            out->yes.w[w] = is_and ? out->yes.w[w] & one->yes.w[w] : out->yes.w[w] | one->yes.w[w];
            out->may.w[w] = is_and ? out->may.w[w] & one->may.w[w] : out->may.w[w] | one->may.w[w];
        }
    }
    free(one);
}

static void ask(const struct search_node *n, const struct index_page *p, struct answer *out)
{
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_AND:
    case THURN__SEARCH_OP__SEARCH_OR:
        ask_keys(n, p, out);
        return;
    case THURN__SEARCH_OP__SEARCH_NOT:
        ask(&n->keys[0], p, out);
        for (size_t w = 0; w < words(p); w++) {
            uint64_t yes = out->yes.w[w];
            out->yes.w[w] = ~out->may.w[w];
            out->may.w[w] = ~yes;
        }
        return;
    default:
        break;
    }
    if (n->level == SEARCH_ROW) {
        fill(n, p, &out->yes);
        out->may = out->yes;
    } else {
        memset(&out->yes, 0, sizeof out->yes);
        memset(&out->may, 0xff, sizeof out->may);
    }
}

void index_ask(const struct search_tree *t, const struct index_page *p, struct index_bits *yes,
               struct index_bits *maybe)
{
    struct answer *a = xnew(struct answer);
    ask(&t->root, p, a);
    memset(yes, 0, sizeof *yes);
    memset(maybe, 0, sizeof *maybe);
    for (size_t w = 0; w < words(p); w++) {
        uint64_t there = w + 1 < words(p) || p->n % 64 == 0 ? UINT64_MAX : (UINT64_C(1) << (p->n % 64)) - 1;
        yes->w[w] = a->yes.w[w] & there;
        maybe->w[w] = a->may.w[w] & ~a->yes.w[w] & there;
    }
    free(a);
}
