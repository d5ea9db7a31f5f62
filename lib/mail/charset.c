#include "mail/charset.h"

#include <unicode/ucnv.h>

#define LABEL_MAX 64u
#define PIVOT_UNITS 256
#define OUT_CHUNK 512u

enum charset_mode {
    MODE_GUESS, /* ASCII so far: the first 8-bit piece decides */
    MODE_ICU
};

struct charset {
    enum charset_mode mode;
    unsigned n_held; /* MODE_GUESS: an incomplete character, which decides nothing yet */
    char held[3];
    bool is_ascii_superset; /* pure ASCII input needs no conversion while nothing is pending */
    bool has_pending;       /* the converter may hold part of a character */
    UConverter *from;
    UConverter *to;
    UChar pivot[PIVOT_UNITS];
    UChar *pivot_source, *pivot_target;
};

/* Labels whose bytes in the wild are those of a superset. */
static const struct {
    const char *label, *superset;
} supersets[] = {
    {"iso-8859-1", "windows-1252"},
    {"iso_8859-1", "windows-1252"},
    {"iso8859-1", "windows-1252"},
    {"latin1", "windows-1252"},
    {"l1", "windows-1252"},
    {"cp819", "windows-1252"},
    {"iso-8859-9", "windows-1254"},
    {"latin5", "windows-1254"},
    {"iso-8859-11", "windows-874-2000"},
    {"tis-620", "windows-874-2000"},
    {"gb2312", "gb18030"},
    {"gb_2312-80", "gb18030"},
    {"gbk", "gb18030"},
    {"x-gbk", "gb18030"},
    {"shift_jis", "ibm-943_P15A-2003"},
    {"shift-jis", "ibm-943_P15A-2003"},
    {"sjis", "ibm-943_P15A-2003"},
    {"x-sjis", "ibm-943_P15A-2003"},
    {"euc-kr", "windows-949-2000"},
    {"ks_c_5601-1987", "windows-949-2000"},
    {"ksc5601", "windows-949-2000"},
    {"big5", "windows-950-2000"},
    {"utf8", "utf-8"},
    {"unicode-1-1-utf-7", "utf-7"},
};

static bool is_guess_label(str label)
{
    return str_empty(label) || str_eq_nocase(label, S("us-ascii")) || str_eq_nocase(label, S("ascii")) ||
           str_eq_nocase(label, S("unknown-8bit")) || str_eq_nocase(label, S("x-unknown")) ||
           str_eq_nocase(label, S("unknown"));
}

/* The converter of a label, or NULL. */
static UConverter *converter_open(str label)
{
    char name[LABEL_MAX];
    if (label.n == 0 || label.n >= sizeof(name) || !ascii_only(label.p, label.n))
        return NULL;
    memcpy(name, label.p, label.n);
    name[label.n] = '\0';
    if (memchr(name, ',', label.n)) /* ICU reads options after a comma: not a peer's business */
        return NULL;
    const char *icu_name = name;
    for (size_t i = 0; i < ARRAY_LEN(supersets); i++)
        if (str_eq_nocase(label, str_c(supersets[i].label)))
            icu_name = supersets[i].superset;
    UErrorCode status = U_ZERO_ERROR;
    UConverter *cnv = ucnv_open(icu_name, &status);
    return U_SUCCESS(status) ? cnv : NULL;
}

static bool start_icu(struct charset *c, str label)
{
    c->from = converter_open(label);
    if (!c->from)
        return false;
    UErrorCode status = U_ZERO_ERROR;
    c->to = ucnv_open("UTF-8", &status);
    if (U_FAILURE(status))
        panic("ICU has no UTF-8 converter: %s", u_errorName(status));
    c->mode = MODE_ICU;
    c->pivot_source = c->pivot_target = c->pivot;
    UConverterType type = ucnv_getType(c->from);
    c->is_ascii_superset = type == UCNV_UTF8 || type == UCNV_LATIN_1 || type == UCNV_SBCS;
    if (type == UCNV_SBCS) { /* EBCDIC is single-byte as well */
        const char probe = 'A';
        UChar unit[4];
        status = U_ZERO_ERROR;
        int32_t n = ucnv_toUChars(c->from, unit, ARRAY_LEN(unit), &probe, 1, &status);
        c->is_ascii_superset = U_SUCCESS(status) && n == 1 && unit[0] == 'A';
        ucnv_reset(c->from);
    }
    return true;
}

struct charset *charset_new(str label)
{
    struct charset *c = xnew(struct charset);
    label = str_trim(label);
    if (is_guess_label(label) || !start_icu(c, label))
        c->mode = MODE_GUESS;
    return c;
}

void charset_free(struct charset *c)
{
    if (!c)
        return;
    if (c->from)
        ucnv_close(c->from);
    if (c->to)
        ucnv_close(c->to);
    xfree(c);
}

/* Add without NULs: they mean nothing in text, and C strings end at them. */
static void add_text(struct buf *out, str s)
{
    const char *nul;
    while (s.n && (nul = memchr(s.p, 0, s.n))) {
        buf_add(out, str_n(s.p, (size_t)(nul - s.p)));
        s = str_slice(s, (size_t)(nul - s.p) + 1, SIZE_MAX);
    }
    buf_add(out, s);
}

static void feed_icu(struct charset *c, str bytes, bool is_last, struct buf *out)
{
    if (c->is_ascii_superset && !c->has_pending && ascii_only(bytes.p, bytes.n)) {
        add_text(out, bytes);
        return;
    }
    char chunk[OUT_CHUNK];
    const char *source = bytes.p ? bytes.p : "", *end = source + bytes.n;
    c->has_pending = true;
    for (;;) {
        char *target = chunk;
        UErrorCode status = U_ZERO_ERROR;
        ucnv_convertEx(c->to, c->from, &target, chunk + sizeof(chunk), &source, end, c->pivot, &c->pivot_source,
                       &c->pivot_target, c->pivot + PIVOT_UNITS, false, is_last, &status);
        add_text(out, str_n(chunk, (size_t)(target - chunk)));
        if (status != U_BUFFER_OVERFLOW_ERROR)
            break; /* all is consumed; broken input was replaced by the converter */
    }
}

/* Well-formed UTF-8, but for an incomplete character at the end. */
static bool may_be_utf8(str s)
{
    for (size_t cut = 0; cut <= 3 && cut <= s.n; cut++) {
        if (!utf8_valid(s.p, s.n - cut))
            continue;
        /* What is cut off must look like the start of a longer sequence. */
        if (cut == 0)
            return true;
        unsigned char lead = (unsigned char)s.p[s.n - cut];
        size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
        return cut < need;
    }
    return false;
}

/* Decide between UTF-8 and Windows-1252 at the first 8-bit byte; what is too short to tell is held. */
static void feed_guess(struct charset *c, str bytes, bool is_last, struct buf *out)
{
    size_t ascii = 0;
    while (ascii < bytes.n && (unsigned char)bytes.p[ascii] < 0x80)
        ascii++;
    add_text(out, str_slice(bytes, 0, ascii));
    bytes = str_slice(bytes, ascii, SIZE_MAX);
    if (bytes.n == 0)
        return;
    bool is_whole = utf8_valid(bytes.p, bytes.n);
    bool may_be = is_whole || (!is_last && may_be_utf8(bytes));
    if (may_be && !is_whole && bytes.n <= sizeof(c->held)) {
        memcpy(c->held, bytes.p, bytes.n);
        c->n_held = (unsigned)bytes.n;
        return;
    }
    if (!start_icu(c, may_be ? S("utf-8") : S("windows-1252")))
        panic("ICU lacks UTF-8 or Windows-1252");
    feed_icu(c, bytes, is_last, out);
}

void charset_feed(struct charset *c, str bytes, bool is_last, struct buf *out)
{
    if (c->mode == MODE_ICU) {
        feed_icu(c, bytes, is_last, out);
        return;
    }
    if (c->n_held == 0) {
        feed_guess(c, bytes, is_last, out);
        return;
    }
    BUF(joined, bytes.n + sizeof(c->held));
    buf_add_n(&joined, c->held, c->n_held);
    buf_add(&joined, bytes);
    c->n_held = 0;
    feed_guess(c, buf_str(&joined), is_last, out);
}

void charset_guess_utf8(str bytes, struct buf *out)
{
    if (utf8_valid(bytes.p, bytes.n))
        add_text(out, bytes);
    else
        charset_to_utf8(S("windows-1252"), bytes, out);
}

void charset_to_utf8(str label, str bytes, struct buf *out)
{
    label = str_trim(label);
    if (is_guess_label(label)) {
        charset_guess_utf8(bytes, out);
        return;
    }
    if ((str_eq_nocase(label, S("utf-8")) || str_eq_nocase(label, S("utf8"))) && utf8_valid(bytes.p, bytes.n)) {
        add_text(out, bytes);
        return;
    }
    CLEANUP(charset_free) struct charset *c = charset_new(label);
    charset_feed(c, bytes, true, out);
}

bool charset_is_known(str label)
{
    if (str_eq_nocase(label, S("us-ascii")) || str_eq_nocase(label, S("ascii")))
        return true;
    UConverter *cnv = converter_open(label);
    if (!cnv)
        return false;
    ucnv_close(cnv);
    return true;
}

/* The name of a converter that mail uses; empty when there is none. */
static str name_in_mail(const char *converter)
{
    static const char *const standards[] = {"MIME", "IANA"};
    for (size_t i = 0; i < ARRAY_LEN(standards); i++) {
        UErrorCode status = U_ZERO_ERROR;
        const char *name = ucnv_getStandardName(converter, standards[i], &status);
        if (U_SUCCESS(status) && name)
            return str_c(name);
    }
    return S("");
}

void charset_add_names(struct buf *out)
{
    int32_t n = ucnv_countAvailable();
    buf_add(out, S("US-ASCII UTF-8"));
    for (int32_t i = 0; i < n; i++) {
        str s = name_in_mail(ucnv_getAvailableName(i));
        if (s.n == 0 || str_eq_nocase(s, S("US-ASCII")) || str_eq_nocase(s, S("UTF-8")) || !charset_is_known(s))
            continue;
        buf_addc(out, ' ');
        buf_add(out, s);
    }
}
