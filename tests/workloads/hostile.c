/* Processes that mean no good. Usage: hostile MODE …
 *
 *   comm SECONDS            burns under a name of newlines, colours and bytes that are no text
 *   maps COUNT SECONDS      burns with COUNT executable mappings
 *   file PATH HOW SECONDS   burns in code of the file PATH, which it makes and then treats as HOW says:
 *                           looped (an ELF file whose tables are itself), endless (one whose tables never end),
 *                           truncated, deleted, replaced, fifo (a FIFO takes its place)
 *   storm COUNT             starts itself COUNT times, one millisecond each
 *   forks COUNT             has COUNT children at once that burn a little and end
 *   sleepers COUNT          has COUNT children that sleep for as long as it does; says "ready" when they do
 *   bomb SECONDS            every process of it starts others for that long
 *   secret SECONDS          burns, and lets nobody look at it */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double cpu_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

__attribute__((noinline)) uint64_t burn_hostile(double seconds) {
    double end = cpu_seconds() + seconds;
    uint64_t value = 1;
    while (cpu_seconds() < end)
        for (int i = 0; i < 100000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
    return value;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int comm(double seconds) {
    prctl(PR_SET_NAME, "a\nb;c 1\x1b[31m\xff\xfe");
    return burn_hostile(seconds) == 0;
}

static int maps(const char *own, long count, double seconds) {
    int file = open(own, O_RDONLY);
    if (file < 0)
        return fail(own);
    /* The same page each time, so that the kernel cannot make one of two neighbours. */
    for (long i = 0; i < count; i++)
        if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED)
            return fail("mmap");
    return burn_hostile(seconds) == 0;
}

/* A function in machine code of x86-64: counts its first argument down to zero. */
static const unsigned char SPIN[] = {0x48, 0xff, 0xcf, 0x75, 0xfb, 0xc3};

static int code_in_file(const char *path, const char *how, double seconds) {
    unsigned char page[4096] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    page[16] = 3, page[18] = 62, page[20] = 1;
    page[52] = 64, page[54] = 56, page[58] = 64;
    if (!strcmp(how, "looped")) {
        /* Program and section headers begin at zero: the header describes itself, its interpreter included. */
        page[56] = 60, page[60] = 60, page[62] = 1;
    } else if (!strcmp(how, "endless")) {
        page[32] = 64, page[40] = 64, page[56] = page[57] = page[60] = page[61] = 0xff;
        memset(page + 64, 0xff, sizeof page - 64);
    }
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0755);
    if (file < 0 || write(file, page, sizeof page) != sizeof page)
        return fail(path);
    memset(page, 0xcc, sizeof page);
    memcpy(page, SPIN, sizeof SPIN);
    if (write(file, page, sizeof page) != sizeof page)
        return fail(path);
    void *code = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    if (code == MAP_FAILED)
        return fail("mmap");
    void (*spin)(uint64_t) = (void (*)(uint64_t))((uintptr_t)code + 4096);
    if (!strcmp(how, "deleted") && unlink(path))
        return fail(path);
    if (!strcmp(how, "fifo") && (unlink(path) || mkfifo(path, 0600)))
        return fail(path);
    if (!strcmp(how, "replaced")) {
        int other = unlink(path) ? -1 : open(path, O_WRONLY | O_CREAT, 0755);
        if (other < 0 || write(other, "#!/bin/sh\n", 10) != 10)
            return fail(path);
    }
    pid_t child = fork();
    if (child == 0) {
        for (double end = cpu_seconds() + seconds; cpu_seconds() < end;)
            spin(1000000);
        _exit(0);
    }
    if (!strcmp(how, "truncated")) {
        usleep((useconds_t)(seconds * 500000));
        if (ftruncate(file, 0)) /* which ends the child by SIGBUS */
            return fail(path);
    }
    int status;
    return waitpid(child, &status, 0) != child;
}

static int storm(const char *own, long count) {
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl(own, "hostile", "burn", "0.001", (char *)NULL);
            _exit(1);
        }
        if (child < 0 || waitpid(child, NULL, 0) != child)
            return fail("fork");
    }
    return 0;
}

static int forks(long count) {
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            burn_hostile(0.005);
            _exit(0);
        }
        if (child < 0)
            return fail("fork");
    }
    while (wait(NULL) > 0)
        ;
    return 0;
}

static int sleepers(long count) {
    pid_t parent = getpid();
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            /* Nobody is left over, however the parent ends. */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(0);
            for (;;)
                pause();
        }
        if (child < 0)
            return fail("fork");
    }
    if (write(1, "ready\n", 6) != 6)
        return fail("write");
    for (;;)
        pause();
}

static double seconds_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int bomb(double seconds) {
    signal(SIGCHLD, SIG_IGN);
    for (double end = seconds_now() + seconds; seconds_now() < end;)
        fork();
    return 0;
}

static int secret(double seconds) {
    if (prctl(PR_SET_DUMPABLE, 0))
        return fail("prctl");
    return burn_hostile(seconds) == 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[1] : "";
    if (!strcmp(mode, "burn"))
        return burn_hostile(atof(argv[2])) == 0;
    if (!strcmp(mode, "comm"))
        return comm(atof(argv[2]));
    if (!strcmp(mode, "maps") && argc > 3)
        return maps("/proc/self/exe", atol(argv[2]), atof(argv[3]));
    if (!strcmp(mode, "file") && argc > 4)
        return code_in_file(argv[2], argv[3], atof(argv[4]));
    if (!strcmp(mode, "storm"))
        return storm("/proc/self/exe", atol(argv[2]));
    if (!strcmp(mode, "forks"))
        return forks(atol(argv[2]));
    if (!strcmp(mode, "sleepers"))
        return sleepers(atol(argv[2]));
    if (!strcmp(mode, "bomb"))
        return bomb(atof(argv[2]));
    if (!strcmp(mode, "secret"))
        return secret(atof(argv[2]));
    return 2;
}
