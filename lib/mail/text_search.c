#include "mail/text_search.h"

#include <unicode/unorm2.h>
#include <unicode/ustring.h>

#define PIECE_MAX 2048u /* folded at a time */
#define FOLDED_MAX (64u * 1024)

struct text_search {
    str needle;
    bool is_found;
    struct buf window;  /* folded text, of which the last needle.n - 1 bytes are kept from piece to piece */
    struct buf pending; /* text after the last ASCII byte of the pieces so far: may combine with what follows */
};

static void add_utf16(struct buf *out, const UChar *units, int32_t n)
{
    UErrorCode status = U_ZERO_ERROR;
    int32_t room = n * 3 + 1, written = 0;
    char *bytes = xmalloc((size_t)room);
    u_strToUTF8(bytes, room, &written, units, n, &status);
    if (U_SUCCESS(status))
        buf_add_n(out, bytes, (size_t)written);
    xfree(bytes);
}

/* Case folding, then NFKD, of at most PIECE_MAX well-formed bytes. */
static void fold_unicode(struct buf *out, str utf8)
{
    UErrorCode status = U_ZERO_ERROR;
    UChar units[PIECE_MAX / 2], folded[PIECE_MAX]; /* at most one unit a byte; folding at most doubles UTF-8 text */
    int32_t n = 0;
    u_strFromUTF8WithSub(units, (int32_t)ARRAY_LEN(units), &n, utf8.p, (int32_t)utf8.n, 0xfffd, NULL, &status);
    int32_t n_folded = u_strFoldCase(folded, (int32_t)ARRAY_LEN(folded), units, n, U_FOLD_CASE_DEFAULT, &status);
    const UNormalizer2 *nfkd = unorm2_getNFKDInstance(&status);
    if (U_FAILURE(status)) {
        buf_add(out, utf8);
        return;
    }
    UChar *decomposed = xmalloc(sizeof(UChar) * PIECE_MAX * 18); /* the longest decomposition of one unit */
    int32_t n_out = unorm2_normalize(nfkd, folded, n_folded, decomposed, PIECE_MAX * 18, &status);
    if (U_SUCCESS(status))
        add_utf16(out, decomposed, n_out);
    xfree(decomposed);
}

static void fold_ascii(struct buf *out, str s)
{
    char *room = buf_reserve(out, s.n);
    if (!room)
        return;
    for (size_t i = 0; i < s.n; i++)
        room[i] = (char)ascii_lower((unsigned char)s.p[i]);
    buf_commit(out, s.n);
}

/* Where to cut a text that is longer than max: not within a character. */
static size_t piece_length(str s, size_t max)
{
    if (s.n <= max)
        return s.n;
    size_t n = max;
    while (n > max - 4 && ((unsigned char)s.p[n] & 0xc0) == 0x80)
        n--;
    return n;
}

void text_fold(struct buf *out, str utf8)
{
    while (utf8.n) {
        size_t n = piece_length(utf8, PIECE_MAX / 2);
        str piece = str_slice(utf8, 0, n);
        if (ascii_only(piece.p, piece.n))
            fold_ascii(out, piece);
        else
            fold_unicode(out, piece);
        utf8 = str_slice(utf8, n, SIZE_MAX);
    }
}

void text_nfc(struct buf *out, str utf8)
{
    if (ascii_only(utf8.p, utf8.n)) {
        buf_add(out, utf8);
        return;
    }
    UErrorCode status = U_ZERO_ERROR;
    size_t room = utf8.n + 1;
    UChar *units = xmalloc(sizeof(UChar) * room), *composed = xmalloc(sizeof(UChar) * room * 3);
    int32_t n = 0;
    u_strFromUTF8WithSub(units, (int32_t)room, &n, utf8.p, (int32_t)utf8.n, 0xfffd, NULL, &status);
    const UNormalizer2 *nfc = unorm2_getNFCInstance(&status);
    int32_t n_out = U_SUCCESS(status) ? unorm2_normalize(nfc, units, n, composed, (int32_t)room * 3, &status) : 0;
    if (U_SUCCESS(status))
        add_utf16(out, composed, n_out);
    xfree(units);
    xfree(composed);
}

struct text_search *text_search_new(str needle_utf8)
{
    BUF(folded, TEXT_SEARCH_NEEDLE_MAX);
    if (needle_utf8.n > TEXT_SEARCH_NEEDLE_MAX)
        return NULL;
    text_fold(&folded, needle_utf8);
    if (!buf_ok(&folded))
        return NULL;
    struct text_search *s = xnew(struct text_search);
    s->needle = str_n(str_dup(buf_str(&folded)), folded.n);
    buf_init(&s->window, FOLDED_MAX);
    buf_init(&s->pending, PIECE_MAX);
    text_search_reset(s);
    return s;
}

void text_search_free(struct text_search *s)
{
    if (!s)
        return;
    xfree((void *)(uintptr_t)s->needle.p);
    buf_done(&s->window);
    buf_done(&s->pending);
    xfree(s);
}

void text_search_reset(struct text_search *s)
{
    s->is_found = s->needle.n == 0;
    buf_clear(&s->window);
    buf_clear(&s->pending);
}

static bool contains(str haystack, str needle)
{
    return needle.n == 0 || (haystack.n >= needle.n && memmem(haystack.p, haystack.n, needle.p, needle.n) != NULL);
}

static void look(struct text_search *s, str piece)
{
    text_fold(&s->window, piece);
    if (contains(buf_str(&s->window), s->needle)) {
        s->is_found = true;
        return;
    }
    size_t keep = MIN(s->window.n, s->needle.n - 1);
    buf_consume(&s->window, s->window.n - keep);
}

bool text_search_feed(struct text_search *s, str utf8)
{
    while (utf8.n && !s->is_found) {
        size_t room = s->pending.cap - s->pending.n;
        size_t n = MIN(utf8.n, room);
        buf_add(&s->pending, str_slice(utf8, 0, n));
        utf8 = str_slice(utf8, n, SIZE_MAX);
        /* Fold up to the last ASCII byte: marks combine with what is before them. */
        size_t cut = s->pending.n;
        while (cut > 0 && (unsigned char)s->pending.p[cut - 1] >= 0x80)
            cut--;
        if (cut == 0 && s->pending.n == s->pending.cap)
            cut = piece_length(buf_str(&s->pending), s->pending.n - 4);
        look(s, str_slice(buf_str(&s->pending), 0, cut));
        buf_consume(&s->pending, cut);
    }
    return s->is_found;
}

bool text_search_finish(struct text_search *s)
{
    if (!s->is_found)
        look(s, buf_str(&s->pending));
    buf_clear(&s->pending);
    return s->is_found;
}

bool text_contains(str utf8, str needle_utf8)
{
    CLEANUP(text_search_free) struct text_search *s = text_search_new(needle_utf8);
    return s && (text_search_feed(s, utf8) || text_search_finish(s));
}
