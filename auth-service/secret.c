#include "auth-service/secret.h"

#include <argon2.h>
#include <crypt.h>
#include <openssl/evp.h>

#include "base/clock.h"
#include "base/num.h"

#define SALT_SIZE 16
#define DIGEST_SIZE 32
/* of a hash that was brought along: one login must not take the machine */
#define ARGON2_MEMORY_MAX_KIB (256u * 1024)
#define ARGON2_PASSES_MAX 20u
#define CRYPT_ROUNDS_MAX 1000000u
#define BCRYPT_COST_MAX 15u

static bool verify_argon2id(str hash, str password)
{
    char z[SECRET_HASH_MAX + 1];
    memcpy(z, hash.p, hash.n);
    z[hash.n] = '\0';
    return argon2id_verify(z, password.p, password.n) == ARGON2_OK;
}

static bool verify_argon2i(str hash, str password)
{
    char z[SECRET_HASH_MAX + 1];
    memcpy(z, hash.p, hash.n);
    z[hash.n] = '\0';
    return argon2i_verify(z, password.p, password.n) == ARGON2_OK;
}

static bool verify_crypt(str hash, str password)
{
    char z[SECRET_HASH_MAX + 1], phrase[SECRET_PASSWORD_MAX + 1];
    if (memchr(password.p, '\0', password.n))
        return false;
    memcpy(z, hash.p, hash.n);
    z[hash.n] = '\0';
    memcpy(phrase, password.p, password.n);
    phrase[password.n] = '\0';
    struct crypt_data *data = xnew(struct crypt_data);
    const char *made = crypt_r(phrase, z, data);
    bool ok = made && made[0] != '*' && str_eq_secret(str_c(made), hash);
    explicit_bzero(phrase, sizeof(phrase));
    explicit_bzero(data, sizeof(*data));
    free(data);
    return ok;
}

/* base64(digest || salt); the salt may be absent. */
static bool verify_digest(const EVP_MD *md, str hash, str password)
{
    BUF(raw, SECRET_HASH_MAX);
    unsigned char made[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    size_t size = (size_t)EVP_MD_get_size(md);
    if (!buf_add_unbase64(&raw, hash) || raw.n < size)
        return false;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, md, NULL) == 1 && EVP_DigestUpdate(c, password.p, password.n) == 1 &&
              EVP_DigestUpdate(c, raw.p + size, raw.n - size) == 1 && EVP_DigestFinal_ex(c, made, &n) == 1;
    EVP_MD_CTX_free(c);
    return ok && str_eq_secret(str_n(made, n), str_n(raw.p, size));
}
static bool verify_sha1(str hash, str password)
{
    return verify_digest(EVP_sha1(), hash, password);
}
static bool verify_sha256(str hash, str password)
{
    return verify_digest(EVP_sha256(), hash, password);
}
static bool verify_sha512(str hash, str password)
{
    return verify_digest(EVP_sha512(), hash, password);
}
static bool verify_plain(str hash, str password)
{
    return str_eq_secret(hash, password);
}

enum form { FORM_ARGON2, FORM_CRYPT, FORM_BASE64, FORM_PLAIN };
struct scheme {
    const char *name;
    bool (*verify)(str hash, str password);
    enum form form;
    size_t least; /* decoded bytes of a FORM_BASE64 */
};
static const struct scheme schemes[] = {
    {"ARGON2ID", verify_argon2id, FORM_ARGON2, 0}, {"ARGON2I", verify_argon2i, FORM_ARGON2, 0},
    {"CRYPT", verify_crypt, FORM_CRYPT, 0},        {"MD5-CRYPT", verify_crypt, FORM_CRYPT, 0},
    {"SHA256-CRYPT", verify_crypt, FORM_CRYPT, 0}, {"SHA512-CRYPT", verify_crypt, FORM_CRYPT, 0},
    {"BLF-CRYPT", verify_crypt, FORM_CRYPT, 0},    {"SSHA", verify_sha1, FORM_BASE64, 20},
    {"SSHA256", verify_sha256, FORM_BASE64, 32},   {"SSHA512", verify_sha512, FORM_BASE64, 64},
    {"SHA", verify_sha1, FORM_BASE64, 20},         {"SHA256", verify_sha256, FORM_BASE64, 32},
    {"SHA512", verify_sha512, FORM_BASE64, 64},    {"PLAIN", verify_plain, FORM_PLAIN, 0},
};

static const struct scheme *scheme_named(str name)
{
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++)
        if (str_eq_nocase(name, str_c(schemes[i].name)))
            return &schemes[i];
    return NULL;
}

/* Which scheme, and *data what follows its name. */
static const struct scheme *scheme_of(str hash, str *data)
{
    if (hash.n > SECRET_HASH_MAX || memchr(hash.p ? hash.p : "", '\0', hash.n))
        return NULL;
    *data = hash;
    if (str_starts(hash, S("$argon2id$")))
        return scheme_named(S("ARGON2ID"));
    if (str_starts(hash, S("$argon2i$")))
        return scheme_named(S("ARGON2I"));
    if (str_starts(hash, S("$")))
        return scheme_named(S("CRYPT"));
    ptrdiff_t end = str_find(hash, '}');
    if (end < 2 || !str_starts(hash, S("{")))
        return NULL;
    *data = str_slice(hash, (size_t)end + 1, SIZE_MAX);
    return scheme_named(str_slice(hash, 1, (size_t)end));
}

bool secret_make(str password, const struct secret_cost *cost, char out[SECRET_HASH_MAX], struct err *err)
{
    if (password.n == 0 || password.n > SECRET_PASSWORD_MAX)
        return err_set(err, ERR_INVALID, "a password has 1 to %u bytes", SECRET_PASSWORD_MAX);
    unsigned char salt[SALT_SIZE];
    random_bytes(salt, sizeof(salt));
    int e = argon2id_hash_encoded(cost->passes, cost->memory_kib, 1, password.p, password.n, salt, SALT_SIZE,
                                  DIGEST_SIZE, out, SECRET_HASH_MAX);
    return e == ARGON2_OK || err_set(err, ERR_INTERNAL, "cannot hash a password: %s", argon2_error_message(e));
}

bool secret_verify(str hash, str password)
{
    str data;
    const struct scheme *s = scheme_of(hash, &data);
    if (!s || password.n > SECRET_PASSWORD_MAX || password.n == 0)
        return false;
    return s->verify(data, password);
}

struct argon2_cost {
    uint32_t memory_kib, passes, lanes;
};
/* "$argon2id$v=19$m=19456,t=2,p=1$salt$hash" */
static bool argon2_cost(str data, struct argon2_cost *out)
{
    struct cursor c = cur_of(data);
    struct argon2_cost r;
    uint32_t version;
    if (!cur_skip_nocase(&c, S("$argon2i")))
        return false;
    (void)cur_skip(&c, 'd');
    if (!cur_skip_nocase(&c, S("$v=")) || !cur_u32(&c, 255, &version) || !cur_skip_nocase(&c, S("$m=")) ||
        !cur_u32(&c, UINT32_MAX, &r.memory_kib) || !cur_skip_nocase(&c, S(",t=")) ||
        !cur_u32(&c, UINT32_MAX, &r.passes) || !cur_skip_nocase(&c, S(",p=")) || !cur_u32(&c, UINT32_MAX, &r.lanes) ||
        !cur_skip(&c, '$'))
        return false;
    *out = r;
    return true;
}

/* Rounds of SHA-crypt ("$6$rounds=N$") and the cost of bcrypt ("$2y$NN$") that a login is willing to pay. */
static bool crypt_cost_ok(str data)
{
    ptrdiff_t rounds = str_find_str(data, S("rounds="));
    struct cursor c = cur_of(str_slice(data, rounds < 0 ? 4 : (size_t)rounds + 7, SIZE_MAX));
    uint32_t n;
    if (rounds >= 0)
        return cur_u32(&c, CRYPT_ROUNDS_MAX, &n);
    return !str_starts(data, S("$2")) || cur_u32(&c, BCRYPT_COST_MAX, &n);
}

bool secret_is_known(str hash, struct err *err)
{
    str data;
    const struct scheme *s = scheme_of(hash, &data);
    if (!s)
        return err_set(err, ERR_INVALID, "unknown password scheme");
    bool ok = data.n > 0;
    if (s->form == FORM_ARGON2) {
        struct argon2_cost cost;
        ok = argon2_cost(data, &cost) && cost.memory_kib <= ARGON2_MEMORY_MAX_KIB && cost.passes <= ARGON2_PASSES_MAX &&
             cost.lanes <= 16;
    } else if (s->form == FORM_CRYPT) {
        char *z = str_dup(data);
        ok = ok && data.n >= 13 && crypt_cost_ok(data) && crypt_checksalt(z) != CRYPT_SALT_INVALID;
        free(z);
    } else if (s->form == FORM_BASE64) {
        BUF(raw, SECRET_HASH_MAX);
        ok = buf_add_unbase64(&raw, data) && raw.n >= s->least;
    }
    return ok || err_set(err, ERR_INVALID, "password hash is malformed or too costly");
}

bool secret_is_outdated(str hash, const struct secret_cost *cost)
{
    struct argon2_cost c;
    return !str_starts(hash, S("$argon2id$")) || !argon2_cost(hash, &c) || c.memory_kib != cost->memory_kib ||
           c.passes != cost->passes || c.lanes != 1;
}
