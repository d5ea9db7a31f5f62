#include "frontend/admin/json.h"

#include "base/clock.h"
#include "proto/auth_calls.h"
#include "proto/store_calls.h"

#define ACCOUNTS_MAX 1000u

static const char *const state_names[] = {"active", "suspended", "receive-only", "closed"};

static json_t *account_json(const Thurn__Account *t)
{
    const char *state = (size_t)t->state < ARRAY_LEN(state_names) ? state_names[t->state] : "unknown";
    return json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:i, s:i, s:s, s:I, s:b}", "address", t->address, "account_id",
                     (json_int_t)t->account_id, "tenant_id", (json_int_t)t->tenant_id, "state", state, "quota_bytes",
                     (json_int_t)t->quota_bytes, "quota_messages", (json_int_t)t->quota_messages, "shard",
                     (int)t->shard, "epoch", (int)t->epoch, "display_name", t->display_name, "created_unix",
                     (json_int_t)t->created_unix, "is_admin", (int)t->is_admin);
}

FIBER static void list(struct admin *a, struct http_req *req, struct rpc_call *call)
{
    ADMIN_LIST_REQUEST(q, req);
    const Thurn__ListAccountsReply *r;
    if (!auth_list_accounts(call, a->auth, &q, &r))
        return;
    json_t *accounts = json_array();
    for (size_t i = 0; i < r->n_accounts; i++)
        json_array_append_new(accounts, account_json(r->accounts[i]));
    admin_answer(req, 200, json_pack("{s:o, s:s}", "accounts", accounts, "next", r->next));
}

static bool parse_password(json_t *o, struct arena *a, ProtobufCBinaryData *out, protobuf_c_boolean *has,
                           struct err *err)
{
    char *password = NULL;
    if (!admin_get_str(o, "password", a, &password, has, err))
        return false;
    if (password)
        *out = rpc_bytes(str_c(password));
    return true;
}

static bool parse_new(json_t *o, struct arena *a, Thurn__NewAccount *n, struct err *err)
{
    static const char *const keys[] = {"address",        "password",     "password_hash", "quota_bytes",
                                       "quota_messages", "display_name", "is_admin",      NULL};
    if (!json_is_object(o))
        return err_set(err, ERR_INVALID, "an account must be a JSON object");
    return admin_only(o, keys, err) && admin_get_str(o, "address", a, &n->address, NULL, err) &&
           parse_password(o, a, &n->password, NULL, err) &&
           admin_get_str(o, "password_hash", a, &n->password_hash, NULL, err) &&
           admin_get_u64(o, "quota_bytes", &n->quota_bytes, NULL, err) &&
           admin_get_u64(o, "quota_messages", &n->quota_messages, NULL, err) &&
           admin_get_str(o, "display_name", a, &n->display_name, NULL, err) &&
           admin_get_bool(o, "is_admin", &n->is_admin, NULL, err);
}

/* The body: one account, or {"accounts": [...]}. */
static bool parse_many(json_t *o, struct arena *a, Thurn__AddAccountsRequest *q, struct err *err)
{
    json_t *many = json_object_get(o, "accounts");
    size_t n = many ? json_array_size(many) : 1;
    if (n == 0 || n > ACCOUNTS_MAX)
        return err_set(err, ERR_INVALID, "'accounts' must be a list of 1 to %u accounts", ACCOUNTS_MAX);
    q->accounts = arena_array(a, Thurn__NewAccount *, n);
    for (size_t i = 0; i < n; i++) {
        q->accounts[i] = arena_new(a, Thurn__NewAccount);
        thurn__new_account__init(q->accounts[i]);
        if (!parse_new(many ? json_array_get(many, i) : o, a, q->accounts[i], err))
            return many ? err_prefix(err, "account %zu", i + 1) : false;
    }
    q->n_accounts = n;
    return true;
}

static json_t *results_json(const Thurn__AddAccountsReply *r)
{
    json_t *results = json_array();
    for (size_t i = 0; i < r->n_results; i++) {
        const Thurn__AddAccountsReply__Result *one = r->results[i];
        json_array_append_new(results, one->account ? json_pack("{s:o}", "account", account_json(one->account))
                                                    : json_pack("{s:s, s:o}", "error",
                                                                err_kind_name((enum err_kind)one->error_kind),
                                                                "message", admin_string(str_c(one->error))));
    }
    return json_pack("{s:o}", "results", results);
}

FIBER static void add(struct admin *a, struct http_req *req, struct rpc_call *call)
{
    CLEANUP(json_decref_) json_t *o = admin_body(req, &call->err);
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    const Thurn__AddAccountsReply *r;
    q.request_id = random_u64();
    q.by = admin_author(req);
    if (!o || !parse_many(o, req->arena, &q, &call->err) || !auth_add_accounts(call, a->auth, &q, &r))
        return;
    if (json_object_get(o, "accounts")) {
        admin_answer(req, 200, results_json(r));
    } else if (r->n_results == 1 && r->results[0]->account) {
        admin_answer(req, 201, account_json(r->results[0]->account));
    } else {
        bool has_text = r->n_results == 1 && r->results[0]->error_kind != ERR_NONE;
        (void)err_set(&call->err, has_text ? (enum err_kind)r->results[0]->error_kind : ERR_INTERNAL, "%s",
                      has_text ? r->results[0]->error : "no result for the account");
    }
}

void admin_accounts(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    if (str_eq(req->method, S("GET")))
        list(a, req, &call);
    else if (str_eq(req->method, S("POST")))
        add(a, req, &call);
    else
        (void)err_set(&call.err, ERR_INVALID, "GET or POST");
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}

static bool parse_state(json_t *o, struct arena *a, Thurn__SetAccountRequest *q, struct err *err)
{
    char *state = NULL;
    if (!admin_get_str(o, "state", a, &state, &q->has_state, err) || !state)
        return !err_is_set(err);
    for (size_t i = 0; i < ARRAY_LEN(state_names); i++)
        if (strcmp(state, state_names[i]) == 0) {
            q->state = (Thurn__AccountState)i;
            return true;
        }
    return err_set(err, ERR_INVALID, "'state' must be active, suspended, receive-only or closed");
}

static bool parse_change(json_t *o, struct arena *a, Thurn__SetAccountRequest *q, struct err *err)
{
    static const char *const keys[] = {"state",    "quota_bytes",   "quota_messages", "display_name",
                                       "password", "password_hash", "is_admin",       NULL};
    return admin_only(o, keys, err) && parse_state(o, a, q, err) &&
           admin_get_u64(o, "quota_bytes", &q->quota_bytes, &q->has_quota_bytes, err) &&
           admin_get_u64(o, "quota_messages", &q->quota_messages, &q->has_quota_messages, err) &&
           admin_get_str(o, "display_name", a, &q->display_name, &q->has_display_name, err) &&
           parse_password(o, a, &q->password, &q->has_password, err) &&
           admin_get_str(o, "password_hash", a, &q->password_hash, &q->has_password_hash, err) &&
           admin_get_bool(o, "is_admin", &q->is_admin, &q->has_is_admin, err);
}

static Thurn__AccountRef ref_of(const Thurn__Account *t)
{
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
    ref.account_id = t->account_id;
    ref.tenant_id = t->tenant_id;
    ref.shard = t->shard;
    ref.epoch = t->epoch;
    ref.incarnation = t->incarnation;
    return ref;
}

/* One account with what the store knows of it; without that when its shard is away. */
FIBER static void show(struct admin *a, struct http_req *req, struct rpc_call *call, const Thurn__Account *t)
{
    json_t *o = account_json(t);
    struct rpc_call more;
    rpc_call_init(&more, req->arena);
    more.pass = call->pass;
    Thurn__AccountRef ref = ref_of(t);
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    q.account = &ref;
    const Thurn__AccountInfo *info;
    if (store_get_account(&more, a->store, &q, &info)) {
        json_object_set_new(o, "used_bytes", json_integer((json_int_t)info->used_bytes));
        json_object_set_new(o, "used_messages", json_integer((json_int_t)info->used_messages));
    }
    admin_answer(req, 200, o);
}

/* The aliases and catch-alls that name the address, the first hundred. */
FIBER static bool led_here(struct admin *a, struct rpc_call *call, char *address, json_t *out)
{
    Thurn__ListRequest q = THURN__LIST_REQUEST__INIT;
    const Thurn__ListAliasesReply *r;
    q.target = address;
    if (!auth_list_aliases(call, a->auth, &q, &r))
        return false;
    for (size_t i = 0; i < r->n_aliases; i++)
        json_array_append_new(out, json_string(r->aliases[i]->address));
    return true;
}

/*
 * Closed first: nobody logs in any more and nothing is delivered while the rows of the store go. The directory's row
 * goes last, as it says where the others are: whatever fails, removing the account again goes on.
 */
FIBER static void remove_account(struct admin *a, struct http_req *req, struct rpc_call *call, char *address)
{
    Thurn__SetAccountRequest closed = THURN__SET_ACCOUNT_REQUEST__INIT;
    Thurn__RemoveAccountRequest remove = THURN__REMOVE_ACCOUNT_REQUEST__INIT;
    const Thurn__AccountReply *r, *gone;
    CLEANUP(json_decref_) json_t *leads = json_array();
    if (!led_here(a, call, address, leads))
        return;
    rpc_call_again(call);
    closed.address = address;
    closed.state = THURN__ACCOUNT_STATE__ACCOUNT_CLOSED;
    closed.has_state = true;
    closed.by = admin_author(req);
    if (!auth_set_account(call, a->auth, &closed, &r))
        return;
    rpc_call_again(call);
    if (!admin_record(a, call, admin_author(req), "account.purge", str_c(r->account->address), NULL, json_object(),
                      &call->err))
        return;
    Thurn__AccountRef ref = ref_of(r->account);
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    q.account = &ref;
    call->route_key = (uint64_t)ref.account_id;
    if (!store_purge_account(call, a->store, &q, NULL)) {
        (void)err_prefix(&call->err, "the account is closed, its mail is not removed yet; remove it again later");
        return;
    }
    rpc_call_again(call);
    remove.name = address;
    remove.incarnation = r->account->incarnation; /* not one that was made in its place meanwhile */
    remove.with_aliases = admin_param(req, "with_aliases")[0] == '1';
    remove.by = admin_author(req);
    if (!auth_remove_account(call, a->auth, &remove, &gone)) {
        (void)err_prefix(&call->err, "the account is closed and its mail removed; remove it again later");
        return;
    }
    admin_answer(req, 200, json_pack("{s:O}", "led_here", leads));
}

/* A new address is a change of its own: the members that go with it are no others. */
FIBER static void change(struct admin *a, struct http_req *req, struct rpc_call *call, char *address)
{
    static const char *const rename_keys[] = {"address", "keep_alias", NULL};
    Thurn__SetAccountRequest set = THURN__SET_ACCOUNT_REQUEST__INIT;
    Thurn__RenameAccountRequest rename = THURN__RENAME_ACCOUNT_REQUEST__INIT;
    const Thurn__AccountReply *r;
    CLEANUP(json_decref_) json_t *o = admin_body(req, &call->err);
    if (!o)
        return;
    bool ok;
    if (json_object_get(o, "address")) {
        rename.address = address;
        rename.by = admin_author(req);
        ok = admin_only(o, rename_keys, &call->err) &&
             admin_get_str(o, "address", req->arena, &rename.new_address, NULL, &call->err) &&
             admin_get_bool(o, "keep_alias", &rename.keep_alias, NULL, &call->err) &&
             auth_rename_account(call, a->auth, &rename, &r);
    } else {
        set.by = admin_author(req);
        set.address = address;
        ok = parse_change(o, req->arena, &set, &call->err) && auth_set_account(call, a->auth, &set, &r);
    }
    if (ok)
        admin_answer(req, 200, account_json(r->account));
}

void admin_account(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    name.name = admin_tail(req, "/v1/accounts/");
    const Thurn__AccountReply *r;
    if (str_eq(req->method, S("GET"))) {
        if (auth_get_account(&call, a->auth, &name, &r))
            show(a, req, &call, r->account);
    } else if (str_eq(req->method, S("DELETE"))) {
        remove_account(a, req, &call, name.name);
    } else if (str_eq(req->method, S("PATCH"))) {
        change(a, req, &call, name.name);
    } else {
        (void)err_set(&call.err, ERR_INVALID, "GET, PATCH or DELETE");
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
