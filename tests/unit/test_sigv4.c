#include "net/sigv4.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* The examples of the S3 API reference, "Signature Calculations for the Authorization Header". */
static const struct http_sigv4 keys = {S_INIT("AKIAIOSFODNN7EXAMPLE"),
                                       S_INIT("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), S_INIT("us-east-1"),
                                       S_INIT("s3")};
#define EXAMPLE_TIME 1369353600 /* 20130524T000000Z */
#define EMPTY_HASH "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void expect(const char *method, const char *path, const char *query, const struct http_header *extra,
                   size_t n_extra, const char *hash, const char *signature)
{
    struct err err = ERR_INIT;
    BUF(p, 1000);
    BUF(q, 1000);
    BUF(out, 2000);
    assert_true(sigv4_canonical_path(str_c(path), &p, &err));
    assert_true(sigv4_canonical_query(str_c(query), &q, &err));
    struct http_header h[8] = {{S("Host"), S("examplebucket.s3.amazonaws.com")}};
    for (size_t i = 0; i < n_extra; i++)
        h[i + 1] = extra[i];
    struct sigv4_request req = {.method = str_c(method),
                                .path = buf_str(&p),
                                .query = buf_str(&q),
                                .headers = h,
                                .n_headers = n_extra + 1,
                                .payload_hash = str_c(hash),
                                .now_unix = EXAMPLE_TIME};
    assert_true(sigv4_authorization(&req, &keys, &out, &err));
    if (!str_ends(buf_str(&out), str_c(signature)))
        fail_msg("%s", buf_z(&out));
}

static void s3_examples(void **state)
{
    (void)state;
    static const struct http_header range = {S_INIT("Range"), S_INIT("bytes=0-9")};
    expect("GET", "/test.txt", "", &range, 1, EMPTY_HASH,
           "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    static const struct http_header put[2] = {{S_INIT("Date"), S_INIT("Fri, 24 May 2013 00:00:00 GMT")},
                                              {S_INIT("x-amz-storage-class"), S_INIT("REDUCED_REDUNDANCY")}};
    char hash[65];
    sigv4_sha256_hex(S("Welcome to Amazon S3."), hash);
    expect("PUT", "/test$file.text", "", put, 2, hash,
           "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    expect("GET", "/", "lifecycle", NULL, 0, EMPTY_HASH,
           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    expect("GET", "/", "prefix=J&max-keys=2", NULL, 0, EMPTY_HASH,
           "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void canonical_forms(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF(b, 1000);
    assert_true(sigv4_canonical_path(S("/a b/%7e%2Fü"), &b, &err));
    assert_string_equal(buf_z(&b), "/a%20b/~/%C3%BC");
    buf_clear(&b);
    assert_true(sigv4_canonical_query(S("b=2&a=%20&a&c=x/y"), &b, &err));
    assert_string_equal(buf_z(&b), "a=&a=%20&b=2&c=x%2Fy");
    assert_false(sigv4_canonical_path(S("/%a"), &b, &err));
    err_clear(&err);
    assert_false(sigv4_canonical_query(S("a=%"), &b, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(s3_examples), cmocka_unit_test(canonical_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
