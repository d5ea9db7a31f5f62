/*
 * rights.h: who may call which method. The table is in the .proto files: each method says [by …] (proto/common.proto),
 * and each service asks rpc_may_call with what was made of that.
 *
 * A peer has roles: those that its HELLO claims and, over TLS, its certificate names. On behalf of an account, or of an
 * administrator, a front-end calls with a pass: the auth service makes one when a log-in was right, and whoever has the
 * same key can tell it from one that somebody made up. Front-ends do not have the key.
 */
#ifndef RPC_RIGHTS_H
#define RPC_RIGHTS_H

#include "base/err.h"

/* Who may call: roles of the cluster by themselves, and front-ends with a pass of the account that the request is
 * about, or of an administrator. */
// clang-format off
enum rpc_by {
    RPC_BY_FRONTEND = 1, RPC_BY_QUEUE = 2, RPC_BY_STORE = 4, RPC_BY_AUTH = 8,
    RPC_BY_ACCOUNT = 16, RPC_BY_ADMIN = 32
};
// clang-format on
#define RPC_ROLES 4u
#define RPC_ROLES_ALL (RPC_BY_FRONTEND | RPC_BY_QUEUE | RPC_BY_STORE | RPC_BY_AUTH)
const char *rpc_role_name(unsigned i);                         /* of bit 1 << i */
#define RPC_ROLES_TEXT 32u                                     /* the names of all, NUL included */
str rpc_roles_print(unsigned roles, char out[RPC_ROLES_TEXT]); /* "frontend queue" */
bool rpc_roles_parse(str text, unsigned *roles) WARN_UNUSED;   /* false: another word, or none */
/* The URI that stands for a role in a certificate's subjectAltName: "thurn:role:store". */
str rpc_role_uri(unsigned role, char out[RPC_ROLES_TEXT]);

/* Whom a pass names. */
struct rpc_principal {
    int64_t account_id, tenant_id; /* of an administrator 0 */
    uint64_t incarnation;          /* as in AccountRef */
    int64_t credential_version;    /* what the log-in stood on */
    bool is_admin;
};
#define RPC_PASS_SIZE 73u
/* n is 0 (none) or RPC_PASS_SIZE. */
struct rpc_pass {
    uint8_t n;
    unsigned char bytes[RPC_PASS_SIZE];
};
/* renewed at half of it; so long sessions go on while nobody renews */
#define RPC_PASS_ACCOUNT_MS (3600 * 1000)
#define RPC_PASS_ADMIN_MS (300 * 1000)

/* The key of this process; at least 32 bytes, copied. Without a call it is drawn at random: passes are good in this
 * process alone. */
void rpc_pass_key(str key);
void rpc_pass_make(const struct rpc_principal *p, struct rpc_pass *out);
/* DENIED: not made with our key. *expires_unix may be past. */
bool rpc_pass_read(const struct rpc_pass *pass, struct rpc_principal *out, int64_t *expires_unix, struct err *err)
    WARN_UNUSED;
/* From bytes of a message; whatever is no pass is none. */
struct rpc_pass rpc_pass_of(str bytes);
static inline str rpc_pass_str(const struct rpc_pass *p)
{
    return str_n(p->bytes, p->n);
}

/* Whether two may speak of the same account of a number (AccountRef.incarnation): 0 is not known. */
static inline bool rpc_incarnation_fits(uint64_t a, uint64_t b)
{
    return a == b || !a || !b;
}

struct rpc_call;
/*
 * Whether the caller is among `callers` (RPC_BY_*). account_id and so on: whom the request is about (account_id 0 =
 * nobody). A call inside this process is allowed when it has no pass: it is this process's own; with one it is on
 * somebody's behalf, and looked at like any other. Errors: DENIED; UNAVAILABLE (the pass is past its time: it is about
 * to be renewed).
 */
bool rpc_may_call(const struct rpc_call *c, unsigned callers, int64_t account_id, int64_t tenant_id,
                  uint64_t incarnation, struct err *err) WARN_UNUSED;
/* Whether the call carries a pass of this account; its errors are those of rpc_may_call. */
bool rpc_speaks_for(const struct rpc_call *c, int64_t account_id, struct err *err) WARN_UNUSED;

#endif
