#include "queue-service/remote/reply.h"

#include <stdio.h>

#include "base/num.h"

#define CODE_MIN 200u
#define CODE_END 600u

/* --- reply lines --- */

/* "250 text", "250-text", "250". */
static bool line_code(struct cursor *c, uint16_t *code, bool *is_last)
{
    unsigned n = 0;
    for (int i = 0; i < 3; i++) {
        int ch = cur_peek(c);
        if (ch < 0 || !ascii_is_digit((unsigned char)ch))
            return false;
        n = n * 10 + (unsigned)(ch - '0');
        c->p++;
    }
    if (n < CODE_MIN || n >= CODE_END)
        return false;
    *is_last = !cur_skip(c, '-');
    if (*is_last && cur_left(c) > 0 && !cur_skip(c, ' '))
        return false;
    *code = (uint16_t)n;
    return true;
}

/* status-code at the cursor (RFC 2034 4): class "." subject "." detail, the class that of the reply code. */
static bool line_status(struct cursor *c, unsigned class, char out[SMTP_STATUS_SIZE])
{
    struct cursor t = *c;
    uint32_t subject, detail;
    if (!cur_skip(&t, (char)('0' + class)) || !cur_skip(&t, '.') || !cur_u32(&t, 999, &subject) || !cur_skip(&t, '.') ||
        !cur_u32(&t, 999, &detail) || (cur_left(&t) > 0 && !cur_skip(&t, ' ')))
        return false;
    (void)snprintf(out, SMTP_STATUS_SIZE, "%u.%u.%u", class, (unsigned)subject, (unsigned)detail);
    *c = t;
    return true;
}

/* Append what people can read: control characters become spaces, bytes that are not UTF-8 question marks. */
static void add_text(struct smtp_reply *r, str s)
{
    bool is_utf8 = utf8_valid(s.p, s.n);
    size_t room = sizeof(r->text) - 1 - r->n_text, n = MIN(s.n, room);
    while (is_utf8 && n > 0 && n < s.n && ((unsigned char)s.p[n] & 0xc0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        r->text[r->n_text++] = (char)(ascii_is_ctl(ch) ? ' ' : ch >= 0x80 && !is_utf8 ? '?' : ch);
    }
    r->text[r->n_text] = '\0';
}

enum smtp_reply_step smtp_reply_add(struct smtp_reply *r, str line)
{
    if (r->n_lines >= SMTP_REPLY_LINES_MAX)
        return SMTP_REPLY_LONG;
    struct cursor c = cur_of(line);
    uint16_t code;
    bool is_last;
    if (!line_code(&c, &code, &is_last))
        return SMTP_REPLY_BAD;
    char status[SMTP_STATUS_SIZE];
    struct cursor text = c;
    bool has_status = line_status(&text, code / 100u, status);
    bool is_repeated = has_status && r->n_lines > 0 && strcmp(status, r->status) == 0;
    if (r->n_lines == 0) {
        char digits[4];
        (void)snprintf(digits, sizeof(digits), "%u", (unsigned)code);
        add_text(r, str_c(digits));
    }
    if (has_status)
        memcpy(r->status, status, sizeof(status));
    else if (r->n_lines == 0 || r->status[0] != (char)('0' + code / 100u))
        (void)snprintf(r->status, sizeof(r->status), "%u.0.0", code / 100u);
    str said = str_trim(cur_rest(is_repeated ? &text : &c));
    if (said.n) {
        add_text(r, S(" "));
        add_text(r, said);
    }
    r->code = code;
    r->n_lines++;
    return is_last ? SMTP_REPLY_DONE : SMTP_REPLY_MORE;
}

/* --- EHLO --- */

/* RFC 9422 4: name=value, separated by spaces. */
static void add_limits(struct smtp_caps *c, str params)
{
    str one;
    while (str_split(&params, ' ', &one)) {
        str name;
        uint32_t n;
        (void)str_split(&one, '=', &name);
        if (!num_u32(one, UINT32_MAX, &n) || n == 0)
            continue;
        if (str_eq_nocase(name, S("RCPTMAX")))
            c->rcpt_max = n;
        else if (str_eq_nocase(name, S("MAILMAX")))
            c->mail_max = n;
    }
}

void smtp_caps_add(struct smtp_caps *c, str line, bool is_first)
{
    static const struct {
        str keyword;
        enum smtp_cap cap;
    } known[] = {
        {S_INIT("PIPELINING"), SMTP_CAP_PIPELINING}, {S_INIT("SIZE"), SMTP_CAP_SIZE},
        {S_INIT("8BITMIME"), SMTP_CAP_8BITMIME},     {S_INIT("SMTPUTF8"), SMTP_CAP_SMTPUTF8},
        {S_INIT("CHUNKING"), SMTP_CAP_CHUNKING},     {S_INIT("DSN"), SMTP_CAP_DSN},
        {S_INIT("STARTTLS"), SMTP_CAP_STARTTLS},     {S_INIT("LIMITS"), SMTP_CAP_LIMITS},
    };
    str params = str_trim(str_slice(line, 4, SIZE_MAX)), keyword;
    (void)str_split(&params, ' ', &keyword);
    if (is_first) {
        (void)snprintf(c->name, sizeof(c->name), "%.*s", STR_ARG(keyword));
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (!str_eq_nocase(keyword, known[i].keyword))
            continue;
        c->offered |= known[i].cap;
        if (known[i].cap == SMTP_CAP_SIZE && !num_u64(str_trim(params), UINT64_MAX, &c->size_max))
            c->size_max = 0;
        if (known[i].cap == SMTP_CAP_LIMITS)
            add_limits(c, params);
    }
}
