#include "frontend/imap/status.h"

#include "frontend/imap/commands.h"
#include "frontend/imap/format.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/recent.h"

enum { MESSAGES, RECENT, UIDNEXT, UIDVALIDITY, UNSEEN, HIGHESTMODSEQ, APPENDLIMIT, SIZE, DELETED };
static const char *const names[] = {"MESSAGES",      "RECENT",      "UIDNEXT", "UIDVALIDITY", "UNSEEN",
                                    "HIGHESTMODSEQ", "APPENDLIMIT", "SIZE",    "DELETED"};

bool imap_parse_status_items(struct cursor *c, unsigned *items)
{
    unsigned found = 0;
    if (!cur_skip(c, '('))
        return false;
    do {
        size_t i = 0;
        while (i < ARRAY_LEN(names) && !imap_parse_word(c, str_c(names[i])))
            i++;
        if (i == ARRAY_LEN(names))
            return false;
        found |= 1u << i;
    } while (imap_parse_more(c));
    *items = found;
    return cur_skip(c, ')');
}

bool imap_status_wants_modseq(unsigned items)
{
    return items & 1u << HIGHESTMODSEQ;
}

bool imap_status_wants_recent(unsigned items)
{
    return items & 1u << RECENT;
}

void imap_add_status(const struct imap_session *s, struct buf *out, str name, const Thurn__Mailbox *row, unsigned items,
                     uint32_t recent)
{
    const uint64_t values[] = {
        [MESSAGES] = row->total,
        [RECENT] = recent,
        [UIDNEXT] = row->uidnext,
        [UIDVALIDITY] = row->uidvalidity,
        [UNSEEN] = row->unseen,
        /* 0 would mean that there are none (RFC 7162 3.1.2.1) */
        [HIGHESTMODSEQ] = MAX(row->highestmodseq, (uint64_t)1),
        [APPENDLIMIT] = s->server->opts.limits.message_bytes,
        [SIZE] = row->bytes,
        [DELETED] = row->deleted,
    };
    buf_add(out, S("* STATUS "));
    imap_add_mailbox(out, name);
    const char *gap = " (";
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!(items & 1u << i))
            continue;
        buf_printf(out, "%s%s %llu", gap, names[i], (unsigned long long)values[i]);
        gap = " ";
    }
    buf_add(out, S(")\r\n"));
}

FIBER static uint32_t count_recent(struct imap_session *s, const Thurn__Mailbox *row)
{
    uint32_t known = imap_recent_known(s, row->mailbox_id), n = 0;
    struct imap_contents now = {0};
    struct err why = ERR_INIT;
    if (known ? known >= row->uidnext : row->unseen == 0)
        return 0;
    if (imap_contents_load(s, row->mailbox_id, known, &now, &why)) /* else none are known to be */
        n = uid_map_count(&now.uids) - uid_map_rank(&now.uids, imap_recent_from(s, row->mailbox_id, &now) - 1);
    imap_contents_done(&now);
    return n;
}

FIBER bool cmd_status(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str name;
    bool is_valid;
    unsigned items;
    const Thurn__Mailbox *row;
    if (!imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, &name, &is_valid) ||
        !imap_parse_sp(&c->args) || !imap_parse_status_items(&c->args, &items) || !imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected a mailbox and status items.");
    if (!imap_mailbox_open(s, c, name, "NONEXISTENT", &row, err))
        return false;
    if (imap_status_wants_modseq(items) && !imap_enable_condstore(s, err))
        return false;
    uint32_t recent = imap_status_wants_recent(items) ? count_recent(s, row) : 0;
    BUF(out, 16384);
    imap_add_status(s, &out, name, row, items, recent);
    return imap_write_buf(s, &out, err);
}
