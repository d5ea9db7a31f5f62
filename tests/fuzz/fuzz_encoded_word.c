#include "mail/encoded_word.h"

#include "mail/content_field.h"
#include "mail/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Decoding gives UTF-8; what is encoded comes back. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 65536)
        return 0;
    ARENA(a, 64u << 20);
    str in = str_n(data, size);
    str text = header_decode(&a, in);
    assert(utf8_valid(text.p, text.n));
    BUF(encoded, size * 40 + 64);
    encoded_word_encode(&encoded, text, 10);
    assert(buf_ok(&encoded));
    assert(str_eq(header_decode(&a, buf_str(&encoded)), text));
    struct content_field f;
    content_field_parse(&a, in, true, 20, 100, &f);
    for (size_t i = 0; i < f.params.n; i++)
        assert(f.params.v[i].value.n <= 100 && utf8_valid(f.params.v[i].value.p, f.params.v[i].value.n));
    return 0;
}
