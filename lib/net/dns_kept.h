/*
 * dns_kept.h: the last good answer to each question, for the time when nobody answers (RFC 8767).
 *
 * Only answers with records are kept, for a day, in bounded number and size; the one not used for longest goes first.
 * An answer that the world takes back (no such name, no such record) is forgotten: nobody is told of an absence that is
 * a day old.
 */
#ifndef NET_DNS_KEPT_H
#define NET_DNS_KEPT_H

#include <unbound.h>

#include "base/list.h"
#include "base/map.h"

#define DNS_KEPT_MAX 4096u
#define DNS_KEPT_BYTES ((size_t)8 << 20)
#define DNS_KEPT_MS ((int64_t)24 * 3600 * 1000) /* RFC 8767 5: one to three days */
/* after a failure it answers at once for so long (5: failure recheck timer) */
#define DNS_KEPT_TRUST_MS 30000

struct dns_kept {
    struct map by_question;
    struct list by_use; /* the one used last is last */
    size_t n, bytes;
};
void dns_kept_init(struct dns_kept *k);
void dns_kept_done(struct dns_kept *k);
/* Takes the answer over; it is good until the caller suspends. Replaces an older one to the same question. */
void dns_kept_put(struct dns_kept *k, const char *name, int type, struct ub_result *answer);
void dns_kept_forget(struct dns_kept *k, const char *name, int type);
/* The answer, or NULL; good until the caller suspends. */
const struct ub_result *dns_kept_get(struct dns_kept *k, const char *name, int type);
/* The question was asked in vain: for a while the kept answer is trusted without asking. */
void dns_kept_note_failure(struct dns_kept *k, const char *name, int type);
bool dns_kept_is_trusted(struct dns_kept *k, const char *name, int type);

#endif
