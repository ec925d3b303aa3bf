/* Starts itself again and again, by vfork() and by posix_spawn() in turn; each child serves for a fifth of a second.
 * Usage: spawn CPU_SECONDS */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static inline __attribute__((always_inline)) uint64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

__attribute__((noinline)) uint64_t child_work(uint64_t ns) {
    uint64_t value = 1;
    do
        for (int i = 0; i < 30000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
    while (cpu_ns() < ns);
    return value;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    if (!strcmp(argv[1], "child")) {
        volatile uint64_t value = child_work(200000000);
        (void)value;
        return 0;
    }
    int children = (int)(atof(argv[1]) * 5);
    char *arguments[] = {argv[0], "child", NULL};
    for (int i = 0; i < children; i++) {
        pid_t pid = 0;
        if (i % 2) {
            if (posix_spawn(&pid, argv[0], NULL, NULL, arguments, environ))
                return 1;
        } else {
            pid = vfork();
            if (pid == 0) {
                execv(argv[0], arguments);
                _exit(127);
            }
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
            return 1;
    }
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    uint64_t ns = ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000u +
                  ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000u;
    printf("{\"cpu_ns\": %llu, \"processes\": %d, \"stacks\": {\"main;child_work\": %llu}}\n", (unsigned long long)ns, children,
           (unsigned long long)ns);
}
