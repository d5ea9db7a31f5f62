#include "mail/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Lists never fail; a path that parses is the same when it is parsed again. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 64u << 20);
    struct address_list list;
    address_list_parse(&a, str_n(data, size), 50, &list);
    assert(list.n <= 50);
    for (size_t i = 0; i < list.n; i++)
        assert(utf8_valid(list.v[i].name.p, list.v[i].name.n) && utf8_valid(list.v[i].local.p, list.v[i].local.n));
    struct err err = ERR_INIT, again_err = ERR_INIT;
    struct smtp_path path, again;
    struct cursor c = cur_of(str_n(data, size));
    if (smtp_path_parse(&c, true, &a, &path, &err) && path.domain.n) {
        assert(smtp_mailbox_parse(path.address, true, &a, &again, &again_err));
        assert(str_eq(path.address, again.address) && str_eq(path.local, again.local));
        struct err norm_err = ERR_INIT;
        str out;
        if (address_normalize(path.local, path.domain, &a, &out, &norm_err))
            assert(address_equal(path.address, out));
    }
    return 0;
}
