/*
 * verify.c: what the shards have against what the directory says, a page a request. It reports and changes nothing: an
 * account that only a shard knows is one that the directory lost (a failover, a backup of another day), and its mail is
 * what somebody will want back.
 */
#include <stdio.h>

#include "base/map.h"
#include "base/num.h"
#include "frontend/admin/json.h"
#include "proto/auth_calls.h"
#include "proto/store_calls.h"

#define LOCATE_MAX 1000u

/* The directory's accounts of these ids, by id. Later pages of one request add to them. */
FIBER static bool locate(struct admin *a, struct rpc_call *call, Thurn__ShardAccount *const *on_shard, size_t n,
                         struct map64 *out)
{
    Thurn__LocateRequest q = THURN__LOCATE_REQUEST__INIT;
    const Thurn__LocateReply *r;
    q.account_ids = arena_array(call->arena, int64_t, n);
    for (; q.n_account_ids < n; q.n_account_ids++)
        q.account_ids[q.n_account_ids] = on_shard[q.n_account_ids]->account->account_id;
    rpc_call_again(call);
    if (!auth_locate(call, a->auth, &q, &r))
        return false;
    for (size_t i = 0; i < r->n_accounts; i++)
        (void)map64_put(out, (uint64_t)r->accounts[i]->account_id, r->accounts[i]); /* one row an id */
    return true;
}

/* One word, or NULL when both say the same. */
static const char *disagreement(const Thurn__AccountRef *shard, const Thurn__Account *directory)
{
    if (!directory)
        return "unknown";
    if (directory->shard != shard->shard)
        return "elsewhere";
    if (!rpc_incarnation_fits(directory->incarnation, shard->incarnation))
        return "another";
    if (directory->tenant_id != shard->tenant_id)
        return "tenant";
    return directory->epoch != shard->epoch ? "epoch" : NULL;
}

/* Is it still so? An account that was removed between the two questions is no finding. */
FIBER static bool is_still_there(struct admin *a, struct rpc_call *call, const Thurn__AccountRef *ref, bool *out)
{
    Thurn__ShardAccountsRequest q = THURN__SHARD_ACCOUNTS_REQUEST__INIT;
    const Thurn__ShardAccountsReply *r;
    q.shard = ref->shard;
    q.from_account_id = ref->account_id;
    rpc_call_again(call);
    if (!store_shard_accounts(call, a->store, &q, &r))
        return false;
    *out = r->n_accounts && r->accounts[0]->account->account_id == ref->account_id;
    return true;
}

static json_t *finding_json(const Thurn__ShardAccount *on_shard, const Thurn__Account *directory, const char *what)
{
    char incarnation[24];
    snprintf(incarnation, sizeof(incarnation), "%llx", (unsigned long long)on_shard->account->incarnation);
    json_t *o = json_pack("{s:s, s:I, s:I, s:i, s:i, s:s, s:I, s:I}", "what", what, "account_id",
                          (json_int_t)on_shard->account->account_id, "tenant_id",
                          (json_int_t)on_shard->account->tenant_id, "shard", (int)on_shard->account->shard, "epoch",
                          (int)on_shard->account->epoch, "incarnation", incarnation, "used_bytes",
                          (json_int_t)on_shard->used_bytes, "used_messages", (json_int_t)on_shard->used_messages);
    if (directory) {
        json_object_set_new(o, "address", admin_string(str_c(directory->address)));
        json_object_set_new(o, "directory_shard", json_integer(directory->shard));
    }
    return o;
}

FIBER static bool compare(struct admin *a, struct rpc_call *call, const Thurn__ShardAccountsReply *page,
                          json_t *findings)
{
    struct map64 known;
    map64_init(&known);
    bool ok = true;
    for (size_t i = 0; ok && i < page->n_accounts; i += LOCATE_MAX)
        ok = locate(a, call, page->accounts + i, MIN(page->n_accounts - i, (size_t)LOCATE_MAX), &known);
    for (size_t i = 0; ok && i < page->n_accounts; i++) {
        const Thurn__ShardAccount *one = page->accounts[i];
        const Thurn__Account *directory = map64_get(&known, (uint64_t)one->account->account_id);
        const char *what = disagreement(one->account, directory);
        bool is_there = true;
        ok = !what || directory || is_still_there(a, call, one->account, &is_there);
        if (ok && what && is_there)
            json_array_append_new(findings, finding_json(one, directory, what));
    }
    map64_done(&known);
    return ok;
}

void admin_verify(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    Thurn__ShardAccountsRequest q = THURN__SHARD_ACCOUNTS_REQUEST__INIT;
    const Thurn__ShardAccountsReply *page;
    if (!admin_enter(a, req, &call))
        return;
    CLEANUP(json_decref_) json_t *findings = json_array();
    bool is_asked = num_u32(http_req_param(req, S("shard")), UINT32_MAX, &q.shard) && q.shard;
    str from = http_req_param(req, S("from"));
    if (!is_asked || (from.n && !num_i64(from, 0, INT64_MAX, &q.from_account_id)))
        (void)err_set(&call.err, ERR_INVALID, "'shard' is a number from 1, 'from' an account id");
    else if (store_shard_accounts(&call, a->store, &q, &page) && compare(a, &call, page, findings))
        admin_answer(req, 200,
                     json_pack("{s:O, s:I, s:I}", "findings", findings, "checked", (json_int_t)page->n_accounts, "next",
                               (json_int_t)page->next_account_id));
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
