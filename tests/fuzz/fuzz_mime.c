#include "mail/mime_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_part(const struct mime_part *p, uint64_t from, uint64_t to, unsigned depth)
{
    assert(depth <= 64 && p->header_offset >= from && p->body_offset >= p->header_offset);
    assert(p->body_offset + p->body_size <= to);
    assert(p->type.n && p->subtype.n && p->encoding.n);
    for (const struct mime_part *c = p->children; c; c = c->next) {
        assert(c->parent == p);
        check_part(c, p->body_offset, p->body_offset + p->body_size, depth + 1);
    }
}

/* Offsets nest, and the result does not depend on the pieces. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 64u << 20);
    str message = str_n(data, size);
    const struct mime_message *m = mime_parse(&a, message, NULL);
    assert(m->size == size);
    check_part(m->root, 0, size, 0);
    CLEANUP(mime_free) struct mime_parser *p = mime_new(&a, NULL);
    for (size_t i = 0; i < size; i += 7)
        mime_feed(p, str_slice(message, i, i + 7));
    const struct mime_message *pieces = mime_finish(p);
    BUF(one, 64u << 20);
    BUF(other, 64u << 20);
    mime_to_json(&one, m, message);
    mime_to_json(&other, pieces, message);
    assert(str_eq(buf_str(&one), buf_str(&other)));
    return 0;
}
