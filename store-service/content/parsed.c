#include "store-service/content/parsed.h"

#include "base/map.h"
#include "base/num.h"
#include "mail/header.h"
#include "store-service/blob/blob.h"

#define CACHE_ENTRIES 512u
#define CACHE_BYTES ((size_t)8 << 20)

/* --- from the MIME tree --- */

static char *z(struct arena *a, str s)
{
    return str_empty(s) ? (char *)(uintptr_t)protobuf_c_empty_string : arena_strz(a, s);
}

/* A field that is there but empty (its view has a pointer) is one space: store.proto, Envelope. */
static char *or_space(struct arena *a, str s)
{
    return s.p && s.n == 0 ? arena_strz(a, S(" ")) : z(a, s);
}

static void set_addresses(const struct address_list *l, struct arena *a, Thurn__Address ***out, size_t *n)
{
    *n = l->n;
    *out = l->n ? arena_array(a, Thurn__Address *, l->n) : NULL;
    for (size_t i = 0; i < l->n; i++) {
        const struct mail_address *m = &l->v[i];
        Thurn__Address *p = (*out)[i] = arena_new(a, Thurn__Address);
        thurn__address__init(p);
        p->name = z(a, m->name);
        p->local = z(a, m->local);
        p->domain = z(a, m->domain);
        p->raw_name = z(a, m->raw_name);
        p->route = z(a, m->route);
        p->is_group_end = m->is_group_end;
        /* An empty group name must still be told from "no group starts here". */
        p->group_start = m->group_start.p && str_empty(m->group_start) ? arena_strz(a, S(" ")) : z(a, m->group_start);
    }
}

static Thurn__Envelope *envelope(const struct mime_envelope *e, struct arena *a)
{
    Thurn__Envelope *p = arena_new(a, Thurn__Envelope);
    thurn__envelope__init(p);
    p->date = or_space(a, e->date);
    p->subject = or_space(a, e->subject);
    p->in_reply_to = or_space(a, e->in_reply_to);
    p->message_id = or_space(a, e->message_id);
    set_addresses(&e->from, a, &p->from, &p->n_from);
    set_addresses(&e->sender, a, &p->sender, &p->n_sender);
    set_addresses(&e->reply_to, a, &p->reply_to, &p->n_reply_to);
    set_addresses(&e->to, a, &p->to, &p->n_to);
    set_addresses(&e->cc, a, &p->cc, &p->n_cc);
    set_addresses(&e->bcc, a, &p->bcc, &p->n_bcc);
    return p;
}

static void set_params(const struct mime_params *m, struct arena *a, Thurn__Parameter ***out, size_t *n)
{
    *n = m->n;
    *out = m->n ? arena_array(a, Thurn__Parameter *, m->n) : NULL;
    for (size_t i = 0; i < m->n; i++) {
        Thurn__Parameter *p = (*out)[i] = arena_new(a, Thurn__Parameter);
        thurn__parameter__init(p);
        p->name = z(a, m->v[i].name);
        p->value = z(a, m->v[i].value);
    }
}

/* The parser bounds the depth (mime_limits). */
static Thurn__Part *part(const struct mime_part *m, struct arena *a)
{
    Thurn__Part *p = arena_new(a, Thurn__Part);
    thurn__part__init(p);
    p->type = z(a, m->type);
    p->subtype = z(a, m->subtype);
    set_params(&m->params, a, &p->params, &p->n_params);
    p->content_id = z(a, m->id);
    p->description = z(a, m->description);
    p->encoding = z(a, m->encoding);
    p->md5 = z(a, m->md5);
    p->disposition = z(a, m->disposition);
    set_params(&m->disposition_params, a, &p->disposition_params, &p->n_disposition_params);
    p->n_languages = m->n_languages;
    p->languages = m->n_languages ? arena_array(a, char *, m->n_languages) : NULL;
    for (size_t i = 0; i < m->n_languages; i++)
        p->languages[i] = z(a, m->languages[i]);
    p->location = z(a, m->location);
    p->header_offset = m->header_offset;
    p->body_offset = m->body_offset;
    p->body_size = m->body_size;
    p->body_lines = m->body_lines;
    p->parts = m->n_children ? arena_array(a, Thurn__Part *, m->n_children) : NULL;
    for (const struct mime_part *c = m->children; c; c = c->next) {
        assert(p->n_parts < m->n_children && p->parts);
        p->parts[p->n_parts++] = part(c, a);
    }
    p->envelope = m->envelope ? envelope(m->envelope, a) : NULL;
    return p;
}

Thurn__ParsedEmail *parsed_of_mime(const struct mime_message *m, struct arena *a)
{
    Thurn__ParsedEmail *p = arena_new(a, Thurn__ParsedEmail);
    thurn__parsed_email__init(p);
    p->envelope = envelope(&m->envelope, a);
    p->root = part(m->root, a);
    p->preview = z(a, m->preview);
    p->has_attachment = m->has_attachment;
    p->sent_unix = m->sent_unix;
    p->n_references = m->n_references;
    p->references = m->n_references ? arena_array(a, char *, m->n_references) : NULL;
    for (size_t i = 0; i < m->n_references; i++)
        p->references[i] = z(a, m->references[i]);
    p->parser_version = MIME_PARSER_VERSION;
    p->is_cut = m->limit_hit;
    return p;
}

str parsed_pack(const Thurn__ParsedEmail *p, struct arena *a)
{
    size_t n = thurn__parsed_email__get_packed_size(p);
    uint8_t *bytes = arena_alloc(a, n);
    thurn__parsed_email__pack(p, bytes);
    return str_n(bytes, n);
}

Thurn__ParsedEmail *parsed_unpack(str packed, struct arena *a, struct err *err)
{
    ProtobufCAllocator storage;
    Thurn__ParsedEmail *p =
        thurn__parsed_email__unpack(rpc_arena_allocator(a, &storage), packed.n, (const uint8_t *)packed.p);
    if (!p || !p->root || !p->envelope) {
        (void)err_set(err, ERR_INTERNAL, "a parsed message is damaged");
        return NULL;
    }
    return p;
}

static void shift(Thurn__Part *p, uint64_t n)
{
    p->header_offset += n;
    p->body_offset += n;
    for (size_t i = 0; i < p->n_parts; i++)
        shift(p->parts[i], n);
}

void parsed_shift(Thurn__ParsedEmail *p, uint64_t n)
{
    shift(p->root, n);
    p->root->header_offset -= n; /* the lines are the message's first ones */
}

/* --- threads --- */

static bool strip_blob(str *s) /* "[list] " at the front, unless it is all there is */
{
    if (!str_starts(*s, S("[")))
        return false;
    ptrdiff_t end = str_find(*s, ']');
    if (end < 0)
        return false;
    str rest = str_trim(str_slice(*s, (size_t)end + 1, SIZE_MAX));
    if (str_empty(rest))
        return false;
    *s = rest;
    return true;
}

static bool strip_reply(str *s) /* "re:", "fwd:", "fw:", "re[2]:" */
{
    static const str marks[] = {S_INIT("re"), S_INIT("fwd"), S_INIT("fw")};
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        if (!str_starts(*s, marks[i]))
            continue;
        str rest = str_trim(str_slice(*s, marks[i].n, SIZE_MAX));
        if (str_starts(rest, S("["))) {
            ptrdiff_t end = str_find(rest, ']');
            if (end < 0)
                continue;
            rest = str_trim(str_slice(rest, (size_t)end + 1, SIZE_MAX));
        }
        if (!str_starts(rest, S(":")))
            continue;
        *s = str_trim(str_slice(rest, 1, SIZE_MAX));
        return true;
    }
    return false;
}

str parsed_base_subject(str subject, struct arena *a)
{
    str s = header_decode(a, subject);
    char *lower = arena_alloc(a, s.n);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) { /* runs of white space are one space */
        unsigned char c = (unsigned char)s.p[i];
        bool is_space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
        if (!is_space || (n > 0 && lower[n - 1] != ' '))
            lower[n++] = is_space ? ' ' : (char)ascii_lower(c);
    }
    s = str_trim(str_n(lower, n));
    for (bool is_changed = true; is_changed;) {
        is_changed = strip_reply(&s) || strip_blob(&s);
        while (str_ends(s, S("(fwd)"))) {
            s = str_trim(str_slice(s, 0, s.n - 5));
            is_changed = true;
        }
    }
    return s;
}

static int64_t thread_key(str id, str subject, struct arena *a)
{
    unsigned char sum[BLOB_HASH_SIZE];
    blob_hash(arena_printf(a, "%.*s\n%.*s", STR_ARG(id), STR_ARG(subject)), sum);
    int64_t key;
    memcpy(&key, sum, sizeof key);
    return key;
}

static void add_key(int64_t keys[THREAD_KEYS_MAX], size_t *n, int64_t key)
{
    for (size_t i = 0; i < *n; i++)
        if (keys[i] == key)
            return;
    if (*n < THREAD_KEYS_MAX)
        keys[(*n)++] = key;
}

size_t parsed_thread_keys(const Thurn__ParsedEmail *p, int64_t keys[THREAD_KEYS_MAX])
{
    ARENA(a, 1 << 20);
    size_t n = 0;
    str subject = parsed_base_subject(str_c(p->envelope->subject), &a);
    str id = str_c(p->envelope->message_id);
    ptrdiff_t open = str_find(id, '<'), close = str_rfind(id, '>');
    if (open >= 0 && close > open)
        add_key(keys, &n, thread_key(str_slice(id, (size_t)open + 1, (size_t)close), subject, &a));
    if (p->n_references) /* the root of the thread, then the nearest */
        add_key(keys, &n, thread_key(str_c(p->references[0]), subject, &a));
    for (size_t i = p->n_references; i > 1; i--)
        add_key(keys, &n, thread_key(str_c(p->references[i - 1]), subject, &a));
    return n;
}

/* --- the cache --- */

struct cached {
    struct list_node node; /* newest first */
    unsigned char hash[32];
    size_t n;
    char packed[];
};
struct parsed_cache {
    struct map map; /* hash → struct cached */
    struct list newest;
    size_t bytes;
};

struct parsed_cache *parsed_cache_new(void)
{
    struct parsed_cache *c = xnew(struct parsed_cache);
    map_init(&c->map);
    list_init(&c->newest);
    return c;
}

static void drop(struct parsed_cache *c, struct cached *e)
{
    list_remove(&e->node);
    map_remove(&c->map, str_n(e->hash, sizeof e->hash));
    c->bytes -= e->n;
    xfree(e);
}

void parsed_cache_free(struct parsed_cache *c)
{
    if (!c)
        return;
    LIST_EACH(&c->newest, n)
    drop(c, LIST_ITEM(n, struct cached, node));
    map_done(&c->map);
    xfree(c);
}

void parsed_cache_put(struct parsed_cache *c, str hash, str packed)
{
    struct cached *old = map_get(&c->map, hash);
    if (old)
        drop(c, old);
    if (packed.n > CACHE_BYTES / 8 || hash.n != 32)
        return;
    struct cached *e = xmalloc(sizeof *e + packed.n);
    *e = (struct cached){.n = packed.n};
    memcpy(e->hash, hash.p, hash.n);
    memcpy(e->packed, packed.p, packed.n);
    list_push_front(&c->newest, &e->node);
    map_put(&c->map, hash, e);
    c->bytes += e->n;
    while (c->map.n > CACHE_ENTRIES || c->bytes > CACHE_BYTES)
        drop(c, LIST_ITEM(c->newest.head.prev, struct cached, node));
}

bool parsed_cache_get(struct parsed_cache *c, str hash, struct arena *a, str *packed)
{
    struct cached *e = map_get(&c->map, hash);
    if (!e)
        return false;
    *packed = arena_str(a, str_n(e->packed, e->n));
    return true;
}
