/* The message reader: the same result however the bytes are cut, and nothing is ever lost or made up. */
#include <stdint.h>

#include "base/buf.h"
#include "frontend/smtp/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Feed at most `step` bytes more at a time; returns what was taken. */
static size_t decode(str in, size_t step, struct buf *out, struct smtp_data *d)
{
    size_t at = 0, have = 0;
    *d = (struct smtp_data){.is_end = false};
    while (!d->is_end) {
        str piece;
        size_t n = smtp_data_next(d, str_slice(in, at, have), &piece);
        buf_add(out, piece);
        at += n;
        if (n == 0 && have == in.n)
            break;
        if (n == 0)
            have = MIN(have + step, in.n);
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    str in = str_n(data, size);
    struct smtp_data whole, cut;
    BUF(all, size + 1);
    size_t taken = decode(in, size + 1, &all, &whole);
    assert(all.n <= taken && (whole.is_end || size - taken <= 2));
    if (whole.is_end) /* by the one true sequence */
        assert(taken >= 3 && memcmp(data + taken - 3, ".\r\n", 3) == 0 &&
               (taken == 3 || (taken >= 5 && memcmp(data + taken - 5, "\r\n", 2) == 0)));
    for (size_t step = 1; step < 5; step++) {
        BUF(some, size + 1);
        size_t n = decode(in, step, &some, &cut);
        assert(n == taken && str_eq(buf_str(&some), buf_str(&all)));
        assert(cut.is_end == whole.is_end && cut.has_stray == whole.has_stray);
    }
    struct smtp_chunks once = {.has_stray = false}, bytes = {.has_stray = false};
    smtp_chunks_check(&once, in);
    for (size_t i = 0; i < size; i++)
        smtp_chunks_check(&bytes, str_slice(in, i, i + 1));
    assert(once.has_stray == bytes.has_stray && once.is_after_cr == bytes.is_after_cr &&
           once.is_after_lf == bytes.is_after_lf);
    return 0;
}
