/*
 * ask.h: a search over the columns of a page, many messages at a time.
 */
#ifndef STORE_SERVICE_INDEX_ASK_H
#define STORE_SERVICE_INDEX_ASK_H

#include "store-service/index/index.h"
#include "store-service/search/search.h"

#define INDEX_PAGE_WORDS (INDEX_PAGE_UIDS / 64)

/* One bit for each message of a page, by its place. */
struct index_bits {
    uint64_t w[INDEX_PAGE_WORDS];
};

/* The groups that a tree asks for, as bits 1 << enum index_group. */
unsigned index_ask_groups(const struct search_tree *t);
/*
 * Ask about all messages of a page, which has the tree's groups. yes: those that match. maybe: those about which the
 * columns cannot decide, but what was parsed of them or their bodies will (search_ask); none is in both.
 */
void index_ask(const struct search_tree *t, const struct index_page *p, struct index_bits *yes,
               struct index_bits *maybe);

#endif
