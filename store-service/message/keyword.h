/*
 * keyword.h: rows of s_keyword, the account's dictionary of keywords; and the ids of one message as sorted pairs of
 * bytes.
 */
#ifndef STORE_SERVICE_MESSAGE_KEYWORD_H
#define STORE_SERVICE_MESSAGE_KEYWORD_H

#include "store-service/service.h"

#define KEYWORDS_MAX 5000u /* names of one account */
/* of these, KEYWORD_COST more for each: they fit into a reply beside its messages */
#define KEYWORD_BYTES_MAX (96u * 1024)
#define KEYWORD_COST 8u
#define KEYWORDS_PER_MESSAGE_MAX 256u
#define KEYWORD_NAME_MAX 255u

struct keywords {
    struct {
        uint32_t id;
        str name, fold;
    } * v;
    size_t n, n_stored, cap, bytes;
    uint32_t last_id;
    bool is_full; /* keywords_encode had no room: keywords_give_back may make some */
    struct arena *arena;
};
void keywords_queue_load(struct sql_tx *tx, const int64_t *account_ids, size_t n, struct sql_result *out);
struct keywords keywords_take(struct arena *a, const struct sql_result *r, int64_t account_id);
/* The ids of these names, as stored in s_msg.kw; new names get an id when may_add (LIMIT), else are left out. */
bool keywords_encode(struct keywords *k, char *const *names, size_t n, bool may_add, str *out, struct err *err)
    WARN_UNUSED;
void keywords_queue_insert(struct sql_tx *tx, const struct keywords *k, int64_t account_id); /* the new ones */
bool keywords_check(char *const *names, size_t n, struct err *err) WARN_UNUSED;
bool kw_has(str kw, uint32_t id);
str kw_union(struct arena *a, str x, str y);
str kw_minus(struct arena *a, str x, str y);
/* Whether a new name would be refused. */
bool keywords_are_full(const struct keywords *k);
/*
 * Remove the names that no message of the account has any more; their ids are not used again. Reads all its messages,
 * in pages, so it is done when the dictionary is full, and once a minute at most. True: there is room now. Suspends.
 */
FIBER bool keywords_give_back(struct store *s, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
void kw_to_proto(str kw, struct arena *a, uint32_t **ids, size_t *n);
/* Of a keywords_queue_load: the names, in `a`. is_used is by id; NULL: all of them. */
void keywords_to_proto(const struct sql_result *r, const bool *is_used, struct arena *a, Thurn__Keyword ***out,
                       size_t *n);
/* The names of all ids that occur in the messages, into `a`. In a body; one statement, when there are any. */
FIBER bool keywords_name(struct sql_tx *tx, int64_t account_id, Thurn__Message *const *messages, size_t n,
                         struct arena *a, Thurn__Keyword ***out, size_t *n_out, struct err *err) WARN_UNUSED;

#endif
