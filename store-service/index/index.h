/*
 * index.h: a mailbox's index, the rows of its messages as columns in memory. Pure: no database, nothing that suspends.
 *
 * An index is a snapshot of one mailbox, true for a modseq. The rows of s_msg are the truth; whoever finds that the
 * mailbox has gone on brings the index forward with what the change log names, or throws it away. What it serves: which
 * UIDs there are (SELECT), flags (FETCH), and every question that the columns answer (SEARCH, SORT, JMAP's queries),
 * without reading rows.
 *
 * A page holds the messages of INDEX_PAGE_UIDS consecutive UIDs, so where a message is follows from its UID and nothing
 * is ever split or joined. A page knows its UIDs always, and two groups of columns when they are loaded:
 *
 *     STATE   flags, keywords, modseq: what changes
 *     FACTS   ids, dates, size: what a message is born with
 *
 * Each group of each page is a value of its own in the database (index_pack_page), and the head (index_pack_head) names
 * the pages with their UIDs and counts. So a cold SELECT reads the head alone, and what is written again is what
 * changed. A group is loaded before its page is changed: there is no page of which a part is older than the rest.
 *
 * Not shared between threads. Nothing here keeps a pointer into what the caller gives.
 */
#ifndef STORE_SERVICE_INDEX_INDEX_H
#define STORE_SERVICE_INDEX_INDEX_H

#include "base/buf.h"
#include "base/err.h"
#include "store-service/uidset.h"

#define INDEX_PAGE_UIDS 4096u

/* One message. kw: its keyword ids as sorted pairs of bytes, as in s_msg.kw. */
struct index_row {
    uint32_t uid;
    uint8_t flags;
    str kw;
    int64_t modseq;
    int64_t email_id, thread_id;
    int64_t internal_unix, saved_unix, sent_unix;
    int64_t size;
    int32_t internal_zone; /* minutes */
};

enum index_group { INDEX_STATE, INDEX_FACTS, INDEX_GROUPS };

struct index_page {
    uint32_t no;                 /* of its UIDs: uid / INDEX_PAGE_UIDS */
    uint32_t n, cap;             /* messages; room in the columns */
    uint32_t n_unseen;           /* without \Seen */
    uint16_t first_unseen;       /* place of the first of them, if there is one */
    bool has[INDEX_GROUPS];      /* loaded */
    bool is_dirty[INDEX_GROUPS]; /* changed since index_clean */
    uint16_t *offset;            /* of the UID in the page, ascending */
    /* STATE */
    uint8_t *flags;
    uint16_t *kw; /* place in kw_sets */
    int64_t *modseq;
    struct index_kw_set {
        uint32_t refs;
        uint32_t len;
        char *ids;
    } * kw_sets; /* [0] is that of no keywords; refs 0 = free */
    uint32_t n_kw_sets;
    /* FACTS */
    int64_t *email_id, *thread_id, *internal_unix, *saved_unix, *sent_unix, *size;
    int16_t *internal_zone;
};

struct index {
    uint64_t modseq;           /* of the mailbox that this is true for */
    struct index_page **pages; /* ascending, none empty */
    size_t n_pages, cap_pages;
    uint64_t n;    /* messages */
    size_t bytes;  /* memory, about */
    bool is_dirty; /* since index_clean: the head */
};

struct index *index_new(void);
void index_free(struct index *ix); /* NULL is allowed */

/* The page of this UID, or NULL. Its columns are good until the index is changed. */
struct index_page *index_page_of(const struct index *ix, uint32_t uid);
static inline uint32_t index_uid(const struct index_page *p, size_t i)
{
    return p->no * INDEX_PAGE_UIDS + p->offset[i];
}
/* Place of the first UID of the page that is not below uid; n when there is none. */
size_t index_lower(const struct index_page *p, uint32_t uid);
static inline str index_kw(const struct index_page *p, size_t i)
{
    const struct index_kw_set *s = &p->kw_sets[p->kw[i]];
    return str_n(s->ids, s->len);
}
/* Message i of a page that has both groups, for callers that want a row. kw is good until the index is changed. */
struct index_row index_row_at(const struct index_page *p, size_t i);

/* Whether these changes can be made: every page that they touch has the groups that are needed (both for a new message,
 * STATE for another). Pages that do not exist need nothing. */
bool index_can_put(const struct index *ix, uint32_t uid);
bool index_can_set(const struct index *ix, uint32_t uid);
/* Put a message: new, or in place of what was known of it. Needs index_can_put. */
void index_put(struct index *ix, const struct index_row *row);
/* What changes of a message that is there; one that is not is left out. Needs index_can_set. */
void index_set(struct index *ix, uint32_t uid, uint8_t flags, str kw, int64_t modseq);
/* Remove these UIDs as far as they are there. Their pages must have STATE: index_can_set of each. */
void index_remove(struct index *ix, const struct uidset *uids);

/* The UIDs that are there, from `from` on, into out. */
void index_uids(const struct index *ix, uint32_t from, struct uidset *out);
/* The least UID without \Seen, and how many there are; 0 when there is none. Known without the groups. */
uint32_t index_first_unseen(const struct index *ix);
uint64_t index_n_unseen(const struct index *ix);

/* --- to the database and back --- */

/* The head: modseq, pages, UIDs, counts. */
void index_pack_head(const struct index *ix, struct buf *out);
/* A new index with no group loaded, or NULL. Errors: INTERNAL (damaged, or of another release): build it from the rows.
 */
struct index *index_unpack_head(str packed, struct err *err);
/* A group that is loaded. */
void index_pack_page(const struct index_page *p, enum index_group g, struct buf *out);
/* Load a group into its page, over what is there. Errors: INTERNAL (damaged, of another release, or not of these UIDs):
 * build the page from the rows; the page is without that group then. */
bool index_unpack_page(struct index *ix, struct index_page *p, enum index_group g, str packed, struct err *err)
    WARN_UNUSED;
/* Everything dirty is in the database now. */
void index_clean(struct index *ix);

#endif
