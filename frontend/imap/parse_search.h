/*
 * parse_search.h: the keys of SEARCH (RFC 3501 6.4.4, RFC 7162 3.1.5) as the store understands them. Pure.
 */
#ifndef FRONTEND_IMAP_PARSE_SEARCH_H
#define FRONTEND_IMAP_PARSE_SEARCH_H

#include "frontend/imap/parse.h"

#define IMAP_SEARCH_DEPTH_MAX 32u /* store.proto */
#define IMAP_SEARCH_NODES_MAX 1000u

struct imap_search {
    Thurn__SearchKey *key;
    bool has_modseq; /* MODSEQ was among the keys: the answer says the highest */
    bool is_unknown_charset, is_too_large;
    /* RETURN (…) of RFC 4731; none of them given means ALL. */
    bool has_return, wants_min, wants_max, wants_all, wants_count;
};
/*
 * The arguments of SEARCH. Sets are resolved in the view, numbers that do not exist match nothing; \Recent are those
 * of recents. Text is converted to UTF-8 from the charset that was given.
 * False: malformed, or one of out's is_… says why.
 */
bool imap_parse_search(struct cursor *c, struct arena *a, const struct uid_map *uids, const struct uid_map *recents,
                       struct imap_search *out);

#endif
