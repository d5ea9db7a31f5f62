/* IDLE (RFC 2177). The command ends its fiber; a beacon, or the client's DONE, starts another one for a moment. */
#include "frontend/imap/commands.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"

FIBER bool cmd_idle(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "No arguments expected.");
    if (!imap_write(s, S("+ idling\r\n"), err))
        return false;
    s->idle_tag = str_dup(c->tag);
    c->is_silent = true;
    return true;
}

FIBER bool imap_end_idle(struct imap_session *s, struct err *err)
{
    str line;
    if (!stream_read_line(s->stream, imap_line_max(s), false, &line, err)) {
        imap_end(s, IMAP_END_BROKEN);
        return false;
    }
    bool is_done = str_eq_nocase(line, S("DONE"));
    bool ok = imap_printf(s, err, is_done ? "%s OK IDLE terminated.\r\n" : "%s BAD Expected DONE.\r\n", s->idle_tag);
    xfree(s->idle_tag);
    s->idle_tag = NULL;
    return ok;
}

FIBER bool imap_push_updates(struct imap_session *s, struct err *err)
{
    if (!s->view) /* IDLE without a mailbox: nothing is told */
        return true;
    ARENA(a, IMAP_COMMAND_ARENA);
    FIBER_DEADLINE(s->server->opts.limits.command_ms);
    metric_inc(M_IMAP_PUSHES);
    return imap_view_sync(s, &a, true, err);
}
