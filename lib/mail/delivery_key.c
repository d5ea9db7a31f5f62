#include "mail/delivery_key.h"

#include <openssl/evp.h>

void delivery_key(const unsigned char enqueue_id[ENQUEUE_ID_SIZE], uint32_t recipient_index,
                  unsigned char out[DELIVERY_KEY_SIZE])
{
    unsigned char input[ENQUEUE_ID_SIZE + 4];
    memcpy(input, enqueue_id, ENQUEUE_ID_SIZE);
    for (unsigned i = 0; i < 4; i++)
        input[ENQUEUE_ID_SIZE + i] = (unsigned char)(recipient_index >> (24 - 8 * i));
    if (EVP_Digest(input, sizeof(input), out, NULL, EVP_sha256(), NULL) != 1)
        panic("SHA-256 is not available");
}
