/* Functions keep frames, but the leaf, as hand-written assembler does, keeps none. Usage: leaf CPU_SECONDS */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline __attribute__((always_inline)) uint64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Compiled without a frame, whatever the others are. */
__attribute__((noinline, optimize("omit-frame-pointer"))) uint64_t leaf(uint64_t value) {
    for (int i = 0; i < 100000; i++)
        value = value * 6364136223846793005u + 1442695040888963407u;
    return value;
}

__attribute__((noinline)) uint64_t caller(uint64_t value) { return leaf(value) + 1; }

__attribute__((noinline)) uint64_t serve(uint64_t end) {
    uint64_t value = 1;
    while (cpu_ns() < end)
        value = caller(value) + 1;
    return value;
}

int main(int argc, char **argv) {
    volatile uint64_t value = serve((uint64_t)((argc > 1 ? atof(argv[1]) : 1) * 1e9));
    (void)value;
    printf("{\"cpu_ns\": %llu, \"stacks\": {\"main;serve;caller;leaf\": %llu}}\n", (unsigned long long)cpu_ns(),
           (unsigned long long)cpu_ns());
}
