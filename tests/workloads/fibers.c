/* Runs on a stack of its own making half of the time, and calls a library again and again in the other half: half of that is in the stubs
 * through which it does. Usage: fibers CPU_SECONDS */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>

static uint64_t stirred_ns, counted_ns;
static ucontext_t kitchen, counter;
static volatile uint64_t sink;
static volatile int broken;

static inline __attribute__((always_inline)) uint64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

__attribute__((noinline, cold, noreturn)) static void give_up(const char *why) {
    fputs(why, stderr);
    abort();
}

__attribute__((noinline)) uint64_t stir(uint64_t ns) {
    uint64_t begun = cpu_ns(), now, value = begun | 1;
    do {
        for (int i = 0; i < 100000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        now = cpu_ns();
    } while (now - begun < ns);
    stirred_ns += now - begun;
    return value;
}

/* Lies in two places: what never happens is moved away from the rest. */
__attribute__((noinline)) uint64_t count(uint64_t ns) {
    uint64_t begun = cpu_ns(), now, value = begun | 1;
    do {
        for (int i = 0; i < 20000; i++)
            value += (uint64_t)labs((long)value) ^ (uint64_t)abs((int)value);
        if (broken)
            give_up("the till is broken\n");
        now = cpu_ns();
    } while (now - begun < ns);
    counted_ns += now - begun;
    return value;
}

void cook(void) {
    for (;;) {
        sink += stir(10000000) + 1;
        swapcontext(&kitchen, &counter);
    }
}

__attribute__((noinline)) void serve(uint64_t end) {
    while (cpu_ns() < end) {
        swapcontext(&counter, &kitchen);
        sink += count(10000000) + 1;
    }
}

int main(int argc, char **argv) {
    static char stack[64 << 10];
    if (getcontext(&kitchen))
        return 1;
    kitchen.uc_stack.ss_sp = stack;
    kitchen.uc_stack.ss_size = sizeof stack;
    kitchen.uc_link = &counter;
    makecontext(&kitchen, cook, 0);
    serve(cpu_ns() + (uint64_t)((argc > 1 ? atof(argv[1]) : 1) * 1e9));
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    printf("{\"cpu_ns\": %llu, \"stacks\": {\"cook;stir\": %llu, \"main;serve;count\": %llu}}\n",
           (unsigned long long)time.tv_sec * 1000000000u + (unsigned long long)time.tv_nsec,
           (unsigned long long)stirred_ns, (unsigned long long)counted_ns);
}
