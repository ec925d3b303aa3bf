// The shop in C++: names that have to be demangled. Usage: shop CPU_SECONDS
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace shop {

static std::uint64_t cpu_ns(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
    timespec time;
    clock_gettime(clock, &time);
    return std::uint64_t(time.tv_sec) * 1000000000u + std::uint64_t(time.tv_nsec);
}

struct Spent {
    std::uint64_t price = 0, stock = 0, report = 0;
};

// Inlined, so that the leaf itself is what runs; the clock is read seldom, so that it hardly shows.
[[gnu::always_inline]] static inline std::uint64_t spend(std::uint64_t &spent, std::uint64_t ns) {
    std::uint64_t begun = cpu_ns(), now = begun, value = begun | 1;
    do {
        for (int i = 0; i < 100000; i++)
            value = value * 6364136223846793005u + 1442695040888963407u;
        now = cpu_ns();
    } while (now - begun < ns);
    spent += now - begun;
    return value;
}

class Till {
public:
    Spent spent;

    template <typename Customer> [[gnu::noinline]] std::uint64_t price(Customer ns) { return spend(spent.price, ns); }
    [[gnu::noinline]] std::uint64_t stock(std::uint64_t ns) { return spend(spent.stock, ns); }
    [[gnu::noinline]] std::uint64_t report(std::uint64_t ns) { return spend(spent.report, ns); }
    [[gnu::noinline]] std::uint64_t checkout(std::uint64_t ns) { return price(ns * 6) + stock(ns * 3); }
};

[[gnu::noinline]] std::uint64_t serve(Till &till, double seconds) {
    std::uint64_t value = 0, end = cpu_ns() + std::uint64_t(seconds * 1e9);
    const std::uint64_t tenth_ns = 50000000;
    while (cpu_ns() + 5 * tenth_ns < end)
        value += till.checkout(tenth_ns) + till.report(tenth_ns);
    return value;
}

} // namespace shop

int main(int argc, char **argv) {
    shop::Till till;
    volatile std::uint64_t value = shop::serve(till, argc > 1 ? std::atof(argv[1]) : 1);
    (void)value;
    const char *above = "main;shop::serve;shop::Till::";
    std::printf("{\"cpu_ns\": %llu, \"stacks\": {\"%scheckout;unsigned long shop::Till::price<unsigned long>\": %llu, "
                "\"%scheckout;shop::Till::stock\": %llu, \"%sreport\": %llu}}\n",
                (unsigned long long)shop::cpu_ns(CLOCK_PROCESS_CPUTIME_ID), above, (unsigned long long)till.spent.price,
                above, (unsigned long long)till.spent.stock, above, (unsigned long long)till.spent.report);
}
