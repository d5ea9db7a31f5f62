/*
 * ascii.h: character classes that do not depend on a locale, over unsigned bytes.
 */
#ifndef BASE_ASCII_H
#define BASE_ASCII_H

#include "base/base.h"

static inline unsigned char ascii_lower(unsigned char c)
{
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c;
}
static inline unsigned char ascii_upper(unsigned char c)
{
    return c >= 'a' && c <= 'z' ? (unsigned char)(c & ~0x20) : c;
}
static inline bool ascii_is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}
static inline bool ascii_is_alpha(unsigned char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}
static inline bool ascii_is_alnum(unsigned char c)
{
    return ascii_is_digit(c) || ascii_is_alpha(c);
}
static inline bool ascii_is_print(unsigned char c) /* SP included */
{
    return c >= 0x20 && c < 0x7f;
}
static inline bool ascii_is_ctl(unsigned char c)
{
    return c < 0x20 || c == 0x7f;
}
static inline int ascii_hex(unsigned char c) /* -1 when it is none */
{
    return ascii_is_digit(c) ? c - '0' : ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') ? (c | 0x20) - 'a' + 10 : -1;
}

/* Whether the bytes are well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF). */
bool utf8_valid(const void *p, size_t n);
/* Whether every byte is below 0x80. */
bool ascii_only(const void *p, size_t n);

#endif
