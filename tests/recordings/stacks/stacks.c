/* What is hard to walk, one thing for each first letter of its argument, without a library. No function keeps a frame pointer but where
 * it has to. Usage: stacks LETTER, for a fifth of a second
 * cc -O2 -fomit-frame-pointer -fno-stack-protector -fno-optimize-sibling-calls -ffreestanding -nostdlib -static -o stacks stacks.c */
#define NOINLINE __attribute__((noinline))

typedef unsigned long u64;
static volatile u64 sink;
static u64 end_ns;

static inline long call(long number, long a, long b, long c, long d) {
    register long fourth __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

static inline u64 now_ns(void) {
    u64 time[2];
    call(228, 2 /* this process's CPU time */, (long)time, 0, 0);
    return time[0] * 1000000000u + time[1];
}

/* Without a frame, and in user code nearly always. */
NOINLINE u64 leaf(u64 value) {
    for (int i = 0; i < 20000; i++)
        value = value * 6364136223846793005u + 1442695040888963407u;
    return value;
}

NOINLINE u64 till_the_end(void) {
    u64 value = 1;
    do
        value += leaf(value);
    while (now_ns() < end_ns);
    return value;
}

/* Its frame is larger than what a walk reads at once. */
NOINLINE u64 large(void) {
    volatile char room[9000];
    for (u64 at = 0; at < sizeof room; at += 1000)
        room[at] = 1;
    return till_the_end() + room[0];
}

NOINLINE u64 deep(u64 depth) { return depth ? deep(depth - 1) + 1 : till_the_end(); }

NOINLINE u64 varied(u64 bytes) {
    volatile char *room = __builtin_alloca(bytes);
    room[0] = 1;
    return till_the_end() + room[0];
}

NOINLINE u64 realigned(u64 bytes) {
    _Alignas(128) volatile char fixed[256];
    volatile char *room = __builtin_alloca(bytes);
    room[0] = fixed[sink % 256] = 1;
    return till_the_end() + room[0] + fixed[0];
}

/* Pushes and pops more than it works: interrupted at any place of a prologue and an epilogue. */
NOINLINE u64 pushes(u64 a, u64 b) {
    u64 c = sink, d = sink, e = sink, f = sink, g = sink, h = sink;
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(g), "+r"(h) : : "memory");
    if (a % 8)
        a = pushes(a - 1, b);
    return a + b + c + d + e + f + g + h;
}

NOINLINE u64 busy(void) {
    u64 value = 0;
    do
        for (int i = 0; i < 2000; i++)
            value += pushes(7, value) & 1;
    while (now_ns() < end_ns);
    return value;
}

/* In the kernel nearly always. */
NOINLINE u64 in_kernel(void) {
    u64 value = 0;
    do
        for (int i = 0; i < 200; i++)
            value += (u64)call(39, 0, 0, 0, 0);
    while (now_ns() < end_ns);
    return value;
}

NOINLINE _Noreturn void leave(void) {
    sink = till_the_end();
    call(231, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* The call is its last instruction: its caller's address is that of the function behind it. */
NOINLINE _Noreturn void never_returns(void) { leave(); }

NOINLINE void handler(int number) { sink = till_the_end() + (u64)number; }

__asm__(".type back_from_signal, @function\n"
        "	nop\n"
        "back_from_signal:\n"
        "	.cfi_startproc simple\n"
        "	.cfi_signal_frame\n"
        "	.cfi_def_cfa_offset 0\n"
        "	mov $15, %eax\n"
        "	syscall\n"
        "	.cfi_endproc\n"
        "	.size back_from_signal, .-back_from_signal\n");
extern char back_from_signal[];

NOINLINE u64 interrupted(void) {
    struct {
        void (*handler)(int);
        u64 flags;
        char *restorer;
        u64 mask;
    } action = {handler, 0x04000000 /* there is a restorer */, back_from_signal, 0};
    call(13, 10, (long)&action, 0, 8);
    call(62, call(39, 0, 0, 0, 0), 10, 0, 0);
    return sink;
}

NOINLINE u64 choose(char letter) {
    switch (letter) {
    case 'l':
        return large();
    case 'd':
        return deep(40);
    case 'v':
        return varied(sink + 300);
    case 'r':
        return realigned(sink + 300);
    case 'p':
        return busy();
    case 'k':
        return in_kernel();
    case 'n':
        never_returns();
    case 's':
        return interrupted();
    }
    return till_the_end();
}

__attribute__((used)) void begin(long *stack) {
    end_ns = now_ns() + 200000000;
    sink = choose(stack[0] > 1 ? *(char *)stack[2] : 0);
    call(231, 0, 0, 0, 0);
}

/* Says of itself, as every C library's does, that nobody called it. */
__asm__(".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "	.cfi_startproc\n"
        "	.cfi_undefined rip\n"
        "	mov %rsp, %rdi\n"
        "	and $-16, %rsp\n"
        "	call begin\n"
        "	hlt\n"
        "	.cfi_endproc\n"
        "	.size _start, .-_start\n");
