#include "mail/mime_internal.h"

#include "mail/charset.h"
#include "mail/html_text.h"
#include "mail/transfer.h"

#define DECODED_MAX (192u * 1024) /* of at most 64 KiB raw text */

static bool is_space(str s, size_t i, size_t *length)
{
    unsigned char c = (unsigned char)s.p[i];
    *length = 1;
    if (c <= ' ')
        return true;
    if (c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] == 0xa0) { /* no-break space */
        *length = 2;
        return true;
    }
    *length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    *length = MIN(*length, s.n - i);
    return false;
}

/* White space runs become one space; at most MIME_PREVIEW_MAX characters. */
static str fold_space(struct arena *a, str text)
{
    BUF(out, MIME_PREVIEW_MAX * 4 + 1);
    unsigned characters = 0;
    bool is_gap = false;
    for (size_t i = 0, n; i < text.n && characters < MIME_PREVIEW_MAX; i += n) {
        if (is_space(text, i, &n)) {
            is_gap = true;
            continue;
        }
        if (is_gap && characters) {
            if (++characters == MIME_PREVIEW_MAX)
                break;
            buf_addc(&out, ' ');
        }
        is_gap = false;
        buf_add(&out, str_slice(text, i, i + n));
        characters++;
    }
    return arena_str(a, buf_str(&out));
}

str mime_preview(struct arena *a, const struct mime_part *part, str raw)
{
    BUF(decoded, DECODED_MAX);
    BUF(utf8, DECODED_MAX * 3);
    transfer_decode(transfer_kind_of(part->encoding), raw, &decoded);
    /* The raw text may have been cut within a character: no flush. */
    CLEANUP(charset_free) struct charset *c = charset_new(mime_param(&part->params, "charset"));
    charset_feed(c, buf_str(&decoded), false, &utf8);
    if (!str_eq(part->subtype, S("HTML")))
        return fold_space(a, buf_str(&utf8));
    BUF(text, DECODED_MAX * 3);
    html_to_text(&text, buf_str(&utf8));
    return fold_space(a, buf_str(&text));
}
