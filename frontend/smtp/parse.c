#include "frontend/smtp/parse.h"

#include "base/num.h"

const str smtp_verb_names[SMTP_VERBS_] = {
#define CMD(verb, handler, flags) [SMTP_VERB_##verb] = S_INIT(#verb),
#include "frontend/smtp/commands.def"
#undef CMD
};

str smtp_word(str *rest)
{
    str word = S("");
    (void)str_split(rest, ' ', &word); /* nothing is an empty word */
    *rest = str_trim(*rest);
    return word;
}

bool smtp_verb_parse(str line, enum smtp_verb *verb, str *args)
{
    str rest = str_trim(line), word = smtp_word(&rest);
    for (unsigned i = 0; i < SMTP_VERBS_; i++) {
        if (!str_eq_nocase(word, smtp_verb_names[i]))
            continue;
        *verb = (enum smtp_verb)i;
        *args = rest;
        return true;
    }
    return false;
}

bool smtp_hello_parse(str args)
{
    if (args.n == 0 || args.n > SMTP_HELLO_MAX || !utf8_valid(args.p, args.n))
        return false;
    for (size_t i = 0; i < args.n; i++)
        if (args.p[i] == ' ' || ascii_is_ctl((unsigned char)args.p[i]))
            return false;
    return true;
}

bool smtp_bdat_parse(str args, uint64_t *size, bool *is_last)
{
    uint64_t n;
    str number = smtp_word(&args);
    if (!num_u64(number, INT64_MAX, &n) || (args.n && !str_eq_nocase(args, S("LAST"))))
        return false;
    *size = n;
    *is_last = args.n > 0;
    return true;
}

bool smtp_xtext_valid(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c >= 0x7f || c == '=')
            return false;
        if (c != '+')
            continue;
        /* hexchar: "+" and two digits in upper case. What it stands for must be printable: these values go into
         * reports. */
        if (s.n - i < 3 || ascii_hex((unsigned char)s.p[i + 1]) < 0 || ascii_hex((unsigned char)s.p[i + 2]) < 0)
            return false;
        int v = ascii_hex((unsigned char)s.p[i + 1]) * 16 + ascii_hex((unsigned char)s.p[i + 2]);
        if (v < ' ' || v >= 0x7f)
            return false;
        i += 2;
    }
    return true;
}

/* --- parameters, RFC 5321 4.1.2: SP keyword ["=" value] --- */

struct param {
    str key, value;
    bool has_value;
};

static bool is_key(str s)
{
    if (!s.n || !ascii_is_alnum((unsigned char)s.p[0]))
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_is_alnum((unsigned char)s.p[i]) && s.p[i] != '-')
            return false;
    return true;
}

static bool is_value(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (ascii_is_ctl(c) || c == '=')
            return false;
    }
    return s.n > 0 && utf8_valid(s.p, s.n);
}

/* The next of them; *ok turns false when it is malformed. */
static bool next_param(str *rest, struct param *p, bool *ok)
{
    str word;
    do {
        if (!str_split(rest, ' ', &word))
            return false;
    } while (!word.n);
    ptrdiff_t eq = str_find(word, '=');
    p->has_value = eq >= 0;
    p->key = str_slice(word, 0, eq < 0 ? word.n : (size_t)eq);
    p->value = eq < 0 ? S("") : str_slice(word, (size_t)eq + 1, SIZE_MAX);
    *ok = is_key(p->key) && (!p->has_value || is_value(p->value));
    return *ok;
}

/* "FROM:" or "TO:", lenient about spaces after the colon (many clients), and the path. *rest gets the parameters. */
static bool path_of(str args, str keyword, struct arena *a, struct smtp_path *path, str *rest)
{
    struct err err = ERR_INIT;
    struct cursor c = cur_of(args);
    if (!cur_skip_nocase(&c, keyword))
        return false;
    while (cur_skip(&c, ' '))
        ;
    if (!smtp_path_parse(&c, true, a, path, &err))
        return false;
    *rest = cur_rest(&c);
    return rest->n == 0 || rest->p[0] == ' ';
}

/* Each parameter at most once: `bit` is set in *seen. */
static bool once(unsigned *seen, unsigned bit)
{
    bool is_new = !(*seen & bit);
    *seen |= bit;
    return is_new;
}

enum {
    SEEN_SIZE = 1,
    SEEN_BODY = 2,
    SEEN_UTF8 = 4,
    SEEN_RET = 8,
    SEEN_ENVID = 16,
    SEEN_AUTH = 32,
    SEEN_NOTIFY = 64,
    SEEN_ORCPT = 128
};

static enum smtp_reply mail_param(const struct param *p, unsigned *seen, struct arena *a, struct smtp_mail_args *m)
{
    const enum smtp_reply bad = SMTP_PARAMETER_SYNTAX;
    if (str_eq_nocase(p->key, S("SIZE")))
        return once(seen, SEEN_SIZE) && num_u64(p->value, INT64_MAX, &m->size) ? SMTP_REPLY_NONE : bad;
    if (str_eq_nocase(p->key, S("BODY"))) {
        m->is_8bit = str_eq_nocase(p->value, S("8BITMIME"));
        return once(seen, SEEN_BODY) && (m->is_8bit || str_eq_nocase(p->value, S("7BIT"))) ? SMTP_REPLY_NONE : bad;
    }
    if (str_eq_nocase(p->key, S("SMTPUTF8"))) {
        m->is_smtputf8 = true;
        return once(seen, SEEN_UTF8) && !p->has_value ? SMTP_REPLY_NONE : bad;
    }
    if (str_eq_nocase(p->key, S("RET"))) {
        m->ret_full = str_eq_nocase(p->value, S("FULL"));
        return once(seen, SEEN_RET) && (m->ret_full || str_eq_nocase(p->value, S("HDRS"))) ? SMTP_REPLY_NONE : bad;
    }
    if (str_eq_nocase(p->key, S("ENVID"))) {
        m->envelope_id = arena_str(a, p->value);
        return once(seen, SEEN_ENVID) && p->value.n && p->value.n <= SMTP_ENVID_MAX && smtp_xtext_valid(p->value)
                   ? SMTP_REPLY_NONE
                   : bad;
    }
    /* RFC 4954 5: who submitted it elsewhere. We believe nobody's word for that, which the RFC allows. */
    if (str_eq_nocase(p->key, S("AUTH")))
        return once(seen, SEEN_AUTH) && p->has_value ? SMTP_REPLY_NONE : bad;
    return SMTP_UNKNOWN_PARAMETER;
}

bool smtp_mail_parse(str args, struct arena *a, struct smtp_mail_args *out, enum smtp_reply *why)
{
    struct smtp_mail_args m = {.envelope_id = S("")};
    struct param p;
    unsigned seen = 0;
    bool ok = true;
    str rest;
    *why = SMTP_SENDER_SYNTAX;
    if (!path_of(args, S("FROM:"), a, &m.path, &rest))
        return false;
    if (!m.path.is_null && !m.path.domain.n) /* <Postmaster> is for RCPT alone */
        return false;
    while (next_param(&rest, &p, &ok)) {
        *why = mail_param(&p, &seen, a, &m);
        if (*why != SMTP_REPLY_NONE)
            return false;
    }
    *why = SMTP_PARAMETER_SYNTAX;
    if (!ok)
        return false;
    *why = SMTP_NEEDS_UTF8; /* RFC 6531 3.5 */
    if (m.path.has_utf8 && !m.is_smtputf8)
        return false;
    *out = m;
    return true;
}

/* "NEVER", or a list of the others without repetition. */
static bool notify_parse(str value, unsigned *out)
{
    static const struct {
        str name;
        unsigned bit;
    } words[] = {{S_INIT("SUCCESS"), SMTP_NOTIFY_SUCCESS},
                 {S_INIT("FAILURE"), SMTP_NOTIFY_FAILURE},
                 {S_INIT("DELAY"), SMTP_NOTIFY_DELAY},
                 {S_INIT("NEVER"), SMTP_NOTIFY_NEVER}};
    unsigned bits = 0;
    str word;
    if (!value.n || value.p[value.n - 1] == ',')
        return false;
    while (str_split(&value, ',', &word)) {
        unsigned bit = 0;
        for (size_t i = 0; i < ARRAY_LEN(words); i++)
            if (str_eq_nocase(word, words[i].name))
                bit = words[i].bit;
        if (!bit || (bits & bit))
            return false;
        bits |= bit;
    }
    if ((bits & SMTP_NOTIFY_NEVER) && bits != SMTP_NOTIFY_NEVER)
        return false;
    *out = bits;
    return true;
}

/* addr-type ";" xtext; of type utf-8 (RFC 6533 3) also \x{…} and, unescaped, UTF-8. */
static bool orcpt_valid(str value, bool allow_utf8)
{
    ptrdiff_t semicolon = str_find(value, ';');
    if (semicolon <= 0 || value.n > SMTP_ORCPT_MAX)
        return false;
    str type = str_slice(value, 0, (size_t)semicolon), rest = str_slice(value, (size_t)semicolon + 1, SIZE_MAX);
    if (!is_key(type) || !rest.n)
        return false;
    if (!str_eq_nocase(type, S("utf-8")))
        return smtp_xtext_valid(rest);
    return allow_utf8 || ascii_only(rest.p, rest.n);
}

static enum smtp_reply rcpt_param(const struct param *p, bool allow_utf8, unsigned *seen, struct arena *a,
                                  struct smtp_rcpt_args *r)
{
    const enum smtp_reply bad = SMTP_PARAMETER_SYNTAX;
    if (str_eq_nocase(p->key, S("NOTIFY")))
        return once(seen, SEEN_NOTIFY) && notify_parse(p->value, &r->notify) ? SMTP_REPLY_NONE : bad;
    if (str_eq_nocase(p->key, S("ORCPT"))) {
        r->original = arena_str(a, p->value);
        return once(seen, SEEN_ORCPT) && orcpt_valid(p->value, allow_utf8) ? SMTP_REPLY_NONE : bad;
    }
    return SMTP_UNKNOWN_PARAMETER;
}

bool smtp_rcpt_parse(str args, bool allow_utf8, struct arena *a, struct smtp_rcpt_args *out, enum smtp_reply *why)
{
    struct smtp_rcpt_args r = {.original = S("")};
    struct param p;
    unsigned seen = 0;
    bool ok = true;
    str rest;
    *why = SMTP_RECIPIENT_SYNTAX;
    if (!path_of(args, S("TO:"), a, &r.path, &rest) || r.path.is_null)
        return false;
    while (next_param(&rest, &p, &ok)) {
        *why = rcpt_param(&p, allow_utf8, &seen, a, &r);
        if (*why != SMTP_REPLY_NONE)
            return false;
    }
    *why = SMTP_PARAMETER_SYNTAX;
    if (!ok)
        return false;
    *why = SMTP_NEEDS_UTF8;
    if (r.path.has_utf8 && !allow_utf8)
        return false;
    *out = r;
    return true;
}
