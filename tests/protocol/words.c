#include "protocol/script.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/num.h"

FIBER static void dial(struct script *s, unsigned client, str kind)
{
    script_dial(s, client, kind);
}

FIBER static void login(struct script *s, unsigned client, str who)
{
    ARENA(a, 4096);
    script_send(s, client, arena_printf(&a, "l LOGIN %.*s@example.test secret", STR_ARG(who)));
    script_expect(s, client, S("l OK ..."), false);
}

/* "INBOX 3" */
static void mailbox_and_number(str args, str *box, uint32_t *n)
{
    assert(str_split(&args, ' ', box));
    assert(num_u32(args, 2000000, n));
}

FIBER static void add(struct script *s, unsigned client, str box, str message)
{
    ARENA(a, 4096);
    script_send(s, client, arena_printf(&a, "z APPEND %.*s {%zu+}", STR_ARG(box), message.n));
    script_send(s, client, message);
    script_expect(s, client, S("z OK ..."), true);
}

FIBER static void append(struct script *s, unsigned client, str args)
{
    str box;
    uint32_t n;
    mailbox_and_number(args, &box, &n);
    ARENA(a, 1u << 20);
    for (uint32_t i = 1; i <= n; i++)
        add(s, client, box, arena_printf(&a, "From: a%u@example.org\r\nSubject: number %u\r\n\r\nbody %u", i, i, i));
}

FIBER static void large(struct script *s, unsigned client, str args)
{
    str box;
    uint32_t n;
    mailbox_and_number(args, &box, &n);
    BUF(text, 4u << 20);
    buf_add(&text, S("Subject: large\r\n\r\n"));
    while (text.n < n)
        buf_printf(&text, "%0*d%s", (int)MIN(n - text.n, 78), 0, n - text.n > 80 ? "\r\n" : "");
    add(s, client, box, buf_str(&text));
}

FIBER static void header(struct script *s, unsigned client, str args)
{
    str box;
    uint32_t n;
    mailbox_and_number(args, &box, &n);
    BUF(text, 4u << 20);
    buf_add(&text, S("From: first@example.org\r\n"));
    for (uint32_t i = 0; text.n < n; i++)
        buf_printf(&text, "X-Fill-%u: %060u\r\n", i, i);
    buf_add(&text, S("Subject: last\r\n\r\nthe body"));
    add(s, client, box, buf_str(&text));
}

FIBER bool script_word(struct script *s, str line)
{
    static const struct {
        str name;
        FIBER void (*run)(struct script *s, unsigned client, str args);
    } words[] = {
        {S("dial"), dial}, {S("login"), login}, {S("append"), append}, {S("large"), large}, {S("header"), header}};
    str args = line, word;
    unsigned client = 1;
    if (!str_split(&args, ' ', &word) || !word.n)
        return false;
    if (ascii_is_digit((unsigned char)word.p[word.n - 1])) {
        client = (unsigned)(word.p[--word.n] - '0');
        if (client < 1 || client > SCRIPT_CLIENTS)
            return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_eq(word, words[i].name)) {
            words[i].run(s, client, args);
            return true;
        }
    return false;
}
