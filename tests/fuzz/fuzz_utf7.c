#include "mail/utf7.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BUF(out, size * 4 + 16);
    BUF(back, size * 4 + 16);
    str in = str_n(data, size);
    if (utf7_decode(&out, in)) {
        assert(utf8_valid(buf_z(&out), out.n));
        utf7_encode(&back, buf_str(&out));
        assert(str_eq(buf_str(&back), in));
    }
    if (utf8_valid(data, size) && (size == 0 || !memchr(data, 0, size))) {
        buf_clear(&out);
        buf_clear(&back);
        utf7_encode(&out, in);
        if (buf_ok(&out)) {
            assert(utf7_decode(&back, buf_str(&out)));
            assert(str_eq(buf_str(&back), in));
        }
    }
    return 0;
}
