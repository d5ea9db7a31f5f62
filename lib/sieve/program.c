#include "sieve/internal.h"

bool node_next(const unsigned char **p, const unsigned char *end, struct node *out)
{
    if (end - *p < (ptrdiff_t)NODE_HEAD)
        return false;
    const unsigned char *h = *p;
    size_t n = (size_t)h[3] << 24 | (size_t)h[4] << 16 | (size_t)h[5] << 8 | h[6];
    assert(n <= (size_t)(end - h) - NODE_HEAD);
    *out = (struct node){
        .op = (enum op)h[0], .line = (unsigned)h[1] << 8 | h[2], .p = h + NODE_HEAD, .end = h + NODE_HEAD + n};
    *p = out->end;
    return true;
}

bool sv_string_next(struct cursor *list, struct sv_string *out)
{
    uint64_t n;
    if (!varint_get(list, &n))
        return false;
    out->has_vars = n & 1;
    out->text = cur_take(list, n >> 1);
    return true;
}

void call_of(const struct node *node, struct call *out)
{
    struct cursor c = {node->p, node->end};
    out->node = *node;
    out->n = c.p < c.end ? *c.p++ : 0;
    assert(out->n <= ITEMS_MAX);
    for (size_t i = 0; i < out->n; i++) {
        struct item *it = &out->items[i];
        struct sv_string s;
        it->id = *c.p++;
        bool ok = true;
        switch (ITEM_KIND(it->id)) {
        case ITEM_NUMBER:
            ok = varint_get(&c, &it->number);
            break;
        case ITEM_STRING:
            ok = sv_string_next(&c, &it->string);
            break;
        case ITEM_LIST:
            ok = varint_get(&c, &it->number);
            it->list = c;
            for (uint64_t k = 0; ok && k < it->number; k++)
                ok = sv_string_next(&c, &s);
            it->list.end = c.p;
            break;
        default:
            break;
        }
        assert(ok); /* we wrote it */
    }
    out->block = c.p;
}

const struct item *call_item(const struct call *c, unsigned char id)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->items[i].id == id)
            return &c->items[i];
    return NULL;
}
