#include "frontend/imap/format.h"

#include "mail/utf7.h"

#define MAILBOX_UTF7_MAX 8192u

/* --- strings --- */

static bool can_quote(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_is_print((unsigned char)s.p[i]) && s.p[i] != '\t')
            return false;
    return true;
}

void imap_add_string(struct buf *out, str s)
{
    if (!can_quote(s)) {
        buf_printf(out, "{%zu}\r\n", s.n);
        buf_add(out, s);
        return;
    }
    buf_addc(out, '"');
    size_t from = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '"' && s.p[i] != '\\')
            continue;
        buf_add(out, str_slice(s, from, i));
        buf_addc(out, '\\');
        from = i;
    }
    buf_add(out, str_slice(s, from, SIZE_MAX));
    buf_addc(out, '"');
}

void imap_add_nstring(struct buf *out, str s)
{
    if (str_empty(s))
        buf_add(out, S("NIL"));
    else
        imap_add_string(out, s);
}

static bool is_atom(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c >= 0x7f || memchr("(){%*\"\\]", c, 8))
            return false;
    }
    return s.n > 0 && !str_eq_nocase(s, S("NIL"));
}

void imap_add_astring(struct buf *out, str s)
{
    if (is_atom(s))
        buf_add(out, s);
    else
        imap_add_string(out, s);
}

void imap_add_mailbox(struct buf *out, str name)
{
    BUF(utf7, MAILBOX_UTF7_MAX);
    utf7_encode(&utf7, name);
    imap_add_astring(out, buf_str(&utf7));
}

void imap_add_flags(struct buf *out, const Thurn__Message *m, bool is_recent, Thurn__Keyword *const *names,
                    size_t n_names)
{
    static const struct {
        uint32_t bit;
        str name;
    } system_flags[] = {
        {THURN__FLAG__FLAG_ANSWERED, S_INIT("\\Answered")}, {THURN__FLAG__FLAG_FLAGGED, S_INIT("\\Flagged")},
        {THURN__FLAG__FLAG_DELETED, S_INIT("\\Deleted")},   {THURN__FLAG__FLAG_SEEN, S_INIT("\\Seen")},
        {THURN__FLAG__FLAG_DRAFT, S_INIT("\\Draft")},
    };
    const char *gap = "";
    buf_addc(out, '(');
    for (size_t i = 0; i < ARRAY_LEN(system_flags); i++) {
        if (!(m->flags & system_flags[i].bit))
            continue;
        buf_add(out, str_c(gap));
        buf_add(out, system_flags[i].name);
        gap = " ";
    }
    for (size_t i = 0; i < m->n_keywords; i++) {
        for (size_t k = 0; k < n_names; k++) {
            if (names[k]->id != m->keywords[i])
                continue;
            buf_add(out, str_c(gap));
            buf_add(out, str_c(names[k]->name));
            gap = " ";
            break;
        }
    }
    if (is_recent) {
        buf_add(out, str_c(gap));
        buf_add(out, S("\\Recent"));
    }
    buf_addc(out, ')');
}

/* --- envelope --- */

static void add_address(struct buf *out, const Thurn__Address *a)
{
    if (a->is_group_end) {
        buf_add(out, S("(NIL NIL NIL NIL)"));
        return;
    }
    str group = str_c(a->group_start); /* " " for one without a name */
    if (group.n) {
        buf_add(out, S("(NIL NIL "));
        imap_add_string(out, group);
        buf_add(out, S(" NIL)"));
        return;
    }
    str name = str_c(a->raw_name);
    buf_addc(out, '(');
    imap_add_nstring(out, name.n ? name : str_c(a->name));
    buf_addc(out, ' ');
    imap_add_nstring(out, str_c(a->route));
    buf_addc(out, ' ');
    imap_add_string(out, str_c(a->local)); /* NIL would mean a group */
    buf_addc(out, ' ');
    imap_add_string(out, str_c(a->domain));
    buf_addc(out, ')');
}

static void add_addresses(struct buf *out, Thurn__Address *const *v, size_t n)
{
    buf_addc(out, ' ');
    if (n == 0) {
        buf_add(out, S("NIL"));
        return;
    }
    buf_addc(out, '(');
    for (size_t i = 0; i < n; i++)
        add_address(out, v[i]);
    buf_addc(out, ')');
}

/* Absent is NIL, there but empty is "" (RFC 3501 7.4.2), which the store says as one space. */
static void add_text(struct buf *out, const char *text)
{
    str s = str_c(text);
    if (str_eq(s, S(" ")))
        buf_add(out, S("\"\""));
    else
        imap_add_nstring(out, s);
}

void imap_add_envelope(struct buf *out, const Thurn__Envelope *e)
{
    if (!e) {
        buf_add(out, S("(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"));
        return;
    }
    buf_addc(out, '(');
    add_text(out, e->date);
    buf_addc(out, ' ');
    add_text(out, e->subject);
    add_addresses(out, e->from, e->n_from);
    /* RFC 3501 7.4.2: absent Sender and Reply-To are From. */
    add_addresses(out, e->n_sender ? e->sender : e->from, e->n_sender ? e->n_sender : e->n_from);
    add_addresses(out, e->n_reply_to ? e->reply_to : e->from, e->n_reply_to ? e->n_reply_to : e->n_from);
    add_addresses(out, e->to, e->n_to);
    add_addresses(out, e->cc, e->n_cc);
    add_addresses(out, e->bcc, e->n_bcc);
    buf_addc(out, ' ');
    add_text(out, e->in_reply_to);
    buf_addc(out, ' ');
    add_text(out, e->message_id);
    buf_addc(out, ')');
}

/* --- body structure --- */

static void add_param(struct buf *out, const Thurn__Parameter *p)
{
    str name = str_c(p->name), value = str_c(p->value);
    if (can_quote(value)) {
        imap_add_string(out, name);
        buf_addc(out, ' ');
        imap_add_string(out, value);
        return;
    }
    /* RFC 2231: what is not ASCII goes back into its extended form, which every client must know. */
    buf_addc(out, '"');
    buf_add(out, name);
    buf_add(out, S("*\" \"utf-8''"));
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.p[i];
        if (ascii_is_alnum(c) || memchr("-._~!#$&+^`|", c, 12))
            buf_addc(out, (char)c);
        else
            buf_printf(out, "%%%02X", c);
    }
    buf_addc(out, '"');
}

static bool has_param(Thurn__Parameter *const *v, size_t n, str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(str_c(v[i]->name), name))
            return true;
    return false;
}

static void add_params(struct buf *out, Thurn__Parameter *const *v, size_t n, bool wants_charset)
{
    /* RFC 2045 5.2: text without a charset is US-ASCII. */
    bool adds_charset = wants_charset && !has_param(v, n, S("charset"));
    if (n == 0 && !adds_charset) {
        buf_add(out, S("NIL"));
        return;
    }
    buf_addc(out, '(');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(out, ' ');
        add_param(out, v[i]);
    }
    if (adds_charset)
        buf_add(out, n ? S(" \"charset\" \"us-ascii\"") : S("\"charset\" \"us-ascii\""));
    buf_addc(out, ')');
}

static void add_languages(struct buf *out, const Thurn__Part *p)
{
    if (p->n_languages == 0) {
        buf_add(out, S("NIL"));
        return;
    }
    if (p->n_languages > 1)
        buf_addc(out, '(');
    for (size_t i = 0; i < p->n_languages; i++) {
        if (i)
            buf_addc(out, ' ');
        imap_add_string(out, str_c(p->languages[i]));
    }
    if (p->n_languages > 1)
        buf_addc(out, ')');
}

/* " disposition language location" */
static void add_extension(struct buf *out, const Thurn__Part *p)
{
    buf_addc(out, ' ');
    if (str_empty(str_c(p->disposition))) {
        buf_add(out, S("NIL"));
    } else {
        buf_addc(out, '(');
        imap_add_string(out, str_c(p->disposition));
        buf_addc(out, ' ');
        add_params(out, p->disposition_params, p->n_disposition_params, false);
        buf_addc(out, ')');
    }
    buf_addc(out, ' ');
    add_languages(out, p);
    buf_addc(out, ' ');
    imap_add_nstring(out, str_c(p->location));
}

/* Where the grammar wants a part and there is none. */
static void add_empty_text(struct buf *out, bool extended)
{
    imap_add_body(out, NULL, 0, extended);
}

bool imap_part_is_message(const Thurn__Part *p)
{
    return str_eq(str_c(p->type), S("MESSAGE")) &&
           (str_eq(str_c(p->subtype), S("RFC822")) || str_eq(str_c(p->subtype), S("GLOBAL")));
}

static bool is_multipart(const Thurn__Part *p)
{
    return str_eq(str_c(p->type), S("MULTIPART"));
}

static void add_part(struct buf *out, const Thurn__Part *p, bool extended); /* depth: the parser's limit */

static void add_multipart(struct buf *out, const Thurn__Part *p, bool extended)
{
    buf_addc(out, '(');
    for (size_t i = 0; i < p->n_parts; i++)
        add_part(out, p->parts[i], extended);
    if (p->n_parts == 0) /* the grammar wants one */
        add_empty_text(out, extended);
    buf_addc(out, ' ');
    imap_add_string(out, str_c(p->subtype));
    if (extended) {
        buf_addc(out, ' ');
        add_params(out, p->params, p->n_params, false);
        add_extension(out, p);
    }
    buf_addc(out, ')');
}

static void add_part(struct buf *out, const Thurn__Part *p, bool extended)
{
    if (is_multipart(p)) {
        add_multipart(out, p, extended);
        return;
    }
    bool is_text = str_eq(str_c(p->type), S("TEXT"));
    buf_addc(out, '(');
    imap_add_string(out, str_c(p->type));
    buf_addc(out, ' ');
    imap_add_string(out, str_c(p->subtype));
    buf_addc(out, ' ');
    add_params(out, p->params, p->n_params, is_text);
    buf_addc(out, ' ');
    imap_add_nstring(out, str_c(p->content_id));
    buf_addc(out, ' ');
    imap_add_nstring(out, str_c(p->description));
    buf_addc(out, ' ');
    imap_add_string(out, str_c(p->encoding));
    buf_addc(out, ' ');
    buf_add_u64(out, p->body_size);
    if (imap_part_is_message(p)) {
        buf_addc(out, ' ');
        imap_add_envelope(out, p->envelope);
        buf_addc(out, ' ');
        if (p->n_parts)
            add_part(out, p->parts[0], extended);
        else
            add_empty_text(out, extended); /* an encoded message, or a limit: a leaf, which the grammar does not know */
    }
    if (is_text || imap_part_is_message(p)) {
        buf_addc(out, ' ');
        buf_add_u64(out, p->body_lines);
    }
    if (extended) {
        buf_addc(out, ' ');
        imap_add_nstring(out, str_c(p->md5));
        add_extension(out, p);
    }
    buf_addc(out, ')');
}

void imap_add_body(struct buf *out, const Thurn__Part *root, uint64_t size, bool extended)
{
    if (root)
        add_part(out, root, extended);
    else
        buf_printf(out, "(\"TEXT\" \"PLAIN\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" %llu 0%s)",
                   (unsigned long long)size, extended ? " NIL NIL NIL NIL" : "");
}

/* What add_empty_text shows has a number, so it can be fetched: nothing. */
const Thurn__Part *imap_part_by_number(const Thurn__Part *root, const uint32_t *path, size_t n)
{
    static const Thurn__Part empty_text = {
        .base = PROTOBUF_C_MESSAGE_INIT(&thurn__part__descriptor), .type = (char *)"TEXT", .subtype = (char *)"PLAIN"};
    const Thurn__Part *part = root;
    bool is_root = true; /* part is a message's root that has no number of its own yet */
    for (size_t i = 0; i < n && part; i++) {
        if (!is_root && imap_part_is_message(part)) {
            part = part->n_parts ? part->parts[0] : &empty_text;
            is_root = true;
        }
        if (is_multipart(part) && part->n_parts == 0)
            part = path[i] == 1 ? &empty_text : NULL;
        else if (is_multipart(part))
            part = path[i] >= 1 && path[i] <= part->n_parts ? part->parts[path[i] - 1] : NULL;
        else if (!is_root || path[i] != 1)
            return NULL;
        is_root = false;
    }
    return part;
}
