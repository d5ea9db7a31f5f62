/*
 * Runs a fuzz target without libFuzzer: each seed file of the folders given, then a fixed number of cheap mutations of
 * each (cuts, byte changes, repeats), from a fixed start so that a failure repeats.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUTATIONS 300
#define INPUT_MAX (1u << 20)

static uint64_t state = 0x9e3779b97f4a7c15ull;
static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* An exact-size heap copy, so that ASan sees a read of one byte too many. */
static void run_copy(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static void mutate_and_run(const uint8_t *seed, size_t n)
{
    static uint8_t work[INPUT_MAX];
    for (int i = 0; i < MUTATIONS && n; i++) {
        size_t m = n;
        memcpy(work, seed, n);
        switch (next_random() % 4) {
        case 0:
            m = next_random() % (n + 1);
            break;
        case 1:
            for (int k = 0; k < 3; k++)
                work[next_random() % n] = (uint8_t)next_random();
            break;
        case 2:
            work[next_random() % n] = (uint8_t) "\r\n\0\"(){}<>@:;=%*"[next_random() % 16];
            break;
        default: {
            size_t from = next_random() % n, len = next_random() % (n - from) + 1;
            if (m + len > INPUT_MAX)
                break;
            memmove(work + from + len, work + from, m - from);
            m += len;
        }
        }
        run_copy(work, m);
    }
}

int main(int argc, char **argv)
{
    static uint8_t seed[INPUT_MAX / 2];
    int files = 0;
    run_copy(seed, 0);
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            fprintf(stderr, "no seeds in %s\n", argv[i]);
            return 1;
        }
        for (struct dirent *e; (e = readdir(dir));) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "rb");
            if (!f)
                continue;
            size_t n = fread(seed, 1, sizeof(seed), f);
            fclose(f);
            run_copy(seed, n);
            mutate_and_run(seed, n);
            files++;
        }
        closedir(dir);
    }
    printf("%d seeds, %d mutations each\n", files, MUTATIONS);
    return files ? 0 : 1;
}
