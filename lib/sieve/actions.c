#include "base/num.h"
#include "mail/encoded_word.h"
#include "mail/transfer.h"
#include "sieve/state.h"

struct sieve_action *action_add(struct run *r, enum sieve_action_kind kind, const struct call *c)
{
    struct sieve_result *out = r->out;
    if (out->n == r->limits.actions) {
        (void)run_error(r, "the script wants more than %u actions", r->limits.actions);
        return NULL;
    }
    if (out->n == r->actions_cap) {
        r->actions_cap = MAX(r->actions_cap * 2, 8u);
        struct sieve_action *more = arena_array(r->arena, struct sieve_action, r->actions_cap);
        if (out->n)
            memcpy(more, out->actions, out->n * sizeof *more);
        out->actions = more;
    }
    struct sieve_action *a = &out->actions[out->n++];
    *a = (struct sieve_action){.kind = kind, .line = c ? c->node.line : 0, .script = r->script->name, .seconds = -1};
    return a;
}

/* The flags of an action: those it names, else the internal variable (RFC 5232 5). */
static void take_flags(struct run *r, const struct call *c, str **flags, size_t *n)
{
    const struct item *own = c ? call_item(c, I_FLAGS) : NULL;
    if (own) {
        flags_of_list(r, own->list, flags, n);
        return;
    }
    *n = r->n_flags;
    *flags = arena_array(r->arena, str, r->n_flags);
    if (r->n_flags)
        memcpy(*flags, r->flags, r->n_flags * sizeof **flags);
}

/* Whether an action that cannot stand beside a refusal was wanted before, or the other way round (RFC 5429 2.4). */
static bool conflicts(struct run *r, bool is_refusal)
{
    if (!is_refusal && r->has_reject) {
        (void)run_error(r, "the message is refused already, nothing else can be done with it");
        return true;
    }
    if (is_refusal) {
        for (size_t i = r->n_before; i < r->out->n; i++) {
            enum sieve_action_kind k = r->out->actions[i].kind;
            if (k != SIEVE_NOTIFY && k != SIEVE_REJECT) {
                (void)run_error(r, "a message that is kept, sent on or answered cannot be refused, too");
                return true;
            }
        }
    }
    return false;
}

/* keep, or the same in other words. */
static bool is_inbox(const struct sieve_action *a)
{
    return a->kind == SIEVE_KEEP || (a->kind == SIEVE_FILEINTO && str_eq_nocase(a->mailbox, S("INBOX")) &&
                                     !a->special_use.n && !a->mailbox_id.n);
}

FIBER static enum flow do_keep(struct run *r, const struct call *c)
{
    if (conflicts(r, false))
        return FLOW_ERROR;
    for (size_t i = r->n_before; i < r->out->n && !r->has_keep; i++)
        r->has_keep = is_inbox(&r->out->actions[i]);
    if (r->has_keep)
        return FLOW_GO_ON; /* once, 2.10.3 */
    struct sieve_action *a = action_add(r, SIEVE_KEEP, c);
    if (!a)
        return FLOW_ERROR;
    take_flags(r, c, &a->flags, &a->n_flags);
    r->has_keep = true;
    return message_now(r, &a->header, &a->body) ? FLOW_GO_ON : FLOW_ERROR;
}

static str special_use(struct run *r, const struct call *c)
{
    str use = call_string(r, c, I_SPECIAL_USE);
    return use.p ? use : S("");
}

FIBER static enum flow do_fileinto(struct run *r, const struct call *c)
{
    str mailbox = call_string(r, c, I_STRING_1);
    if (conflicts(r, false))
        return FLOW_ERROR;
    if (!word_mailbox(mailbox))
        return run_error(r, "'%.*s' cannot be the name of a mailbox", STR_ARG(str_slice(mailbox, 0, 60)));
    if (!call_has(c, I_COPY))
        r->is_keep_cancelled = true;
    for (size_t i = 0; i < r->out->n; i++) { /* 2.10.3: once into each mailbox */
        struct sieve_action *old = &r->out->actions[i];
        if (is_inbox(old) && str_eq_nocase(mailbox, S("INBOX")))
            return FLOW_GO_ON;
        if (old->kind == SIEVE_FILEINTO && str_eq(old->mailbox, mailbox) && str_eq(old->special_use, special_use(r, c)))
            return FLOW_GO_ON;
    }
    struct sieve_action *a = action_add(r, SIEVE_FILEINTO, c);
    if (!a)
        return FLOW_ERROR;
    str id = call_string(r, c, I_MAILBOXID);
    a->mailbox = mailbox;
    a->special_use = special_use(r, c);
    a->mailbox_id = id.p ? id : S("");
    a->may_create = call_has(c, I_CREATE);
    take_flags(r, c, &a->flags, &a->n_flags);
    return message_now(r, &a->header, &a->body) ? FLOW_GO_ON : FLOW_ERROR;
}

FIBER static enum flow do_redirect(struct run *r, const struct call *c)
{
    str to = call_string(r, c, I_STRING_1), address = STR_NONE, at = call_string(r, c, I_BYTIME_ABSOLUTE);
    const struct item *relative = call_item(c, I_SECONDS);
    bool is_list = call_has(c, I_LISTS);
    if (conflicts(r, false))
        return FLOW_ERROR;
    if (!is_list && !word_address(to, r->arena, &address))
        return run_error(r, "'%.*s' is no e-mail address", STR_ARG(str_slice(flat_text(r, to), 0, 60)));
    for (size_t i = 0; i < r->out->n; i++) {
        struct sieve_action *old = &r->out->actions[i];
        if (old->kind == SIEVE_REDIRECT && !is_list && str_eq_nocase(old->address, address)) {
            r->is_keep_cancelled = r->is_keep_cancelled || !call_has(c, I_COPY);
            return FLOW_GO_ON;
        }
    }
    if (++r->n_redirects > r->limits.redirects)
        return run_error(r, "the script sends the message on to more than %u addresses", r->limits.redirects);
    if (!call_has(c, I_COPY))
        r->is_keep_cancelled = true;
    struct sieve_action *a = action_add(r, SIEVE_REDIRECT, c);
    if (!a)
        return FLOW_ERROR;
    str notify = call_string(r, c, I_NOTIFY), ret = call_string(r, c, I_RET), mode = call_string(r, c, I_BYMODE);
    a->address = is_list ? S("") : address;
    a->list = is_list ? to : S("");
    a->notify = notify.p ? notify : S("");
    a->ret = ret.p ? ret : S("");
    a->by_mode = mode.p ? mode : S("");
    a->is_by_absolute = at.p != NULL;
    a->by_time = at.p ? at : relative ? arena_printf(r->arena, "%llu", (unsigned long long)relative->number) : S("");
    a->has_by_trace = call_has(c, I_BYTRACE);
    return message_now(r, &a->header, &a->body) ? FLOW_GO_ON : FLOW_ERROR;
}

static enum flow do_reject(struct run *r, const struct call *c)
{
    if (conflicts(r, true))
        return FLOW_ERROR;
    if (r->has_reject)
        return run_error(r, "the message is refused already");
    struct sieve_action *a = action_add(r, SIEVE_REJECT, c);
    if (!a)
        return FLOW_ERROR;
    a->reason = call_string(r, c, I_STRING_1);
    a->is_ereject = c->node.op == OP_EREJECT;
    r->has_reject = true;
    r->is_keep_cancelled = true;
    return FLOW_GO_ON;
}

/* RFC 8580: a copy of what is sent. */
static void take_fcc(struct run *r, const struct call *c, struct sieve_action *a)
{
    str fcc = call_string(r, c, I_FCC), id = call_string(r, c, I_MAILBOXID);
    const struct item *flags = call_item(c, I_FLAGS);
    a->fcc = fcc.p ? fcc : S("");
    a->fcc_how.may_create = call_has(c, I_CREATE);
    a->fcc_how.special_use = special_use(r, c);
    a->fcc_how.mailbox_id = id.p ? id : S("");
    if (flags)
        flags_of_list(r, flags->list, &a->fcc_how.flags, &a->fcc_how.n_flags);
}

static enum flow do_vacation(struct run *r, const struct call *c)
{
    const struct item *days = call_item(c, I_DAYS), *seconds = call_item(c, I_SECONDS),
                      *addresses = call_item(c, I_ADDRESSES);
    if (conflicts(r, false))
        return FLOW_ERROR;
    if (r->has_vacation) /* RFC 5230 4.7 */
        return run_error(r, "vacation is used a second time");
    struct sieve_action *a = action_add(r, SIEVE_VACATION, c);
    if (!a)
        return FLOW_ERROR;
    str subject = call_string(r, c, I_SUBJECT), from = call_string(r, c, I_FROM), handle = call_string(r, c, I_HANDLE);
    r->has_vacation = true;
    a->reason = call_string(r, c, I_STRING_1);
    a->subject = subject.p ? flat_text(r, subject) : STR_NONE;
    a->from = from.p ? flat_text(r, from) : S("");
    a->handle = handle.p ? handle : STR_NONE;
    a->is_mime = call_has(c, I_MIME);
    a->seconds = seconds ? (int64_t)MIN(seconds->number, (uint64_t)INT32_MAX)
                 : days  ? (int64_t)days->number * 86400
                         : -1;
    if (addresses) {
        struct cursor at = addresses->list;
        a->addresses = arena_array(r->arena, str, addresses->number);
        while (list_next(r, &at, &a->addresses[a->n_addresses]))
            a->n_addresses++;
    }
    take_fcc(r, c, a);
    return FLOW_GO_ON;
}

static enum flow do_notify(struct run *r, const struct call *c)
{
    str method = call_string(r, c, I_STRING_1), importance = call_string(r, c, I_IMPORTANCE),
        message = call_string(r, c, I_MESSAGE), from = call_string(r, c, I_FROM);
    const struct item *options = call_item(c, I_OPTIONS);
    const char *problem;
    if (str_starts_nocase(method, S("mailto:")) ? !word_uri_mailto(method, r->arena, &problem)
                                                : str_find(method, ':') <= 0)
        return run_error(r, "'%.*s' is no method of notification", STR_ARG(str_slice(flat_text(r, method), 0, 60)));
    if (++r->n_notifies > r->limits.notifies)
        return run_error(r, "the script sends more than %u notices", r->limits.notifies);
    struct sieve_action *a = action_add(r, SIEVE_NOTIFY, c);
    if (!a)
        return FLOW_ERROR;
    a->method = method;
    a->importance = importance.p ? importance : S("");
    a->reason = message.p ? message : STR_NONE;
    a->from = from.p ? flat_text(r, from) : S("");
    if (options) {
        struct cursor at = options->list;
        a->options = arena_array(r->arena, str, options->number);
        while (list_next(r, &at, &a->options[a->n_options]))
            a->n_options++;
    }
    take_fcc(r, c, a);
    return FLOW_GO_ON;
}

/* --- headers, RFC 5293 --- */

static bool is_protected(str name, bool to_delete)
{
    return to_delete && (str_eq_nocase(name, S("Received")) || str_eq_nocase(name, S("Auto-Submitted")) ||
                         str_eq_nocase(name, S("X-Sieve-Redirected-From")));
}

static enum flow do_addheader(struct run *r, const struct call *c)
{
    str name = call_string(r, c, I_STRING_1), value = call_string(r, c, I_STRING_2);
    if (!word_header_name(name))
        return run_error(r, "'%.*s' cannot be the name of a header field",
                         STR_ARG(str_slice(flat_text(r, name), 0, 60)));
    if (r->header.n > 2000)
        return run_error(r, "the header has too many fields");
    message_add_field(r, name, value, call_has(c, I_LAST));
    return FLOW_GO_ON;
}

FIBER static enum flow do_deleteheader(struct run *r, const struct call *c)
{
    str name = str_trim(call_string(r, c, I_STRING_1));
    const struct item *index = call_item(c, I_INDEX), *keys = call_item(c, I_LIST_1);
    struct matcher m;
    size_t *v;
    if (!word_header_name(name))
        return run_error(r, "'%.*s' cannot be the name of a header field",
                         STR_ARG(str_slice(flat_text(r, name), 0, 60)));
    if (is_protected(name, true)) /* RFC 5293 5: left alone without an error */
        return FLOW_GO_ON;
    matcher_of(r, c, &m);
    message_load_header(r);
    size_t n = header_find_all(r, &r->header, name, index ? index->number : 0, call_has(c, I_LAST), &v);
    if (m.type == MATCH_COUNT && keys && !match_count(r, &m, n, keys))
        return FLOW_GO_ON;
    for (size_t i = n; i-- > 0;) {
        bool fits = true;
        if (keys && m.type != MATCH_COUNT && !match_keys(r, &m, field_value(r, &r->header.v[v[i]]), keys, &fits))
            return FLOW_ERROR;
        if (fits)
            message_remove_field(r, v[i]);
    }
    return FLOW_GO_ON;
}

/* --- parts, RFC 5703 --- */

static void add_text_entity(struct run *r, struct buf *out, str text)
{
    (void)r;
    buf_add(out, S("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"));
    transfer_encode_qp(out, text);
}

/* The header as it is now without its MIME fields, with another subject or sender. */
static void add_header_without_mime(struct run *r, struct buf *out, str subject, str from)
{
    message_load_header(r);
    for (size_t i = 0; i < r->header.n; i++) {
        const struct field *f = &r->header.v[i];
        if (str_starts_nocase(f->name, S("Content-")) || str_eq_nocase(f->name, S("MIME-Version")) ||
            (subject.p && str_eq_nocase(f->name, S("Subject"))) || (from.p && str_eq_nocase(f->name, S("From"))))
            continue;
        buf_add(out, f->raw);
        if (!str_ends(f->raw, S("\n")))
            buf_add(out, S("\r\n"));
    }
    const str names[] = {S("Subject: "), S("From: ")}, values[] = {subject, from};
    for (size_t i = 0; i < 2; i++) {
        str v = values[i].p ? flat_text(r, values[i]) : STR_NONE;
        if (!values[i].p)
            continue;
        buf_add(out, names[i]);
        if (ascii_only(v.p, v.n))
            buf_add(out, v);
        else
            encoded_word_encode(out, v, names[i].n);
        buf_add(out, S("\r\n"));
    }
    buf_add(out, S("MIME-Version: 1.0\r\n"));
}

static void split_entity(str entity, str *header, str *body)
{
    ptrdiff_t blank = str_find_str(entity, S("\r\n\r\n"));
    if (str_starts(entity, S("\r\n")))
        blank = -2;
    *header = blank > 0 ? str_slice(entity, 0, (size_t)blank + 2) : blank == -2 ? S("") : entity;
    *body = blank == -2 ? str_slice(entity, 2, SIZE_MAX)
            : blank > 0 ? str_slice(entity, (size_t)blank + 4, SIZE_MAX)
                        : S("");
}

FIBER static enum flow do_replace(struct run *r, const struct call *c)
{
    str text = call_string(r, c, I_STRING_1), header, body;
    BUF(b, (4u << 20) + 4 * text.n);
    if (r->part && r->part->part != r->message->root) {
        if (call_has(c, I_MIME))
            buf_add(&b, text);
        else
            add_text_entity(r, &b, text);
        return message_replace_part(r, r->part->part, arena_str(r->arena, buf_str(&b))) ? FLOW_GO_ON : FLOW_ERROR;
    }
    add_header_without_mime(r, &b, call_string(r, c, I_SUBJECT), call_string(r, c, I_FROM));
    if (call_has(c, I_MIME)) {
        split_entity(text, &header, &body);
        buf_add(&b, header);
        if (header.n && !str_ends(header, S("\r\n")))
            buf_add(&b, S("\r\n"));
        buf_add(&b, S("\r\n"));
        header = arena_str(r->arena, buf_str(&b));
        message_replace(r, header, body);
        return FLOW_GO_ON;
    }
    add_text_entity(r, &b, text);
    split_entity(arena_str(r->arena, buf_str(&b)), &header, &body);
    message_replace(r, arena_printf(r->arena, "%.*s\r\n", STR_ARG(header)), body);
    return FLOW_GO_ON;
}

FIBER static enum flow do_enclose(struct run *r, const struct call *c)
{
    str whole, text = call_string(r, c, I_STRING_1), one;
    const struct item *fields = call_item(c, I_LIST_3);
    if (!message_whole(r, &whole))
        return FLOW_ERROR;
    BUF(h, 1u << 20);
    BUF(b, (4u << 20) + 4 * text.n + 2 * whole.n);
    str boundary =
        arena_printf(r->arena, "enclosed-%08x%08x", (unsigned)hash_stable(whole), (unsigned)(hash_stable(whole) >> 32));
    add_header_without_mime(r, &h, call_string(r, c, I_SUBJECT), STR_NONE);
    if (fields) {
        struct cursor at = fields->list;
        while (list_next(r, &at, &one)) {
            one = flat_text(r, one);
            ptrdiff_t colon = str_find(one, ':');
            if (colon > 0 && word_header_name(str_slice(one, 0, (size_t)colon))) {
                buf_add(&h, one);
                buf_add(&h, S("\r\n"));
            }
        }
    }
    buf_printf(&h, "Content-Type: multipart/mixed; boundary=\"%.*s\"\r\n\r\n", STR_ARG(boundary));
    buf_printf(&b, "--%.*s\r\n", STR_ARG(boundary));
    add_text_entity(r, &b, text);
    buf_printf(&b, "\r\n--%.*s\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n",
               STR_ARG(boundary));
    buf_add(&b, whole);
    buf_printf(&b, "\r\n--%.*s--\r\n", STR_ARG(boundary));
    message_replace(r, arena_str(r->arena, buf_str(&h)), arena_str(r->arena, buf_str(&b)));
    return FLOW_GO_ON;
}

FIBER static enum flow do_extracttext(struct run *r, const struct call *c)
{
    const struct item *first = call_item(c, I_FIRST);
    str text = S("");
    if (!r->part)
        return run_error(r, "extracttext stands outside of a foreverypart");
    if (str_eq(r->part->part->type, S("TEXT")) && !part_content(r, r->part->part, true, SIEVE_VALUE_MAX * 4, &text))
        return FLOW_ERROR;
    if (first) {
        size_t n = 0, chars = 0;
        while (n < text.n && chars < first->number) {
            n++;
            while (n < text.n && ((unsigned char)text.p[n] & 0xc0) == 0x80)
                n++;
            chars++;
        }
        text = str_slice(text, 0, n);
    }
    return variable_set(r, call_string(r, c, I_STRING_1), variable_modify(r, c, text)) ? FLOW_GO_ON : FLOW_ERROR;
}

FIBER enum flow run_action(struct run *r, const struct call *c)
{
    switch (c->node.op) {
    case OP_KEEP:
        return do_keep(r, c);
    case OP_DISCARD:
        r->is_keep_cancelled = true;
        return FLOW_GO_ON;
    case OP_FILEINTO:
        return do_fileinto(r, c);
    case OP_REDIRECT:
        return do_redirect(r, c);
    case OP_REJECT:
    case OP_EREJECT:
        return do_reject(r, c);
    case OP_VACATION:
        return do_vacation(r, c);
    case OP_NOTIFY:
        return do_notify(r, c);
    case OP_SET:
        return variable_set(r, call_string(r, c, I_STRING_1), variable_modify(r, c, call_string(r, c, I_STRING_2)))
                   ? FLOW_GO_ON
                   : FLOW_ERROR;
    case OP_SETFLAG:
    case OP_ADDFLAG:
    case OP_REMOVEFLAG:
        flags_apply(r, c);
        return r->out->has_error ? FLOW_ERROR : FLOW_GO_ON;
    case OP_ADDHEADER:
        return do_addheader(r, c);
    case OP_DELETEHEADER:
        return do_deleteheader(r, c);
    case OP_REPLACE:
        return do_replace(r, c);
    case OP_ENCLOSE:
        return do_enclose(r, c);
    case OP_EXTRACTTEXT:
        return do_extracttext(r, c);
    case OP_DEBUG_LOG:
        if (r->in->host && r->in->host->ops->debug)
            r->in->host->ops->debug(r->in->host, flat_text(r, call_string(r, c, I_STRING_1)));
        return FLOW_GO_ON;
    default:
        return run_error(r, "%.*s", STR_ARG(call_string(r, c, I_STRING_1)));
    }
}
