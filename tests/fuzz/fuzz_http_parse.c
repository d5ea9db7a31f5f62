#include "net/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A head parses the same whatever follows it; and everything found is within the input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 1u << 24);
    str in = str_n(data, size);
    struct err err = ERR_INIT;
    struct http_head h, again;
    int status = 0, status2 = 0;
    enum http_parse r = http_parse_head(in, &a, &h, &status, &err);
    if (r == HTTP_BAD)
        assert(status >= 400 && status < 600 && err_is_set(&err));
    if (r == HTTP_DONE) {
        assert(h.length <= size && h.n_headers <= HTTP_FIELDS_MAX);
        assert(http_parse_head(str_slice(in, 0, h.length), &a, &again, &status2, &err) == HTTP_DONE);
        assert(again.length == h.length && again.n_headers == h.n_headers);
        str path, query;
        struct http_param *params;
        size_t n;
        if (http_parse_target(h.target, &a, &path, &query, &err) && http_parse_query(query, &a, &params, &n, &err))
            assert(path.n >= 1 && n <= HTTP_PARAMS_MAX);
    }
    uint64_t chunk;
    size_t used;
    if (http_parse_chunk(in, &chunk, &used) == HTTP_DONE)
        assert(used <= size);
    if (http_parse_trailer(in, &used) == HTTP_DONE)
        assert(used <= size);
    return 0;
}
