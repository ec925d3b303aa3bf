/* Burns CPU at the bottom of a stack of a given depth. Usage: deep FRAMES CPU_SECONDS */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static inline __attribute__((always_inline)) double cpu_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

__attribute__((noinline)) uint64_t bottom(double end) {
    uint64_t value = 1;
    do
        for (int i = 0; i < 100000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
    while (cpu_seconds() < end);
    return value;
}

/* Ten words of its own, as a common function has. */
__attribute__((noinline)) uint64_t down(int frames, double end) {
    volatile uint64_t own[10] = {(uint64_t)frames};
    return (frames > 0 ? down(frames - 1, end) : bottom(end)) + own[0];
}

int main(int argc, char **argv) {
    int frames = argc > 1 ? atoi(argv[1]) : 10;
    /* main(), the last down() and bottom() are frames too. */
    volatile uint64_t value = down(frames > 3 ? frames - 3 : 0, argc > 2 ? atof(argv[2]) : 1e9);
    (void)value;
    return 0;
}
