#include "queue-service/bounce.h"

#include "base/clock.h"
#include "mail/date.h"
#include "mail/dsn.h"
#include "mail/header.h"
#include "mail/message.h"

#define SUBJECT_MAX 200u /* bytes of the original's that are repeated */
#define SCRATCH_MAX ((size_t)1024 * 1024)
#define FIELD_MAX 4096u
#define TEXT_WIDTH 72u
#define INDENT 4u

/* What each action is called, and what is said of it. In the order of weight: the first that applies names the message.
 */
static const struct {
    const char *action;
    str subject;
    const char *text;
} actions[] = {
    [BOUNCE_FAILED] =
        {"failed", S_INIT("Undeliverable: "),
         "Your message could not be delivered to the following recipients. It will not\r\nbe tried again.\r\n"},
    [BOUNCE_DELAYED] =
        {"delayed", S_INIT("Delayed: "),
         "Your message has not been delivered to the following recipients yet. You need\r\nnot send it again: delivery "
         "will be tried further.\r\n"},
    [BOUNCE_DELIVERED] = {"delivered", S_INIT("Delivered: "),
                          "Your message was delivered to the following recipients.\r\n"},
    [BOUNCE_RELAYED] =
        {"relayed", S_INIT("Relayed: "),
         "Your message was handed to the mail servers of the following recipients. They do\r\nnot say when they "
         "deliver it.\r\n"},
    [BOUNCE_EXPANDED] = {"expanded", S_INIT("Delivered: "),
                         "Your message was sent on to the members of the following lists.\r\n"},
};

static bool has_action(const struct bounce_input *in, enum bounce_action action)
{
    for (size_t i = 0; i < in->n_rcpts; i++)
        if (in->rcpts[i].action == action)
            return true;
    return false;
}

/* The first max bytes, cut at a character. */
static str cut(str s, size_t max)
{
    if (s.n <= max)
        return s;
    while (max > 0 && ((unsigned char)s.p[max] & 0xc0) == 0x80)
        max--;
    return str_slice(s, 0, max);
}

/* --- the header --- */

static void add_subject(const struct bounce_input *in, struct arena *a, struct buf *out)
{
    struct header_field f;
    size_t first = 0;
    while (first + 1 < ARRAY_LEN(actions) && !has_action(in, (enum bounce_action)first))
        first++;
    str original =
        header_find(in->original, S("Subject"), &f) ? cut(header_decode(a, f.value), SUBJECT_MAX) : S("your message");
    message_add_text(out, S("Subject"),
                     arena_printf(a, "%.*s%.*s", STR_ARG(actions[first].subject), STR_ARG(original)));
}

/* The original's id, if it is one that can be repeated: threads of the sender's mail program go by it. */
static void add_references(const struct bounce_input *in, struct arena *a, struct buf *out)
{
    struct header_field f;
    if (!header_find(in->original, S("Message-ID"), &f))
        return;
    str id = header_unfold(a, f.value);
    if (id.n < 3 || id.n > 900 || id.p[0] != '<' || str_find(id, '>') != (ptrdiff_t)id.n - 1 ||
        str_find(id, ' ') >= 0 || !ascii_only(id.p, id.n))
        return;
    message_add_raw(out, S("In-Reply-To"), id);
    message_add_raw(out, S("References"), id);
}

static void add_header(const struct bounce_input *in, struct arena *a, const char *boundary, struct buf *out)
{
    BUF(value, FIELD_MAX);
    message_add_mailbox(out, S("From"), S("Mail Delivery System"),
                        arena_printf(a, "MAILER-DAEMON@%.*s", STR_ARG(in->reporting_mta)));
    message_add_mailbox(out, S("To"), STR_NONE, in->sender);
    add_subject(in, a, out);
    date_add_rfc5322(&value, clock_unix(), 0);
    message_add_raw(out, S("Date"), buf_str(&value));
    buf_clear(&value);
    message_add_id(&value, in->reporting_mta);
    message_add_raw(out, S("Message-ID"), buf_str(&value));
    add_references(in, a, out);
    message_add_raw(out, S("Auto-Submitted"), S("auto-replied")); /* RFC 3834 5 */
    message_add_raw(out, S("MIME-Version"), S("1.0"));
    message_begin_multipart(out, S("report"), S("; report-type=delivery-status"), boundary);
}

/* --- the first part, for people --- */

/* Text in lines, indented; words are kept whole, control characters become spaces. */
static void add_wrapped(struct buf *out, str s)
{
    size_t column = INDENT;
    str word;
    buf_add(out, S("    "));
    while (str_split(&s, ' ', &word)) {
        if (word.n == 0)
            continue;
        if (column > INDENT && column + 1 + word.n > TEXT_WIDTH) {
            buf_add(out, S("\r\n    "));
            column = INDENT;
        } else if (column > INDENT) {
            buf_addc(out, ' ');
            column++;
        }
        for (size_t i = 0; i < word.n; i++)
            buf_addc(out, ascii_is_ctl((unsigned char)word.p[i]) ? ' ' : word.p[i]);
        column += word.n;
    }
    buf_add(out, S("\r\n"));
}

static void add_reason(const struct bounce_rcpt *r, struct arena *a, struct buf *out)
{
    if (r->diagnostic.n && r->code && r->remote_mta.n)
        add_wrapped(out, arena_printf(a, "%.*s said: %.*s", STR_ARG(r->remote_mta), STR_ARG(r->diagnostic)));
    else if (r->diagnostic.n)
        add_wrapped(out, r->diagnostic);
    if (r->action == BOUNCE_DELAYED && r->will_retry_until_unix) {
        BUF(date, 64);
        date_add_rfc5322(&date, r->will_retry_until_unix, 0);
        add_wrapped(out, arena_printf(a, "Delivery is tried until %s.", buf_z(&date)));
    }
}

static void add_explanation(const struct bounce_input *in, struct arena *a, struct buf *out)
{
    BUF(text, SCRATCH_MAX);
    buf_printf(&text, "This is the mail system at %.*s.\r\n", STR_ARG(in->reporting_mta));
    for (size_t k = 0; k < ARRAY_LEN(actions); k++) {
        if (!has_action(in, (enum bounce_action)k))
            continue;
        buf_printf(&text, "\r\n%s", actions[k].text);
        for (size_t i = 0; i < in->n_rcpts; i++) {
            if (in->rcpts[i].action != (enum bounce_action)k)
                continue;
            buf_add(&text, S("\r\n"));
            add_wrapped(&text, arena_printf(a, "<%.*s>", STR_ARG(in->rcpts[i].final_recipient)));
            add_reason(&in->rcpts[i], a, &text);
        }
    }
    bool is_ascii = ascii_only(text.p, text.n);
    buf_printf(out, "Content-Type: text/plain; charset=%s\r\nContent-Transfer-Encoding: %s\r\n\r\n",
               is_ascii ? "us-ascii" : "utf-8", is_ascii ? "7bit" : "8bit");
    buf_add(out, buf_str(&text));
    if (!buf_ok(&text))
        out->is_over = true;
}

/* --- the second part, for programs --- */

/* Fields of message/delivery-status are ASCII (RFC 3464 2.1.2), those of the global one are UTF-8. */
static void add_field(const struct bounce_input *in, struct buf *out, str name, const char *type, str value)
{
    BUF(clean, FIELD_MAX);
    buf_printf(&clean, "%s", type);
    bool keep = in->is_smtputf8 && utf8_valid(value.p, value.n);
    for (size_t i = 0; i < value.n; i++)
        buf_addc(&clean, (unsigned char)value.p[i] < 0x80 || keep ? value.p[i] : '?');
    message_add_raw(out, name, buf_str(&clean));
}

static void add_date(struct buf *out, str name, int64_t unix_seconds)
{
    BUF(date, 64);
    if (unix_seconds == 0)
        return;
    date_add_rfc5322(&date, unix_seconds, 0);
    message_add_raw(out, name, buf_str(&date));
}

/* RFC 3464 2.3. */
static void add_rcpt(const struct bounce_input *in, const struct bounce_rcpt *r, struct arena *a, struct buf *out)
{
    BUF(value, FIELD_MAX);
    buf_add(out, S("\r\n"));
    if (r->original_recipient.n) {
        dsn_add_original(&value, r->original_recipient, in->is_smtputf8);
        add_field(in, out, S("Original-Recipient"), "", buf_str(&value));
        buf_clear(&value);
    }
    dsn_add_recipient(&value, r->final_recipient, in->is_smtputf8);
    add_field(in, out, S("Final-Recipient"), "", buf_str(&value));
    message_add_raw(out, S("Action"), str_c(actions[r->action].action));
    add_field(in, out, S("Status"), "", r->status);
    str name = r->remote_mta;
    if (str_find(name, '[') > 0)
        name = str_slice(name, 0, (size_t)str_find(name, '['));
    if (name.n)
        add_field(in, out, S("Remote-MTA"), "dns; ", name);
    if (r->diagnostic.n) {
        bool is_said = r->code && r->remote_mta.n; /* RFC 3464 2.3.6: what no server said is no SMTP reply */
        str code = arena_printf(a, "%u ", r->code), text = r->diagnostic;
        if (is_said && !str_starts(text, code))
            text = arena_printf(a, "%.*s%.*s", STR_ARG(code), STR_ARG(text));
        add_field(in, out, S("Diagnostic-Code"), is_said ? "smtp; " : "x-thurn; ", text);
    }
    add_date(out, S("Last-Attempt-Date"), r->last_attempt_unix);
    if (r->action == BOUNCE_DELAYED)
        add_date(out, S("Will-Retry-Until"), r->will_retry_until_unix);
}

/* RFC 3464 2.2. */
static void add_status(const struct bounce_input *in, struct arena *a, struct buf *out)
{
    BUF(id, FIELD_MAX);
    buf_printf(out, "Content-Type: message/%sdelivery-status\r\n", in->is_smtputf8 ? "global-" : "");
    if (in->is_smtputf8)
        buf_add(out, S("Content-Transfer-Encoding: 8bit\r\n"));
    buf_add(out, S("\r\n"));
    if (in->envelope_id.n && dsn_add_unxtext(&id, in->envelope_id))
        add_field(in, out, S("Original-Envelope-Id"), "", buf_str(&id));
    add_field(in, out, S("Reporting-MTA"), "dns; ", in->reporting_mta);
    add_date(out, S("Arrival-Date"), in->arrival_unix);
    for (size_t i = 0; i < in->n_rcpts; i++)
        add_rcpt(in, &in->rcpts[i], a, out);
}

/* --- the third part: the original --- */

/* Its header, with the line end of its last field, at most BOUNCE_HEADERS_MAX of it. */
static str header_of(str original)
{
    str all = str_slice(original, 0, BOUNCE_HEADERS_MAX);
    size_t end = 0;
    while (end < all.n) {
        ptrdiff_t lf = str_find(str_slice(all, end, SIZE_MAX), '\n');
        if (lf < 0)
            return original.n > all.n ? str_slice(all, 0, end) : all;
        if (lf == 0 || (lf == 1 && all.p[end] == '\r'))
            break;
        end += (size_t)lf + 1;
    }
    return str_slice(all, 0, end);
}

static void add_original(const struct bounce_input *in, struct buf *out)
{
    bool is_whole = in->is_whole && has_action(in, BOUNCE_FAILED); /* RFC 3461 4.3 */
    str part = is_whole ? in->original : header_of(in->original);
    /* RFC 6533 4: the global types are for what the others cannot hold. */
    bool is_8bit = !ascii_only(part.p, part.n);
    bool is_global = is_8bit && in->is_smtputf8;
    const char *type = is_whole ? (is_global ? "message/global" : "message/rfc822")
                                : (is_global ? "message/global-headers" : "text/rfc822-headers");
    buf_printf(out, "Content-Type: %s\r\n", type);
    if (is_8bit)
        buf_add(out, S("Content-Transfer-Encoding: 8bit\r\n"));
    buf_add(out, S("\r\n"));
    buf_add(out, part);
}

bool bounce_build(const struct bounce_input *in, struct buf *out, struct err *err)
{
    assert(in->n_rcpts > 0);
    ARENA(a, SCRATCH_MAX);
    char boundary[MESSAGE_BOUNDARY_SIZE];
    size_t before = out->n;
    message_make_boundary(boundary);
    add_header(in, &a, boundary, out);
    message_begin_part(out, boundary);
    add_explanation(in, &a, out);
    message_begin_part(out, boundary);
    add_status(in, &a, out);
    message_begin_part(out, boundary);
    add_original(in, out);
    message_end_multipart(out, boundary);
    if (buf_ok(out))
        return true;
    buf_truncate(out, before);
    return err_set(err, ERR_LIMIT, "delivery status notification over %zu bytes", out->cap);
}
