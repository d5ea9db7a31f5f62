/* Command lines: whatever is accepted must be safe to write into headers, requests and logs. */
#include <stdint.h>

#include "frontend/smtp/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_be_clean(str s, size_t max)
{
    assert(s.n <= max);
    for (size_t i = 0; i < s.n; i++)
        assert(!ascii_is_ctl((unsigned char)s.p[i]));
    assert(utf8_valid(s.p, s.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 1 << 20);
    str line = str_n(data, size), args;
    enum smtp_verb verb;
    enum smtp_reply why;
    struct smtp_mail_args mail;
    struct smtp_rcpt_args rcpt;
    uint64_t n;
    bool is_last;
    if (!smtp_verb_parse(line, &verb, &args))
        return 0;
    if (smtp_mail_parse(args, &a, &mail, &why)) {
        must_be_clean(mail.path.address, SMTP_PATH_MAX);
        must_be_clean(mail.envelope_id, SMTP_ENVID_MAX);
        assert(mail.path.is_null == (mail.path.address.n == 0));
    } else {
        assert(why > SMTP_REPLY_NONE && why < SMTP_REPLIES_ && smtp_reply_class(why) == 5);
    }
    for (int allow_utf8 = 0; allow_utf8 < 2; allow_utf8++) {
        if (!smtp_rcpt_parse(args, allow_utf8, &a, &rcpt, &why)) {
            assert(why > SMTP_REPLY_NONE && why < SMTP_REPLIES_);
            continue;
        }
        must_be_clean(rcpt.path.address, SMTP_PATH_MAX);
        must_be_clean(rcpt.original, SMTP_ORCPT_MAX);
        assert(rcpt.path.address.n && rcpt.notify <= 8);
        assert(allow_utf8 || ascii_only(rcpt.path.address.p, rcpt.path.address.n));
    }
    if (smtp_bdat_parse(args, &n, &is_last))
        assert(n <= INT64_MAX);
    if (smtp_hello_parse(args))
        must_be_clean(args, SMTP_HELLO_MAX);
    return 0;
}
