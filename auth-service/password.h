/*
 * password.h: whether a new password is hard enough to guess.
 */
#ifndef AUTH_SERVICE_PASSWORD_H
#define AUTH_SERVICE_PASSWORD_H

#include "auth-service/internal.h"

/*
 * INVALID, with the reason and the remedy, when it would be found within 10^8 guesses by one who tries words, names,
 * keys side by side, dates and repetitions first; the words of the address count as known. Blocks for some
 * milliseconds; may be called from any thread.
 */
bool password_check(str password, const struct name *of, struct err *err) WARN_UNUSED;
/* The same on the work pool; true at once when opts.takes_weak_passwords. Also UNAVAILABLE, TIMEOUT, CANCELLED. */
FIBER bool password_check_on_pool(struct auth *auth, str password, const struct name *of, struct err *err) WARN_UNUSED;

#endif
