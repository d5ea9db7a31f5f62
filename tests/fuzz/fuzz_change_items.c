/* Rows of the change log: any bytes are read without harm, and what was read is written back the same. */
#include "store-service/log/change_item.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor c = cur_of(str_n(data, size));
    struct change_item it = {0};
    static struct change_item items[4096];
    size_t n = 0;
    while (n < ARRAY_LEN(items) && change_item_next(&c, &it))
        items[n++] = it;
    BUF(b, 1 << 20);
    change_items_encode(&b, items, n);
    c = cur_of(buf_str(&b));
    it = (struct change_item){0};
    for (size_t i = 0; i < n; i++)
        if (!change_item_next(&c, &it) || it.uid != items[i].uid || it.email_id != items[i].email_id ||
            it.thread_id != items[i].thread_id)
            panic("item %zu of %zu differs", i, n);
    if (cur_left(&c))
        panic("bytes are left");
    return 0;
}
