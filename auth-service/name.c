#include "auth-service/name.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>
#include <unicode/utf8.h>

#include "base/buf.h"
#include "mail/address.h"

#define QUOTED_MAX 100u /* bytes of a name that a complaint repeats */
#define LOCAL_UTF16_MAX 512
#define FOLDED_MAX 8 /* bytes; a letter's folded form is one letter, of at most 4 */

/* NFC of valid UTF-8, into the arena. */
static bool nfc(str s, struct arena *a, str *out, struct err *err)
{
    if (ascii_only(s.p, s.n)) {
        *out = s;
        return true;
    }
    UErrorCode e = U_ZERO_ERROR;
    UChar from[LOCAL_UTF16_MAX], to[LOCAL_UTF16_MAX];
    int32_t n = 0, m = 0, bytes = 0;
    char utf8[NAME_KEY_MAX];
    u_strFromUTF8(from, LOCAL_UTF16_MAX, &n, s.p, (int32_t)s.n, &e);
    const UNormalizer2 *normalizer = unorm2_getNFCInstance(&e);
    if (U_SUCCESS(e))
        m = unorm2_normalize(normalizer, from, n, to, LOCAL_UTF16_MAX, &e);
    u_strToUTF8(utf8, sizeof(utf8), &bytes, to, m, &e);
    if (U_FAILURE(e))
        return err_set(err, ERR_INVALID, "local part cannot be normalised: %s", u_errorName(e));
    *out = arena_str(a, str_n(utf8, (size_t)bytes));
    return true;
}

/* Letter by letter: with Unicode's full folding "straße" and "strasse" would be one mailbox. Folding may undo NFC. */
static bool fold(str s, struct arena *a, str *out, struct err *err)
{
    BUF(folded, NAME_KEY_MAX * FOLDED_MAX);
    for (int32_t i = 0; i < (int32_t)s.n;) {
        UChar32 c;
        char utf8[U8_MAX_LENGTH];
        int32_t n = 0;
        U8_NEXT_UNSAFE(s.p, i, c); /* valid since nfc */
        c = u_foldCase(c, U_FOLD_CASE_DEFAULT);
        U8_APPEND_UNSAFE(utf8, n, c);
        buf_add_n(&folded, utf8, (size_t)n);
    }
    return nfc(arena_str(a, buf_str(&folded)), a, out, err);
}

bool name_is_visible(const struct name *n, struct err *err)
{
    for (int32_t i = 0; i < (int32_t)n->local.n;) {
        UChar32 c;
        U8_NEXT_UNSAFE(n->local.p, i, c);
        if (u_hasBinaryProperty(c, UCHAR_DEFAULT_IGNORABLE_CODE_POINT))
            return err_set(err, ERR_INVALID, "the local part has a character that is not seen, U+%04X", (unsigned)c);
    }
    return true;
}

str name_key(str folded_local, str domain, struct arena *a)
{
    return arena_printf(a, "%.*s@%.*s", STR_ARG(folded_local), STR_ARG(domain));
}

static bool parse(str address, struct arena *a, struct name *out, struct err *err)
{
    struct smtp_path path;
    struct name n;
    str normal;
    if (!smtp_mailbox_parse(address, true, a, &path, err) || !nfc(path.local, a, &normal, err) ||
        !domain_normalize(path.domain, a, &n.domain, err) ||
        !address_normalize(normal, path.domain, a, &n.address, err))
        return false;
    if (!fold(normal, a, &n.local, err))
        return false;
    n.key = name_key(n.local, n.domain, a);
    if (n.key.n > NAME_KEY_MAX)
        return err_set(err, ERR_LIMIT, "address is longer than %u bytes", NAME_KEY_MAX);
    *out = n;
    return true;
}

bool name_parse(str address, struct arena *a, struct name *out, struct err *err)
{
    return parse(address, a, out, err) ||
           err_prefix(err, "'%.*s' is no mail address", (int)MIN(address.n, (size_t)QUOTED_MAX), address.p);
}

bool name_domain(str domain, struct arena *a, str *out, struct err *err)
{
    ARENA(scratch, 64 * 1024);
    struct smtp_path ignored;
    str probe = arena_printf(&scratch, "x@%.*s", STR_ARG(domain)); /* the syntax of a domain is the address parser's */
    if (!smtp_mailbox_parse(probe, true, &scratch, &ignored, err) || !domain_normalize(domain, a, out, err))
        return err_prefix(err, "'%.*s' is no domain", (int)MIN(domain.n, (size_t)QUOTED_MAX), domain.p);
    if (str_starts(*out, S("[")))
        return err_set(err, ERR_INVALID, "an address literal is no domain");
    if (domain_is_number(*out))
        return err_set(err, ERR_INVALID, "'%.*s' is an IP address, and no domain", STR_ARG(*out));
    return true;
}

bool name_split_detail(str local, str *base, str *detail)
{
    ptrdiff_t plus = str_find(local, '+');
    if (plus <= 0)
        return false;
    *base = str_slice(local, 0, (size_t)plus);
    *detail = str_slice(local, (size_t)plus + 1, SIZE_MAX);
    return true;
}
