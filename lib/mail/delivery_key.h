/*
 * delivery_key.h: the key under which a recipient's copy of an enqueued message is delivered once.
 */
#ifndef MAIL_DELIVERY_KEY_H
#define MAIL_DELIVERY_KEY_H

#include "base/str.h"

#define DELIVERY_KEY_SIZE 32u
#define ENQUEUE_ID_SIZE 16u

/*
 * SHA-256 of the enqueue id's 16 bytes and the recipient's index as four bytes, most significant first. The index is
 * that of the recipient in the final, expanded list. Whoever delivers, front-end or queue, uses this one function.
 */
void delivery_key(const unsigned char enqueue_id[ENQUEUE_ID_SIZE], uint32_t recipient_index,
                  unsigned char out[DELIVERY_KEY_SIZE]);

#endif
