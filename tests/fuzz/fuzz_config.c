/* YAML configuration: any bytes give settings or one error that names a line. */
#include "base/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    struct err err = ERR_INIT;
    config_init(&c);
    if (!config_parse(&c, "f", str_n(data, size), &err))
        assert(err.kind == ERR_INVALID && err.msg[0]);
    config_done(&c);
    return 0;
}
