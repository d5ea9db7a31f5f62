/*
 * A password is as good as the number of guesses that find it, by zxcvbn's estimate: it knows what people choose. 10^8
 * is what limits on log-ins put out of reach for good, and what argon2id makes dear for one who has the hash. No rule
 * of digits and signs: those are met by "Summer2024!" and not by five random words.
 */
#include "auth-service/password.h"

#include <zxcvbn.h>

#include "fiber/work.h"

#define BITS_LEAST 26.6 /* log2 of 10^8 */
/* bytes: behind them nothing makes it worse, and the estimate takes the square of the length */
#define LOOKED_AT_MAX 100u
#define WORDS_MAX 15u

/* What there was more of than of anything else, as a reason. */
static const char *reason_of(const ZxcMatch_t *parts)
{
    int covered[MULTIPLE_MATCH] = {0}, most = BRUTE_MATCH;
    bool is_repeated = false;
    for (const ZxcMatch_t *m = parts; m; m = m->Next) {
        int type = (int)m->Type & (MULTIPLE_MATCH - 1);
        is_repeated |= ((int)m->Type & MULTIPLE_MATCH) != 0;
        covered[type] += m->Length;
        if (covered[type] > covered[most])
            most = type;
    }
    if (is_repeated)
        return "it repeats itself";
    switch (most) {
    case DICTIONARY_MATCH:
        return "it is made of common words, names or passwords";
    case DICT_LEET_MATCH:
        return "it is made of common words, with signs for letters";
    case USER_MATCH:
    case USER_LEET_MATCH:
        return "it is made of the address";
    case REPEATS_MATCH:
        return "it repeats itself";
    case SEQUENCE_MATCH:
        return "it is a sequence of letters or digits";
    case SPATIAL_MATCH:
        return "it is a row of keys";
    case DATE_MATCH:
    case YEAR_MATCH:
        return "it is a date";
    default:
        return "it is too short";
    }
}

/* The words of the address, each a string, then NULL. */
static void words_of(const struct name *of, struct arena *a, const char *out[WORDS_MAX + 1])
{
    size_t n = 0, from = 0;
    str all = arena_printf(a, "%.*s@%.*s.", STR_ARG(of->local), STR_ARG(of->domain));
    out[n++] = arena_strz(a, of->local);
    for (size_t i = 0; i < all.n && n < WORDS_MAX; i++) {
        if (ascii_is_alnum((unsigned char)all.p[i]) || (unsigned char)all.p[i] >= 0x80)
            continue;
        if (i - from > 2)
            out[n++] = arena_strz(a, str_slice(all, from, i));
        from = i + 1;
    }
    out[n] = NULL;
}

bool password_check(str password, const struct name *of, struct err *err)
{
    ARENA(a, 64 * 1024);
    const char *words[WORDS_MAX + 1];
    char looked_at[LOOKED_AT_MAX + 1] = "";
    ZxcMatch_t *parts = NULL;
    size_t n = 0;
    for (; n < MIN(password.n, (size_t)LOOKED_AT_MAX) && password.p[n]; n++)
        looked_at[n] = password.p[n];
    words_of(of, &a, words);
    double bits = ZxcvbnMatch(looked_at, words, &parts);
    const char *why = bits < BITS_LEAST ? reason_of(parts) : NULL;
    ZxcvbnFreeInfo(parts);
    explicit_bzero(looked_at, sizeof(looked_at));
    return !why ||
           err_set(err, ERR_INVALID,
                   "the password is too easy to guess: %s; take some more words, or a longer one at random", why);
}

struct check {
    str password;
    const struct name *of;
    bool ok;
    struct err err;
};
static void run_check(void *arg)
{
    struct check *c = arg;
    c->ok = password_check(c->password, c->of, &c->err);
}

bool password_check_on_pool(struct auth *auth, str password, const struct name *of, struct err *err)
{
    struct check c = {.password = password, .of = of, .err = ERR_INIT};
    if (auth->opts.takes_weak_passwords)
        return true;
    if (!work_run(run_check, &c, err))
        return false;
    if (!c.ok)
        *err = c.err;
    return c.ok;
}
