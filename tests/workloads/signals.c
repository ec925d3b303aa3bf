/* Serves inside signal handlers that interrupt a busy loop, every second one on a stack of its own.
 * Usage: signals CPU_SECONDS */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t handler_ns, other_ns;

static inline __attribute__((always_inline)) uint64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static inline __attribute__((always_inline)) uint64_t spend(volatile uint64_t *spent_ns, uint64_t ns) {
    uint64_t begun = cpu_ns(), now, value = begun | 1;
    do {
        for (int i = 0; i < 30000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        now = cpu_ns();
    } while (now - begun < ns);
    *spent_ns += now - begun;
    return value;
}

static volatile uint64_t sink;

/* What other_work() takes meanwhile is not its own. */
__attribute__((noinline)) uint64_t work(uint64_t ns) {
    uint64_t before = other_ns, value = spend(&handler_ns, ns);
    handler_ns -= other_ns - before;
    return value;
}

__attribute__((noinline)) uint64_t other_work(uint64_t ns) { return spend(&other_ns, ns); }

__attribute__((noinline)) void on_stack(int number) {
    (void)number;
    sink = work(10000000);
}

__attribute__((noinline)) void on_own_stack(int number) {
    (void)number;
    sink = other_work(10000000);
}

/* Interrupted anywhere, by a timer and at calls of raise(). */
__attribute__((noinline)) uint64_t interrupted(uint64_t end) {
    uint64_t value = 1;
    while (cpu_ns() < end) {
        for (int i = 0; i < 50000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        raise(SIGUSR1);
    }
    return value;
}

int main(int argc, char **argv) {
    static char alternate[1 << 16];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction plain = {.sa_handler = on_stack}, own = {.sa_handler = on_own_stack, .sa_flags = SA_ONSTACK};
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    struct itimerspec every = {{0, 25000000}, {0, 25000000}};
    if (sigaltstack(&stack, NULL) || sigaction(SIGUSR1, &plain, NULL) || sigaction(SIGUSR2, &own, NULL) ||
        timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) || timer_settime(timer, 0, &every, NULL))
        return 1;
    sink = interrupted(cpu_ns() + (uint64_t)((argc > 1 ? atof(argv[1]) : 1) * 1e9));
    printf("{\"cpu_ns\": %llu, \"stacks\": {\"on_stack;work\": %llu, \"on_own_stack;other_work\": %llu}}\n",
           (unsigned long long)cpu_ns(), (unsigned long long)handler_ns, (unsigned long long)other_ns);
}
