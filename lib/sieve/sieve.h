/*
 * sieve.h: the Sieve language, RFC 5228 with its extensions. Pure: what a script wants to know of the world it asks its
 * host, through a table of functions, and what it wants done comes back as a list of actions.
 *
 * A script is compiled once into a program, a few KiB of bytes that many runs may share. Nothing of a run is kept in
 * it. A script has no loops but over the parts of a message, and each run has a budget of steps, memory and pattern
 * work: whatever it does, it ends, and a run that ends badly says where, keeps the message and does nothing else.
 */
#ifndef SIEVE_SIEVE_H
#define SIEVE_SIEVE_H

#include "base/arena.h"
#include "base/err.h"
#include "mail/mime.h"

#define SIEVE_SCRIPT_MAX (1u << 20) /* bytes of a script, at most */
/* blocks in blocks, and tests in tests (RFC 5228 2.10.7 asks for 15) */
#define SIEVE_NESTING_MAX 64u
#define SIEVE_ERRORS_MAX 20u     /* of one script that are told */
#define SIEVE_VARIABLES_MAX 256u /* RFC 5229 6 asks for 128 */
/* octets of one variable, RFC 5229 6; what is longer is cut at a character */
#define SIEVE_VALUE_MAX 4000u
#define SIEVE_INCLUDES_MAX 255u /* of one run */
#define SIEVE_INCLUDE_DEPTH_MAX 10u

/* --- compiling --- */

struct sieve_error {
    unsigned line, column; /* from 1 */
    char text[200];        /* for the script's author: what is wrong, and what was expected */
};
struct sieve_errors {
    struct sieve_error v[SIEVE_ERRORS_MAX];
    size_t n;
    bool is_cut; /* there are more */
};

/* A command or test besides those of the language: for a host's own purposes. */
struct sieve_extra {
    const char *name;
    bool is_test;
    const char *arguments; /* positional: 's' a string, 'l' a list of strings, 'n' a number; behind '?' optional */
    /* ":name" without a value, ":name=s" with a string, ":name=n" with a number; NULL at the end; may be NULL */
    const char *const *tags;
    bool has_block;
};
struct sieve_options {
    size_t script_max;               /* bytes; 0 = SIEVE_SCRIPT_MAX */
    const char *const *schemes;      /* of notify besides mailto: "tel"; NULL at the end; may be NULL */
    const char *const *without;      /* capabilities that are not offered; NULL at the end; may be NULL */
    const char *extra_capability;    /* that `extra` needs; may be NULL */
    const struct sieve_extra *extra; /* name NULL at the end; may be NULL */
};

struct sieve_program;
/* NULL: errors says why. options may be NULL. */
struct sieve_program *sieve_compile(str script, const struct sieve_options *options, struct sieve_errors *errors);
void sieve_program_free(struct sieve_program *p);
DEFINE_CLEANUP(struct sieve_program, sieve_program_free)
size_t sieve_program_bytes(const struct sieve_program *p); /* memory */
/* The names of all capabilities, with a space between each two, for ManageSieve (RFC 5804 1.7). */
void sieve_capabilities(const struct sieve_options *options, struct buf *out);

/* --- running --- */

/* The envelope and what else is known of the delivery. Empty = not known. */
struct sieve_envelope {
    str from;                            /* of MAIL FROM, without brackets; empty for <> */
    str to, original_to;                 /* the final recipient, and as it was given in RCPT TO */
    str auth;                            /* who had logged in, RFC 4954 5 */
    str orcpt, notify, ret, envelope_id; /* RFC 3461 */
    str by_time, by_mode;                /* RFC 2852: seconds since 1970; "notify" or "return" */
    bool has_by_trace;
};

enum sieve_action_kind { SIEVE_KEEP, SIEVE_FILEINTO, SIEVE_REDIRECT, SIEVE_REJECT, SIEVE_VACATION, SIEVE_NOTIFY };
struct sieve_action {
    enum sieve_action_kind kind;
    unsigned line; /* of the command; 0: the implicit keep */
    str script;    /* name of the script that it stands in */
    str *flags;    /* KEEP, FILEINTO: IMAP flags and keywords */
    size_t n_flags;
    /* KEEP, FILEINTO, REDIRECT: the message as it was then, when the script had changed it; p NULL: as it came */
    str header, body;
    /* FILEINTO */
    str mailbox;                 /* UTF-8, as the script has it */
    str special_use, mailbox_id; /* empty = not said */
    bool may_create;
    /* REDIRECT: to mailbox's place; what RFC 6009 says to ask of the next server, empty = nothing */
    str address, notify, ret, by_time, by_mode;
    bool is_by_absolute, has_by_trace;
    str list; /* :list, RFC 6134: address is empty */
    /* REJECT */
    bool is_ereject;
    str reason; /* VACATION: the text, or a MIME entity; NOTIFY: the message, empty = the host's own */
    /* VACATION */
    str subject, from, handle, fcc;
    struct sieve_fcc {
        bool may_create;
        str special_use, mailbox_id;
        str *flags;
        size_t n_flags;
    } fcc_how;
    str *addresses;
    size_t n_addresses;
    bool is_mime;
    int64_t seconds; /* between two answers to the same sender; -1 = the host's own */
    /* NOTIFY */
    str method;     /* a URI */
    str importance; /* "1", "2", "3"; empty = normal */
    str *options;
    size_t n_options;
};

struct sieve_host;
struct sieve_arguments;
/*
 * What a run asks. All may suspend and obey the fiber's deadline. One that is NULL: the answer is no, or nothing. False
 * with err set ends the run as one that could not be made now (sieve_result.is_temporary), so that the delivery is
 * tried again.
 */
struct sieve_host_ops {
    /* Bytes of the message as it came, [offset, offset + length), in a. */
    FIBER bool (*read)(struct sieve_host *h, uint64_t offset, uint64_t length, struct arena *a, str *out,
                       struct err *err);
    /* Whether the mailbox of that name, role ("\\Junk") or id is there and may be filed into. */
    FIBER bool (*mailbox_exists)(struct sieve_host *h, str name, bool *out, struct err *err);
    /* mailbox may be empty: any */
    FIBER bool (*special_use_exists)(struct sieve_host *h, str mailbox, str use, bool *out, struct err *err);
    FIBER bool (*mailbox_id_exists)(struct sieve_host *h, str id, bool *out, struct err *err);
    /* An annotation, RFC 5490; mailbox empty: of the server. *out with p NULL: there is none. */
    FIBER bool (*metadata)(struct sieve_host *h, str mailbox, str name, struct arena *a, str *out, struct err *err);
    /* Whether the key was there; it is remembered for `seconds` (from its last use when is_last) once the delivery has
     * succeeded, RFC 7352. */
    FIBER bool (*is_duplicate)(struct sieve_host *h, str key, int64_t seconds, bool is_last, bool *out,
                               struct err *err);
    FIBER bool (*list_exists)(struct sieve_host *h, str list, bool *out, struct err *err); /* RFC 6134 */
    FIBER bool (*in_list)(struct sieve_host *h, str list, str value, bool *out, struct err *err);
    /* RFC 5435 4: mailto is known without */
    FIBER bool (*notify_method)(struct sieve_host *h, str uri, bool *out, struct err *err);
    /* A script to include, RFC 6609; *out NULL: there is none. The host keeps it until the run has ended. */
    FIBER bool (*include)(struct sieve_host *h, str name, bool is_global, const struct sieve_program **out,
                          struct err *err);
    /* An item of `environment`, RFC 5183; p NULL: not known. */
    FIBER bool (*environment)(struct sieve_host *h, str name, struct arena *a, str *out, struct err *err);
    /* The spam and virus values, RFC 5235: 0 = not tested, spam in percent from 1, virus 1 to 5. */
    unsigned (*spam_percent)(struct sieve_host *h);
    unsigned (*virus_value)(struct sieve_host *h);
    void (*debug)(struct sieve_host *h, str text); /* vnd.dovecot.debug */
    /* One of sieve_options.extra. *answer: of a test. *run_block: of a command with a block. Arguments:
     * sieve_extra_string and its like. */
    FIBER bool (*extra)(struct sieve_host *h, unsigned index, const struct sieve_arguments *args, bool *answer,
                        bool *run_block, struct err *err);
};
struct sieve_host {
    const struct sieve_host_ops *ops;
};
bool sieve_extra_has(const struct sieve_arguments *args, unsigned tag); /* place of the tag in sieve_extra.tags */
str sieve_extra_tag_string(const struct sieve_arguments *args, unsigned tag);
uint64_t sieve_extra_tag_number(const struct sieve_arguments *args, unsigned tag);
/* strings of the positional argument; 0: it is absent */
size_t sieve_extra_count(const struct sieve_arguments *args, unsigned at);
str sieve_extra_string(const struct sieve_arguments *args, unsigned at, size_t i);
uint64_t sieve_extra_number(const struct sieve_arguments *args, unsigned at);
/* Against the keys of a positional argument, by the tags of matching; with :count, the value is how many there are.
 * False: ends the run. */
FIBER bool sieve_extra_matches(const struct sieve_arguments *args, unsigned keys_at, str value, bool *out);
/* As if the script had not wanted anything so far. */
void sieve_extra_forget(const struct sieve_arguments *args);
/* From here on the run is about another message. */
void sieve_extra_set_message(const struct sieve_arguments *args, const struct mime_message *m);

struct sieve_limits {
    unsigned steps;     /* commands and tests; 0 = 100,000 */
    size_t memory;      /* of one run; 0 = 64 MiB */
    unsigned redirects; /* 0 = 10 */
    unsigned notifies;  /* 0 = 10 */
    unsigned actions;   /* 0 = 100 */
};
struct sieve_run {
    struct sieve_host *host;
    const struct mime_message *message;
    uint64_t size; /* of the message as it came */
    struct sieve_envelope envelope;
    int64_t now_unix;
    int zone_minutes; /* of the user, east of UTC */
    str separators;   /* between user and detail of an address; empty = "+" */
    struct sieve_limits limits;
};
struct sieve_script {
    const struct sieve_program *program;
    str name; /* in errors and actions */
};

struct sieve_result {
    struct sieve_action *actions; /* in order; in the arena */
    size_t n;
    bool is_discarded; /* no keep, neither implicit nor explicit, and nothing else: say so in the log */
    /* A run-time error: what the failing script wanted is forgotten, and the message is kept. */
    bool has_error, is_temporary;
    unsigned error_line;
    str error_script, error;
    unsigned steps; /* that were used */
};
/*
 * Run the scripts in this order as one (RFC 5228 2.10.3, with "before" and "after" scripts as Pigeonhole has them: the
 * next one is run as long as the implicit keep stands). Texts are in `a`.
 */
FIBER void sieve_run(const struct sieve_run *run, const struct sieve_script *scripts, size_t n, struct arena *a,
                     struct sieve_result *out);

#endif
