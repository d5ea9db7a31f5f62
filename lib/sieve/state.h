/*
 * state.h: what one run holds, shared by the files that interpret.
 */
#ifndef SIEVE_STATE_H
#define SIEVE_STATE_H

#include "base/map.h"
#include "sieve/match.h"

struct variable {
    str value;
};
struct scope {        /* of one script: its own variables, and which names are the global ones (RFC 6609 3.4) */
    struct map names; /* lower case -> struct variable *, or &scope_global */
    unsigned n;
};

/* A header field as the script sees it. */
struct field {
    str name;
    str raw;   /* with its line end, as it is sent on; of an added field made by us */
    str value; /* decoded; p NULL = not asked for yet */
};
struct header {
    struct field *v;
    size_t n, cap;
};

struct part_state { /* one turn of foreverypart */
    const struct mime_part *part;
    str name; /* of the loop */
    struct part_state *outer;
};

/* A message that a script has made in place of the one that came: replace and enclose. */
struct made_message {
    str header, body; /* p NULL: as it came */
};
/* Parts that `replace` has put others in place of; the message is put together anew when an action wants it. */
#define EDITS_MAX 100u
struct edit {
    uint64_t from, to;
    str with;
};

enum flow { FLOW_GO_ON, FLOW_STOP, FLOW_RETURN, FLOW_BREAK, FLOW_ERROR };

struct run {
    const struct sieve_run *in;
    struct sieve_result *out;
    struct arena *arena;
    struct sieve_limits limits;
    struct regex_cache *regexes;
    unsigned work;
    const struct sieve_script *script; /* that is running, or includes what is running */
    const struct sieve_program *program;
    unsigned line;
    /* variables */
    struct scope *scope;
    struct scope globals;
    struct match_values match_values;
    size_t variable_bytes;
    /* message */
    struct header header;
    bool has_header; /* it is read */
    bool is_edited;
    struct made_message made;
    struct edit *edits;
    size_t n_edits;
    const struct mime_message *message; /* of what was made, or as it came */
    struct part_state *part;
    str break_to; /* FLOW_BREAK: name of the loop, empty = the innermost */
    /* result */
    size_t actions_cap;
    bool is_keep_cancelled; /* the implicit one, by this script */
    bool has_keep;          /* an explicit one, of this script */
    size_t n_before;        /* actions of the scripts before this one */
    str *flags;             /* the internal variable of imap4flags */
    size_t n_flags;
    unsigned n_redirects, n_notifies, n_includes, include_depth;
    bool has_vacation, has_reject;
    struct map once; /* names of scripts that were included with :once */
    struct included {
        const struct sieve_program *program;
        struct included *outer;
    } * included;
    struct err *err; /* of the host */
};

/* End with an error of the script's doing, at the line that runs. Returns FLOW_ERROR. */
enum flow run_error(struct run *r, const char *fmt, ...) PRINTF(2, 3);
/* The host said that it cannot answer now: the same for a temporary one. False. */
bool run_host_error(struct run *r, struct err *err);

/* --- variables (vars.c) --- */
extern struct variable scope_global;
void scope_init(struct scope *s);
void scope_done(struct scope *s);
/* With references replaced, RFC 5229 3; at most VALUE bounds of all together. */
str run_expand(struct run *r, const struct sv_string *s);
bool variable_set(struct run *r, str full_name, str value); /* false: run_error was called */
str variable_get(struct run *r, str full_name);
str variable_modify(struct run *r, const struct call *c, str value);
bool variable_is_global_name(str full_name);
str value_cut(str value); /* to SIEVE_VALUE_MAX, at a character */

/* --- strings of a call --- */
str call_string(struct run *r, const struct call *c, unsigned char id); /* p NULL: it is absent */
/* `struct cursor at = …->list; while (list_next(r, &at, &s))` */
bool list_next(struct run *r, struct cursor *at, str *out);
static inline bool call_has(const struct call *c, unsigned char id)
{
    return call_item(c, id) != NULL;
}

/* --- the message (message.c) --- */
void message_load_header(struct run *r);
str field_value(struct run *r, struct field *f); /* decoded, unfolded, trimmed */
/* The header of a part, whose fields are not those that can be edited. False: host error. */
FIBER bool part_header(struct run *r, const struct mime_part *p, struct header *out);
/* The decoded text of a part as UTF-8 (is_text), or its decoded bytes. At most max. False: host error. */
FIBER bool part_content(struct run *r, const struct mime_part *p, bool is_text, size_t max, str *out);
FIBER bool message_raw_body(struct run *r, size_t max, str *out);
void message_add_field(struct run *r, str name, str value, bool at_end);
void message_remove_field(struct run *r, size_t at);
/* The message as it is now, for an action: p NULL where it came so. */
FIBER bool message_now(struct run *r, str *header, str *body); /* false: host error, or it is too large */
void message_replace(struct run *r, str header, str body);
FIBER bool message_replace_part(struct run *r, const struct mime_part *p, str with);
FIBER bool message_whole(struct run *r, str *out); /* header and body as they are now */
/* The header fields of that name in order; the one that index and last name when index > 0. */
size_t header_find_all(struct run *r, struct header *h, str name, uint64_t index, bool is_last, size_t **out);
str flat_text(struct run *r, str value); /* on one line, no control characters */

/* --- dates (dates.c) --- */
bool date_of_field(str value, int64_t *unix_seconds, int *zone);
str date_part(struct run *r, str part, int64_t unix_seconds, int zone_minutes);

/* --- flags (flags.c) --- */
void flags_apply(struct run *r, const struct call *c);
bool flags_test(struct run *r, const struct call *c);
/* The words of a list, each once. */
void flags_of_list(struct run *r, struct cursor list, str **out, size_t *n);

/* --- tests (tests.c) --- */
FIBER bool run_test(struct run *r, const struct node *n, bool *out); /* false: an error */
void matcher_of(struct run *r, const struct call *c, struct matcher *m);
/* One value against all keys; *n counts for :count. False: an error. */
FIBER bool match_keys(struct run *r, const struct matcher *m, str value, const struct item *keys, bool *out);
bool match_count(struct run *r, const struct matcher *m, uint64_t n, const struct item *keys);

/* --- actions (actions.c) --- */
FIBER enum flow run_action(struct run *r, const struct call *c);
/* NULL: run_error was called */
struct sieve_action *action_add(struct run *r, enum sieve_action_kind kind, const struct call *c);

struct sieve_arguments {
    struct run *run;
    const struct call *call;
};

#endif
