/* Sieve: what scripts mean, what their authors are told, and that no script can do harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/buf.h"
#include "sieve/sieve.h"

static const char message[] =
    "From: \"Ann Example\" <ann+news@example.org>\r\nTo: bob@example.net, Carl <carl@example.com>\r\nSubject: =?utf-8?q?a=C3=BC*b\\c?=\r\n"
    "Message-ID: <1@example.org>\r\nDate: Tue, 01 Apr 1997 09:06:31 -0800\r\nX-Twice: one\r\nX-Twice: two\r\n\r\nHello\r\n";

struct world {
    struct sieve_host host;
    struct sieve_run run;
    str text;
    const char *mailbox;   /* that exists */
    const char *duplicate; /* key that was seen */
    struct sieve_program *included;
    struct err fault; /* of mailbox_exists */
    char debug[200];
};

static bool read_bytes(struct sieve_host *h, uint64_t offset, uint64_t length, struct arena *a, str *out,
                       struct err *err)
{
    struct world *w = CONTAINER_OF(h, struct world, host);
    (void)err;
    *out = arena_str(a, str_slice(w->text, offset, offset + length));
    return true;
}

static bool mailbox_exists(struct sieve_host *h, str name, bool *out, struct err *err)
{
    struct world *w = CONTAINER_OF(h, struct world, host);
    if (w->fault.kind)
        return err_set(err, w->fault.kind, "%s", w->fault.msg);
    *out = w->mailbox && str_eq(name, str_c(w->mailbox));
    return true;
}

static bool include(struct sieve_host *h, str name, bool is_global, const struct sieve_program **out, struct err *err)
{
    struct world *w = CONTAINER_OF(h, struct world, host);
    (void)is_global, (void)err;
    *out = str_eq(name, S("other")) ? w->included : NULL;
    return true;
}

static void debug(struct sieve_host *h, str text)
{
    struct world *w = CONTAINER_OF(h, struct world, host);
    snprintf(w->debug, sizeof w->debug, "%.*s", STR_ARG(text));
}

static const struct sieve_host_ops ops = {
    .read = read_bytes, .mailbox_exists = mailbox_exists, .include = include, .debug = debug};

static void world_init(struct world *w, struct arena *a, str text)
{
    *w = (struct world){.host.ops = &ops, .text = text};
    w->run = (struct sieve_run){.host = &w->host,
                                .message = mime_parse(a, text, NULL),
                                .size = text.n,
                                .now_unix = 1700000000,
                                .envelope = {.from = S("ann+news@example.org"),
                                             .to = S("bob@example.net"),
                                             .original_to = S("bob+lists/x@example.net")}};
}

static struct sieve_program *must_compile(str script)
{
    struct sieve_errors e;
    struct sieve_program *p = sieve_compile(script, NULL, &e);
    if (!p)
        fail_msg("%u:%u: %s in\n%.*s", e.v[0].line, e.v[0].column, e.v[0].text, STR_ARG(script));
    return p;
}

static void run_in(struct world *w, str script, struct arena *a, struct sieve_result *out)
{
    CLEANUP(sieve_program_free) struct sieve_program *p = must_compile(script);
    struct sieve_script s = {p, S("script")};
    sieve_run(&w->run, &s, 1, a, out);
}

/* The actions as one line: "fileinto a; redirect b; keep". */
static str described(const struct sieve_result *r, struct arena *a)
{
    static const char *const names[] = {"keep", "fileinto", "redirect", "reject", "vacation", "notify"};
    BUF(b, 1 << 16);
    for (size_t i = 0; i < r->n; i++) {
        const struct sieve_action *x = &r->actions[i];
        str what = x->kind == SIEVE_FILEINTO   ? x->mailbox
                   : x->kind == SIEVE_REDIRECT ? x->address
                   : x->kind == SIEVE_NOTIFY   ? x->method
                   : x->kind == SIEVE_REJECT   ? x->reason
                                               : S("");
        buf_printf(&b, "%s%s%s%.*s", i ? "; " : "", names[x->kind], what.n ? " " : "", STR_ARG(what));
        for (size_t k = 0; k < x->n_flags; k++)
            buf_printf(&b, "%s%.*s", k ? " " : " (", STR_ARG(x->flags[k]));
        buf_printf(&b, "%s%s", x->n_flags ? ")" : "", x->may_create ? " +" : "");
    }
    if (r->has_error)
        buf_printf(&b, "%s! %u %.*s", r->n ? " " : "", r->error_line, STR_ARG(r->error));
    return arena_str(a, buf_str(&b));
}

static void expect(const char *script, const char *want)
{
    ARENA(a, 256 << 20);
    struct world w;
    struct sieve_result r;
    world_init(&w, &a, str_c(message));
    run_in(&w, str_c(script), &a, &r);
    str got = described(&r, &a);
    if (!str_eq(got, str_c(want)))
        fail_msg("%s\n  gives  %.*s\n  wanted %s", script, STR_ARG(got), want);
}

static void test_actions(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "keep"},
        {"keep;", "keep"},
        {"discard;", ""},
        {"stop;", "keep"},
        {"keep; discard;", "keep"},
        {"discard; keep;", "keep"},
        {"require \"fileinto\"; fileinto \"a\";", "fileinto a"},
        {"require \"fileinto\"; fileinto \"a\"; fileinto \"a\";", "fileinto a"},
        {"require [\"fileinto\",\"copy\"]; fileinto :copy \"a\";", "fileinto a; keep"},
        {"redirect \"x@y.org\";", "redirect x@y.org"},
        {"redirect \"x@y.org\"; redirect \"X@Y.org\"; keep;", "redirect x@y.org; keep"},
        {"require [\"fileinto\",\"mailbox\"]; fileinto :create \"a/b\";", "fileinto a/b +"},
        {"require \"fileinto\"; fileinto \"inbox\"; keep;", "fileinto inbox"},
        {"require \"fileinto\"; keep; fileinto \"INBOX\";", "keep"},
        {"require \"reject\"; reject \"no\";", "reject no"},
        {"require \"reject\"; keep; reject \"no\";",
         "keep ! 1 a message that is kept, sent on or answered cannot be refused, too"},
        {"require [\"reject\",\"fileinto\"]; reject \"no\"; fileinto \"a\";",
         "keep ! 1 the message is refused already, nothing else can be done with it"},
        {"require [\"reject\",\"vacation\"]; vacation \"x\"; reject \"no\";",
         "keep ! 1 a message that is kept, sent on or answered cannot be refused, too"},
        {"require \"vacation\"; vacation \"x\";\nvacation \"x\";", "keep ! 2 vacation is used a second time"},
        {"require \"vacation\"; vacation \"away\";", "vacation; keep"},
        {"require \"enotify\"; notify \"mailto:a@b.org\";", "notify mailto:a@b.org; keep"},
        {"if true { discard; } elsif true { keep; } else { keep; }", ""},
        {"if false { keep; } elsif true { discard; } else { keep; }", ""},
        {"if false { keep; } elsif false { keep; } else { discard; }", ""},
        {"if true { stop; } discard;", "keep"},
        {"require \"imap4flags\"; setflag \"\\\\Seen $Work\"; addflag [\"a\", \"A\"];", "keep (\\Seen $Work a)"},
        {"require [\"imap4flags\",\"fileinto\"]; addflag \"x\"; fileinto :flags [\"\\\\Deleted\",\"\"] \"a\"; keep;",
         "fileinto a (\\Deleted); keep (x)"},
        {"require [\"imap4flags\",\"variables\"]; set \"f\" \"\\\\Seen $Work\"; setflag \"${f}\"; removeflag \"\\\\seen\";",
         "keep ($Work)"},
        {"require [\"imap4flags\",\"variables\"]; setflag \"v\" [\"a\", \"b\"]; if hasflag :contains \"v\" \"b\" { discard; }",
         ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        expect(cases[i][0], cases[i][1]);
}

/* `if TEST { discard; }`: what it holds for is gone. */
static void test_tests(void **state)
{
    (void)state;
    static const struct {
        const char *require, *test;
        bool holds;
    } cases[] = {
        {"", "header :contains \"subject\" \"\"", true},
        {"", "header :is \"Subject\" \"a\xc3\xbc*b\\\\c\"", true},
        {"", "header \"subject\" \"nothing\"", false},
        {"", "header :matches \"subject\" \"a?\\\\**\"", true},
        {"", "header :matches \"subject\" \"A*C\"", true},
        {"", "header :comparator \"i;octet\" :matches \"subject\" \"A*C\"", false},
        {"", "header :matches \"subject\" \"*c*b*\"", false},
        {"", "header :matches \"subject\" \"?\xc3\xbc*\"", true},
        {"", "header :matches \"subject\" \"??\\\\*?\\\\\\\\?\"", true},
        {"", "address :domain \"from\" \"EXAMPLE.org\"", true},
        {"", "address :localpart \"from\" \"ann+news\"", true},
        {"", "address \"from\" \"ann+news@example.org\"", true},
        {"", "address :all :contains [\"to\",\"cc\"] \"carl\"", true},
        {"", "address \"from\" \"Ann Example\"", false},
        {"subaddress", "address :detail \"from\" \"news\"", true},
        {"subaddress", "address :user \"from\" \"ann\"", true},
        {"subaddress", "address :detail :contains \"to\" \"\"", false},
        {"envelope", "envelope \"from\" \"ann+news@example.org\"", true},
        {"envelope\",\"subaddress", "envelope :detail \"to\" \"lists/x\"", true},
        {"", "exists [\"from\",\"date\"]", true},
        {"", "exists [\"from\",\"x-none\"]", false},
        {"", "size :over 100", true},
        {"", "size :over 1K", false},
        {"", "size :under 1M", true},
        {"", "not allof (true, false)", true},
        {"", "anyof (false, not false)", true},
        {"", "allof (true, not false)", true},
        {"relational", "header :count \"eq\" \"x-twice\" \"2\"", true},
        {"relational\",\"comparator-i;ascii-numeric",
         "header :value \"ge\" :comparator \"i;ascii-numeric\" \"x-twice\" \"1\"", true},
        {"index", "header :index 2 \"x-twice\" \"two\"", true},
        {"index", "header :index 1 :last \"x-twice\" \"two\"", true},
        {"index", "header :index 3 \"x-twice\" \"two\"", false},
        {"date", "date :originalzone \"date\" \"hour\" \"09\"", true},
        {"date", "date :zone \"+0000\" \"date\" \"hour\" \"17\"", true},
        {"date", "date \"date\" \"weekday\" \"2\"", true},
        {"date", "currentdate \"date\" \"2023-11-14\"", true},
        {"date", "date :originalzone \"date\" \"std11\" \"Tue, 01 Apr 1997 09:06:31 -0800\"", true},
        {"date", "date :zone \"+0000\" \"date\" \"julian\" \"50539\"", true},
        {"body", "body :contains \"hello\"", true},
        {"body", "body :raw :contains \"Hello\"", true},
        {"body", "body :content \"image\" :contains \"\"", false},
        {"body", "body :content \"text/plain\" :matches \"Hello*\"", true},
        {"regex", "header :regex \"subject\" \"^a.[*]b\"", true},
        {"regex", "header :regex \"subject\" \"^b\"", false},
        {"variables", "string :is \"${0}\" \"\"", true},
        {"encoded-character\",\"variables", "string \"${hex:41 42}\" \"AB\"", true},
        {"encoded-character\",\"variables", "string \"${unicode:c3}${hex:4x}\" \"\xc3\x83${hex:4x}\"", true},
        {"mailbox", "mailboxexists \"there\"", false},
        {"ihave", "ihave \"nothing\"", false},
        {"ihave", "ihave [\"fileinto\"]", true},
        {"environment", "environment \"name\" \"x\"", false},
        {"duplicate", "duplicate", false},
        {"spamtest", "spamtest :is \"0\"", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char script[600];
        snprintf(script, sizeof script, "require [\"%s\"];\nif %s { discard; }",
                 *cases[i].require ? cases[i].require : "fileinto", cases[i].test);
        expect(script, cases[i].holds ? "" : "keep");
    }
}

/* Values of matches and variables, with what others got wrong. */
static void test_variables(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"require [\"variables\",\"fileinto\"]; if header :matches \"subject\" \"*\\\\*?\\\\\\\\*\" { fileinto \"${1}|${2}|${3}\"; }",
         "fileinto a\xc3\xbc|b|c"},
        /* a value with wildcards in it, quoted, fits itself alone */
        {"require [\"variables\"]; if header :matches \"Subject\" \"*\" { set :quotewildcard \"s\" \"${1}\"; } if header :matches \"Subject\" \"${s}\" { discard; }",
         ""},
        {"require [\"variables\",\"fileinto\"]; if header :matches \"subject\" \"a*\" {} if header :matches \"subject\" \"x*\" {} fileinto \"v${1}\";",
         "fileinto v\xc3\xbc*b\\c"},
        {"require [\"variables\",\"fileinto\"]; set \"x\" \"\"; set :length \"n\" \"${x}\"; fileinto \"${n}\";",
         "fileinto 0"},
        {"require [\"variables\",\"fileinto\"]; set :length \"n\" \"\xc3\xbc\xc3\xbc\"; fileinto \"${n}\";",
         "fileinto 2"},
        {"require [\"variables\",\"fileinto\"]; set :upperfirst :lower \"n\" \"hELLO\"; fileinto \"${N}\";",
         "fileinto Hello"},
        {"require [\"variables\",\"regex\",\"fileinto\"]; if header :regex \"subject\" \"^(.)(.*)[*](b)\" { fileinto \"${3}${1}\"; }",
         "fileinto ba"},
        {"require [\"variables\",\"fileinto\"]; fileinto \"a${}b${1x}${unset}\";", "fileinto a${}b${1x}"},
        {"require [\"variables\",\"fileinto\"]; fileinto \"${unset}\";", "keep ! 1 '' cannot be the name of a mailbox"},
        {"require [\"variables\",\"envelope\",\"subaddress\",\"fileinto\",\"mailbox\"];\nif envelope :matches :detail \"to\" \"*\" { fileinto :create \"${1}\"; }",
         "fileinto lists/x +"},
        {"require \"variables\"; set \"a\" \"a@b.org>\r\nRCPT TO:<c@d.org\"; redirect \"${a}\";",
         "keep ! 2 'a@b.org>  RCPT TO:<c@d.org' is no e-mail address"},
        {"require \"variables\"; set \"a\" \"x@y.org\"; redirect \"${a}\";", "redirect x@y.org"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        expect(cases[i][0], cases[i][1]);
    /* what is too long is cut at a character */
    BUF(script, 1 << 20);
    buf_add(&script, S("require [\"variables\",\"fileinto\"]; set \"x\" \"a"));
    for (int i = 0; i < 2500; i++)
        buf_add(&script, S("\xc3\xbc"));
    buf_add(&script, S("\"; set :length \"n\" \"${x}\"; fileinto \"${n}\";"));
    expect(buf_z(&script), "fileinto 2000");
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *script;
        unsigned line, column;
        const char *says;
    } cases[] = {
        {"keep", 1, 5, "';'"},
        {"\n  kep;", 2, 3, "no command 'kep'"},
        {"if header \"a\" \"b\" keep;", 1, 19, "'{'"},
        {"if hedaer \"a\" { }", 1, 4, "no test 'hedaer'"},
        {"fileinto \"a\";", 1, 1, "require \"fileinto\""},
        {"keep; require \"fileinto\";", 1, 7, "before all other"},
        {"require \"nothing\";", 1, 9, "not known here"},
        {"if true { keep; ", 1, 9, "not closed"},
        {"} keep;", 1, 1, "too many"},
        {"else { }", 1, 1, "behind no if"},
        {"keep \"a\";", 1, 6, "no more arguments"},
        {"redirect;", 1, 9, "takes a string"},
        {"redirect \"a@example.net; b@example.net\";", 1, 10, "no e-mail address"},
        {"redirect \"\";", 1, 10, "no e-mail"},
        {"redirect \"x\";", 1, 10, "no e-mail"},
        {"redirect 5;", 1, 10, "takes a string"},
        {"if size 5 { }", 1, 4, ":over or :under"},
        {"if size :over :under 5 { }", 1, 15, "either"},
        {"if header :is :contains \"a\" \"b\" { }", 1, 15, "second"},
        {"if header :comparator \"x\" \"a\" \"b\" { }", 1, 23, "comparator"},
        {"if header :frop \"a\" \"b\" { }", 1, 11, "no :frop"},
        {"keep; \"open", 1, 7, "not closed"},
        {"keep; /* x", 1, 7, "comment"},
        {"# caf\xc3\xa9\nkeep; text:\nx\n", 2, 7, "line with a dot"},
        {"require \"variables\"; set \"1a\" \"b\";", 1, 26, "name of a variable"},
        {"require \"variables\"; set \"x.y\" \"b\";", 1, 26, "no variables in"},
        {"require \"regex\"; if header :regex \"a\" \"(\" { }", 1, 39, "pattern is wrong"},
        {"require \"vacation\"; vacation :days \"x\" \"y\";", 1, 36, "takes a number"},
        {"require \"date\"; if currentdate \"hours\" \"1\" { }", 1, 32, "no part"},
        {"require \"enotify\"; notify \"nobody\";", 1, 27, "URI"},
        {"require \"fileinto\"; fileinto \"a\xff\";", 1, 30, "not UTF-8"},
        {"if size :over 99999999999999999999 { }", 1, 15, "too large"},
        {"if size :over 5x { }", 1, 15, "ends with"},
        {"require \"imap4flags\"; setflag \"a(b\";", 1, 31, "no flag"},
        {"require \"envelope\"; if envelope \"bcc\" \"x\" { }", 1, 33, "no part"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct sieve_errors e;
        struct sieve_program *p = sieve_compile(str_c(cases[i].script), NULL, &e);
        if (p || e.v[0].line != cases[i].line || e.v[0].column != cases[i].column ||
            !strstr(e.v[0].text, cases[i].says))
            fail_msg("%s\n  says %u:%u: %s", cases[i].script, p ? 0 : e.v[0].line, p ? 0 : e.v[0].column,
                     p ? "nothing" : e.v[0].text);
    }
    /* Several at once, and none that only follows from another. */
    struct sieve_errors e;
    assert_null(sieve_compile(S("kep;\nif tru { keep; }\nkeep;\nfrop \"a\" { discard; }\ndiscard;"), NULL, &e));
    assert_int_equal(e.n, 3);
    assert_int_equal(e.v[0].line, 1);
    assert_int_equal(e.v[1].line, 2);
    assert_int_equal(e.v[2].line, 4);
}

/* A script that can never be a harm: in depth, length, steps, memory and pattern work. */
static void test_bounds(void **state)
{
    (void)state;
    struct sieve_errors e;
    BUF(b, 8 << 20);
    /* 15 compile (RFC 5228 2.10.7), thousands end with a word */
    for (unsigned depth = 15; depth <= 20000; depth *= 36) {
        buf_clear(&b);
        for (unsigned i = 0; i < depth; i++)
            buf_add(&b, S("if true {"));
        for (unsigned i = 0; i < depth; i++)
            buf_add(&b, S("}"));
        struct sieve_program *p = sieve_compile(buf_str(&b), NULL, &e);
        assert_int_equal(p != NULL, depth == 15);
        sieve_program_free(p);
    }
    buf_clear(&b);
    buf_add(&b, S("if "));
    for (int i = 0; i < 30000; i++)
        buf_add(&b, S("not "));
    buf_add(&b, S("true { }"));
    assert_null(sieve_compile(buf_str(&b), NULL, &e));
    buf_clear(&b);
    buf_add(&b, S("if anyof ("));
    for (int i = 0; i < 50000; i++)
        buf_add(&b, S("false, "));
    buf_add(&b, S("true) { discard; }"));
    expect(buf_z(&b), "");
    for (int i = 0; i < 12000; i++)
        buf_add(&b, S("if false { }\n"));
    for (int i = 0; i < 50000; i++)
        buf_add(&b, S("stop;")); /* never reached */
    /* more steps than a run may have */
    buf_clear(&b);
    for (int i = 0; i < 60000; i++)
        buf_add(&b, S("if false{}"));
    expect(buf_z(&b), "keep ! 1 the script takes more than 100000 steps");
    /* doubling a variable */
    buf_clear(&b);
    buf_add(&b, S("require \"variables\"; set \"a\" \"0123456789\";"));
    for (int i = 0; i < 5000; i++)
        buf_add(&b, S("set \"a\" \"${a}${a}\";"));
    expect(buf_z(&b), "keep ! 1 the variables take too much memory");
    buf_clear(&b);
    buf_add(&b, S("require \"fileinto\";"));
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "fileinto \"a%d\";", i);
    expect(buf_z(&b), "keep ! 1 the script wants more than 100 actions");
    buf_clear(&b);
    for (int i = 0; i < 11; i++)
        buf_printf(&b, "redirect \"a%d@example.org\";", i);
    buf_add(&b, S("discard;"));
    expect(buf_z(&b), "keep ! 1 the script sends the message on to more than 10 addresses");
}

static void expect_on(str text, const char *script, const char *want)
{
    ARENA(a, 512 << 20);
    struct world w;
    struct sieve_result r;
    world_init(&w, &a, text);
    run_in(&w, str_c(script), &a, &r);
    str got = described(&r, &a);
    if (!str_eq(got, str_c(want)))
        fail_msg("%s\n  gives  %.*s\n  wanted %s", script, STR_ARG(got), want);
}

static void test_pattern_work(void **state)
{
    (void)state;
    BUF(b, 16 << 20);
    buf_add(&b, S("From: a@b.org\r\nSubject: "));
    for (int i = 0; i < 900; i++)
        buf_add(&b, S("aaaaaaaa\r\n "));
    buf_add(&b, S("x\r\n\r\n"));
    for (int i = 0; i < 1000000; i++)
        buf_add(&b, S("aaaaaaaaaa"));
    expect_on(buf_str(&b), "require \"body\"; if body :raw :matches \"*a*a*a*a*a*a*a*b\" { discard; }",
              "keep ! 1 a pattern takes too much work");
    expect_on(buf_str(&b), "require \"regex\"; if header :regex \"subject\" \"(a+ ?)+$\" { discard; }",
              "keep ! 1 a pattern takes too much work");
    expect_on(buf_str(&b), "require \"regex\"; if header :regex \"subject\" \"x$\" { discard; }", "");
}

/* The world may be away: that is no mistake of the script. */
static void test_host_errors(void **state)
{
    (void)state;
    ARENA(a, 16 << 20);
    struct world w;
    struct sieve_result r;
    world_init(&w, &a, str_c(message));
    (void)err_set(&w.fault, ERR_UNAVAILABLE, "the database is away");
    run_in(
        &w,
        S("require [\"mailbox\",\"fileinto\",\"copy\"]; redirect :copy \"a@b.org\"; if mailboxexists \"a\" { discard; }"),
        &a, &r);
    assert_true(r.has_error && r.is_temporary);
    assert_string_equal(described(&r, &a).p, "keep ! 1 the database is away");
}

static void test_include(void **state)
{
    (void)state;
    ARENA(a, 16 << 20);
    struct world w;
    struct sieve_result r;
    world_init(&w, &a, str_c(message));
    w.included = must_compile(S(
        "require [\"include\",\"variables\",\"fileinto\"]; global \"g\"; set \"g\" \"from inside\"; set \"l\" \"x\"; return; discard;"));
    run_in(
        &w,
        S("require [\"include\",\"variables\",\"fileinto\"]; set \"l\" \"own\"; include \"other\"; fileinto \"${global.g}/${l}\";"),
        &a, &r);
    assert_string_equal(described(&r, &a).p, "fileinto from inside/own");
    run_in(&w, S("require \"include\"; include :optional \"none\"; discard;"), &a, &r);
    assert_string_equal(described(&r, &a).p, "");
    run_in(&w, S("require \"include\";\ninclude \"none\"; discard;"), &a, &r);
    assert_string_equal(described(&r, &a).p, "keep ! 2 there is no script 'none' to include");
    sieve_program_free(w.included);
    w.included = must_compile(S("require \"include\"; include \"other\";"));
    run_in(&w, S("require \"include\"; include \"other\";"), &a, &r);
    assert_string_equal(described(&r, &a).p, "keep ! 1 the script 'other' includes itself");
    sieve_program_free(w.included);
}

/* Scripts before and after: the next one decides as long as the message would be kept. */
static void test_several_scripts(void **state)
{
    (void)state;
    static const struct {
        const char *v[3], *want;
    } cases[] = {
        {{"", "require \"fileinto\"; fileinto \"a\";", "discard;"}, "fileinto a"},
        {{"discard;", "keep;", ""}, ""},
        {{"keep;", "discard;", ""}, ""},
        {{"stop;", "keep;", "require \"fileinto\"; fileinto \"z\";"}, "fileinto z"},
        {{"", "", ""}, "keep"},
        {{"require [\"copy\",\"fileinto\"]; fileinto :copy \"log\";", "error_", ""}, NULL},
        {{"require [\"copy\",\"fileinto\"]; fileinto :copy \"log\";",
          "require \"fileinto\"; fileinto \"a\"; redirect \"x@y.org\"; redirect \"y@y.org\";", ""},
         "fileinto log; fileinto a; redirect x@y.org; redirect y@y.org"},
        {{"require \"imap4flags\"; setflag \"x\";", "", ""}, "keep (x)"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 16 << 20);
        struct world w;
        struct sieve_result r;
        struct sieve_script s[3];
        if (!cases[i].want)
            continue;
        world_init(&w, &a, str_c(message));
        for (size_t k = 0; k < 3; k++)
            s[k] = (struct sieve_script){must_compile(str_c(cases[i].v[k])), S("x")};
        sieve_run(&w.run, s, 3, &a, &r);
        if (!str_eq(described(&r, &a), str_c(cases[i].want)))
            fail_msg("%zu: %s", i, described(&r, &a).p);
        for (size_t k = 0; k < 3; k++)
            sieve_program_free((struct sieve_program *)(uintptr_t)s[k].program);
    }
}

static str edited(const char *script, str text, struct arena *a)
{
    struct world w;
    struct sieve_result r;
    world_init(&w, a, text);
    run_in(&w, str_c(script), a, &r);
    assert_false(r.has_error);
    assert_int_equal(r.n, 1);
    return arena_printf(a, "%.*s%.*s", STR_ARG(r.actions[0].header), STR_ARG(r.actions[0].body));
}

/* Changed headers follow the keep, implicit or not; nothing of a value becomes a line of its own. */
static void test_editheader(void **state)
{
    (void)state;
    ARENA(a, 64 << 20);
    str text = S("From: a@b.org\r\nX: 1\r\nX: 2\r\nSubject: s\r\n\r\nbody\r\n");
    assert_string_equal(
        edited("require \"editheader\"; addheader \"X-A\" \"one\"; addheader :last \"X-Z\" \"two\";", text, &a).p,
        "X-A: one\r\nFrom: a@b.org\r\nX: 1\r\nX: 2\r\nSubject: s\r\nX-Z: two\r\n\r\n");
    assert_string_equal(
        edited(
            "require \"editheader\"; deleteheader :index 2 \"x\"; deleteheader \"Subject\"; deleteheader \"Received\";",
            text, &a)
            .p,
        "From: a@b.org\r\nX: 1\r\n\r\n");
    assert_string_equal(edited("require \"editheader\"; deleteheader :contains \"X\" \"1\";", text, &a).p,
                        "From: a@b.org\r\nX: 2\r\nSubject: s\r\n\r\n");
    str added = edited(
        "require [\"editheader\",\"variables\"]; set \"v\" \"a\r\nBcc: evil@x.org\"; addheader \"X-V\" \"${v}\"; addheader \"X-U\" \"\xc3\xbc\";",
        text, &a);
    assert_true(str_starts(added, S("X-U: =?utf-8?")) || str_starts(added, S("X-U: =?UTF-8?")));
    assert_true(str_find_str(added, S("X-V: a  Bcc: evil@x.org\r\n")) > 0);
    BUF(big, 4 << 20);
    buf_add(&big, S("X: "));
    for (int i = 0; i < 100000; i++)
        buf_add(&big, S("0123456789"));
    buf_add(&big, S("\r\nFrom: a@b.org\r\n\r\nbody\r\n"));
    assert_true(edited("require \"editheader\"; addheader :last \"X-Z\" \"1\";", buf_str(&big), &a).n > 200000);
}

static void test_mime(void **state)
{
    (void)state;
    ARENA(a, 64 << 20);
    str text = S(
        "From: a@b.org\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nHello W\xc3\xb6rld\r\n"
        "--x\r\nContent-Type: application/x-exe; name=a.exe\r\n\r\nMZ\r\n--x--\r\n");
    expect_on(text, "require \"mime\"; if header :mime :anychild :type \"content-type\" \"application\" { discard; }",
              "");
    expect_on(
        text,
        "require \"mime\"; if header :mime :anychild :param \"name\" :matches \"content-type\" \"*.exe\" { discard; }",
        "");
    expect_on(text, "require \"mime\"; if header :mime :type \"content-type\" \"application\" { discard; }", "keep");
    expect_on(
        text,
        "require [\"foreverypart\",\"mime\",\"fileinto\"]; foreverypart { if header :mime :subtype \"content-type\" \"x-exe\" { fileinto \"bad\"; break; } }",
        "fileinto bad");
    expect_on(
        text,
        "require [\"foreverypart\",\"mime\",\"variables\",\"extracttext\",\"fileinto\"];"
        "foreverypart { if header :mime :type \"content-type\" \"text\" { extracttext :first 5 \"t\"; fileinto \"${t}\"; } }",
        "fileinto Hello");
    str replaced = edited(
        "require [\"foreverypart\",\"mime\",\"replace\"]; foreverypart { if header :mime :subtype \"content-type\" \"x-exe\" { replace \"removed\"; } }",
        text, &a);
    assert_true(str_find_str(replaced, S("removed")) > 0 && str_find_str(replaced, S("MZ")) < 0 &&
                str_find_str(replaced, S("Hello")) > 0);
    const struct mime_message *m = mime_parse(&a, replaced, NULL);
    assert_int_equal(m->root->n_children, 2);
    str enclosed = edited("require \"enclose\"; enclose :subject \"Warning\" text:\nLook out\n.\n;", text, &a);
    m = mime_parse(&a, enclosed, NULL);
    assert_int_equal(m->root->n_children, 2);
    assert_true(str_eq(m->envelope.subject, S("Warning")) && str_eq(m->root->children->next->type, S("MESSAGE")));
}

static void test_ihave(void **state)
{
    (void)state;
    expect("require \"ihave\"; if ihave \"vnd.none\" { frobnicate :x \"y\" { keep; } } else { discard; }", "");
    expect("require \"ihave\"; if ihave \"fileinto\" { fileinto \"a\"; }", "fileinto a");
    expect("require \"ihave\";\nif not ihave \"vnd.none\" { error \"no ${x}\"; }", "keep ! 2 no ${x}");
    expect("require \"ihave\";\n\nfrobnicate;", "keep ! 3 command 'frobnicate' is not known, or needs a require");
}

/* A typical script stays small, and the capabilities are what RFC 5804 shows. */
static void test_size(void **state)
{
    (void)state;
    BUF(b, 1 << 16);
    buf_add(&b, S("require [\"fileinto\",\"imap4flags\"];\n"));
    for (int i = 0; i < 20; i++)
        buf_printf(
            &b,
            "# rule %d\nif anyof (header :contains \"subject\" \"word%d\", address :domain \"from\" \"example%d.org\") { addflag \"\\\\Flagged\"; fileinto \"Folder %d\"; stop; }\n",
            i, i, i, i);
    CLEANUP(sieve_program_free) struct sieve_program *p = must_compile(buf_str(&b));
    assert_true(sieve_program_bytes(p) <= 5 * 1024);
    BUF(caps, 4096);
    static const char *const without[] = {"regex", NULL};
    struct sieve_options o = {.without = without};
    sieve_capabilities(&o, &caps);
    assert_true(str_find_str(buf_str(&caps), S("fileinto ")) == 0 && str_find_str(buf_str(&caps), S("regex")) < 0);
    struct sieve_errors e;
    assert_null(sieve_compile(S("require \"regex\";"), &o, &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_actions),     cmocka_unit_test(test_tests),   cmocka_unit_test(test_variables),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_bounds),  cmocka_unit_test(test_pattern_work),
        cmocka_unit_test(test_host_errors), cmocka_unit_test(test_include), cmocka_unit_test(test_several_scripts),
        cmocka_unit_test(test_editheader),  cmocka_unit_test(test_mime),    cmocka_unit_test(test_ihave),
        cmocka_unit_test(test_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
