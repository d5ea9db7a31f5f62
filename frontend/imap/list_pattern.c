#include "frontend/imap/list_pattern.h"

#include "base/buf.h"
#include "mail/utf7.h"

bool imap_pattern_make(str reference, str pattern, struct arena *a, str *out)
{
    BUF(joined, IMAP_PATTERN_MAX);
    BUF(utf8, IMAP_PATTERN_MAX * 2);
    buf_add(&joined, reference);
    buf_add(&joined, pattern);
    if (!buf_ok(&joined) || !utf7_decode(&utf8, buf_str(&joined)) || !buf_ok(&utf8))
        return false;
    *out = arena_str(a, buf_str(&utf8));
    return true;
}

/* RFC 3501 5.1: INBOX is known in any case; in names it stands in capitals. */
static size_t inbox_length(str name)
{
    return str_starts(name, S("INBOX")) && (name.n == 5 || name.p[5] == '/') ? 5 : 0;
}

/* Which prefixes of the pattern match what of the name was read so far: a set that moves along the name. */
bool imap_pattern_matches(str pattern, str name)
{
    bool at[IMAP_PATTERN_MAX * 2 + 1] = {true};
    if (pattern.n > IMAP_PATTERN_MAX * 2)
        return false;
    for (size_t k = 0; k < pattern.n && (pattern.p[k] == '*' || pattern.p[k] == '%'); k++)
        at[k + 1] = true;
    size_t n_caseless = inbox_length(name);
    for (size_t i = 0; i < name.n; i++) {
        bool before = at[0]; /* at[k] before this character */
        at[0] = false;
        for (size_t k = 0; k < pattern.n; k++) {
            char p = pattern.p[k];
            bool old = at[k + 1];
            if (p == '*' || p == '%') {
                bool takes = p == '*' || name.p[i] != '/';
                at[k + 1] = at[k] || (takes && old);
            } else {
                at[k + 1] =
                    before && (p == name.p[i] || (i < n_caseless && ascii_upper((unsigned char)p) == name.p[i]));
            }
            before = old;
        }
    }
    return at[pattern.n];
}
