#include "mail/mime_internal.h"

#include "mail/content_field.h"
#include "mail/date.h"
#include "mail/header.h"

str mime_param(const struct mime_params *params, const char *name)
{
    for (size_t i = 0; i < params->n; i++)
        if (str_eq(params->v[i].name, str_c(name)))
            return params->v[i].value;
    return S("");
}

static bool charge(struct mime_keeper *k, size_t n)
{
    if (n > k->left) {
        k->limit_hit = true;
        return false;
    }
    k->left -= n;
    return true;
}

/* One line of at most max bytes, charged; empty when nothing is left. */
static str keep(struct mime_keeper *k, str value, size_t max)
{
    str line = header_unfold(k->a, value);
    if (line.n > max) {
        k->limit_hit = true;
        line.n = max;
        while (line.n && ((unsigned char)line.p[line.n] & 0xc0) == 0x80)
            line.n--;
        line = arena_str(k->a, line);
    }
    return charge(k, line.n) ? line : S("");
}

static str keep_upper(struct mime_keeper *k, str value, size_t max)
{
    str s = keep(k, value, max);
    for (size_t i = 0; i < s.n; i++)
        ((char *)(uintptr_t)s.p)[i] = (char)ascii_upper((unsigned char)s.p[i]);
    return s;
}

static void keep_params(struct mime_keeper *k, struct mime_params *params)
{
    size_t kept = 0;
    while (kept < params->n && charge(k, params->v[kept].name.n + params->v[kept].value.n))
        kept++;
    params->n = kept;
}

static void read_content_type(struct mime_keeper *k, str value, struct mime_part *part)
{
    struct content_field f;
    content_field_parse(k->a, value, true, k->limits->params, k->limits->value, &f);
    k->limit_hit |= f.is_cut;
    part->params = f.params;
    keep_params(k, &part->params);
    if (!str_empty(f.token) && !str_empty(f.subtype)) {
        part->type = f.token;
        part->subtype = f.subtype;
    } else if (str_eq(f.token, S("MULTIPART"))) { /* RFC 2046 5.1.7: unknown ones are mixed */
        part->type = f.token;
        part->subtype = S("MIXED");
    } else if (str_eq(f.token, S("TEXT")) || str_empty(f.token)) { /* RFC 2045 5.2 */
        part->type = S("TEXT");
        part->subtype = S("PLAIN");
    } else {
        part->type = S("APPLICATION");
        part->subtype = S("OCTET-STREAM");
    }
}

static void read_disposition(struct mime_keeper *k, str value, struct mime_part *part)
{
    struct content_field f;
    content_field_parse(k->a, value, false, k->limits->params, k->limits->value, &f);
    k->limit_hit |= f.is_cut;
    part->disposition = str_empty(f.token) && f.params.n ? S("attachment") : f.token;
    part->disposition_params = f.params;
    keep_params(k, &part->disposition_params);
}

/* "en, fr (French)" (RFC 3282). */
static void read_languages(struct mime_keeper *k, str value, struct mime_part *part)
{
    str list = keep(k, value, 256), one;
    part->languages = arena_array(k->a, str, 16);
    while (part->n_languages < 16 && str_split(&list, ',', &one)) {
        ptrdiff_t comment = str_find(one, '(');
        one = str_trim(comment >= 0 ? str_slice(one, 0, (size_t)comment) : one);
        if (one.n)
            part->languages[part->n_languages++] = one;
    }
}

static void read_encoding(struct mime_keeper *k, str value, struct mime_part *part)
{
    str s = keep_upper(k, value, 64);
    size_t n = 0;
    while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t' && s.p[n] != ';' && s.p[n] != '(')
        n++;
    part->encoding = str_slice(s, 0, n);
}

static void read_content_field(struct mime_keeper *k, const struct header_field *f, struct mime_part *part)
{
    str name = str_slice(f->name, 8, SIZE_MAX);
    if (str_eq_nocase(name, S("type")) && str_empty(part->type))
        read_content_type(k, f->value, part);
    else if (str_eq_nocase(name, S("transfer-encoding")) && str_empty(part->encoding))
        read_encoding(k, f->value, part);
    else if (str_eq_nocase(name, S("disposition")) && str_empty(part->disposition))
        read_disposition(k, f->value, part);
    else if (str_eq_nocase(name, S("id")) && str_empty(part->id))
        part->id = keep(k, f->value, k->limits->value);
    else if (str_eq_nocase(name, S("description")) && str_empty(part->description))
        part->description = keep(k, f->value, k->limits->value);
    else if (str_eq_nocase(name, S("md5")) && str_empty(part->md5))
        part->md5 = keep(k, f->value, 64);
    else if (str_eq_nocase(name, S("location")) && str_empty(part->location))
        part->location = keep(k, f->value, k->limits->value);
    else if (str_eq_nocase(name, S("language")) && !part->languages)
        read_languages(k, f->value, part);
}

/* Fields that come twice are read as one list. */
static void read_addresses(struct mime_keeper *k, str value, struct address_list *list)
{
    if (list->n >= k->limits->addresses) {
        k->limit_hit = true;
        return;
    }
    struct address_list more;
    address_list_parse(k->a, value, k->limits->addresses - list->n, &more);
    k->limit_hit |= more.is_cut;
    size_t kept = 0;
    for (; kept < more.n; kept++) {
        const struct mime_keeper before = *k;
        const struct mail_address *m = &more.v[kept];
        if (!charge(k, m->name.n + m->raw_name.n + m->local.n + m->domain.n + m->route.n + m->group_start.n +
                           MIME_ADDRESS_COST)) {
            k->left = before.left;
            break;
        }
    }
    if (list->n == 0) {
        *list = (struct address_list){.v = more.v, .n = kept, .is_cut = more.is_cut};
        return;
    }
    if (kept == 0)
        return;
    if (list->n + kept > list->cap) { /* a field may come ten thousand times */
        list->cap = 2 * (list->n + kept);
        struct mail_address *v = arena_array(k->a, struct mail_address, list->cap);
        memcpy(v, list->v, list->n * sizeof(*v));
        list->v = v;
    }
    memcpy(list->v + list->n, more.v, kept * sizeof(*more.v));
    list->n += kept;
}

static void read_envelope_field(struct mime_keeper *k, const struct header_field *f, struct mime_envelope *e)
{
    struct {
        str name;
        str *text;
        struct address_list *addresses;
    } const known[] = {
        {S("from"), NULL, &e->from},
        {S("to"), NULL, &e->to},
        {S("cc"), NULL, &e->cc},
        {S("bcc"), NULL, &e->bcc},
        {S("sender"), NULL, &e->sender},
        {S("reply-to"), NULL, &e->reply_to},
        {S("date"), &e->date, NULL},
        {S("subject"), &e->subject, NULL},
        {S("in-reply-to"), &e->in_reply_to, NULL},
        {S("message-id"), &e->message_id, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (!str_eq_nocase(f->name, known[i].name))
            continue;
        if (known[i].addresses)
            read_addresses(k, f->value, known[i].addresses);
        else if (!known[i].text->p) /* the first one counts; an empty one is there too */
            *known[i].text = keep(k, f->value, k->limits->value * 4);
        return;
    }
}

void mime_read_fields(struct mime_keeper *k, str header, struct mime_part *part, struct mime_envelope *envelope)
{
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    while (header_next(&it, &f)) {
        if (f.name.n > 8 && str_starts_nocase(f.name, S("content-")))
            read_content_field(k, &f, part);
        else if (envelope && f.name.n <= 11)
            read_envelope_field(k, &f, envelope);
    }
    if (str_empty(part->type)) {
        bool in_digest = part->parent && str_eq(part->parent->type, S("MULTIPART")) &&
                         str_eq(part->parent->subtype, S("DIGEST")); /* RFC 2046 5.1.5 */
        part->type = in_digest ? S("MESSAGE") : S("TEXT");
        part->subtype = in_digest ? S("RFC822") : S("PLAIN");
    }
    if (str_empty(part->encoding))
        part->encoding = S("7BIT");
}

/* --- ids and date of the root --- */

/* The next "<…>" of the value, without brackets and white space. */
static bool next_id(struct arena *a, str *rest, str *id)
{
    for (;;) {
        ptrdiff_t open = str_find(*rest, '<');
        if (open < 0)
            return false;
        *rest = str_slice(*rest, (size_t)open + 1, SIZE_MAX);
        ptrdiff_t close = str_find(*rest, '>');
        str inner = close < 0 ? *rest : str_slice(*rest, 0, (size_t)close);
        *rest = close < 0 ? S("") : str_slice(*rest, (size_t)close + 1, SIZE_MAX);
        ptrdiff_t again = str_rfind(inner, '<'); /* "<<id>" */
        if (again >= 0)
            inner = str_slice(inner, (size_t)again + 1, SIZE_MAX);
        char *out = arena_alloc(a, inner.n + 1);
        size_t n = 0;
        for (size_t i = 0; i < inner.n; i++)
            if ((unsigned char)inner.p[i] > ' ')
                out[n++] = inner.p[i];
        out[n] = '\0';
        *id = str_n(out, n);
        if (n)
            return true;
    }
}

static void add_reference(struct mime_keeper *k, struct mime_message *m, str id)
{
    for (size_t i = 0; i < m->n_references; i++)
        if (str_eq(m->references[i], id))
            return;
    if (id.n > 998 || !charge(k, id.n)) {
        k->limit_hit = true;
        return;
    }
    if (m->n_references == MIME_REFERENCES_MAX) { /* the first is the root of the thread; the newest are the parents */
        memmove(&m->references[1], &m->references[2], (MIME_REFERENCES_MAX - 2) * sizeof(str));
        m->n_references--;
        k->limit_hit = true;
    }
    m->references[m->n_references++] = id;
}

static void read_references(struct mime_keeper *k, str header, str name, struct mime_message *m)
{
    struct header_field f;
    if (!header_find(header, name, &f))
        return;
    if (!m->references)
        m->references = arena_array(k->a, str, MIME_REFERENCES_MAX);
    str rest = f.value, id;
    while (next_id(k->a, &rest, &id))
        add_reference(k, m, id);
}

void mime_read_thread(struct mime_keeper *k, str header, struct mime_message *m)
{
    read_references(k, header, S("references"), m);
    read_references(k, header, S("in-reply-to"), m);
    str rest = m->envelope.message_id, id;
    if (next_id(k->a, &rest, &id))
        m->message_id = id;
    else /* without brackets: what there is, if it is one word */
        m->message_id = str_find(m->envelope.message_id, ' ') < 0 ? m->envelope.message_id : S("");
    struct mail_date date;
    if (date_parse(m->envelope.date, &date))
        m->sent_unix = date.unix_seconds;
}

/* --- attachments --- */

static bool is_attachment(const struct mime_part *p)
{
    if (str_eq(p->disposition, S("attachment")))
        return true;
    bool is_inline = str_eq(p->disposition, S("inline"));
    bool has_name =
        !str_empty(mime_param(&p->disposition_params, "filename")) || !str_empty(mime_param(&p->params, "name"));
    if (str_eq(p->type, S("TEXT")))
        return has_name && !is_inline;
    bool in_related = p->parent && str_eq(p->parent->type, S("MULTIPART")) && str_eq(p->parent->subtype, S("RELATED"));
    bool is_media = str_eq(p->type, S("IMAGE")) || str_eq(p->type, S("AUDIO")) || str_eq(p->type, S("VIDEO"));
    return !(is_media && (is_inline || (in_related && !str_empty(p->id))));
}

bool mime_has_attachment(const struct mime_part *root)
{
    /* Depth is bounded by the parser's limit. */
    if (!str_eq(root->type, S("MULTIPART")))
        return is_attachment(root);
    for (const struct mime_part *c = root->children; c; c = c->next)
        if (mime_has_attachment(c))
            return true;
    return false;
}
