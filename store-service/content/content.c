#include "store-service/content/content.h"

#include "base/clock.h"
#include "base/log.h"
#include "fiber/work.h"
#include "store-service/blob/spool.h"
#include "store-service/service.h"

#define PARSE_INLINE_MAX (128u * 1024) /* larger ones are parsed on a pool thread */

struct parsing {
    str content;
    struct arena *a;
    Thurn__ParsedEmail *parsed;
};

static void parse(void *arg)
{
    struct parsing *p = arg;
    p->parsed = parsed_of_mime(mime_parse(p->a, p->content, NULL), p->a);
}

FIBER static bool parse_memory(str content, struct arena *a, Thurn__ParsedEmail **out, struct err *err)
{
    struct parsing p = {.content = content, .a = a};
    if (content.n <= PARSE_INLINE_MAX)
        parse(&p);
    else if (!work_run(parse, &p, err))
        return false;
    *out = p.parsed;
    return true;
}

/* A stored body, piece by piece through the parser. */
struct parse_sink {
    struct rpc_sink sink;
    struct mime_parser *mime;
};

static bool parse_piece(struct rpc_sink *sink, str piece, struct err *err)
{
    (void)err;
    mime_feed(CONTAINER_OF(sink, struct parse_sink, sink)->mime, piece);
    return true;
}

FIBER static bool parse_stored(struct shard *sh, const struct blob_place *p, struct arena *a, Thurn__ParsedEmail **out,
                               struct err *err)
{
    CLEANUP(mime_free) struct mime_parser *mime = mime_new(a, NULL);
    struct parse_sink sink = {{parse_piece}, mime};
    if (!blob_read(sh, p, 0, UINT64_MAX, &sink.sink, err))
        return false;
    *out = parsed_of_mime(mime_finish(mime), a);
    return true;
}

FIBER static bool of_blob(struct store *s, const Thurn__BlobRef *ref, struct arena *a, struct content *out,
                          Thurn__ParsedEmail **parsed, struct err *err)
{
    struct shard *sh = store_shard(s, ref->space, err);
    struct blob_place p;
    if (!sh || !blob_find(sh, ref->tenant_id, rpc_str(ref->hash), a, &p, err))
        return false;
    memcpy(out->hash, p.hash.p, BLOB_HASH_SIZE);
    out->size = (uint64_t)p.size;
    str packed;
    if (parsed_cache_get(s->parsed, p.hash, a, &packed)) {
        *parsed = parsed_unpack(packed, a, err);
        return *parsed != NULL;
    }
    return parse_stored(sh, &p, a, parsed, err);
}

FIBER static bool of_memory(str content, struct arena *a, struct content *out, Thurn__ParsedEmail **parsed,
                            struct err *err)
{
    if (content.n == 0 || content.n > CONTENT_MAX)
        return err_set(err, content.n ? ERR_LIMIT : ERR_INVALID, "a message in a request has 1 to %u bytes",
                       CONTENT_MAX);
    out->size = content.n;
    out->is_inline = blob_compress(content, a, &out->data, &out->codec);
    out->spool = arena_new(a, struct spool);
    spool_of_memory(out->spool, content);
    memcpy(out->hash, out->spool->hash, BLOB_HASH_SIZE);
    return parse_memory(content, a, parsed, err);
}

bool content_of_body(struct store *s, const Thurn__Body *body, str prefix, struct arena *a, struct content *out,
                     struct err *err)
{
    Thurn__ParsedEmail *parsed = NULL;
    *out = (struct content){.prefix = prefix};
    if (!body || (body->blob != NULL) == (body->content.len > 0))
        return err_set(err, ERR_INVALID, "a body is either content or a blob");
    if (prefix.n > CONTENT_PREFIX_MAX)
        return err_set(err, ERR_LIMIT, "a prefix has at most %u bytes", CONTENT_PREFIX_MAX);
    if (body->blob ? !of_blob(s, body->blob, a, out, &parsed, err)
                   : !of_memory(rpc_str(body->content), a, out, &parsed, err))
        return false;
    if (out->size > s->limits.message_bytes)
        return err_set(err, ERR_LIMIT, "a message has at most %llu bytes", (unsigned long long)s->limits.message_bytes);
    if (parsed->is_cut) {
        BUF(hex, 2 * BLOB_HASH_SIZE);
        buf_add_hex(&hex, str_n(out->hash, BLOB_HASH_SIZE));
        log_info("store.parse_cut", KV_STR("hash", buf_str(&hex)), KV_I64("size", (int64_t)out->size));
    }
    out->sent_unix = parsed->sent_unix;
    out->n_thread_keys = parsed_thread_keys(parsed, out->thread_keys);
    if (prefix.n)
        parsed_shift(parsed, prefix.n);
    out->packed = parsed_pack(parsed, a);
    return true;
}

bool content_lost(str hash, struct err *err)
{
    BUF(hex, 2 * BLOB_HASH_SIZE);
    buf_add_hex(&hex, hash);
    log_error("store.body_lost", KV_STR("hash", buf_str(&hex)));
    return err_set(err, ERR_INTERNAL, "the body is not here any more");
}

bool content_must_be(const Thurn__Body *body, struct err *err)
{
    if (err->kind != ERR_NOT_FOUND || !body || !body->blob)
        return false;
    err_clear(err);
    return content_lost(rpc_str(body->blob->hash), err);
}

/* --- to the shard --- */

struct spool_sink {
    struct rpc_sink sink;
    struct spool *spool;
};

FIBER static bool spool_piece(struct rpc_sink *sink, str piece, struct err *err)
{
    return spool_write(CONTAINER_OF(sink, struct spool_sink, sink)->spool, piece, err);
}

/* The body lies on another shard, or belongs to another tenant: copy it. */
FIBER static bool copy_blob(struct store *s, const Thurn__BlobRef *ref, struct shard *to, int64_t tenant_id,
                            struct err *err)
{
    ARENA(a, 256 * 1024);
    SPOOL_SCOPE struct spool spool;
    spool_init(&spool, s->spool_folder);
    struct spool_sink sink = {{spool_piece}, &spool};
    struct shard *from = store_shard(s, ref->space, err);
    struct blob_place p;
    return from && blob_find(from, ref->tenant_id, rpc_str(ref->hash), &a, &p, err) &&
           blob_read(from, &p, 0, UINT64_MAX, &sink.sink, err) && spool_finish(&spool, err) &&
           blob_store(to, tenant_id, &spool, (struct hold){.until_unix = 0}, err);
}

bool content_place(struct store *s, const Thurn__Body *body, struct content *c, struct shard *sh, int64_t tenant_id,
                   struct err *err)
{
    if (c->is_inline)
        return true;
    if (c->spool)
        return blob_store(sh, tenant_id, c->spool, (struct hold){.until_unix = 0}, err);
    if (body->blob->space == sh->number && body->blob->tenant_id == tenant_id)
        return true;
    return copy_blob(s, body->blob, sh, tenant_id, err);
}
