/* A program that is mostly in the C library: it prints, sorts, allocates and copies, in two threads. Usage: library CPU_SECONDS */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum part { PRINTS, SORTS, ALLOCATES, COPIES, PARTS };

static uint64_t spent_ns[2][PARTS];
static volatile uint64_t sink;

static inline __attribute__((always_inline)) uint64_t cpu_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int compare(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first > second) - (first < second);
}

__attribute__((noinline)) uint64_t prints(uint64_t value) {
    char text[200];
    for (int i = 0; i < 300; i++)
        value += (uint64_t)snprintf(text, sizeof text, "%llu %x %s %.6g", (unsigned long long)value, i, "word", i * 1.7);
    return value;
}

__attribute__((noinline)) uint64_t sorts(uint64_t value) {
    uint64_t numbers[500];
    for (int i = 0; i < 500; i++)
        numbers[i] = value = value * 6364136223846793005u + 1442695040888963407u;
    qsort(numbers, 500, sizeof *numbers, compare);
    return value ^ numbers[7];
}

__attribute__((noinline)) uint64_t allocates(uint64_t value) {
    void *held[64];
    for (int i = 0; i < 64; i++)
        held[i] = malloc(16 + (value + (uint64_t)i * 37) % 900);
    for (int i = 0; i < 64; i++)
        free(held[i]);
    return value + 1;
}

__attribute__((noinline)) uint64_t copies(uint64_t value) {
    static _Thread_local char from[1 << 16], to[1 << 16];
    for (int i = 0; i < 16; i++) {
        memset(from, (int)value, sizeof from);
        memcpy(to, from, sizeof to);
        value += (uint64_t)to[value % sizeof to] + strlen("what is copied");
    }
    return value;
}

__attribute__((noinline)) uint64_t serve(int thread, double seconds) {
    static uint64_t (*const does[PARTS])(uint64_t) = {prints, sorts, allocates, copies};
    uint64_t value = 1, begun = cpu_ns(CLOCK_THREAD_CPUTIME_ID), end = begun + (uint64_t)(seconds * 1e9);
    while (begun < end)
        for (int part = 0; part < PARTS; part++)
            for (uint64_t until = begun + 20000000; begun < until;) {
                for (int i = 0; i < 60; i++)
                    value = does[part](value);
                uint64_t now = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
                spent_ns[thread][part] += now - begun;
                begun = now;
            }
    return value;
}

static double seconds;

__attribute__((noinline)) void *second(void *argument) {
    sink = serve(1, seconds / 2);
    return argument;
}

int main(int argc, char **argv) {
    static const char *const names[PARTS] = {"prints", "sorts", "allocates", "copies"};
    seconds = argc > 1 ? atof(argv[1]) : 1;
    pthread_t thread;
    if (pthread_create(&thread, NULL, second, NULL))
        return 1;
    sink = serve(0, seconds / 2);
    pthread_join(thread, NULL);
    printf("{\"cpu_ns\": %llu, \"stacks\": {", (unsigned long long)cpu_ns(CLOCK_PROCESS_CPUTIME_ID));
    for (int part = 0; part < PARTS; part++)
        printf("\"main;serve;%s\": %llu, \"second;serve;%s\": %llu%s", names[part],
               (unsigned long long)spent_ns[0][part], names[part], (unsigned long long)spent_ns[1][part],
               part < PARTS - 1 ? ", " : "}}\n");
}
