#include "net/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "net/addr.h"

#define VALID_S (825 * 86400L)
/* RFC 5280 A.1 ub-common-name; the whole name is among the alternative names */
#define COMMON_NAME_MAX 64u

static void free_key(EVP_PKEY *k)
{
    EVP_PKEY_free(k);
}
DEFINE_CLEANUP(EVP_PKEY, free_key)
static void free_x509(X509 *x)
{
    X509_free(x);
}
DEFINE_CLEANUP(X509, free_x509)

static bool add_ext(X509 *x, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static bool is_plain_name(const char *name)
{
    for (const char *p = name; *p; p++)
        if (!ascii_is_alnum((unsigned char)*p) && !strchr("-._*:", *p))
            return false;
    return *name != '\0';
}

static bool fill(X509 *x, EVP_PKEY *key, const char *const *names, size_t n_names)
{
    BUF(san, 64 * 1024);
    for (size_t i = 0; i < n_names; i++) {
        struct net_addr ip;
        if (!is_plain_name(names[i]))
            return false;
        const char *kind = str_starts(str_c(names[i]), S("URI:")) ? ""
                           : net_ip_parse(str_c(names[i]), &ip)   ? "IP:"
                                                                  : "DNS:";
        buf_printf(&san, "%s%s%s", i ? "," : "", kind, names[i]);
    }
    uint64_t serial;
    random_bytes(&serial, sizeof(serial));
    time_t now = (time_t)clock_unix();
    X509_NAME *subject = X509_get_subject_name(x);
    return X509_set_version(x, 2) == 1 && ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1 | 1) == 1 &&
           X509_time_adj_ex(X509_getm_notBefore(x), 0, -300, &now) &&
           X509_time_adj_ex(X509_getm_notAfter(x), 0, VALID_S, &now) && X509_set_pubkey(x, key) == 1 &&
           X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, (const unsigned char *)names[0],
                                      (int)MIN(strlen(names[0]), COMMON_NAME_MAX), -1, 0) == 1 &&
           X509_set_issuer_name(x, subject) == 1 && add_ext(x, NID_subject_alt_name, buf_z(&san)) &&
           add_ext(x, NID_basic_constraints, "critical,CA:TRUE") && add_ext(x, NID_subject_key_identifier, "hash") &&
           X509_sign(x, key, EVP_sha256()) > 0;
}

/* Write beside the path and rename, so that a reader never sees half a file. */
static bool write_pem(str path, mode_t mode, bool (*print)(BIO *out, void *what), void *what, struct err *err)
{
    BUF(temporary, 4096);
    buf_printf(&temporary, "%.*s.new", STR_ARG(path));
    CLEANUP(xfree_char) char *final = str_dup(path);
    (void)unlink(buf_z(&temporary)); /* left over by a run that was killed */
    int fd = open(buf_z(&temporary), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return err_set(err, ERR_UNAVAILABLE, "'%s': %s", buf_z(&temporary), strerror(errno));
    BIO *out = BIO_new_fd(fd, BIO_CLOSE);
    bool ok = out && print(out, what) && fsync(fd) == 0;
    BIO_free(out);
    if (ok && rename(buf_z(&temporary), final) == 0)
        return true;
    int e = errno;
    (void)unlink(buf_z(&temporary));
    return err_set(err, ERR_UNAVAILABLE, "'%s': %s", final, strerror(e));
}

static bool print_cert(BIO *out, void *what)
{
    return PEM_write_bio_X509(out, what) == 1;
}
static bool print_key(BIO *out, void *what)
{
    return PEM_write_bio_PKCS8PrivateKey(out, what, NULL, NULL, 0, NULL, NULL) == 1;
}

bool tls_make_self_signed(const char *const *names, size_t n_names, str cert_path, str key_path, struct err *err)
{
    assert(n_names > 0);
    CLEANUP(free_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    CLEANUP(free_x509) X509 *x = X509_new();
    if (!key || !x || !fill(x, key, names, n_names))
        return err_set(err, ERR_INVALID, "no certificate can be made for '%s'", names[0]);
    return write_pem(key_path, 0600, print_key, key, err) && write_pem(cert_path, 0600, print_cert, x, err);
}
