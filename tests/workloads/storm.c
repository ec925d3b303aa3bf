/* Starts RATE processes a second for SECONDS, each living 5 to 50 ms, a fifth of it on a CPU, and prints what they spent
 * by the kernel's own accounts, this process included, and what of it they say they spent in burn(). With FOLDER each is a new copy of the
 * program there, which is deleted when it has ended. Usage: storm SHORT RATE SECONDS [FOLDER] */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "short.h"

extern char **environ;

static uint64_t ended, cpu_ns, burn_ns;
static const char *program, *folder;
static pid_t *pids;
static int started;

static void name(char *path, size_t bytes, int number) {
    snprintf(path, bytes, "%s/wl-short-%d", folder, number);
}

static int copy(const char *path) {
    int from = open(program, O_RDONLY), to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    struct stat file;
    int done = from >= 0 && to >= 0 && !fstat(from, &file) && sendfile(to, from, NULL, file.st_size) == file.st_size;
    close(from);
    close(to);
    return done;
}

static void drop(pid_t pid) {
    char path[4096];
    for (int number = started - 1; number >= 0; number--)
        if (pids[number] == pid) {
            name(path, sizeof path, number);
            unlink(path);
            return;
        }
}

static uint64_t spent_ns(const struct rusage *usage) {
    return ((uint64_t)usage->ru_utime.tv_sec + (uint64_t)usage->ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)usage->ru_utime.tv_usec + (uint64_t)usage->ru_stime.tv_usec) * 1000u;
}

static int reap(int options) {
    struct rusage usage;
    int status;
    pid_t pid = wait4(-1, &status, options, &usage);
    if (pid <= 0)
        return 0;
    ended++;
    if (WIFEXITED(status))
        burn_ns += (uint64_t)WEXITSTATUS(status) * TELL_NS + TELL_NS / 2;
    if (folder)
        drop(pid);
    cpu_ns += spent_ns(&usage);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    int rate = atoi(argv[2]), count = rate * atoi(argv[3]);
    uint64_t random = 88172645463325252u;
    program = argv[1], folder = argc > 4 ? argv[4] : NULL, pids = calloc((size_t)count, sizeof *pids);
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
        char path[4096];
        snprintf(path, sizeof path, "%s", program);
        if (folder) {
            name(path, sizeof path, i);
            if (!copy(path))
                return 1;
        }
        char *arguments[] = {path, burn, rest, i % 2 ? "1" : "0", "tell", NULL};
        if (posix_spawn(&pids[started++], path, NULL, NULL, arguments, environ))
            return 1;
        while (reap(WNOHANG))
            ;
    }
    while (reap(0))
        ;
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    cpu_ns += spent_ns(&own);
    printf("{\"processes\": %llu, \"cpu_ns\": %llu, \"stacks\": {\"main;burn\": %llu}}\n", (unsigned long long)ended,
           (unsigned long long)cpu_ns, (unsigned long long)burn_ns);
}
