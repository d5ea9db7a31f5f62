/*
 * parsed.h: what a message says, as Thurn__ParsedEmail: made when its body arrives, kept beside it.
 */
#ifndef STORE_SERVICE_PARSED_H
#define STORE_SERVICE_PARSED_H

#include "mail/mime.h"
#include "store-service/service.h"

/* In a. */
Thurn__ParsedEmail *parsed_of_mime(const struct mime_message *m, struct arena *a);
str parsed_pack(const Thurn__ParsedEmail *p, struct arena *a);
/* Errors: INTERNAL (damaged). */
Thurn__ParsedEmail *parsed_unpack(str packed, struct arena *a, struct err *err);
/* Header lines of n bytes were put before the message: move every offset. */
void parsed_shift(Thurn__ParsedEmail *p, uint64_t n);

/*
 * Threads, RFC 8621 section 3: emails belong together when they share a message id (their own, or one that they refer
 * to) and their base subject. A key is a hash of both; at most THREAD_KEYS_MAX an email, its own id first.
 */
#define THREAD_KEYS_MAX 22u
size_t parsed_thread_keys(const Thurn__ParsedEmail *p, int64_t keys[THREAD_KEYS_MAX]);
/* RFC 5256 2.1: without reply and forward marks, lower case. In a. */
str parsed_base_subject(str subject, struct arena *a);

/* Packed results of bodies that came by PutBlob and wait to be delivered: bounded, the oldest go first. */
struct parsed_cache *parsed_cache_new(void);
void parsed_cache_free(struct parsed_cache *c);
void parsed_cache_put(struct parsed_cache *c, str hash, str packed);
bool parsed_cache_get(struct parsed_cache *c, str hash, struct arena *a, str *packed);

#endif
