/*
 * page.h: what the files of the index share of its pages.
 */
#ifndef STORE_SERVICE_INDEX_PAGE_H
#define STORE_SERVICE_INDEX_PAGE_H

#include "store-service/index/index.h"

/* The columns of FACTS that are numbers of 64 bits, in the order in which they are packed. */
#define PAGE_FACTS(p)                                                                                                  \
    {                                                                                                                  \
        &(p)->email_id, &(p)->thread_id, &(p)->internal_unix, &(p)->saved_unix, &(p)->sent_unix, &(p)->size            \
    }

struct index_page *page_new(uint32_t no); /* no group loaded */
void page_free(struct index_page *p);
void page_resize(struct index_page *p, uint32_t cap);
void page_take_group(struct index_page *p, enum index_group g); /* its columns, for n messages, to be filled in */
void page_drop_group(struct index_page *p, enum index_group g);
size_t page_bytes(const struct index_page *p);
void page_count_unseen(struct index_page *p);
uint16_t page_kw_ref(struct index_page *p, str ids);

struct index_page *index_add_page(struct index *ix, uint32_t no); /* there is none of that number */

bool page_put(struct index_page *p, const struct index_row *row);                         /* true: it is new */
bool page_set(struct index_page *p, uint32_t uid, uint8_t flags, str kw, int64_t modseq); /* false: no such UID */
/* Remove what is in uids, looking from its range *at on; how many went. */
size_t page_remove(struct index_page *p, const struct uidset *uids, size_t *at);

#endif
