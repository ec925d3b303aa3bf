/* A program for aarch64 that interrupts itself and writes down where it was: registers and stack.
 *
 * Made by   aarch64-linux-gnu-gcc -O2 -static -fno-optimize-sibling-calls -fasynchronous-unwind-tables -o program program.c
 *           aarch64-linux-gnu-strip --strip-debug program
 * and run   ./program | gzip -9n > stacks.gz   on a processor that authenticates pointers (`qemu-aarch64 -cpu max` does).
 *
 * Written, little endian, for each stack: pc, sp, x29, x30 and the number of words, 64 bits each, then the words from sp up.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

#define NOINLINE __attribute__((noinline))
#define FRAMES __attribute__((optimize("no-omit-frame-pointer")))
#define BARE __attribute__((optimize("omit-frame-pointer")))
#define SIGNED __attribute__((target("branch-protection=pac-ret+leaf")))

extern void *__libc_stack_end;
static volatile uint64_t sink;
static volatile sig_atomic_t wanted, taken;

static void take(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)info;
    const mcontext_t *was = &((ucontext_t *)context)->uc_mcontext;
    if (taken == wanted)
        return;
    taken = wanted;
    /* Up to where the kernel put the arguments. */
    uint64_t words = ((uint64_t)__libc_stack_end - was->sp) / 8;
    uint64_t head[5] = {was->pc, was->sp, was->regs[29], was->regs[30], words};
    fwrite(head, sizeof head, 1, stdout);
    fwrite((const void *)was->sp, 8, words, stdout);
}

/* Until a stack was taken somewhere in here. */
NOINLINE BARE void leaf(void) {
    while (taken != wanted)
        for (int i = 0; i < 1000; i++)
            sink = sink * 6364136223846793005u + 1442695040888963407u;
}

NOINLINE SIGNED void signed_leaf(void) {
    while (taken != wanted)
        for (int i = 0; i < 1000; i++)
            sink += i;
}

/* A leaf with words of its own. */
NOINLINE BARE void deep_leaf(void) {
    volatile uint64_t own[40];
    for (int i = 0; i < 40; i++)
        own[i] = sink;
    while (taken != wanted)
        for (int i = 0; i < 40; i++)
            own[i] = own[i] * 3 + own[(i + 7) % 40];
    sink = own[3];
}

NOINLINE BARE void saves_x30_alone(void (*next)(void)) {
    next();
    sink++;
}

NOINLINE BARE uint64_t saves_others_too(void (*next)(void), uint64_t a, uint64_t b) {
    uint64_t c = sink, d = c ^ a;
    next();
    return a * 3 + b * 5 + c * 7 + d;
}

NOINLINE FRAMES uint64_t keeps_a_record(void (*next)(void)) {
    saves_x30_alone(next);
    return sink + 1;
}

NOINLINE FRAMES uint64_t moves_its_stack(void (*next)(void), size_t bytes) {
    volatile char *room = alloca(bytes);
    room[0] = 1;
    sink += keeps_a_record(next);
    return room[0] + room[bytes - 1];
}

NOINLINE BARE uint64_t has_a_large_frame(void (*next)(void)) {
    volatile char room[20000];
    room[sink % sizeof room] = 1;
    sink += saves_others_too(next, sink, 3);
    return room[sink % sizeof room];
}

NOINLINE SIGNED FRAMES uint64_t signs_its_record(void (*next)(void)) {
    sink += saves_others_too(next, 1, 2);
    return sink;
}

NOINLINE SIGNED BARE uint64_t signs_x30_alone(void (*next)(void)) {
    next();
    return sink;
}

static void (*sorted)(void);
static int done;

static int compare(const void *a, const void *b) {
    if (!done) {
        done = 1;
        saves_x30_alone(sorted);
    }
    return *(const int *)a - *(const int *)b;
}

/* Through the library, which calls back. */
NOINLINE BARE void sorts(void (*next)(void)) {
    int numbers[8] = {3, 1, 2, 8, 5, 4, 7, 6};
    sorted = next;
    done = 0;
    qsort(numbers, 8, sizeof *numbers, compare);
    sink += numbers[0];
}

NOINLINE BARE uint64_t recurses(int depth, void (*next)(void)) {
    if (depth == 0)
        next();
    else
        sink += recurses(depth - 1, next);
    return sink + depth;
}

NOINLINE void chain(int kind, void (*next)(void)) {
    switch (kind) {
    case 0: saves_x30_alone(next); break;
    case 1: sink += saves_others_too(next, 3, 4); break;
    case 2: sink += keeps_a_record(next); break;
    case 3: sink += moves_its_stack(next, 100 + sink % 64); break;
    case 4: sink += has_a_large_frame(next); break;
    case 5: sink += signs_its_record(next); break;
    case 6: sink += signs_x30_alone(next); break;
    case 7: sorts(next); break;
    case 8: sink += recurses(60, next); break;
    }
    sink++;
}

int main(void) {
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 1700}, {0, 1700}};
    setitimer(ITIMER_REAL, &often, NULL);
    void (*const leaves[])(void) = {leaf, signed_leaf, deep_leaf};
    for (int round = 0; round < 2; round++)
        for (int kind = 0; kind < 9; kind++)
            for (int which = 0; which < 3; which++) {
                wanted++;
                chain(kind, leaves[which]);
            }
    often = (struct itimerval){0};
    setitimer(ITIMER_REAL, &often, NULL);
    return fflush(stdout) != 0;
}
