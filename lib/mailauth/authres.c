#include "mailauth/authres.h"

#define VALUE_MAX 512u /* of one text from the wire */

static bool is_token(unsigned char c) /* RFC 2045 5.1 */
{
    return c > 0x20 && c < 0x7f && !strchr("()<>@,;:\\\"/[]?=", c);
}

/* A pvalue: a token or [local@]domain as it is, anything else as a quoted string. UTF-8 stays (RFC 6532). */
static void put_value(struct buf *out, str v)
{
    bool is_plain = v.n > 0;
    v = str_slice(v, 0, VALUE_MAX);
    for (size_t i = 0, ats = 0; i < v.n && is_plain; i++) {
        unsigned char c = (unsigned char)v.p[i];
        ats += c == '@';
        is_plain = is_token(c) || c >= 0x80 || (c == '@' && ats == 1);
    }
    if (is_plain && utf8_valid(v.p, v.n)) {
        buf_add(out, v);
        return;
    }
    buf_addc(out, '"');
    for (size_t i = 0; i < v.n; i++) {
        unsigned char c = (unsigned char)v.p[i];
        if (c == '"' || c == '\\')
            buf_addc(out, '\\');
        if (!ascii_is_ctl(c) && c < 0x80)
            buf_addc(out, (char)c);
        else if (c >= 0x80)
            buf_addc(out, '?');
    }
    buf_addc(out, '"');
}

void authres_begin(struct authres *r, struct buf *out, str authserv_id)
{
    *r = (struct authres){.out = out};
    put_value(out, authserv_id);
}

void authres_method(struct authres *r, const char *method, const char *result, str reason)
{
    buf_printf(r->out, ";\r\n\t%s=%s", method, result);
    if (reason.n) {
        buf_add(r->out, S(" reason="));
        buf_addc(r->out, '"');
        for (size_t i = 0; i < MIN(reason.n, VALUE_MAX); i++) {
            unsigned char c = (unsigned char)reason.p[i];
            if (c == '"' || c == '\\')
                buf_addc(r->out, '\\');
            if (ascii_is_print(c))
                buf_addc(r->out, (char)c);
        }
        buf_addc(r->out, '"');
    }
    r->has_result = true;
}

void authres_property(struct authres *r, const char *name, str value)
{
    if (value.n == 0)
        return;
    buf_printf(r->out, "\r\n\t %s=", name);
    put_value(r->out, value);
}

void authres_end(struct authres *r)
{
    if (!r->has_result)
        buf_add(r->out, S("; none"));
}

void authres_spf(struct authres *r, const struct spf_verdict *v, str identity, bool is_helo)
{
    authres_method(r, "spf", spf_result_name(v->result), v->problem);
    authres_property(r, is_helo ? "smtp.helo" : "smtp.mailfrom", identity);
}

void authres_dkim(struct authres *r, const struct dkim_message *m)
{
    if (m->n == 0)
        authres_method(r, "dkim", "none", STR_NONE);
    for (size_t i = 0; i < m->n; i++) {
        const struct dkim_verdict *v = &m->v[i];
        authres_method(r, "dkim", dkim_result_name(v->result), str_c(v->problem));
        authres_property(r, "header.d", v->sig.domain);
        authres_property(r, "header.i", v->sig.auid);
        authres_property(r, "header.s", v->sig.selector);
        if (v->sig.value.n) {
            authres_property(r, "header.a", str_c(dkim_algorithm_name(v->sig.algorithm)));
            char b64[12]; /* RFC 6008 4: the first characters of b= tell signatures apart */
            BUF(b, 16);
            buf_add_base64(&b, str_slice(v->sig.value, 0, 6));
            memcpy(b64, buf_z(&b), MIN(b.n + 1, sizeof b64 - 1));
            b64[8] = 0;
            authres_property(r, "header.b", str_c(b64));
        }
    }
}

void authres_arc(struct authres *r, const struct arc_chain *c)
{
    if (c->n == 0 && c->status == ARC_NONE)
        return;
    authres_method(r, "arc", arc_status_name(c->status), str_c(c->problem));
    if (c->n > 0 && c->status == ARC_PASS) {
        authres_property(r, "header.s", c->sets[c->n - 1].seal.selector);
        authres_property(r, "header.d", c->sets[c->n - 1].seal.domain);
    }
}

void authres_dmarc(struct authres *r, const struct dmarc_verdict *v)
{
    authres_method(r, "dmarc", dmarc_result_name(v->result),
                   v->result == DMARC_PASS || v->result == DMARC_NONE ? STR_NONE : str_c(v->problem));
    authres_property(r, "header.from", v->author);
    if (v->record.domain.n)
        authres_property(r, "policy.dmarc", str_c(dmarc_policy_name(v->policy)));
}

void authres_iprev(struct authres *r, const char *result, str name, const struct auth_ip *ip)
{
    ARENA(a, 4096);
    authres_method(r, "iprev", result, STR_NONE);
    authres_property(r, "policy.iprev", auth_ip_print(ip, &a));
    if (name.n) {
        buf_add(r->out, S(" ("));
        for (size_t i = 0; i < MIN(name.n, 253u); i++) {
            unsigned char c = (unsigned char)name.p[i];
            if (ascii_is_alnum(c) || (c && strchr(".-_", c)))
                buf_addc(r->out, (char)c);
        }
        buf_addc(r->out, ')');
    }
}

/* The authserv-id: behind comments and white space, up to the version or the first semicolon; perhaps in quotes. */
bool authres_is_ours(str value, str authserv_id)
{
    unsigned depth = 0;
    size_t i = 0;
    for (; i < value.n; i++) {
        unsigned char c = (unsigned char)value.p[i];
        if (depth && c == '\\')
            i++;
        else if (c == '(')
            depth++;
        else if (c == ')' && depth)
            depth--;
        else if (!depth && c != ' ' && c != '\t' && c != '\r' && c != '\n')
            break;
    }
    if (i >= value.n || depth)
        return true;
    BUF(id, 1024);
    if (value.p[i] == '"') {
        for (i++; i < value.n && value.p[i] != '"'; i++) {
            if (value.p[i] == '\\' && i + 1 < value.n)
                i++;
            buf_addc(&id, value.p[i]);
        }
        if (i >= value.n)
            return true;
    } else {
        for (; i < value.n && !strchr(" \t\r\n;(/", value.p[i]); i++)
            buf_addc(&id, value.p[i]);
    }
    return !buf_ok(&id) || str_eq_nocase(auth_name_trim(buf_str(&id)), auth_name_trim(authserv_id));
}
