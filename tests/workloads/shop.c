/* The shop in C. */
#define _GNU_SOURCE
#include "shop.h"

#include <stdio.h>
#include <time.h>

enum leaf { PRICE, STOCK, REPORT, LEAVES };

static uint64_t spent_ns[LEAVES];

static inline __attribute__((always_inline)) uint64_t cpu_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Inlined, so that the leaf itself is what runs; the clock is read seldom, so that it hardly shows. */
static inline __attribute__((always_inline)) uint64_t spend(enum leaf leaf, uint64_t ns) {
    uint64_t begun = cpu_ns(CLOCK_THREAD_CPUTIME_ID), now, value = begun | 1;
    do {
        for (int i = 0; i < 100000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        now = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    } while (now - begun < ns);
    __atomic_fetch_add(&spent_ns[leaf], now - begun, __ATOMIC_RELAXED);
    return value;
}

__attribute__((noinline)) uint64_t price(uint64_t ns) { return spend(PRICE, ns); }
__attribute__((noinline)) uint64_t stock(uint64_t ns) { return spend(STOCK, ns); }
__attribute__((noinline)) uint64_t report(uint64_t ns) { return spend(REPORT, ns); }

__attribute__((noinline)) uint64_t checkout(uint64_t ns) { return price(ns * 6) + stock(ns * 3); }

__attribute__((noinline)) uint64_t serve(double seconds) {
    uint64_t value = 0, end = cpu_ns(CLOCK_THREAD_CPUTIME_ID) + (uint64_t)(seconds * 1e9);
    const uint64_t tenth_ns = 50000000;
    while (cpu_ns(CLOCK_THREAD_CPUTIME_ID) + 5 * tenth_ns < end)
        value += checkout(tenth_ns) + report(tenth_ns);
    return value;
}

void print_spent(const char *root) {
    printf("{\"cpu_ns\": %llu, \"stacks\": {"
           "\"%s;serve;checkout;price\": %llu, \"%s;serve;checkout;stock\": %llu, \"%s;serve;report\": %llu}}\n",
           (unsigned long long)cpu_ns(CLOCK_PROCESS_CPUTIME_ID),
           root, (unsigned long long)spent_ns[PRICE], root, (unsigned long long)spent_ns[STOCK],
           root, (unsigned long long)spent_ns[REPORT]);
}
