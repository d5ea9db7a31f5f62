#include "base/ascii.h"

bool ascii_only(const void *p, size_t n)
{
    const unsigned char *b = p;
    size_t i = 0;
    for (uint64_t word; i + sizeof(word) <= n; i += sizeof(word)) {
        memcpy(&word, b + i, sizeof(word));
        if (word & 0x8080808080808080u)
            return false;
    }
    for (; i < n; i++)
        if (b[i] & 0x80)
            return false;
    return true;
}

/* One well-formed sequence at b (n > 0 bytes left): its length, or 0. RFC 3629 section 4. */
static size_t utf8_sequence(const unsigned char *b, size_t n)
{
    unsigned char lo = 0x80, hi = 0xbf;
    size_t len;
    if (b[0] < 0x80)
        return 1;
    if (b[0] >= 0xc2 && b[0] <= 0xdf) {
        len = 2;
    } else if (b[0] >= 0xe0 && b[0] <= 0xef) {
        len = 3;
        lo = b[0] == 0xe0 ? 0xa0 : lo;
        hi = b[0] == 0xed ? 0x9f : hi;
    } else if (b[0] >= 0xf0 && b[0] <= 0xf4) {
        len = 4;
        lo = b[0] == 0xf0 ? 0x90 : lo;
        hi = b[0] == 0xf4 ? 0x8f : hi;
    } else {
        return 0;
    }
    if (n < len || b[1] < lo || b[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((b[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

bool utf8_valid(const void *p, size_t n)
{
    const unsigned char *b = p;
    while (n) {
        size_t len = utf8_sequence(b, n);
        if (!len)
            return false;
        b += len;
        n -= len;
    }
    return true;
}
