#include "mailauth/key.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "base/buf.h"
#include "mailauth/tags.h"

#define ED25519_SIZE 32u
#define PEM_MAX 16384u

const char *dkim_algorithm_name(enum dkim_algorithm a)
{
    static const char *const names[] = {"rsa-sha256", "ed25519-sha256"};
    return names[a];
}

enum dkim_key_status dkim_key_parse(str text, struct arena *a, struct dkim_key_record *out)
{
    struct tags t;
    const str *v, *p;
    if (!tags_parse(text, &t))
        return DKIM_KEY_BAD;
    v = tags_get(&t, "v");
    if (v && (v != &t.v[0].value || !str_eq(*v, S("DKIM1"))))
        return DKIM_KEY_BAD;
    *out = (struct dkim_key_record){.algorithm = DKIM_RSA_SHA256};
    v = tags_get(&t, "k");
    if (v && str_eq_nocase(*v, S("ed25519")))
        out->algorithm = DKIM_ED25519_SHA256;
    else if (v && !str_eq_nocase(*v, S("rsa")))
        return DKIM_KEY_OTHER;
    v = tags_get(&t, "s");
    if (v && !tag_list_has(*v, S("*")) && !tag_list_has(*v, S("email")))
        return DKIM_KEY_OTHER;
    v = tags_get(&t, "h");
    if (v && !tag_list_has(*v, S("sha256")))
        return DKIM_KEY_OTHER;
    v = tags_get(&t, "t");
    out->is_testing = v && tag_list_has(*v, S("y"));
    out->is_strict = v && tag_list_has(*v, S("s"));
    p = tags_get(&t, "p");
    if (!p)
        return DKIM_KEY_BAD;
    if (tag_compact(*p, a).n == 0)
        return DKIM_KEY_REVOKED;
    return tag_base64(*p, a, &out->p) ? DKIM_KEY_OK : DKIM_KEY_BAD;
}

/* RSA keys are SubjectPublicKeyInfo in practice; RFC 6376 3.6.1 says RSAPublicKey. Both occur. */
static EVP_PKEY *public_key(const struct dkim_key_record *key)
{
    const unsigned char *p = (const unsigned char *)key->p.p;
    long n = (long)key->p.n;
    if (key->algorithm == DKIM_ED25519_SHA256) {
        if (key->p.n == ED25519_SIZE)
            return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, p, ED25519_SIZE);
        return d2i_PUBKEY(NULL, &p, n); /* as some publish it, against RFC 8463 4 */
    }
    EVP_PKEY *pk = d2i_PUBKEY(NULL, &p, n);
    if (!pk) {
        p = (const unsigned char *)key->p.p;
        pk = d2i_PublicKey(EVP_PKEY_RSA, NULL, &p, n);
    }
    return pk;
}

static const char *key_problem(const EVP_PKEY *pk, enum dkim_algorithm algorithm)
{
    if (!pk)
        return "the published key is damaged";
    if (EVP_PKEY_get_base_id(pk) != (algorithm == DKIM_RSA_SHA256 ? EVP_PKEY_RSA : EVP_PKEY_ED25519))
        return "the published key is of another kind";
    if (algorithm == DKIM_RSA_SHA256 && EVP_PKEY_get_bits(pk) < (int)DKIM_RSA_BITS_MIN)
        return "the published key has less than 1024 bits";
    if (algorithm == DKIM_RSA_SHA256 && EVP_PKEY_get_bits(pk) > (int)DKIM_RSA_BITS_MAX)
        return "the published key has more than 8192 bits";
    return NULL;
}

static bool verify_rsa(EVP_PKEY *pk, const unsigned char *digest, str sig)
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(pk, NULL);
    bool ok = c && EVP_PKEY_verify_init(c) == 1 && EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PADDING) == 1 &&
              EVP_PKEY_CTX_set_signature_md(c, EVP_sha256()) == 1 &&
              EVP_PKEY_verify(c, (const unsigned char *)sig.p, sig.n, digest, DKIM_DIGEST_SIZE) == 1;
    EVP_PKEY_CTX_free(c);
    return ok;
}

/* RFC 8463 3: the message of PureEdDSA is the digest. */
static bool verify_ed25519(EVP_PKEY *pk, const unsigned char *digest, str sig)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, pk) == 1 &&
              EVP_DigestVerify(c, (const unsigned char *)sig.p, sig.n, digest, DKIM_DIGEST_SIZE) == 1;
    EVP_MD_CTX_free(c);
    return ok;
}

bool dkim_key_verify(const struct dkim_key_record *key, const unsigned char digest[DKIM_DIGEST_SIZE], str sig,
                     const char **problem)
{
    EVP_PKEY *pk = public_key(key);
    *problem = key_problem(pk, key->algorithm);
    bool ok = !*problem &&
              (key->algorithm == DKIM_RSA_SHA256 ? verify_rsa(pk, digest, sig) : verify_ed25519(pk, digest, sig));
    EVP_PKEY_free(pk);
    ERR_clear_error();
    return ok;
}

/* --- private keys --- */

struct dkim_private_key {
    EVP_PKEY *pk;
    enum dkim_algorithm algorithm;
};

static struct dkim_private_key *wrap(EVP_PKEY *pk, const char *what, struct err *err)
{
    bool is_rsa = pk && EVP_PKEY_get_base_id(pk) == EVP_PKEY_RSA;
    enum dkim_algorithm algorithm = is_rsa ? DKIM_RSA_SHA256 : DKIM_ED25519_SHA256;
    const char *problem = key_problem(pk, algorithm);
    ERR_clear_error();
    if (problem) {
        EVP_PKEY_free(pk);
        (void)err_set(err, ERR_INVALID, "%s: not an Ed25519 key or an RSA key of 1024 to 8192 bits", what);
        return NULL;
    }
    struct dkim_private_key *k = xnew(struct dkim_private_key);
    k->pk = pk;
    k->algorithm = algorithm;
    return k;
}

static int no_password(char *p UNUSED, int n UNUSED, int writing UNUSED, void *arg UNUSED)
{
    return -1; /* the default would ask on the terminal */
}

struct dkim_private_key *dkim_private_key_load(str pem, struct err *err)
{
    if (pem.n > PEM_MAX) {
        (void)err_set(err, ERR_INVALID, "a private key of more than %u bytes", PEM_MAX);
        return NULL;
    }
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *pk = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    return wrap(pk, "private key", err);
}

struct dkim_private_key *dkim_private_key_make(enum dkim_algorithm algorithm, unsigned bits, struct err *err)
{
    EVP_PKEY *pk = algorithm == DKIM_RSA_SHA256 ? EVP_RSA_gen(bits) : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (!pk) {
        ERR_clear_error();
        (void)err_set(err, ERR_INTERNAL, "a new key cannot be made");
        return NULL;
    }
    return wrap(pk, "new key", err);
}

void dkim_private_key_free(struct dkim_private_key *k)
{
    if (!k)
        return;
    EVP_PKEY_free(k->pk);
    free(k);
}

enum dkim_algorithm dkim_private_key_algorithm(const struct dkim_private_key *k)
{
    return k->algorithm;
}

static str bio_text(BIO *bio, struct arena *a)
{
    char *p;
    long n = BIO_get_mem_data(bio, &p);
    return arena_str(a, str_n(p, (size_t)n));
}

str dkim_private_key_pem(const struct dkim_private_key *k, struct arena *a)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, k->pk, NULL, NULL, 0, NULL, NULL) != 1)
        panic("a private key does not print");
    str text = bio_text(bio, a);
    BIO_free(bio);
    return text;
}

str dkim_private_key_record(const struct dkim_private_key *k, struct arena *a)
{
    unsigned char *der = NULL, raw[ED25519_SIZE];
    size_t n = sizeof raw;
    BUF(b, 4096);
    if (k->algorithm == DKIM_ED25519_SHA256) {
        if (EVP_PKEY_get_raw_public_key(k->pk, raw, &n) != 1)
            panic("a public key does not print");
        buf_add(&b, S("v=DKIM1; k=ed25519; p="));
        buf_add_base64(&b, str_n(raw, n));
    } else {
        int len = i2d_PUBKEY(k->pk, &der);
        if (len <= 0)
            panic("a public key does not print");
        buf_add(&b, S("v=DKIM1; k=rsa; p="));
        buf_add_base64(&b, str_n(der, (size_t)len));
        OPENSSL_free(der);
    }
    return arena_str(a, buf_str(&b));
}

static bool sign_rsa(EVP_PKEY *pk, const unsigned char *digest, unsigned char *out, size_t *n)
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(pk, NULL);
    bool ok = c && EVP_PKEY_sign_init(c) == 1 && EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PADDING) == 1 &&
              EVP_PKEY_CTX_set_signature_md(c, EVP_sha256()) == 1 &&
              EVP_PKEY_sign(c, out, n, digest, DKIM_DIGEST_SIZE) == 1;
    EVP_PKEY_CTX_free(c);
    return ok;
}

static bool sign_ed25519(EVP_PKEY *pk, const unsigned char *digest, unsigned char *out, size_t *n)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestSignInit(c, NULL, NULL, NULL, pk) == 1 &&
              EVP_DigestSign(c, out, n, digest, DKIM_DIGEST_SIZE) == 1;
    EVP_MD_CTX_free(c);
    return ok;
}

bool dkim_private_key_sign(const struct dkim_private_key *k, const unsigned char digest[DKIM_DIGEST_SIZE],
                           struct arena *a, str *out, struct err *err)
{
    size_t n = DKIM_RSA_BITS_MAX / 8;
    unsigned char *p = arena_alloc(a, n);
    bool ok = k->algorithm == DKIM_RSA_SHA256 ? sign_rsa(k->pk, digest, p, &n) : sign_ed25519(k->pk, digest, p, &n);
    ERR_clear_error();
    if (!ok)
        return err_set(err, ERR_INTERNAL, "a signature cannot be made");
    *out = str_n(p, n);
    return true;
}
