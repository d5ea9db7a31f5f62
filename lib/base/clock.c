#include "base/clock.h"

#include <openssl/rand.h>
#include <time.h>

static struct {
    bool is_frozen;
    int64_t unix_ms, mono_ms;
} frozen;
static int64_t ahead_ms;
static uint64_t seed_state;

static int64_t now_us(clockid_t id)
{
    struct timespec ts;
    if (clock_gettime(id, &ts) != 0)
        panic("clock_gettime failed");
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return frozen.is_frozen ? frozen.mono_ms * 1000 : now_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return clock_mono_us() / 1000;
}

int64_t clock_unix_ms(void)
{
    return frozen.is_frozen ? frozen.unix_ms : now_us(CLOCK_REALTIME) / 1000 + ahead_ms;
}

int64_t clock_unix(void)
{
    return clock_unix_ms() / 1000;
}

void clock_freeze(int64_t unix_ms, int64_t mono_ms)
{
    frozen.is_frozen = true;
    frozen.unix_ms = unix_ms;
    frozen.mono_ms = mono_ms;
}

void clock_advance_ms(int64_t ms)
{
    assert(frozen.is_frozen);
    frozen.unix_ms += ms;
    frozen.mono_ms += ms;
}

void clock_real(void)
{
    frozen.is_frozen = false;
    ahead_ms = 0;
}

void clock_jump_s(int64_t s)
{
    assert(!frozen.is_frozen);
    ahead_ms += s * 1000;
}

void random_seed(uint64_t seed)
{
    seed_state = seed;
}

/* splitmix64, only ever used when a test has seeded it. */
static uint64_t seeded_u64(void)
{
    uint64_t z = (seed_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void random_bytes(void *p, size_t n)
{
    unsigned char *to = p;
    if (seed_state) {
        for (; n; n--)
            *to++ = (unsigned char)seeded_u64();
        return;
    }
    while (n) {
        int step = (int)MIN(n, (size_t)1 << 20);
        if (RAND_bytes(to, step) != 1)
            panic("no randomness");
        to += step;
        n -= (size_t)step;
    }
}

uint64_t random_u64(void)
{
    uint64_t v;
    random_bytes(&v, sizeof(v));
    return v;
}

uint64_t random_below(uint64_t bound)
{
    assert(bound > 0);
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound, v;
    do
        v = random_u64();
    while (v >= limit);
    return v % bound;
}
