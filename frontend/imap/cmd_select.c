/* SELECT, EXAMINE (RFC 3501 6.3.1, RFC 7162 3.1.1), CLOSE, UNSELECT (RFC 3691). */
#include "frontend/imap/commands.h"

#include "frontend/imap/expunge.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"

static bool parse_select(struct imap_command *c, str *name, bool *is_valid, bool *has_condstore)
{
    if (!imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, name, is_valid))
        return false;
    if (imap_parse_end(&c->args))
        return true;
    *has_condstore = true;
    return imap_parse_sp(&c->args) && cur_skip(&c->args, '(') && imap_parse_word(&c->args, S("CONDSTORE")) &&
           cur_skip(&c->args, ')') && imap_parse_end(&c->args);
}

FIBER static bool describe(struct imap_session *s, const Thurn__Mailbox *row, uint32_t first_unseen, struct err *err)
{
    const struct imap_view *v = s->view;
    BUF(out, IMAP_FLAGS_MAX + 4096);
    imap_view_add_flags(v, &out);
    buf_printf(&out, "* %u EXISTS\r\n* %u RECENT\r\n", uid_map_count(&v->uids), uid_map_count(&v->recents));
    if (first_unseen)
        buf_printf(&out, "* OK [UNSEEN %u] First unseen.\r\n", first_unseen);
    buf_printf(&out, "* OK [UIDVALIDITY %u] UIDs valid.\r\n", row->uidvalidity);
    buf_printf(&out, "* OK [UIDNEXT %u] Predicted next UID.\r\n", MAX(row->uidnext, uid_map_max(&v->uids) + 1));
    buf_printf(&out, "* OK [HIGHESTMODSEQ %llu] Highest.\r\n",
               (unsigned long long)MAX(row->highestmodseq, (uint64_t)1));
    return imap_write_buf(s, &out, err);
}

FIBER static bool open_mailbox(struct imap_session *s, struct imap_command *c, bool is_readonly, struct err *err)
{
    str name;
    bool is_valid, has_condstore = false;
    struct imap_mailboxes list;
    const Thurn__Mailbox *row;
    uint32_t first_unseen;
    if (!parse_select(c, &name, &is_valid, &has_condstore))
        return imap_bad(c, err, "Expected a mailbox name.");
    if (s->view && !imap_write(s, S("* OK [CLOSED] Previous mailbox closed.\r\n"), err)) /* RFC 7162 3.2.11 */
        return false;
    imap_view_close(s); /* RFC 3501 6.3.1: even when the new one cannot be opened */
    s->has_condstore |= has_condstore;
    if (!imap_mailboxes_load(s, c, true, &list, err) || !imap_mailboxes_get(&list, c, name, "NONEXISTENT", &row, err) ||
        !imap_view_open(s, row, is_readonly, &first_unseen, err))
        return false;
    s->view->is_keywords_full = list.is_keywords_full;
    (void)imap_view_announce(s, list.keywords, list.n_keywords, NULL); /* FLAGS names them in any case */
    if (!describe(s, row, first_unseen, err))
        return false;
    c->code = is_readonly ? S("READ-ONLY") : S("READ-WRITE");
    return true;
}

FIBER bool cmd_select(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return open_mailbox(s, c, false, err);
}

FIBER bool cmd_examine(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return open_mailbox(s, c, true, err);
}

/* Removes what is \Deleted, and says nothing of it (RFC 3501 6.4.2). */
FIBER bool cmd_close(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "No arguments expected.");
    struct imap_expunge e = {.mailbox_id = s->view->mailbox_id, .ranges = imap_ranges_all(c->arena)};
    while (!s->view->is_readonly && e.ranges.n) {
        ARENA(a, IMAP_COMMAND_ARENA);
        const Thurn__ExpungeReply *r;
        if (!imap_expunge_next(s, &e, &a, &r, err))
            return false;
    }
    imap_view_close(s);
    return true;
}

FIBER bool cmd_unselect(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "No arguments expected.");
    imap_view_close(s);
    return true;
}
