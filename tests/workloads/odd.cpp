// The shop in C++ where unwinding is hard: exceptions that pass through frames, calls through the PLT (qsort and back), threads.
// Usage: odd CPU_SECONDS, half of them in each thread
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <pthread.h>
#include <stdexcept>
#include <string>

static std::uint64_t cpu_ns(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
    timespec time;
    clock_gettime(clock, &time);
    return std::uint64_t(time.tv_sec) * 1000000000u + std::uint64_t(time.tv_nsec);
}

static std::atomic<std::uint64_t> thrown_ns, sorted_ns;
static volatile std::uint64_t sink;

// Throws through a few frames again and again: most of it is in the unwinder of libgcc, below __cxa_throw.
[[gnu::noinline]] std::uint64_t thrower(std::uint64_t depth) {
    std::string own(40, char('a' + depth % 20)); // to be destroyed on the way
    if (depth == 0)
        throw std::runtime_error(own);
    return thrower(depth - 1) + own.size();
}

[[gnu::noinline]] std::uint64_t catcher(std::uint64_t ns) {
    std::uint64_t begun = cpu_ns(), value = 0, now;
    do {
        for (int i = 0; i < 50; i++)
            try {
                value += thrower(8);
            } catch (const std::exception &thrown) {
                value += std::uint64_t(thrown.what()[0]);
            }
        now = cpu_ns();
    } while (now - begun < ns);
    thrown_ns += now - begun;
    return value;
}

static int compare(const void *a, const void *b) {
    auto left = *static_cast<const std::uint64_t *>(a), right = *static_cast<const std::uint64_t *>(b);
    return (left > right) - (left < right);
}

// The library calls back: its frames lie between ours.
[[gnu::noinline]] std::uint64_t sorter(std::uint64_t ns) {
    static thread_local std::uint64_t values[4096];
    std::uint64_t begun = cpu_ns(), random = begun | 1, now;
    do {
        for (auto &value : values)
            value = random = random * 6364136223846793005u + 1442695040888963407u;
        qsort(values, 4096, sizeof *values, compare);
        now = cpu_ns();
    } while (now - begun < ns);
    sorted_ns += now - begun;
    return values[7];
}

[[gnu::noinline]] std::uint64_t serve(double seconds) {
    const std::uint64_t tenth_ns = 20000000;
    std::uint64_t value = 0, end = cpu_ns() + std::uint64_t(seconds * 1e9);
    while (cpu_ns() + 5 * tenth_ns < end)
        value += catcher(tenth_ns * 6) + sorter(tenth_ns * 4);
    return value;
}

static double seconds = 1;

static void *till(void *) {
    sink = serve(seconds / 2);
    return nullptr;
}

int main(int argc, char **argv) {
    pthread_t threads[2];
    if (argc > 1)
        seconds = std::atof(argv[1]);
    for (auto &thread : threads)
        if (pthread_create(&thread, nullptr, till, nullptr))
            return 1;
    for (auto &thread : threads)
        pthread_join(thread, nullptr);
    std::printf("{\"cpu_ns\": %llu, \"stacks\": {\"till;serve;catcher\": %llu, \"till;serve;sorter\": %llu}}\n",
                (unsigned long long)cpu_ns(CLOCK_PROCESS_CPUTIME_ID), (unsigned long long)thrown_ns.load(),
                (unsigned long long)sorted_ns.load());
}
