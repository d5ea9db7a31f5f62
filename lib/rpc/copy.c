/*
 * copy.c: replies into the caller's arena. A service may leave its reply, or parts of it, on its own stack.
 */
#include "base/num.h"
#include "rpc/internal.h"

static void *arena_alloc_for(void *a, size_t size)
{
    return arena_alloc(a, size);
}
static void free_nothing(void *a, void *p)
{
    (void)a;
    (void)p;
}

struct ProtobufCAllocator *rpc_arena_allocator(struct arena *a, ProtobufCAllocator *storage)
{
    *storage = (ProtobufCAllocator){.alloc = arena_alloc_for, .free = free_nothing, .allocator_data = a};
    return storage;
}

ProtobufCMessage *rpc_copy(const ProtobufCMessage *m, struct arena *a)
{
    ProtobufCAllocator alloc;
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = xmalloc(n ? n : 1);
    (void)protobuf_c_message_pack(m, packed);
    ProtobufCMessage *copy = protobuf_c_message_unpack(m->descriptor, rpc_arena_allocator(a, &alloc), n, packed);
    free(packed);
    if (!copy)
        panic("%s does not survive packing", m->descriptor->name);
    return copy;
}

/* --- without packing: only what is not in the arena already --- */

static void *keep_bytes(struct arena *a, const void *p, size_t n)
{
    if (!p || arena_owns(a, p))
        return (void *)(uintptr_t)p;
    void *copy = arena_alloc(a, n);
    memcpy(copy, p, n);
    return copy;
}

static void keep_value(struct arena *a, const ProtobufCFieldDescriptor *f, void *member)
{
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        char **z = member;
        if (*z && *z != f->default_value && *z != protobuf_c_empty_string)
            *z = keep_bytes(a, *z, strlen(*z) + 1);
    } else if (f->type == PROTOBUF_C_TYPE_BYTES) {
        ProtobufCBinaryData *b = member;
        b->data = b->len ? keep_bytes(a, b->data, b->len) : NULL;
    } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        ProtobufCMessage **m = member;
        if (*m)
            *m = rpc_keep(*m, a);
    }
}

static size_t size_of_value(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4; /* 32-bit numbers, enums, and protobuf-c's boolean */
    }
}

ProtobufCMessage *rpc_keep(const ProtobufCMessage *m, struct arena *a)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    ProtobufCMessage *copy = keep_bytes(a, m, d->sizeof_message);
    copy->n_unknown_fields = 0;
    copy->unknown_fields = NULL;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        char *member = (char *)copy + f->offset;
        assert(!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)); /* our contracts have none */
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            keep_value(a, f, member);
            continue;
        }
        size_t n = *(size_t *)(void *)((char *)copy + f->quantifier_offset), each = size_of_value(f->type);
        char **array = (char **)(void *)member;
        if (n == 0)
            continue;
        *array = keep_bytes(a, *array, size_mul(n, each));
        for (size_t k = 0; k < n; k++)
            keep_value(a, f, *array + k * each);
    }
    return copy;
}
