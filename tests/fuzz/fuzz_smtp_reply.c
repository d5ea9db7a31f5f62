#include "queue-service/remote/reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever a server says, the text is one line of UTF-8 and code and status agree. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct smtp_reply r = {0};
    struct smtp_caps caps = {0};
    str all = str_n(data, size), line;
    enum smtp_reply_step step = SMTP_REPLY_MORE;
    while (step == SMTP_REPLY_MORE && str_split(&all, '\n', &line)) {
        step = smtp_reply_add(&r, line);
        if (step == SMTP_REPLY_BAD || step == SMTP_REPLY_LONG)
            return 0;
        smtp_caps_add(&caps, line, r.n_lines == 1);
        assert(r.code >= 200 && r.code < 600 && r.status[0] == (char)('0' + r.code / 100));
        assert(strlen(r.text) == r.n_text && r.n_text < SMTP_REPLY_TEXT_SIZE && utf8_valid(r.text, r.n_text));
        for (size_t i = 0; i < r.n_text; i++)
            assert(!ascii_is_ctl((unsigned char)r.text[i]));
    }
    return 0;
}
