/* Works in handlers of a signal that the first instruction of a function raises. Usage: fault CPU_SECONDS */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>

/* Right behind another function, as its handler's way back is in the C library: one byte before each is a neighbour. */
void faults(void);
#ifdef __GCC_HAVE_DWARF2_CFI_ASM
#define BEGIN "	.cfi_startproc\n"
#define END "	.cfi_endproc\n"
#else /* built without tables */
#define BEGIN
#define END
#endif
__asm__(".globl faults\n"
        ".type neighbour, @function\n"
        ".type faults, @function\n"
        "neighbour:\n" BEGIN
        "	ret\n" END
        "	.size neighbour, .-neighbour\n"
        "faults:\n" BEGIN
        "	ud2\n"
        "	ret\n" END
        "	.size faults, .-faults\n");

static volatile uint64_t sink;

__attribute__((noinline)) void work(void) {
    uint64_t value = sink | 1;
    for (int i = 0; i < 10000000; i++)
        value = value * 6364136223846793005u + 1442695040888963407u;
    sink = value;
}

__attribute__((noinline)) void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    work();
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    sink++;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    clock_t end = (clock_t)((argc > 1 ? atof(argv[1]) : 1) * CLOCKS_PER_SEC);
    if (sigaction(SIGILL, &action, NULL))
        return 1;
    while (clock() < end)
        faults();
}
