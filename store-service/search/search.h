/*
 * search.h: the tree of a search, compiled once and asked about each message with what is known of it so far.
 *
 * Three levels of knowledge, each dearer than the one before: the row (flags, sizes, dates, UIDs); what was parsed
 * (subject, addresses, ids, the Date field); the body. An answer is yes, no, or "needs more".
 *
 * The room search/ owns no table and caches nothing. It calls message/, content/ and blob/. Newcomers: another key is a
 * SearchOp with a line in search_tree.c; who can answer from something faster (index/ask.h, full text) is asked first,
 * with the same answers.
 */
#ifndef STORE_SERVICE_SEARCH_H
#define STORE_SERVICE_SEARCH_H

#include "mail/text_search.h"
#include "store-service/message/keyword.h"
#include "store-service/message/message.h"

#define SEARCH_DEPTH_MAX 32u
#define SEARCH_NODES_MAX 1000u

enum search_answer { SEARCH_NO, SEARCH_YES, SEARCH_NEEDS_MORE };
enum search_level { SEARCH_ROW, SEARCH_PARSED, SEARCH_BODY };

struct search_node {
    Thurn__SearchOp op;
    struct search_node *keys;
    size_t n_keys;
    struct uidset uids;
    uint64_t number;
    bool is_local;
    str field;
    str text;
    struct text_search *finder; /* of text */
    uint32_t keyword_id;        /* 0 = no message has it */
    enum search_level level;    /* at which this node itself can be answered */
};
struct search_tree {
    struct search_node root;
    unsigned n_nodes;
    bool wants_keywords;
};

/* Errors: INVALID, LIMIT (depth, nodes, text). search_done is needed after success and failure. */
bool search_compile(struct search_tree *t, const Thurn__SearchKey *key, struct arena *a, struct err *err) WARN_UNUSED;
void search_set_keywords(struct search_tree *t, const struct keywords *k);
void search_done(struct search_tree *t);

/* What is known of one message. parsed from SEARCH_PARSED on, raw (the whole message) at SEARCH_BODY. */
struct search_subject {
    const struct msg_row *row;
    const Thurn__ParsedEmail *parsed;
    str raw;
    struct arena *arena; /* scratch */
};
/* Thread-safe as long as tree and subject are the caller's alone. */
enum search_answer search_ask(const struct search_tree *t, const struct search_subject *s, enum search_level level);

/* The thread that searches large bodies (search.c). */
struct work_lane *search_lane_new(void);

#endif
