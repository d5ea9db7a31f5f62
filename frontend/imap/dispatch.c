/*
 * One command: read it whole (but for a message in APPEND), find its handler, run it, tell what else has changed, and
 * write the tagged reply.
 */
#include "frontend/imap/commands.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"

#define COMMAND_BYTES_NEW 8192u /* of a command before login */
#define SKIP_MAX (1u << 20)     /* bytes of a refused literal that are read and dropped */

static const struct imap_command_def commands[] = {
#define CMD(name, handler, states, flags) {name, handler, states, flags},
#include "frontend/imap/commands.def"
#undef CMD
};

const struct imap_command_def *imap_command_find(str name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (str_eq_nocase(name, str_c(commands[i].name)))
            return &commands[i];
    return NULL;
}

/* What a command may take that moves no bodies. Before login little is asked of anybody. */
static unsigned command_ms(const struct imap_session *s)
{
    const struct imap_limits *l = &s->server->opts.limits;
    return s->state == IMAP_NEW ? l->auth_ms : l->command_ms;
}

/* --- reading --- */

FIBER static bool read_line(struct imap_session *s, struct buf *text, struct err *err)
{
    str line;
    if (!stream_read_line(s->stream, imap_line_max(s), false, &line, err)) {
        imap_end(s, err->kind == ERR_LIMIT     ? IMAP_END_LIMIT
                    : err->kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT
                                               : IMAP_END_BROKEN);
        if (err->kind == ERR_LIMIT)
            metric_inc_label(M_IMAP_REFUSED, "line");
        return false;
    }
    buf_add(text, line);
    return true;
}

FIBER static bool read_bytes(struct imap_session *s, uint64_t n, struct buf *into, struct err *err)
{
    while (n) {
        str piece;
        if (!stream_read_some(s->stream, (size_t)MIN(n, (uint64_t)65536), &piece, err)) {
            imap_end(s, err->kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT : IMAP_END_BROKEN);
            return false;
        }
        if (into)
            buf_add(into, piece);
        n -= piece.n;
    }
    return true;
}

/* tag SP [UID SP] name: from the first line; *head is its length. False: not even that; c->tag is "*" when there is
 * none. */
static bool parse_head(struct imap_command *c, str line, size_t *head)
{
    struct cursor at = cur_of(line);
    c->tag = S("*");
    c->name = S("");
    str tag;
    if (!imap_parse_tag(&at, &tag))
        return false;
    c->tag = arena_str(c->arena, tag); /* also of a line that is nothing else */
    if (!imap_parse_sp(&at))
        return false;
    c->is_uid = imap_parse_word(&at, S("UID")) && imap_parse_sp(&at);
    str name;
    if (!imap_parse_atom(&at, &name))
        return false;
    c->name = arena_str(c->arena, str_slice(name, 0, 32));
    c->def = imap_command_find(name);
    if (c->is_uid && c->def && !(c->def->flags & IMAP_MAY_UID))
        c->def = NULL;
    *head = line.n - cur_left(&at);
    return true;
}

/*
 * What may come behind a refused literal: a line, and each literal that it announces and the client sends unasked, up
 * to max bytes. False: the session ends.
 */
FIBER static bool skip_command(struct imap_session *s, uint64_t max, struct err *err)
{
    str before;
    uint64_t size;
    bool is_sync;
    for (;;) {
        BUF(line, imap_line_max(s) + 2);
        if (!read_line(s, &line, err))
            return false;
        if (!imap_line_literal(buf_str(&line), &before, &size, &is_sync) || is_sync)
            return true;
        if (size > max) {
            imap_end(s, IMAP_END_LIMIT);
            return err_set(err, ERR_LIMIT, "literal too long");
        }
        max -= size;
        if (!read_bytes(s, size, NULL, err))
            return false;
    }
}

/* A literal that is too long. A client that waits has sent nothing; what one that does not wait sends is dropped. */
FIBER static bool refuse_literal(struct imap_session *s, struct imap_command *c, uint64_t size, bool is_sync,
                                 struct err *err)
{
    metric_inc_label(M_IMAP_REFUSED, "literal");
    if (!is_sync) {
        if (size > SKIP_MAX) {
            imap_end(s, IMAP_END_LIMIT);
            return err_set(err, ERR_LIMIT, "literal too long");
        }
        if (!read_bytes(s, size, NULL, err) || !skip_command(s, SKIP_MAX - size, err))
            return false;
    }
    return imap_printf(s, err, "%.*s NO [TOOBIG] Literal too long.\r\n", STR_ARG(c->tag));
}

enum read_result { READ_OK, READ_REFUSED, READ_FAILED };

FIBER static enum read_result read_literals(struct imap_session *s, struct imap_command *c, struct buf *text,
                                            size_t head, struct err *err)
{
    size_t line_from = 0, max = s->state == IMAP_NEW ? COMMAND_BYTES_NEW : s->server->opts.limits.command_bytes;
    str before;
    uint64_t size;
    bool is_sync;
    while (imap_line_literal(str_slice(buf_str(text), line_from, SIZE_MAX), &before, &size, &is_sync)) {
        size_t marker = line_from + before.n;
        if (c->def && (c->def->flags & IMAP_STREAMS) && marker > head + 1) {
            c->has_literal = true;
            c->literal = size;
            c->is_sync_literal = is_sync;
            buf_truncate(text, marker);
            return READ_OK;
        }
        if (size > max || text->n + size > max)
            return refuse_literal(s, c, size, is_sync, err) ? READ_REFUSED : READ_FAILED;
        if (is_sync && (!imap_write(s, S("+ OK\r\n"), err) || !stream_flush(s->stream, err)))
            return READ_FAILED;
        buf_add(text, S("\r\n"));
        if (!read_bytes(s, size, text, err))
            return READ_FAILED;
        line_from = text->n;
        if (!read_line(s, text, err))
            return READ_FAILED;
        if (text->n > max) {
            metric_inc_label(M_IMAP_REFUSED, "command");
            imap_end(s, IMAP_END_LIMIT);
            (void)err_set(err, ERR_LIMIT, "command too long");
            return READ_FAILED;
        }
    }
    return READ_OK;
}

/* --- running --- */

static const char *wrong_state(const struct imap_session *s, const struct imap_command *c)
{
    if (s->state == IMAP_NEW)
        return "Log in first.";
    return c->def->states & IMAP_NEW ? "Already logged in." : "Select a mailbox first.";
}

/* What the client sends for the literal without waiting is none of its next commands. */
FIBER static bool refuse_state(struct imap_session *s, struct imap_command *c, struct err *why)
{
    if (c->has_literal && !c->is_sync_literal) {
        FIBER_DEADLINE(command_ms(s));
        if (c->literal > SKIP_MAX) {
            imap_end(s, IMAP_END_LIMIT);
            return err_set(why, ERR_LIMIT, "literal too long");
        }
        if (!read_bytes(s, c->literal, NULL, why) || !skip_command(s, SKIP_MAX - c->literal, why))
            return false;
    }
    return imap_bad(c, why, wrong_state(s, c));
}

FIBER static bool handle(struct imap_session *s, struct imap_command *c, struct err *why)
{
    if (!c->def) {
        s->bad_in_row++;
        return imap_bad(c, why, "Unknown command.");
    }
    if (!(c->def->states & s->state))
        return refuse_state(s, c, why);
    int64_t began_us = clock_mono_us();
    bool ok;
    {
        FIBER_DEADLINE(c->def->flags & IMAP_TRANSFERS ? s->server->opts.limits.transfer_ms : command_ms(s));
        ok = c->def->handler(s, c, why);
    }
    metric_observe_us(M_IMAP_COMMANDS, c->def->name, clock_mono_us() - began_us);
    s->bad_in_row = !ok && c->is_bad ? s->bad_in_row + 1 : 0;
    return ok;
}

/* RFC 3501 7.4.1 and 5.5: FETCH, STORE and SEARCH by sequence number must not see numbers move. */
FIBER static bool tell_changes(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (s->state != IMAP_SELECTED || !c->def || (c->def->flags & IMAP_NO_SYNC) || s->end != IMAP_END_NONE)
        return true;
    if (!s->is_dirty && !(c->def->flags & IMAP_ALWAYS_SYNC))
        return true;
    FIBER_DEADLINE(s->server->opts.limits.command_ms);
    bool may_expunge = c->is_uid || !(c->def->flags & IMAP_NO_EXPUNGE);
    return imap_view_sync(s, c->arena, may_expunge, err);
}

FIBER static bool reply_ok(struct imap_session *s, struct imap_command *c, struct err *err)
{
    if (!imap_printf(s, err, "%.*s OK ", STR_ARG(c->tag)))
        return false;
    /* A code with sets of messages can be long. */
    if (!str_empty(c->code) &&
        (!imap_write(s, S("["), err) || !imap_write(s, c->code, err) || !imap_write(s, S("] "), err)))
        return false;
    if (!str_empty(c->text))
        return imap_printf(s, err, "%.*s\r\n", STR_ARG(c->text));
    return imap_printf(s, err, "%s%s completed.\r\n", c->is_uid ? "UID " : "", c->def->name);
}

FIBER static bool run_read_command(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct err why = ERR_INIT;
    s->commands++;
    bool ok = handle(s, c, &why);
    if (imap_is_broken(s)) /* a handler's write failed, or a body could not be sent to its end */
        return err_set(err, ERR_UNAVAILABLE, "connection lost");
    FIBER_DEADLINE(command_ms(s));
    if (!tell_changes(s, c, err))
        return false;
    bool sent = c->is_silent || (ok ? reply_ok(s, c, err) : imap_send_failure(s, c, &why, err));
    if (s->bad_in_row >= s->server->opts.limits.bad_commands) {
        metric_inc_label(M_IMAP_REFUSED, "bad_commands");
        imap_end(s, IMAP_END_BAD_COMMANDS);
    }
    return sent;
}

FIBER bool imap_run_command(struct imap_session *s, struct err *err)
{
    const struct imap_limits *l = &s->server->opts.limits;
    ARENA(a, IMAP_COMMAND_ARENA);
    BUF(text, MAX(l->line_bytes, l->command_bytes) + l->line_bytes);
    struct imap_command c = {.arena = &a, .code = S(""), .text = S("")};
    bool has_head;
    size_t head = 0;
    enum read_result result;
    {
        FIBER_DEADLINE(command_ms(s));
        if (!read_line(s, &text, err))
            return false;
        has_head = parse_head(&c, buf_str(&text), &head);
        result = read_literals(s, &c, &text, head, err);
    }
    if (result == READ_FAILED)
        return false;
    if (result == READ_REFUSED)
        return true;
    c.args = cur_of(str_slice(buf_str(&text), head, SIZE_MAX));
    if (!has_head)
        c.def = NULL;
    return run_read_command(s, &c, err);
}
