#include "mail/mime_json.h"

#include <openssl/evp.h>

#include "mail/header.h"
#include "mail/transfer.h"

#define PIECE (32u * 1024)
#define NUMBER_MAX 512u

static void add_key(struct buf *out, const char *key)
{
    buf_addc(out, '"');
    buf_add(out, str_c(key));
    buf_add(out, S("\":"));
}

static void add_string(struct buf *out, const char *key, str value)
{
    add_key(out, key);
    buf_add_json(out, value);
    buf_addc(out, ',');
}

static void add_number(struct buf *out, const char *key, uint64_t value)
{
    add_key(out, key);
    buf_add_u64(out, value);
    buf_addc(out, ',');
}

/* Replace the comma after the last member by the end of the object or array. */
static void close_with(struct buf *out, char bracket)
{
    if (out->n && out->p[out->n - 1] == ',')
        buf_truncate(out, out->n - 1);
    buf_addc(out, bracket);
}

static void add_params(struct buf *out, const char *key, const struct mime_params *params)
{
    if (params->n == 0)
        return;
    add_key(out, key);
    buf_addc(out, '{');
    for (size_t i = 0; i < params->n; i++) {
        buf_add_json(out, params->v[i].name);
        buf_addc(out, ':');
        buf_add_json(out, params->v[i].value);
        buf_addc(out, ',');
    }
    close_with(out, '}');
    buf_addc(out, ',');
}

static void add_decoded(struct buf *out, const struct mime_part *p, str message)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    uint64_t size = 0;
    struct transfer t;
    transfer_init(&t, transfer_kind_of(p->encoding));
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
        panic("SHA-256 is not available");
    BUF(piece, PIECE * 2);
    str body = str_slice(message, (size_t)p->body_offset, (size_t)(p->body_offset + p->body_size));
    bool is_last = false;
    while (!is_last) {
        is_last = body.n <= PIECE;
        buf_clear(&piece);
        transfer_feed(&t, str_slice(body, 0, PIECE), &piece);
        if (is_last)
            transfer_finish(&t, &piece);
        size += piece.n;
        if (EVP_DigestUpdate(ctx, buf_z(&piece), piece.n) != 1)
            panic("SHA-256 failed");
        body = str_slice(body, PIECE, SIZE_MAX);
    }
    unsigned n = 0;
    if (EVP_DigestFinal_ex(ctx, hash, &n) != 1)
        panic("SHA-256 failed");
    EVP_MD_CTX_free(ctx);
    add_number(out, "decoded_size", size);
    add_key(out, "decoded_sha256");
    buf_addc(out, '"');
    buf_add_hex(out, str_n(hash, n));
    buf_add(out, S("\","));
}

static void add_headers(struct buf *out, const struct mime_part *p, str message)
{
    ARENA(a, 64u << 20);
    struct header_iter it = header_iter_of(str_slice(message, (size_t)p->header_offset, (size_t)p->body_offset));
    struct header_field f;
    add_key(out, "headers");
    buf_addc(out, '[');
    while (header_next(&it, &f)) {
        buf_addc(out, '{');
        add_string(out, "name", f.name);
        add_string(out, "value", header_decode(&a, f.value));
        close_with(out, '}');
        buf_addc(out, ',');
    }
    close_with(out, ']');
    buf_addc(out, ',');
}

static void add_part(struct buf *out, const struct mime_part *p, str message, str number)
{
    bool is_multipart = str_eq(p->type, S("MULTIPART"));
    BUF(type, 1024);
    buf_add(&type, p->type);
    buf_addc(&type, '/');
    buf_add(&type, p->subtype);
    for (size_t i = 0; i < type.n; i++)
        type.p[i] = (char)ascii_lower((unsigned char)type.p[i]);
    buf_addc(out, '{');
    add_string(out, "number", number);
    add_string(out, "type", buf_str(&type));
    if (str_eq(p->type, S("TEXT"))) {
        str charset = mime_param(&p->params, "charset");
        add_string(out, "charset", str_empty(charset) ? S("us-ascii") : charset);
    }
    add_params(out, "params", &p->params);
    add_string(out, "encoding", p->encoding);
    if (!str_empty(p->disposition))
        add_string(out, "disposition", p->disposition);
    add_params(out, "disposition_params", &p->disposition_params);
    if (!str_empty(p->id))
        add_string(out, "id", p->id);
    if (!str_empty(p->description))
        add_string(out, "description", p->description);
    add_number(out, "header_offset", p->header_offset);
    add_number(out, "body_offset", p->body_offset);
    add_number(out, "encoded_size", p->body_size);
    add_number(out, "lines", p->body_lines);
    if (!is_multipart)
        add_decoded(out, p, message);
    add_headers(out, p, message);
    if (p->children) {
        add_key(out, "parts");
        buf_addc(out, '[');
        unsigned i = 0;
        for (const struct mime_part *c = p->children; c; c = c->next) {
            /* A message's root that is a multipart has its message's number (RFC 9051 6.4.5.1). */
            BUF(child, NUMBER_MAX);
            buf_add(&child, number);
            if (is_multipart || !str_eq(c->type, S("MULTIPART")))
                buf_printf(&child, "%s%u", number.n ? "." : "", ++i);
            add_part(out, c, message, buf_str(&child));
            buf_addc(out, ',');
        }
        close_with(out, ']');
    }
    close_with(out, '}');
}

void mime_to_json(struct buf *out, const struct mime_message *m, str message)
{
    buf_addc(out, '{');
    add_number(out, "size", m->size);
    add_number(out, "parts", m->n_parts);
    add_key(out, "limit_hit");
    buf_add(out, m->limit_hit ? S("true,") : S("false,"));
    add_key(out, "has_attachment");
    buf_add(out, m->has_attachment ? S("true,") : S("false,"));
    add_string(out, "preview", m->preview);
    add_key(out, "root");
    add_part(out, m->root, message, str_eq(m->root->type, S("MULTIPART")) ? S("") : S("1"));
    buf_addc(out, '}');
}
