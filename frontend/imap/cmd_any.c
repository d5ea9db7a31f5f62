/* Commands of any state: RFC 3501 6.1, ID (RFC 2971), ENABLE (RFC 5161), NAMESPACE (RFC 2342). */
#include "frontend/imap/commands.h"

#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"

#define ID_PAIRS_MAX 30u /* RFC 2971 3.3 */

static bool no_arguments(struct imap_command *c, struct err *err)
{
    return imap_parse_end(&c->args) || imap_bad(c, err, "No arguments expected.");
}

FIBER bool cmd_capability(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!no_arguments(c, err))
        return false;
    BUF(line, 2048);
    buf_add(&line, S("* CAPABILITY "));
    imap_add_capabilities(s, &line);
    buf_add(&line, S("\r\n"));
    return imap_write_buf(s, &line, err);
}

/* NOOP and CHECK: the dispatcher asks for changes after it. */
FIBER bool cmd_noop(struct imap_session *s, struct imap_command *c, struct err *err)
{
    (void)s;
    return no_arguments(c, err);
}

FIBER bool cmd_logout(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!no_arguments(c, err))
        return false;
    imap_end(s, IMAP_END_LOGOUT);
    return imap_write(s, S("* BYE Logging out.\r\n"), err);
}

/* "ID" SP ("NIL" / "(" string SP nstring … ")"): read and not kept. */
FIBER bool cmd_id(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str field, value;
    bool ok = imap_parse_sp(&c->args);
    if (ok && cur_skip(&c->args, '(')) {
        for (unsigned i = 0; ok && cur_peek(&c->args) != ')'; i++)
            ok = i < ID_PAIRS_MAX && (i == 0 || imap_parse_sp(&c->args)) &&
                 imap_parse_string(&c->args, c->arena, &field) && imap_parse_sp(&c->args) &&
                 imap_parse_nstring(&c->args, c->arena, &value);
        ok = ok && cur_skip(&c->args, ')');
    } else {
        ok = ok && imap_parse_word(&c->args, S("NIL"));
    }
    if (!ok || !imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected NIL or a list of fields and values.");
    return imap_write(s, S("* ID (\"name\" \"Thurn\")\r\n"), err);
}

FIBER bool cmd_enable(struct imap_session *s, struct imap_command *c, struct err *err)
{
    bool has_condstore = false;
    str name;
    if (imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected names of extensions.");
    while (!imap_parse_end(&c->args)) {
        if (!imap_parse_sp(&c->args) || !imap_parse_atom(&c->args, &name))
            return imap_bad(c, err, "Expected names of extensions.");
        has_condstore |= str_eq_nocase(name, S("CONDSTORE"));
    }
    return imap_printf(s, err, "* ENABLED%s\r\n", has_condstore ? " CONDSTORE" : "") &&
           (!has_condstore || imap_enable_condstore(s, err));
}

FIBER bool cmd_namespace(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return no_arguments(c, err) && imap_write(s, S("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"), err);
}
