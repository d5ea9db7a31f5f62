#include "unit/imap_rig.h"

#include <stdio.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"

#define MESSAGE "Subject: x\r\n\r\ntext\r\n"
#define LARGE_SIZE 300000u
#define PAGE 1000u

static void quiet(enum log_level level, str line)
{
    (void)level;
    (void)line;
}

unsigned imap_rig_method(const struct imap_rig_service *s, const char *name)
{
    const ProtobufCMethodDescriptor *m = protobuf_c_service_descriptor_get_method_by_name(s->base.descriptor, name);
    assert_non_null(m);
    return (unsigned)(m - s->base.descriptor->methods);
}

/* --- the store --- */

static Thurn__Mailbox *mailbox(const struct imap_rig *r, struct arena *a, int64_t id, const char *name,
                               Thurn__MailboxRole role)
{
    Thurn__Mailbox *m = arena_new(a, Thurn__Mailbox);
    thurn__mailbox__init(m);
    m->mailbox_id = id;
    m->name = (char *)(uintptr_t)name;
    m->role = role;
    m->uidvalidity = 7;
    m->uidnext = r->n_messages + 1;
    m->highestmodseq = r->modseq;
    m->total = r->n_messages;
    return m;
}

static Thurn__Range **range(struct arena *a, uint64_t first, uint64_t last)
{
    Thurn__Range **v = arena_array(a, Thurn__Range *, 1);
    v[0] = arena_new(a, Thurn__Range);
    thurn__range__init(v[0]);
    v[0]->first = first;
    v[0]->last = last;
    return v;
}

static Thurn__Message *message(const struct imap_rig *r, struct arena *a, uint32_t uid, bool with_parsed, bool with_raw)
{
    Thurn__Message *m = arena_new(a, Thurn__Message);
    thurn__message__init(m);
    m->uid = uid;
    m->modseq = uid;
    m->internal_unix = 1;
    m->size = uid == r->n_messages ? LARGE_SIZE : sizeof(MESSAGE) - 1;
    if (with_parsed) {
        m->parsed = arena_new(a, Thurn__ParsedEmail);
        thurn__parsed_email__init(m->parsed);
        m->parsed->envelope = arena_new(a, Thurn__Envelope);
        thurn__envelope__init(m->parsed->envelope);
        m->parsed->envelope->subject = (char *)(uintptr_t) "x";
        m->parsed->root = arena_new(a, Thurn__Part);
        thurn__part__init(m->parsed->root);
        m->parsed->root->type = (char *)(uintptr_t) "TEXT";
        m->parsed->root->subtype = (char *)(uintptr_t) "PLAIN";
        m->parsed->root->body_offset = strlen("Subject: x\r\n\r\n");
        m->parsed->root->body_size = m->size - m->parsed->root->body_offset;
    }
    if (with_raw && uid != r->n_messages)
        m->raw = rpc_bytes(S(MESSAGE));
    m->is_raw_omitted = with_raw && uid == r->n_messages;
    return m;
}

/* Those of the ranges, at most a page; *next is where the next one begins. */
static Thurn__Message **messages(const struct imap_rig *r, struct arena *a, Thurn__Range *const *uids, size_t n_uids,
                                 bool with_parsed, bool with_raw, size_t *n, uint32_t *next)
{
    Thurn__Message **v = arena_array(a, Thurn__Message *, PAGE);
    *next = 0;
    for (size_t i = 0; i < n_uids; i++)
        for (uint64_t uid = uids[i]->first; uid <= MIN(uids[i]->last, (uint64_t)r->n_messages); uid++) {
            if (*n == PAGE) {
                *next = (uint32_t)uid;
                return v;
            }
            v[(*n)++] = message(r, a, (uint32_t)uid, with_parsed, with_raw);
        }
    return v;
}

static const ProtobufCMessage *list_mailboxes(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)q;
    Thurn__ListMailboxesReply *out = arena_new(c->arena, Thurn__ListMailboxesReply);
    thurn__list_mailboxes_reply__init(out);
    out->mailboxes = arena_array(c->arena, Thurn__Mailbox *, 2);
    out->mailboxes[out->n_mailboxes++] = mailbox(r, c->arena, 1, "INBOX", THURN__MAILBOX_ROLE__ROLE_INBOX);
    if (!r->is_other_gone)
        out->mailboxes[out->n_mailboxes++] = mailbox(r, c->arena, 2, "Other", THURN__MAILBOX_ROLE__ROLE_NONE);
    out->modseq = r->modseq;
    return &out->base;
}

static const ProtobufCMessage *mailbox_reply(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)q;
    Thurn__MailboxReply *out = arena_new(c->arena, Thurn__MailboxReply);
    thurn__mailbox_reply__init(out);
    out->mailbox = mailbox(r, c->arena, 3, "New", THURN__MAILBOX_ROLE__ROLE_NONE);
    return &out->base;
}

static const ProtobufCMessage *search(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)q;
    Thurn__SearchReply *out = arena_new(c->arena, Thurn__SearchReply);
    thurn__search_reply__init(out);
    out->n_uids = r->n_messages > 0;
    out->uids = range(c->arena, 1, r->n_messages);
    out->first_unseen = r->n_messages > 0;
    return &out->base;
}

static const ProtobufCMessage *fetch(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    const Thurn__FetchRequest *q = request;
    Thurn__FetchReply *out = arena_new(c->arena, Thurn__FetchReply);
    thurn__fetch_reply__init(out);
    out->messages =
        messages(r, c->arena, q->uids, q->n_uids, q->with_parsed, q->with_raw, &out->n_messages, &out->next_uid);
    return &out->base;
}

static const ProtobufCMessage *store_flags(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    const Thurn__StoreFlagsRequest *q = request;
    Thurn__StoreFlagsReply *out = arena_new(c->arena, Thurn__StoreFlagsReply);
    thurn__store_flags_reply__init(out);
    out->messages = messages(r, c->arena, q->uids, q->n_uids, false, false, &out->n_messages, &out->next_uid);
    return &out->base;
}

static const ProtobufCMessage *expunge(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)q;
    Thurn__ExpungeReply *out = arena_new(c->arena, Thurn__ExpungeReply);
    thurn__expunge_reply__init(out);
    if (r->expunges_all) {
        out->n_uids = 1;
        out->uids = range(c->arena, 1, r->n_messages);
    }
    return &out->base;
}

static const ProtobufCMessage *copy(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    (void)r;
    const Thurn__CopyRequest *q = request;
    Thurn__CopyReply *out = arena_new(c->arena, Thurn__CopyReply);
    thurn__copy_reply__init(out);
    out->uidvalidity = 7;
    out->n_from = out->n_to = q->n_uids;
    out->from = out->to = q->uids;
    return &out->base;
}

static const ProtobufCMessage *append(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)r;
    (void)q;
    Thurn__AppendReply *out = arena_new(c->arena, Thurn__AppendReply);
    thurn__append_reply__init(out);
    return &out->base;
}

static const ProtobufCMessage *put_blob(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)r;
    (void)q;
    str piece;
    do
        if (!c->body->read(c->body, &piece, &c->err))
            return NULL;
    while (piece.n);
    Thurn__PutBlobReply *out = arena_new(c->arena, Thurn__PutBlobReply);
    thurn__put_blob_reply__init(out);
    out->blob = arena_new(c->arena, Thurn__BlobRef);
    thurn__blob_ref__init(out->blob);
    return &out->base;
}

static const ProtobufCMessage *read_body(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    (void)r;
    const Thurn__ReadBodyRequest *q = request;
    char *bytes = arena_alloc(c->arena, q->length + 1);
    memset(bytes, 'x', q->length);
    for (str rest = str_n(bytes, q->length); rest.n; rest = str_slice(rest, RPC_CHUNK_MAX, SIZE_MAX))
        if (!c->out->write(c->out, str_slice(rest, 0, RPC_CHUNK_MAX), &c->err))
            return NULL;
    Thurn__ReadBodyReply *out = arena_new(c->arena, Thurn__ReadBodyReply);
    thurn__read_body_reply__init(out);
    return &out->base;
}

static const ProtobufCMessage *sync_(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)q;
    Thurn__SyncReply *out = arena_new(c->arena, Thurn__SyncReply);
    thurn__sync_reply__init(out);
    out->mailbox = mailbox(r, c->arena, 1, "INBOX", THURN__MAILBOX_ROLE__ROLE_INBOX);
    return &out->base;
}

static const ProtobufCMessage *subscriptions(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)r;
    (void)q;
    Thurn__ListSubscriptionsReply *out = arena_new(c->arena, Thurn__ListSubscriptionsReply);
    thurn__list_subscriptions_reply__init(out);
    return &out->base;
}

static const ProtobufCMessage *watch(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    const Thurn__WatchRequest *q = request;
    if (q->wait_ms) {
        FIBER_DEADLINE(q->wait_ms);
        while (!r->beacon && !err_is_set(&c->err))
            IGNORE(fiber_cond_wait(&r->changed, &c->err));
        if (c->err.kind == ERR_CANCELLED)
            return NULL;
        err_clear(&c->err);
    }
    Thurn__WatchReply *out = arena_new(c->arena, Thurn__WatchReply);
    thurn__watch_reply__init(out);
    out->generation = q->generation + !q->wait_ms;
    if (r->beacon && q->wait_ms) {
        out->n_beacons = 1;
        out->beacons = arena_array(c->arena, Thurn__Beacon *, 1);
        out->beacons[0] = arena_new(c->arena, Thurn__Beacon);
        thurn__beacon__init(out->beacons[0]);
        out->beacons[0]->account_id = 11;
        out->beacons[0]->modseq = r->beacon;
        r->beacon = 0;
    }
    return &out->base;
}

static const ProtobufCMessage *states(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)r;
    (void)q;
    Thurn__StatesReply *out = arena_new(c->arena, Thurn__StatesReply);
    thurn__states_reply__init(out);
    return &out->base;
}

/* --- auth --- */

static const ProtobufCMessage *authenticate(struct imap_rig *r, const void *q, struct rpc_call *c)
{
    (void)r;
    (void)q;
    Thurn__AuthenticateReply *out = arena_new(c->arena, Thurn__AuthenticateReply);
    thurn__authenticate_reply__init(out);
    out->account = arena_new(c->arena, Thurn__AccountRef);
    thurn__account_ref__init(out->account);
    out->account->account_id = 11;
    out->account->tenant_id = 1;
    out->account->shard = 1;
    out->address = (char *)(uintptr_t) "alice@example.org";
    out->credential_version = 1;
    return &out->base;
}

static const ProtobufCMessage *lease(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    (void)r;
    const Thurn__LeaseRequest *q = request;
    Thurn__LeaseReply *out = arena_new(c->arena, Thurn__LeaseReply);
    thurn__lease_reply__init(out);
    out->n_granted = q->n_items;
    out->granted = arena_array(c->arena, protobuf_c_boolean, q->n_items);
    for (size_t i = 0; i < q->n_items; i++)
        out->granted[i] = true;
    return &out->base;
}

static const ProtobufCMessage *credentials(struct imap_rig *r, const void *request, struct rpc_call *c)
{
    (void)r;
    const Thurn__CredentialsRequest *q = request;
    Thurn__CredentialsReply *out = arena_new(c->arena, Thurn__CredentialsReply);
    thurn__credentials_reply__init(out);
    out->n_versions = q->n_account_ids;
    out->versions = arena_array(c->arena, int64_t, q->n_account_ids);
    for (size_t i = 0; i < q->n_account_ids; i++)
        out->versions[i] = 1;
    return &out->base;
}

static const struct {
    const char *method;
    const ProtobufCMessage *(*answer)(struct imap_rig *r, const void *q, struct rpc_call *c);
} answers[] = {
    {"ListMailboxes", list_mailboxes},
    {"CreateMailbox", mailbox_reply},
    {"RenameMailbox", mailbox_reply},
    {"DeleteMailbox", mailbox_reply},
    {"Subscribe", mailbox_reply},
    {"ListSubscriptions", subscriptions},
    {"Search", search},
    {"Fetch", fetch},
    {"StoreFlags", store_flags},
    {"Expunge", expunge},
    {"Copy", copy},
    {"Append", append},
    {"PutBlob", put_blob},
    {"ReadBody", read_body},
    {"Sync", sync_},
    {"Watch", watch},
    {"States", states},
    {"Authenticate", authenticate},
    {"Lease", lease},
    {"Credentials", credentials},
};

static void invoke(ProtobufCService *base, unsigned method, const ProtobufCMessage *request, ProtobufCClosure closure,
                   void *data)
{
    struct imap_rig_service *s = CONTAINER_OF(base, struct imap_rig_service, base);
    struct rpc_call *c = data;
    s->calls[method]++;
    if (s->fails[method]) {
        const char *hides = s->rig->hides_other_after;
        s->rig->is_other_gone |= hides && strcmp(hides, base->descriptor->methods[method].name) == 0;
        (void)err_set(&c->err, s->fails[method], "as the test wants it");
        closure(NULL, data);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        if (strcmp(answers[i].method, base->descriptor->methods[method].name) == 0) {
            closure(answers[i].answer(s->rig, request, c), data);
            return;
        }
    (void)err_set(&c->err, ERR_UNAVAILABLE, "there is no %s here", base->descriptor->methods[method].name);
    closure(NULL, data);
}

void imap_rig_change(struct imap_rig *r)
{
    r->beacon = ++r->modseq;
    fiber_cond_broadcast(&r->changed);
}

/* --- the client --- */

struct stream *imap_rig_dial(struct imap_rig *r)
{
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    struct stream *client = stream_from_fd(ends[0], NULL, &err), *server = stream_from_fd(ends[1], NULL, &err);
    assert_ok(client && server, &err);
    imap_accept(r->server, server);
    assert_true(str_starts(imap_rig_line(client), S("* OK ")));
    return client;
}

void imap_rig_connect(struct imap_rig *r)
{
    if (r->client)
        stream_close(r->client);
    r->client = imap_rig_dial(r);
}

void imap_rig_say(struct stream *s, const char *text)
{
    struct err err = ERR_INIT;
    assert_ok(stream_write(s, str_c(text), &err) && stream_flush(s, &err), &err);
}

str imap_rig_line(struct stream *s)
{
    static char text[64 * 1024];
    struct err err = ERR_INIT;
    str line;
    if (!stream_read_line(s, sizeof(text), true, &line, &err))
        return STR_NONE;
    memcpy(text, line.p, line.n);
    return str_n(text, line.n);
}

str imap_rig_until(struct stream *s, const char *prefix)
{
    str line;
    do
        line = imap_rig_line(s);
    while (line.p && !str_starts(line, str_c(prefix)));
    return line;
}

str imap_rig_command(struct stream *s, const char *tag, const char *command)
{
    BUF(b, 1 << 20);
    buf_printf(&b, "%s %s\r\n", tag, command);
    imap_rig_say(s, buf_z(&b));
    buf_clear(&b);
    buf_printf(&b, "%s ", tag);
    return imap_rig_until(s, buf_z(&b));
}

/* --- life --- */

static void on_fiber(void *arg)
{
    struct imap_rig *r = arg;
    fiber_cond_init(&r->changed);
    r->opts.logins = logins_new(&r->auth.base, NULL, 0);
    r->opts.guests = guests_new((unsigned[GUEST_SERVICES_]){0}, 0);
    r->server = imap_server_new(&r->opts);
    r->test(r);
    clock_real();
    if (r->client)
        stream_close(r->client);
    imap_server_drain(r->server, 0);
    imap_server_free(r->server);
    logins_free(r->opts.logins);
    guests_free(r->opts.guests);
}

void imap_rig_run(void (*prepare)(struct imap_rig *r), void (*test)(struct imap_rig *r), void *arg)
{
    struct imap_rig *r = xnew(struct imap_rig);
    *r = (struct imap_rig){.n_messages = 3, .modseq = 10, .test = test, .arg = arg};
    r->auth = (struct imap_rig_service){.base = {&thurn__auth__descriptor, invoke, NULL}, .rig = r};
    r->store = (struct imap_rig_service){.base = {&thurn__store__descriptor, invoke, NULL}, .rig = r};
    r->opts = (struct imap_opts){
        .hostname = S("mail.example.org"), .auth = &r->auth.base, .store = &r->store.base, .plain = IMAP_PLAIN_ALWAYS};
    if (prepare)
        prepare(r);
    log_set_sink(quiet);
    assert_true(fiber_main(on_fiber, r));
    log_set_sink(NULL);
    free(r);
}
