/*
 * user_account.h: what a front-end that works for one account needs of the store: who the account is and where, calls
 * that find it again after it moved, and mailboxes by their paths.
 */
#ifndef FRONTEND_COMMON_USER_ACCOUNT_H
#define FRONTEND_COMMON_USER_ACCOUNT_H

#include "proto/auth.pb-c.h"
#include "rpc/call.h"

/* What a log-in's answer says of the account, to be kept. */
Thurn__AccountRef user_account_copy(const Thurn__AccountRef *r);

/* Begin a call for that account under its log-in's pass (logins.h), with a minute at most. */
void user_account_call_init(struct rpc_call *call, struct arena *a, const struct rpc_pass *pass, int64_t account_id);

enum user_account_place {
    USER_ACCOUNT_SAME,  /* where it was, or nobody knows: the call's error stands */
    USER_ACCOUNT_MOVED, /* the account has been set right and the call made ready: make it again */
    USER_ACCOUNT_OTHER, /* another account has this number now: the log-in was not to that one */
};
/* After a call failed: with CONFLICT, ask the directory where the account is now. Suspends then. */
FIBER enum user_account_place user_account_locate(ProtobufCService *auth, Thurn__AccountRef *account,
                                                  struct rpc_call *call);

/* A new request id, in a: for the calls that are done once (store.proto). */
ProtobufCBinaryData user_account_request_id(struct arena *a);

/* A mailbox's name, its components joined by "/", as requests want it. In a. */
void user_account_mailbox_path(struct arena *a, str name, char ***path, size_t *n);

#endif
