/* Starts RATE processes a second for SECONDS, each living 5 to 50 ms, a fifth of it on a CPU, and prints what they spent
 * by the kernel's own accounts, and what of it they were told to spend in burn(). Usage: storm SHORT RATE SECONDS */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static uint64_t ended, cpu_ns, burn_ns;

static int reap(int options) {
    struct rusage usage;
    int status;
    pid_t pid = wait4(-1, &status, options, &usage);
    if (pid <= 0)
        return 0;
    ended++;
    cpu_ns += ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000u +
              ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000u;
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    int rate = atoi(argv[2]), count = rate * atoi(argv[3]);
    uint64_t random = 88172645463325252u;
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count; i++) {
        uint64_t at = (uint64_t)start.tv_nsec + (uint64_t)i * 1000000000u / (uint64_t)rate;
        struct timespec next = {.tv_sec = start.tv_sec + (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint64_t life_us = 5000 + random % 45000;
        burn_ns += life_us / 5 * 1000;
        char burn[24], rest[24];
        snprintf(burn, sizeof burn, "%llu", (unsigned long long)(life_us / 5));
        snprintf(rest, sizeof rest, "%llu", (unsigned long long)(life_us - life_us / 5));
        char *arguments[] = {argv[1], burn, rest, i % 2 ? "1" : "0", NULL};
        pid_t pid;
        if (posix_spawn(&pid, argv[1], NULL, NULL, arguments, environ))
            return 1;
        while (reap(WNOHANG))
            ;
    }
    while (reap(0))
        ;
    printf("{\"processes\": %llu, \"cpu_ns\": %llu, \"stacks\": {\"main;burn\": %llu}}\n", (unsigned long long)ended,
           (unsigned long long)cpu_ns, (unsigned long long)burn_ns);
}
