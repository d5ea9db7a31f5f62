#include "net/listener.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header whole, part;
    enum proxy_result r = proxy_parse(str_n(data, size), &whole);
    if (r == PROXY_OK) {
        assert(whole.length > 0 && whole.length <= size);
        /* The header alone says the same, and every part of it asks for more. */
        assert(proxy_parse(str_n(data, whole.length), &part) == PROXY_OK && part.length == whole.length);
        for (size_t n = 0; n < whole.length; n++)
            assert(proxy_parse(str_n(data, n), &part) == PROXY_MORE);
        assert(whole.is_local || (whole.source.len > 0 && whole.destination.len > 0));
    }
    return 0;
}
