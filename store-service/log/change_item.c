#include "store-service/log/change_item.h"

#include "base/varint.h"

void change_items_encode(struct buf *out, const struct change_item *v, size_t n)
{
    struct change_item last = {0};
    for (size_t i = 0; i < n; i++) {
        varint_put(out, zigzag((uint64_t)v[i].uid - last.uid));
        varint_put(out, zigzag((uint64_t)v[i].email_id - (uint64_t)last.email_id));
        varint_put(out, zigzag((uint64_t)v[i].email_id - (uint64_t)v[i].thread_id));
        last = v[i];
    }
}

bool change_item_next(struct cursor *c, struct change_item *it)
{
    uint64_t uid, email, thread;
    struct cursor at = *c;
    if (!varint_get(&at, &uid) || !varint_get(&at, &email) || !varint_get(&at, &thread))
        return false;
    it->uid = (uint32_t)(it->uid + unzigzag(uid));
    it->email_id = (int64_t)((uint64_t)it->email_id + unzigzag(email));
    it->thread_id = (int64_t)((uint64_t)it->email_id - unzigzag(thread));
    *c = at;
    return true;
}
