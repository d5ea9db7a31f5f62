/*
 * event.h: the record of administration, as the files of the auth service write it.
 */
#ifndef AUTH_SERVICE_EVENT_H
#define AUTH_SERVICE_EVENT_H

#include "auth-service/internal.h"
#include "base/buf.h"

#define EVENT_LIST_MAX 100u /* of a list in an event; "more" says how many were left out */

/* One JSON object, member by member. Keys are literals. Secrets never go into one: "password":"changed". */
struct facts {
    struct buf json;
};
void facts_init(struct facts *f);
void facts_done(struct facts *f);
#define FACTS(name)                                                                                                    \
    __attribute__((cleanup(facts_done))) struct facts name;                                                            \
    facts_init(&name)
void facts_str(struct facts *f, const char *key, str value);
void facts_int(struct facts *f, const char *key, int64_t value);
void facts_bool(struct facts *f, const char *key, bool value);
void facts_list(struct facts *f, const char *key, const str *values, size_t n);
str facts_end(struct facts *f, struct arena *a); /* the whole object; f is of no use afterwards */

struct event {
    str what, subject;
    str before, after; /* of facts_end; empty: there was, or is, none */
};
/* Within the transaction of the change; views live until its end. by may be NULL (a node of the release before). What
 * the same act wrote before stays as it is. */
FIBER bool event_add(struct sql_tx *tx, const Thurn__Author *by, const struct event *events, size_t n, struct err *err)
    WARN_UNUSED;

#endif
