#include <assert.h>
#include <string.h>

#include "mail/downgrade.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool convert(str in, size_t n, struct buf *out)
{
    struct err err = ERR_INIT;
    CLEANUP(downgrade_free) struct downgrade *d = downgrade_new();
    for (size_t i = 0; i < in.n; i += n)
        downgrade_scan(d, str_slice(in, i, i + n));
    if (!downgrade_plan(d, &err))
        return false;
    for (size_t i = 0; i < in.n; i += n)
        downgrade_feed(d, str_slice(in, i, i + n), out);
    downgrade_end(d, out);
    return true;
}

/* All 7-bit, unchanged where it was so before, and whatever the pieces. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    str in = str_n(data, size);
    BUF(one, 64u << 20);
    BUF(other, 64u << 20);
    bool ok = convert(in, DOWNGRADE_PIECE_MAX, &one);
    assert(convert(in, 7, &other) == ok);
    if (!ok)
        return 0;
    assert(str_eq(buf_str(&one), buf_str(&other)));
    assert(ascii_only(one.p, one.n));
    if (ascii_only(in.p, in.n))
        assert(str_eq(buf_str(&one), in));
    return 0;
}
