#include <assert.h>
#include <string.h>

#include "sieve/sieve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_host {
    struct sieve_host host;
    str text;
    struct sieve_program *self;
};

static bool read_bytes(struct sieve_host *h, uint64_t offset, uint64_t length, struct arena *a, str *out,
                       struct err *err)
{
    struct fuzz_host *f = CONTAINER_OF(h, struct fuzz_host, host);
    (void)err;
    *out = arena_str(a, str_slice(f->text, offset, offset + length));
    return true;
}

static bool include(struct sieve_host *h, str name, bool is_global, const struct sieve_program **out, struct err *err)
{
    struct fuzz_host *f = CONTAINER_OF(h, struct fuzz_host, host);
    (void)is_global, (void)err;
    *out = name.n % 2 ? f->self : NULL;
    return true;
}

static bool yes(struct sieve_host *h, str name, bool *out, struct err *err)
{
    (void)h, (void)err;
    *out = name.n % 2;
    return true;
}

static const struct sieve_host_ops ops = {
    .read = read_bytes, .include = include, .mailbox_exists = yes, .list_exists = yes};

/* A script, and behind a line of three dashes a message: compiled or refused with places that are in it; run to an end
 * within its bounds. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    str in = str_n(data, size);
    ptrdiff_t cut = str_find_str(in, S("\n---\n"));
    str script = cut < 0 ? in : str_slice(in, 0, (size_t)cut + 1),
        text = cut < 0 ? S("From: a@b.org\r\nSubject: x\r\n\r\nbody\r\n") : str_slice(in, (size_t)cut + 5, SIZE_MAX);
    struct sieve_errors e;
    CLEANUP(sieve_program_free) struct sieve_program *p = sieve_compile(script, NULL, &e);
    assert((p == NULL) == (e.n > 0));
    for (size_t i = 0; i < e.n; i++)
        assert(e.v[i].line >= 1 && e.v[i].column >= 1 && e.v[i].line <= script.n + 1 && e.v[i].text[0]);
    if (!p)
        return 0;
    ARENA(a, 256 << 20);
    struct fuzz_host f = {.host.ops = &ops, .text = text, .self = p};
    struct sieve_run run = {.host = &f.host,
                            .message = mime_parse(&a, text, NULL),
                            .size = text.n,
                            .now_unix = 1700000000,
                            .envelope = {.from = S("a@b.org"), .to = S("c+d@e.org")},
                            .limits = {.steps = 2000, .memory = 64 << 20}};
    struct sieve_script s = {p, S("fuzz")};
    struct sieve_result r;
    sieve_run(&run, &s, 1, &a, &r);
    assert(r.steps <= 2001 && r.n <= 101);
    for (size_t i = 0; i < r.n; i++)
        for (size_t k = 0; k < r.actions[i].address.n; k++)
            assert(!ascii_is_ctl((unsigned char)r.actions[i].address.p[k]));
    return 0;
}
