// Burns CPU at the bottom of a stack of a given depth, each frame of which is of a function of its own. Usage: tower FRAMES CPU_SECONDS
#include <array>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <utility>

namespace {

constexpr int floors = 256;

inline __attribute__((always_inline)) double cpu_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// From one to eighteen words of its own, ten on average.
template <int floor> __attribute__((noinline)) std::uint64_t down(double end) {
    volatile std::uint64_t own[1 + floor * 7 % 18] = {floor};
    if constexpr (floor > 0) {
        return down<floor - 1>(end) + own[0];
    } else {
        std::uint64_t value = own[0];
        do
            for (int i = 0; i < 100000; i++)
                value = value * 6364136223846793005u + 1442695040888963407u;
        while (cpu_seconds() < end);
        return value;
    }
}

template <int... all> constexpr auto tower(std::integer_sequence<int, all...>) {
    return std::array{down<all>...};
}

} // namespace

int main(int argc, char **argv) {
    // main() is a frame too.
    int frames = argc > 1 ? std::atoi(argv[1]) - 2 : 10;
    if (frames < 0 || frames >= floors)
        return 1;
    auto enter = tower(std::make_integer_sequence<int, floors>{})[frames];
    volatile std::uint64_t value = enter(argc > 2 ? std::atof(argv[2]) : 1e9);
    static_cast<void>(value);
}
