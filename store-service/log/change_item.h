/*
 * change_item.h: the lists of messages in rows of the change log. Pure.
 */
#ifndef STORE_SERVICE_LOG_CHANGE_ITEM_H
#define STORE_SERVICE_LOG_CHANGE_ITEM_H

#include "base/buf.h"

struct change_item {
    uint32_t uid;
    int64_t email_id, thread_id;
};
/* Delta coded in varints, in the order given. */
void change_items_encode(struct buf *out, const struct change_item *v, size_t n);
/* `struct cursor c = cur_of(bytes); struct change_item it = {0}; while (change_item_next(&c, &it)) …` False at the end
 * and at what is malformed (c is empty only at the end). */
bool change_item_next(struct cursor *c, struct change_item *it);

#endif
