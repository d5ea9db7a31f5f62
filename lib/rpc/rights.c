#include "rpc/rights.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/clock.h"
#include "rpc/call.h"

#define MAC_SIZE 32u
#define SIGNED_SIZE (RPC_PASS_SIZE - MAC_SIZE)
#define ROLE_URI "thurn:role:"

static const char *const role_names[RPC_ROLES] = {"frontend", "queue", "store", "auth"};

const char *rpc_role_name(unsigned i)
{
    assert(i < RPC_ROLES);
    return role_names[i];
}

str rpc_roles_print(unsigned roles, char out[RPC_ROLES_TEXT])
{
    size_t n = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < RPC_ROLES; i++)
        if (roles & 1u << i)
            n += (size_t)snprintf(out + n, RPC_ROLES_TEXT - n, "%s%s", n ? " " : "", role_names[i]);
    return str_n(out, n);
}

bool rpc_roles_parse(str text, unsigned *roles)
{
    unsigned found = 0;
    str word;
    while (text.n && str_split(&text, ' ', &word)) {
        unsigned i = 0;
        while (i < RPC_ROLES && !str_eq(word, str_c(role_names[i])))
            i++;
        if (i == RPC_ROLES)
            return false;
        found |= 1u << i;
    }
    *roles = found;
    return found != 0;
}

str rpc_role_uri(unsigned role, char out[RPC_ROLES_TEXT])
{
    char name[RPC_ROLES_TEXT];
    str text = rpc_roles_print(role, name);
    return str_n(out, (size_t)snprintf(out, RPC_ROLES_TEXT, ROLE_URI "%.*s", STR_ARG(text)));
}

/* --- passes --- */

static struct {
    unsigned char bytes[MAC_SIZE];
    bool is_set;
} key;

void rpc_pass_key(str text)
{
    unsigned n = 0;
    assert(text.n >= sizeof(key.bytes));
    if (!EVP_Digest(text.p, text.n, key.bytes, &n, EVP_sha256(), NULL) || n != sizeof(key.bytes))
        panic("SHA-256 failed");
    key.is_set = true;
}

static void mac(const unsigned char *of, unsigned char out[MAC_SIZE])
{
    unsigned n = 0;
    if (!key.is_set) {
        random_bytes(key.bytes, sizeof(key.bytes));
        key.is_set = true;
    }
    if (!HMAC(EVP_sha256(), key.bytes, sizeof(key.bytes), of, SIGNED_SIZE, out, &n) || n != MAC_SIZE)
        panic("HMAC failed");
}

static void put(unsigned char **at, uint64_t v)
{
    for (size_t i = 0; i < 8; i++)
        *(*at)++ = (unsigned char)(v >> 8 * (7 - i));
}

static uint64_t get(const unsigned char **at)
{
    uint64_t v = 0;
    for (size_t i = 0; i < 8; i++)
        v = v << 8 | *(*at)++;
    return v;
}

void rpc_pass_make(const struct rpc_principal *p, struct rpc_pass *out)
{
    unsigned char *at = out->bytes;
    *at++ = p->is_admin;
    put(&at, (uint64_t)p->account_id);
    put(&at, (uint64_t)p->tenant_id);
    put(&at, p->incarnation);
    put(&at, (uint64_t)p->credential_version);
    put(&at, (uint64_t)(clock_unix() + (p->is_admin ? RPC_PASS_ADMIN_MS : RPC_PASS_ACCOUNT_MS) / 1000));
    static_assert(SIGNED_SIZE == 1 + 5 * 8, "all of it is signed");
    mac(out->bytes, at);
    out->n = RPC_PASS_SIZE;
}

struct rpc_pass rpc_pass_of(str bytes)
{
    struct rpc_pass pass = {0};
    if (bytes.n == RPC_PASS_SIZE) {
        pass.n = RPC_PASS_SIZE;
        memcpy(pass.bytes, bytes.p, RPC_PASS_SIZE);
    }
    return pass;
}

bool rpc_pass_read(const struct rpc_pass *pass, struct rpc_principal *out, int64_t *expires_unix, struct err *err)
{
    unsigned char right[MAC_SIZE];
    if (pass->n != RPC_PASS_SIZE)
        return err_set(err, ERR_DENIED, "there is no pass");
    mac(pass->bytes, right);
    if (!str_eq_secret(str_n(right, MAC_SIZE), str_n(pass->bytes + SIGNED_SIZE, MAC_SIZE)))
        return err_set(err, ERR_DENIED, "the pass is not of this installation's auth service");
    const unsigned char *at = pass->bytes;
    struct rpc_principal p = {.is_admin = *at++ != 0};
    p.account_id = (int64_t)get(&at);
    p.tenant_id = (int64_t)get(&at);
    p.incarnation = get(&at);
    p.credential_version = (int64_t)get(&at);
    *expires_unix = (int64_t)get(&at);
    *out = p;
    return true;
}

/* --- may they --- */

static bool read_valid(const struct rpc_call *c, struct rpc_principal *out, struct err *err)
{
    int64_t expires_unix;
    if (!rpc_pass_read(&c->pass, out, &expires_unix, err))
        return false;
    return clock_unix() < expires_unix || err_set(err, ERR_UNAVAILABLE, "the pass is past its time");
}

bool rpc_may_call(const struct rpc_call *c, unsigned callers, int64_t account_id, int64_t tenant_id,
                  uint64_t incarnation, struct err *err)
{
    struct rpc_principal p;
    unsigned roles = c->is_remote ? c->roles : RPC_ROLES_ALL;
    if ((!c->is_remote && !c->pass.n) || (roles & callers))
        return true;
    if (!(roles & RPC_BY_FRONTEND) || !(callers & (RPC_BY_ACCOUNT | RPC_BY_ADMIN))) {
        char text[RPC_ROLES_TEXT];
        return err_set(err, ERR_DENIED, "the method is not for role '%.*s'", STR_ARG(rpc_roles_print(roles, text)));
    }
    if (!read_valid(c, &p, err))
        return false;
    if (callers & RPC_BY_ADMIN && p.is_admin)
        return true;
    if (callers & RPC_BY_ACCOUNT && !p.is_admin && account_id && p.account_id == account_id &&
        p.tenant_id == tenant_id && p.incarnation == incarnation)
        return true;
    return err_set(err, ERR_DENIED, "the pass is not for account %lld", (long long)account_id);
}

bool rpc_speaks_for(const struct rpc_call *c, int64_t account_id, struct err *err)
{
    struct rpc_principal p;
    if (!c->is_remote && !c->pass.n)
        return true;
    return read_valid(c, &p, err) &&
           ((!p.is_admin && p.account_id == account_id) ||
            err_set(err, ERR_DENIED, "the pass is not for account %lld", (long long)account_id));
}
