#include "unit/fake_services.h"

#include <stdio.h>

#include <openssl/sha.h>

#include "mail/delivery_key.h"

#define CONTENT_MAX ((size_t)64 << 20)

void fake_services_done(struct fake_services *f)
{
    struct fake_message *lists[] = {f->delivered, f->queued, f->blobs};
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (size_t i = 0; i < FAKE_MAX; i++) {
            buf_done(&lists[l][i].content);
            buf_done(&lists[l][i].text);
        }
    arena_done(&f->arena);
}

struct fake_address *fake_account(struct fake_services *f, const char *address, const char *password,
                                  int64_t account_id)
{
    assert(f->n_addresses < FAKE_MAX);
    struct fake_address *a = &f->addresses[f->n_addresses++];
    *a = (struct fake_address){
        .address = address, .password = password, .account_id = account_id, .tenant_id = 1, .version = 1};
    return a;
}

struct fake_address *fake_alias(struct fake_services *f, const char *address, const char *targets)
{
    struct fake_address *a = fake_account(f, address, "", 0);
    a->targets = targets;
    return a;
}

/* Whether the call goes on; else it was answered. */
static bool goes_on(struct fake_fail *f, struct rpc_call *c)
{
    struct err err = ERR_INIT;
    f->calls++;
    if (f->delay_ms && !fiber_sleep_ms(f->delay_ms, &err)) {
        c->err = err;
        return f->after;
    }
    if (f->kind == ERR_NONE)
        return true;
    if (f->times && --f->times == 0) {
        (void)err_set(&c->err, f->kind, "the last failure that was asked for");
        f->kind = ERR_NONE;
        return f->after;
    }
    (void)err_set(&c->err, f->kind, "as the test wants it");
    return f->after;
}

static struct fake_address *find(struct fake_services *f, str address)
{
    for (size_t i = 0; i < f->n_addresses; i++)
        if (str_eq_nocase(str_c(f->addresses[i].address), address))
            return &f->addresses[i];
    return NULL;
}

static struct fake_address *by_id(struct fake_services *f, int64_t id)
{
    for (size_t i = 0; i < f->n_addresses; i++)
        if (f->addresses[i].account_id == id)
            return &f->addresses[i];
    return NULL;
}

static bool is_ours(struct fake_services *f, str domain)
{
    str rest = str_c(f->domains), one;
    while (str_split(&rest, ' ', &one))
        if (str_eq_nocase(one, domain))
            return true;
    return false;
}

static str domain_of(str address)
{
    ptrdiff_t at = str_rfind(address, '@');
    return str_slice(address, at < 0 ? address.n : (size_t)at + 1, SIZE_MAX);
}

/* --- auth --- */

static Thurn__AccountRef *ref_of(const struct fake_address *a, struct arena *arena)
{
    Thurn__AccountRef *r = arena_new(arena, Thurn__AccountRef);
    thurn__account_ref__init(r);
    r->account_id = a->account_id;
    r->tenant_id = a->tenant_id;
    r->shard = 1;
    return r;
}

static void authenticate(Thurn__Auth_Service *s, const Thurn__AuthenticateRequest *q,
                         Thurn__AuthenticateReply_Closure done, void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, auth);
    struct rpc_call *c = closure;
    Thurn__AuthenticateReply r = THURN__AUTHENTICATE_REPLY__INIT;
    if (!goes_on(&f->authenticate, c)) {
        done(NULL, closure);
        return;
    }
    struct fake_address *a = find(f, str_c(q->login));
    if (!a || a->targets || !str_eq(str_c(a->password), rpc_str(q->password))) {
        (void)err_set(&c->err, ERR_DENIED, "wrong login or password");
        done(NULL, closure);
        return;
    }
    r.account = ref_of(a, c->arena);
    r.address = (char *)(uintptr_t)a->address;
    r.state = a->state;
    r.credential_version = a->version;
    done(&r, closure);
}

static void credentials(Thurn__Auth_Service *s, const Thurn__CredentialsRequest *q,
                        Thurn__CredentialsReply_Closure done, void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, auth);
    struct rpc_call *c = closure;
    Thurn__CredentialsReply r = THURN__CREDENTIALS_REPLY__INIT;
    r.versions = arena_array(c->arena, int64_t, q->n_account_ids);
    r.n_versions = q->n_account_ids;
    for (size_t i = 0; i < q->n_account_ids; i++) {
        const struct fake_address *a = by_id(f, q->account_ids[i]);
        r.versions[i] = a ? a->version : 0;
    }
    done(goes_on(&f->credentials, c) ? &r : NULL, closure); /* a late answer is an old one */
}

static Thurn__Target *target_of(struct fake_services *f, str address, struct arena *a)
{
    Thurn__Target *t = arena_new(a, Thurn__Target);
    struct fake_address *known = find(f, address);
    thurn__target__init(t);
    t->address = arena_strz(a, address);
    if (known)
        t->account = ref_of(known, a);
    return t;
}

static Thurn__Resolution *resolution_of(struct fake_services *f, str address, struct arena *a)
{
    Thurn__Resolution *r = arena_new(a, Thurn__Resolution);
    struct fake_address *known = find(f, address);
    thurn__resolution__init(r);
    r->kind = !is_ours(f, domain_of(address))                              ? THURN__RECIPIENT_KIND__RECIPIENT_REMOTE
              : !known                                                     ? THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN
              : known->state == THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED    ? THURN__RECIPIENT_KIND__RECIPIENT_SUSPENDED
              : known->state == THURN__ACCOUNT_STATE__ACCOUNT_CLOSED       ? THURN__RECIPIENT_KIND__RECIPIENT_CLOSED
              : known->targets && str_eq(str_c(known->targets), S("loop")) ? THURN__RECIPIENT_KIND__RECIPIENT_LOOP
                                                                           : THURN__RECIPIENT_KIND__RECIPIENT_LOCAL;
    if (r->kind != THURN__RECIPIENT_KIND__RECIPIENT_LOCAL)
        return r;
    r->targets = arena_array(a, Thurn__Target *, FAKE_MAX);
    str rest = str_c(known->targets ? known->targets : known->address), one;
    while (str_split(&rest, ' ', &one))
        if (one.n)
            r->targets[r->n_targets++] = target_of(f, one, a);
    return r;
}

static void resolve(Thurn__Auth_Service *s, const Thurn__ResolveRequest *q, Thurn__ResolveReply_Closure done,
                    void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, auth);
    struct rpc_call *c = closure;
    Thurn__ResolveReply r = THURN__RESOLVE_REPLY__INIT;
    if (!goes_on(&f->resolve, c)) {
        done(NULL, closure);
        return;
    }
    r.n_resolutions = q->n_addresses;
    r.resolutions = arena_array(c->arena, Thurn__Resolution *, q->n_addresses);
    for (size_t i = 0; i < q->n_addresses; i++)
        r.resolutions[i] = resolution_of(f, str_c(q->addresses[i]), c->arena);
    done(&r, closure);
}

static void may_send_as(Thurn__Auth_Service *s, const Thurn__MaySendAsRequest *q, Thurn__MaySendAsReply_Closure done,
                        void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, auth);
    Thurn__MaySendAsReply r = THURN__MAY_SEND_AS_REPLY__INIT;
    if (!goes_on(&f->may_send_as, closure)) {
        done(NULL, closure);
        return;
    }
    struct fake_address *a = find(f, str_c(q->address)), *owner = by_id(f, q->account_id);
    r.is_allowed = owner && (a == owner || (a && a->targets && strcmp(a->targets, owner->address) == 0));
    done(&r, closure);
}

static void take(Thurn__Auth_Service *s, const Thurn__TakeRequest *q, Thurn__TakeReply_Closure done, void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, auth);
    Thurn__TakeReply r = THURN__TAKE_REPLY__INIT;
    if (!goes_on(&f->take, closure)) {
        done(NULL, closure);
        return;
    }
    r.is_granted = !f->refused_limit || strcmp(q->takes[0]->limit, f->refused_limit) != 0;
    done(&r, closure);
}

/* --- bodies --- */

static struct fake_message *next(struct fake_message *list, size_t *n)
{
    struct fake_message *m = &list[MIN(*n, (size_t)FAKE_MAX - 1)];
    buf_done(&m->content);
    buf_done(&m->text);
    *m = (struct fake_message){.day = 0};
    buf_init(&m->content, CONTENT_MAX);
    buf_init(&m->text, 1 << 20);
    ++*n;
    return m;
}

static bool keep_body(struct fake_services *f, struct fake_message *m, ProtobufCBinaryData prefix,
                      const Thurn__Body *body)
{
    unsigned char hash[32];
    buf_add(&m->content, rpc_str(prefix));
    m->prefix_n = prefix.len;
    if (!body->blob) {
        buf_add(&m->content, rpc_str(body->content));
        return true;
    }
    m->was_blob = true;
    for (size_t i = 0; i < MIN(f->n_blobs, (size_t)FAKE_MAX); i++) {
        SHA256((const unsigned char *)f->blobs[i].content.p, f->blobs[i].content.n, hash);
        if (str_eq(str_n(hash, 32), rpc_str(body->blob->hash))) {
            buf_add(&m->content, buf_str(&f->blobs[i].content));
            return true;
        }
    }
    return false;
}

/* --- store --- */

static bool read_source(struct fake_services *f, struct fake_message *m, struct rpc_call *c)
{
    str piece;
    do {
        struct err err = ERR_INIT;
        if (f->blob_stop_at && m->content.n >= f->blob_stop_at)
            return err_set(&c->err, ERR_UNAVAILABLE, "the disk is gone");
        if (!c->body->read(c->body, &piece, &err)) {
            c->err = err;
            return false;
        }
        assert(piece.n <= RPC_CHUNK_MAX);
        buf_add(&m->content, piece);
    } while (piece.n);
    return true;
}

static void put_blob(Thurn__Store_Service *s, const Thurn__PutBlobRequest *q, Thurn__PutBlobReply_Closure done,
                     void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, store);
    struct rpc_call *c = closure;
    Thurn__PutBlobReply r = THURN__PUT_BLOB_REPLY__INIT;
    Thurn__BlobRef ref = THURN__BLOB_REF__INIT;
    unsigned char hash[32];
    if (!goes_on(&f->put_blob, c)) {
        done(NULL, closure);
        return;
    }
    struct fake_message *m = next(f->blobs, &f->n_blobs);
    if (!read_source(f, m, c)) {
        f->n_blobs--;
        done(NULL, closure);
        return;
    }
    if (m->content.n > q->size_max) {
        (void)err_set(&c->err, ERR_LIMIT, "too large");
        done(NULL, closure);
        return;
    }
    SHA256((const unsigned char *)m->content.p, m->content.n, hash);
    ref.space = 1;
    ref.size = m->content.n;
    ref.hash = rpc_bytes(str_n(hash, 32));
    r.blob = &ref;
    done(&r, closure);
}

static bool has_key(const struct fake_services *f, const unsigned char *key)
{
    for (size_t i = 0; i < MIN(f->n_delivered, (size_t)FAKE_MAX); i++)
        if (memcmp(f->delivered[i].key, key, 32) == 0)
            return true;
    return false;
}

static enum err_kind deliver_one(struct fake_services *f, const Thurn__DeliverRequest *q,
                                 const Thurn__DeliverRecipient *r)
{
    struct fake_address *a = by_id(f, r->account->account_id);
    if (!a || r->delivery_key.len != 32)
        return ERR_NOT_FOUND;
    if (a->deliver)
        return a->deliver;
    if (has_key(f, r->delivery_key.data))
        return ERR_NONE;
    struct fake_message *m = next(f->delivered, &f->n_delivered);
    memcpy(m->key, r->delivery_key.data, 32);
    m->day = r->day;
    buf_add(&m->text, str_c(a->address));
    return keep_body(f, m, q->prefix, q->body) ? ERR_NONE : ERR_INTERNAL;
}

static void deliver(Thurn__Store_Service *s, const Thurn__DeliverRequest *q, Thurn__DeliverReply_Closure done,
                    void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, store);
    struct rpc_call *c = closure;
    Thurn__DeliverReply r = THURN__DELIVER_REPLY__INIT;
    if (!goes_on(&f->deliver, c)) {
        done(NULL, closure);
        return;
    }
    r.n_results = q->n_recipients;
    r.results = arena_array(c->arena, Thurn__DeliverReply__Result *, q->n_recipients);
    for (size_t i = 0; i < q->n_recipients; i++) {
        r.results[i] = arena_new(c->arena, Thurn__DeliverReply__Result);
        thurn__deliver_reply__result__init(r.results[i]);
        r.results[i]->error_kind = deliver_one(f, q, q->recipients[i]);
    }
    done(err_is_set(&c->err) ? NULL : &r, closure);
}

/* --- queue --- */

static void enqueue(Thurn__Queue_Service *s, const Thurn__EnqueueRequest *q, Thurn__EnqueueReply_Closure done,
                    void *closure)
{
    struct fake_services *f = CONTAINER_OF(s, struct fake_services, queue);
    struct rpc_call *c = closure;
    Thurn__EnqueueReply r = THURN__ENQUEUE_REPLY__INIT;
    if (!goes_on(&f->enqueue, c)) {
        done(NULL, closure);
        return;
    }
    struct fake_message *m = next(f->queued, &f->n_queued);
    if (!keep_body(f, m, q->prefix, q->body) || q->enqueue_id.len != ENQUEUE_ID_SIZE)
        (void)err_set(&c->err, ERR_INVALID, "no such body");
    m->day = q->day;
    buf_printf(&m->text, "%s>", q->sender);
    for (size_t i = 0; i < q->n_recipients; i++)
        buf_printf(&m->text, "%s%s", i ? "," : "", q->recipients[i]->address);
    arena_done(&f->arena);
    f->last_enqueue = (const Thurn__EnqueueRequest *)(const void *)rpc_copy(&q->base, &f->arena);
    r.queue_id = 7000 + f->n_queued;
    done(err_is_set(&c->err) ? NULL : &r, closure);
}

void fake_services_init(struct fake_services *f, const char *domains)
{
    *f = (struct fake_services){.domains = domains};
    arena_init(&f->arena, CONTENT_MAX);
    thurn__auth__init(&f->auth, NULL);
    f->auth.authenticate = authenticate;
    f->auth.resolve = resolve;
    f->auth.may_send_as = may_send_as;
    f->auth.credentials = credentials;
    f->auth.take = take;
    thurn__store__init(&f->store, NULL);
    f->store.put_blob = put_blob;
    f->store.deliver = deliver;
    thurn__queue__init(&f->queue, NULL);
    f->queue.enqueue = enqueue;
}
