/* Making, removing, renaming and subscribing mailboxes: RFC 3501 6.3.3 to 6.3.7, CREATE-SPECIAL-USE of RFC 6154. */
#include "frontend/imap/commands.h"

#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"
#include "proto/store_calls.h"

static const struct {
    const char *attribute;
    Thurn__MailboxRole role;
} uses[] = {
    {"\\All", THURN__MAILBOX_ROLE__ROLE_ALL},
    {"\\Archive", THURN__MAILBOX_ROLE__ROLE_ARCHIVE},
    {"\\Drafts", THURN__MAILBOX_ROLE__ROLE_DRAFTS},
    {"\\Flagged", THURN__MAILBOX_ROLE__ROLE_FLAGGED},
    {"\\Important", THURN__MAILBOX_ROLE__ROLE_IMPORTANT},
    {"\\Junk", THURN__MAILBOX_ROLE__ROLE_JUNK},
    {"\\Sent", THURN__MAILBOX_ROLE__ROLE_SENT},
    {"\\Trash", THURN__MAILBOX_ROLE__ROLE_TRASH},
};

/* " (USE (\Drafts))" */
static bool parse_use(struct cursor *c, Thurn__MailboxRole *role, bool *is_known)
{
    *is_known = true;
    if (imap_parse_end(c))
        return true;
    if (!imap_parse_sp(c) || !cur_skip(c, '(') || !imap_parse_word(c, S("USE")) || !imap_parse_sp(c) ||
        !cur_skip(c, '('))
        return false;
    const unsigned char *from = c->p;
    str name;
    if (!cur_skip(c, '\\') || !imap_parse_atom(c, &name))
        return false;
    name = str_n(from, (size_t)(c->p - from));
    *is_known = false;
    for (size_t i = 0; i < ARRAY_LEN(uses); i++) {
        if (str_eq_nocase(name, str_c(uses[i].attribute))) {
            *role = uses[i].role;
            *is_known = true;
        }
    }
    if (imap_parse_sp(c)) /* more than one use of one mailbox: not here */
        *is_known = false;
    while (cur_peek(c) >= 0 && cur_peek(c) != ')')
        c->p++;
    return cur_skip_nocase(c, S("))")) && imap_parse_end(c);
}

FIBER static bool is_there(struct imap_session *s, struct imap_command *c, str name)
{
    struct imap_mailboxes list;
    struct err err = ERR_INIT; /* then what the store said is told */
    return !imap_mailboxes_load(s, c, false, &list, &err) || imap_mailboxes_find(&list, name);
}

FIBER bool cmd_create(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str name;
    bool is_valid, is_known;
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    struct rpc_call call;
    if (!imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, &name, &is_valid) ||
        !parse_use(&c->args, &q.role, &is_known))
        return imap_bad(c, err, "Expected a mailbox name.");
    if (!is_valid)
        return imap_no(c, err, ERR_INVALID, "CANNOT", "Not a valid mailbox name.");
    if (!is_known)
        return imap_no(c, err, ERR_INVALID, "USEATTR", "That use is not supported."); /* RFC 6154 */
    q.account = &s->account;
    user_account_mailbox_path(c->arena, name, &q.path, &q.n_path);
    q.request_id = user_account_request_id(c->arena);
    imap_call(s, &call, c->arena);
    if (STORE_CALL(s, &call, store_create_mailbox, &q, NULL))
        return true;
    if (call.err.kind == ERR_EXISTS && q.role && !is_there(s, c, name)) /* RFC 6154 3: another mailbox has that use */
        return imap_no(c, err, ERR_EXISTS, "USEATTR", "Another mailbox has that use.");
    return imap_failed(c, IMAP_AT_MAILBOX, &call, err);
}

FIBER bool cmd_delete(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str name;
    Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r;
    struct rpc_call call;
    if (!imap_mailbox_arg(c, &name, err))
        return false;
    if (str_eq(name, S("INBOX")))
        return imap_no(c, err, ERR_INVALID, "CANNOT", "INBOX cannot be deleted.");
    q.account = &s->account;
    user_account_mailbox_path(c->arena, name, &q.path, &q.n_path);
    q.request_id = user_account_request_id(c->arena);
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_delete_mailbox, &q, &r)) {
        if (call.err.kind == ERR_CONFLICT)
            return imap_no(c, err, ERR_CONFLICT, "HASCHILDREN", "The mailbox has children."); /* RFC 9051 7.1 */
        return imap_failed(c, IMAP_AT_MAILBOX, &call, err);
    }
    if (s->view && s->view->mailbox_id == r->mailbox->mailbox_id)
        imap_view_close(s);
    return true;
}

FIBER bool cmd_rename(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str from, to;
    bool from_valid, to_valid;
    Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r;
    struct rpc_call call;
    if (!imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, &from, &from_valid) ||
        !imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, &to, &to_valid) ||
        !imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected two mailbox names.");
    if (!from_valid || !to_valid)
        return imap_no(c, err, ERR_INVALID, "CANNOT", "Not a valid mailbox name.");
    q.account = &s->account;
    user_account_mailbox_path(c->arena, from, &q.from_path, &q.n_from_path);
    user_account_mailbox_path(c->arena, to, &q.path, &q.n_path);
    q.request_id = user_account_request_id(c->arena);
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_rename_mailbox, &q, &r))
        return imap_failed(c, IMAP_AT_MAILBOX, &call, err);
    if (s->view && s->view->is_inbox && s->view->mailbox_id == r->mailbox->mailbox_id)
        imap_view_close(s); /* INBOX is another mailbox from now on */
    return true;
}

/* RFC 9051 6.3.7: there need be no mailbox of that name. */
FIBER static bool set_subscribed(struct imap_session *s, struct imap_command *c, bool is_subscribed, struct err *err)
{
    str name;
    Thurn__SubscribeRequest q = THURN__SUBSCRIBE_REQUEST__INIT;
    struct rpc_call call;
    if (!imap_mailbox_arg(c, &name, err))
        return false;
    q.account = &s->account;
    user_account_mailbox_path(c->arena, name, &q.path, &q.n_path);
    q.is_subscribed = is_subscribed;
    imap_call(s, &call, c->arena);
    return STORE_CALL(s, &call, store_subscribe, &q, NULL) || imap_failed(c, IMAP_AT_ACCOUNT, &call, err);
}

FIBER bool cmd_subscribe(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return set_subscribed(s, c, true, err);
}

FIBER bool cmd_unsubscribe(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return set_subscribed(s, c, false, err);
}
