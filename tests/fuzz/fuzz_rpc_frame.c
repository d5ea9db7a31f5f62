#include "rpc/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rpc_frame f, again;
    size_t used, used_again;
    if (rpc_frame_parse(str_n(data, size), &f, &used) != RPC_FRAME_OK)
        return 0;
    assert(used > 4 && used <= size);
    if (f.type == RPC_HELLO)
        f.payload = STR_NONE; /* what a later version would say */
    BUF(printed, 4 * 1024 * 1024);
    rpc_frame_add(&printed, &f, NULL);
    assert(buf_ok(&printed));
    assert(rpc_frame_parse(buf_str(&printed), &again, &used_again) == RPC_FRAME_OK && used_again == printed.n);
    assert(again.type == f.type && again.call == f.call && again.kind == f.kind && again.credit == f.credit &&
           str_eq(again.payload, f.payload));
    for (size_t n = 0; n < MIN(printed.n, (size_t)64); n++)
        assert(rpc_frame_parse(str_n(printed.p, n), &again, &used_again) == RPC_FRAME_MORE || n == printed.n);
    return 0;
}
