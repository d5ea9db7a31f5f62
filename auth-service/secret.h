/*
 * secret.h: password hashes: made with argon2id, verified in whatever scheme they came. Blocking: for the work pool.
 *
 * A stored hash is "{SCHEME}data", or a bare "$id$…" as crypt(3) and argon2 write it.
 * Schemes: ARGON2ID, ARGON2I, CRYPT (with MD5-CRYPT, SHA256-CRYPT, SHA512-CRYPT, BLF-CRYPT as other names),
 * SSHA, SSHA256, SSHA512, SHA, SHA256, SHA512, PLAIN.
 */
#ifndef AUTH_SERVICE_SECRET_H
#define AUTH_SERVICE_SECRET_H

#include "base/buf.h"
#include "base/err.h"

#define SECRET_PASSWORD_MAX 1024u
#define SECRET_HASH_MAX 1024u

struct secret_cost {
    unsigned memory_kib, passes;
};
/* argon2id with parallelism 1 and a random salt; NUL-terminated. */
bool secret_make(str password, const struct secret_cost *cost, char out[SECRET_HASH_MAX], struct err *err) WARN_UNUSED;
/* Whether the password fits the hash. An unknown or broken hash fits none. Constant time in what is compared. */
bool secret_verify(str hash, str password);
/* Whether this is a hash that secret_verify understands, within bounds of cost. */
bool secret_is_known(str hash, struct err *err) WARN_UNUSED;
/* Whether it was not made by secret_make with this cost, and so should be replaced at the next login. */
bool secret_is_outdated(str hash, const struct secret_cost *cost);

#endif
