/* RFC 9110 (semantics), RFC 9112 (messages). */
#include "net/http_parse.h"

#include "base/num.h"

#define CHUNK_LINE_MAX 256

/* tchar, RFC 9110 5.6.2. */
static bool is_token(unsigned char c)
{
    return ascii_is_alnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}
static bool is_target(unsigned char c)
{
    return c > 0x20 && c < 0x7f;
}
static bool is_field_byte(unsigned char c) /* field-content and what may stand between, RFC 9110 5.5 */
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

static enum http_parse bad(int *status, int code, struct err *err, const char *text)
{
    *status = code;
    err_set(err, ERR_INVALID, "%s", text);
    return HTTP_BAD;
}

/* A line up to CRLF. MORE when it is not there yet, BAD for a bare CR or LF. */
static enum http_parse take_line(struct cursor *c, str *line)
{
    const unsigned char *p = c->p;
    while (p < c->end && *p != '\r' && *p != '\n')
        p++;
    if (p == c->end)
        return HTTP_MORE;
    if (*p == '\n')
        return HTTP_BAD;
    if (p + 1 == c->end)
        return HTTP_MORE;
    if (p[1] != '\n')
        return HTTP_BAD;
    *line = str_n(c->p, (size_t)(p - c->p));
    c->p = p + 2;
    return HTTP_DONE;
}

static enum http_parse request_line(str line, struct http_head *h, int *status, struct err *err)
{
    struct cursor c = cur_of(line);
    h->method = cur_take_while(&c, is_token, 32);
    if (h->method.n == 0 || !cur_skip(&c, ' '))
        return bad(status, 400, err, "malformed method");
    h->target = cur_take_while(&c, is_target, HTTP_LINE_MAX);
    if (h->target.n == 0 || !cur_skip(&c, ' '))
        return bad(status, 400, err, "malformed request target");
    str version = cur_rest(&c);
    if (version.n != 8 || !str_starts(version, S("HTTP/")) || !ascii_is_digit((unsigned char)version.p[5]) ||
        version.p[6] != '.' || !ascii_is_digit((unsigned char)version.p[7]))
        return bad(status, 400, err, "malformed HTTP version");
    if (version.p[5] != '1')
        return bad(status, 505, err, "HTTP version is not 1.x");
    h->minor = version.p[7] == '0' ? 0 : 1;
    return HTTP_DONE;
}

/* Whether a comma-separated list has this token. */
static bool list_has(str list, str token)
{
    str item;
    while (str_split(&list, ',', &item))
        if (str_eq_nocase(str_trim(item), token))
            return true;
    return false;
}

/* What framing depends on. RFC 9112 6.1 to 6.3. */
static enum http_parse note_field(struct http_head *h, str name, str value, unsigned *hosts, int *status,
                                  struct err *err)
{
    if (str_eq(name, S("content-length"))) {
        if (h->has_length || !num_u64(value, INT64_MAX, &h->content_length))
            return bad(status, 400, err, "bad Content-Length");
        h->has_length = true;
    } else if (str_eq(name, S("transfer-encoding"))) {
        if (h->is_chunked || h->minor == 0)
            return bad(status, 400, err, "bad Transfer-Encoding");
        if (!str_eq_nocase(value, S("chunked")))
            return bad(status, 501, err, "transfer coding other than chunked");
        h->is_chunked = true;
    } else if (str_eq(name, S("host"))) {
        ++*hosts;
    } else if (str_eq(name, S("connection"))) {
        if (list_has(value, S("close")))
            h->keeps_alive = false;
        else if (h->minor == 0 && list_has(value, S("keep-alive")))
            h->keeps_alive = true;
    } else if (str_eq(name, S("expect")) && h->minor == 1 && str_eq_nocase(value, S("100-continue"))) {
        h->wants_continue = true;
    }
    return HTTP_DONE;
}

static enum http_parse field_line(str line, struct arena *a, struct http_header *out, int *status, struct err *err)
{
    struct cursor c = cur_of(line);
    str name = cur_take_while(&c, is_token, HTTP_LINE_MAX);
    if (name.n == 0 || !cur_skip(&c, ':')) /* also obs-fold, and a space before the colon */
        return bad(status, 400, err, "malformed header field");
    str value = cur_rest(&c);
    for (size_t i = 0; i < value.n; i++)
        if (!is_field_byte((unsigned char)value.p[i]))
            return bad(status, 400, err, "control character in a header field");
    char *lower = arena_strz(a, name);
    for (char *p = lower; *p; p++)
        *p = (char)ascii_lower((unsigned char)*p);
    *out = (struct http_header){str_n(lower, name.n), str_trim(value)};
    return HTTP_DONE;
}

static enum http_parse fields(struct cursor *c, struct arena *a, struct http_head *h, int *status, struct err *err)
{
    unsigned hosts = 0;
    for (;;) {
        str line;
        enum http_parse r = take_line(c, &line);
        if (r != HTTP_DONE)
            return r == HTTP_BAD ? bad(status, 400, err, "bare CR or LF") : r;
        if (line.n == 0)
            break;
        if (h->n_headers == HTTP_FIELDS_MAX)
            return bad(status, 431, err, "too many header fields");
        struct http_header *f = &h->headers[h->n_headers];
        r = field_line(line, a, f, status, err);
        if (r == HTTP_DONE)
            r = note_field(h, f->name, f->value, &hosts, status, err);
        if (r != HTTP_DONE)
            return r;
        h->n_headers++;
    }
    if (h->is_chunked && h->has_length)
        return bad(status, 400, err, "Content-Length beside Transfer-Encoding");
    if (hosts > 1 || (hosts == 0 && h->minor == 1))
        return bad(status, 400, err, "not exactly one Host field");
    return HTTP_DONE;
}

/* Whether the blank line has come. Parsing waits for it, so that pieces do not cost a parse each. */
static bool has_end(str input)
{
    return str_find_str(input, S("\r\n\r\n")) >= 0;
}

/* A head that is not complete yet: is it already hopeless? */
static enum http_parse judge_partial(str input, int *status, struct err *err)
{
    ptrdiff_t lf = str_find(input, '\n');
    if (lf == 0 || (lf > 0 && input.p[lf - 1] != '\r'))
        return bad(status, 400, err, "bare CR or LF");
    if (lf < 0 && input.n > HTTP_LINE_MAX)
        return bad(status, 414, err, "request line too long");
    if (input.n > HTTP_HEAD_MAX)
        return bad(status, 431, err, "header fields too long");
    return HTTP_MORE;
}

enum http_parse http_parse_head(str input, struct arena *a, struct http_head *out, int *status, struct err *err)
{
    size_t skipped = 0;
    if (str_starts(input, S("\r\n"))) { /* RFC 9112 2.2: an empty line before the request line is ignored */
        input = str_slice(input, 2, SIZE_MAX);
        skipped = 2;
    }
    if (!has_end(input))
        return judge_partial(input, status, err);
    struct cursor c = cur_of(input);
    str line;
    if (take_line(&c, &line) != HTTP_DONE)
        return bad(status, 400, err, "bare CR or LF");
    if (line.n > HTTP_LINE_MAX)
        return bad(status, 414, err, "request line too long");
    struct http_head h = {.headers = NULL};
    enum http_parse r = request_line(line, &h, status, err);
    if (r != HTTP_DONE)
        return r;
    h.keeps_alive = h.minor == 1;
    h.headers = arena_array(a, struct http_header, HTTP_FIELDS_MAX);
    r = fields(&c, a, &h, status, err);
    if (r == HTTP_MORE) /* the blank line that was seen belongs to nothing that is well-formed */
        return bad(status, 400, err, "malformed request head");
    if (r != HTTP_DONE)
        return r;
    h.length = skipped + (size_t)((const char *)c.p - input.p);
    if (h.length > HTTP_HEAD_MAX)
        return bad(status, 431, err, "header fields too long");
    *out = h;
    return HTTP_DONE;
}

/* --- targets --- */

/* Percent-decode into the arena. False for a broken escape. */
static bool decode(str s, bool plus_is_space, struct arena *a, str *out)
{
    char *p = arena_alloc(a, s.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '%') {
            int hi = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 1]) : -1;
            int lo = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return false;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        p[n++] = c;
    }
    p[n] = '\0';
    *out = str_n(p, n);
    return true;
}

static bool segments_ok(str raw)
{
    str rest = str_slice(raw, 1, SIZE_MAX), segment;
    while (rest.n) {
        if (!str_split(&rest, '/', &segment))
            break;
        if (segment.n == 0)
            return false;
    }
    return true;
}

/* After decoding, so that "%2e%2e" is seen. An encoded slash was refused before. */
static bool has_dot_segment(str path)
{
    str rest = path, segment;
    while (str_split(&rest, '/', &segment))
        if (str_eq(segment, S(".")) || str_eq(segment, S("..")))
            return true;
    return false;
}

bool http_parse_target(str target, struct arena *a, str *path, str *query, struct err *err)
{
    if (str_eq(target, S("*"))) {
        *path = target;
        *query = S("");
        return true;
    }
    if (str_starts_nocase(target, S("http://")) || str_starts_nocase(target, S("https://"))) {
        ptrdiff_t authority = str_find_str(target, S("//")) + 2;
        str rest = str_slice(target, (size_t)authority, SIZE_MAX);
        ptrdiff_t slash = str_find(rest, '/');
        target = slash < 0 ? S("/") : str_slice(rest, (size_t)slash, SIZE_MAX);
    }
    ptrdiff_t mark = str_find(target, '?');
    str raw = mark < 0 ? target : str_slice(target, 0, (size_t)mark);
    str q = mark < 0 ? S("") : str_slice(target, (size_t)mark + 1, SIZE_MAX);
    str decoded;
    if (raw.n == 0 || raw.p[0] != '/' || str_find(raw, '#') >= 0 || str_find_nocase(raw, S("%2f")) >= 0 ||
        !segments_ok(raw) || !decode(raw, false, a, &decoded) || !utf8_valid(decoded.p, decoded.n) ||
        has_dot_segment(decoded))
        return err_set(err, ERR_INVALID, "malformed path");
    for (size_t i = 0; i < decoded.n; i++)
        if (ascii_is_ctl((unsigned char)decoded.p[i]))
            return err_set(err, ERR_INVALID, "control character in the path");
    *path = decoded;
    *query = q;
    return true;
}

bool http_parse_query(str query, struct arena *a, struct http_param **out, size_t *n, struct err *err)
{
    struct http_param *v = arena_array(a, struct http_param, HTTP_PARAMS_MAX);
    size_t count = 0;
    str piece;
    while (str_split(&query, '&', &piece)) {
        if (piece.n == 0)
            continue;
        if (count == HTTP_PARAMS_MAX)
            return err_set(err, ERR_LIMIT, "more than %d query parameters", HTTP_PARAMS_MAX);
        ptrdiff_t eq = str_find(piece, '=');
        str name = eq < 0 ? piece : str_slice(piece, 0, (size_t)eq);
        str value = eq < 0 ? S("") : str_slice(piece, (size_t)eq + 1, SIZE_MAX);
        if (!decode(name, true, a, &v[count].name) || !decode(value, true, a, &v[count].value))
            return err_set(err, ERR_INVALID, "broken percent escape in the query");
        count++;
    }
    *out = v;
    *n = count;
    return true;
}

/* --- chunked --- */

enum http_parse http_parse_chunk(str input, uint64_t *size, size_t *used)
{
    struct cursor c = cur_of(input);
    str line;
    enum http_parse r = take_line(&c, &line);
    if (r == HTTP_MORE)
        return input.n > CHUNK_LINE_MAX ? HTTP_BAD : HTTP_MORE;
    if (r == HTTP_BAD || line.n > CHUNK_LINE_MAX)
        return HTTP_BAD;
    uint64_t n = 0;
    size_t i = 0;
    for (; i < line.n && ascii_hex((unsigned char)line.p[i]) >= 0; i++) {
        if (i == 15) /* 60 bits are more than anyone sends */
            return HTTP_BAD;
        n = n << 4 | (uint64_t)ascii_hex((unsigned char)line.p[i]);
    }
    str rest = str_slice(line, i, SIZE_MAX);
    if (i == 0 || (rest.n && rest.p[0] != ';'))
        return HTTP_BAD;
    for (size_t k = 0; k < rest.n; k++)
        if (!is_field_byte((unsigned char)rest.p[k]))
            return HTTP_BAD;
    *size = n;
    *used = (size_t)((const char *)c.p - input.p);
    return HTTP_DONE;
}

enum http_parse http_parse_trailer(str input, size_t *used)
{
    struct cursor c = cur_of(input);
    for (;;) {
        str line;
        enum http_parse r = take_line(&c, &line);
        if (r != HTTP_DONE)
            return r == HTTP_MORE && input.n > HTTP_TRAILER_MAX ? HTTP_BAD : r;
        if (line.n == 0)
            break;
    }
    *used = (size_t)((const char *)c.p - input.p);
    return HTTP_DONE;
}
