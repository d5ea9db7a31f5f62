#include "frontend/imap/status.h"

#include "frontend/imap/commands.h"
#include "frontend/imap/format.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/recent.h"
#include "proto/store_calls.h"

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
    } while (imap_parse_sp(c));
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
        [HIGHESTMODSEQ] = MAX(row->highestmodseq, (uint64_t)1), /* 0 would mean that there are none (RFC 7162 3.1.2.1) */
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

/* UIDs from the first recent one on that are there. */
FIBER static uint32_t count_recent(struct imap_session *s, struct imap_command *c, const Thurn__Mailbox *row)
{
    Thurn__Range range = THURN__RANGE__INIT, *ranges[] = {&range};
    Thurn__SearchKey key = THURN__SEARCH_KEY__INIT;
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    const Thurn__SearchReply *r;
    struct rpc_call call;
    uint64_t n = 0;
    range.first = imap_recent_from(s, c, row);
    range.last = UINT32_MAX;
    if (range.first >= row->uidnext)
        return 0;
    key.op = THURN__SEARCH_OP__SEARCH_UIDS;
    key.uids = ranges;
    key.n_uids = 1;
    q.account = &s->account;
    q.mailbox_id = row->mailbox_id;
    q.key = &key;
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_search, &q, &r))
        return 0;
    for (size_t i = 0; i < r->n_uids; i++)
        n += r->uids[i]->last - r->uids[i]->first + 1;
    return (uint32_t)n;
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
    uint32_t recent = imap_status_wants_recent(items) ? count_recent(s, c, row) : 0;
    BUF(out, 16384);
    imap_add_status(s, &out, name, row, items, recent);
    return imap_write_buf(s, &out, err);
}
