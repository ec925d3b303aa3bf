/* Lives for some milliseconds: burns CPU in burn() and sleeps, one before the other.
 * Usage: short BURN_US SLEEP_US SLEEP_FIRST [TELL], which ends with a code that tells how much more it burnt, in TELL_NS */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "short.h"

static inline __attribute__((always_inline)) uint64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

__attribute__((noinline)) uint64_t burn(uint64_t ns, uint64_t *spent) {
    uint64_t begun = cpu_ns(), value = begun | 1;
    do {
        for (int i = 0; i < 30000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        *spent = cpu_ns() - begun;
    } while (*spent < ns);
    return value;
}

static void rest(uint64_t us) {
    struct timespec time = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    uint64_t burn_us = strtoull(argv[1], NULL, 10), sleep_us = strtoull(argv[2], NULL, 10), spent;
    if (argv[3][0] == '1')
        rest(sleep_us);
    volatile uint64_t value = burn(burn_us * 1000, &spent);
    (void)value;
    if (argv[3][0] != '1')
        rest(sleep_us);
    uint64_t more = (spent - burn_us * 1000) / TELL_NS;
    return argc < 5 ? 0 : more > 255 ? 255 : (int)more;
}
