/*
 * clock.h: the one clock and the one source of randomness, both replaceable in tests.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/base.h"

int64_t clock_mono_ms(void); /* monotonic milliseconds; for deadlines and durations */
int64_t clock_mono_us(void);
int64_t clock_unix(void); /* seconds since 1970, UTC */
int64_t clock_unix_ms(void);
/* Tests: from now on the clocks stand still at these values until moved; unfreeze with clock_real(). */
void clock_freeze(int64_t unix_ms, int64_t mono_ms);
void clock_advance_ms(int64_t ms);
void clock_real(void);
/* Tests: the wall clock goes on, but so many seconds further ahead of the real one; undone by clock_real(). */
void clock_jump_s(int64_t s);

/* Cryptographic randomness; aborts when there is none. In tests random_seed() makes it repeatable (0 undoes it). */
void random_bytes(void *p, size_t n);
uint64_t random_u64(void);
uint64_t random_below(uint64_t bound); /* uniform in [0, bound), bound > 0 */
void random_seed(uint64_t seed);

#endif
