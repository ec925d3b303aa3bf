/* One thread serves. Usage: one CPU_SECONDS */
#include <stdlib.h>

#include "shop.h"

int main(int argc, char **argv) {
    volatile uint64_t value = serve(argc > 1 ? atof(argv[1]) : 1);
    (void)value;
    print_spent("main");
}
