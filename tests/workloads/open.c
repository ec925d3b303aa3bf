/* Serves in a library that is opened while it runs. Usage: open CPU_SECONDS LIBRARY */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    void *library = argc > 2 ? dlopen(argv[2], RTLD_NOW) : NULL;
    if (!library)
        return 1;
    uint64_t (*serve)(double) = (uint64_t (*)(double))dlsym(library, "serve");
    void (*print_spent)(const char *) = (void (*)(const char *))dlsym(library, "print_spent");
    if (!serve || !print_spent)
        return 1;
    volatile uint64_t value = serve(atof(argv[1]));
    (void)value;
    print_spent("main");
}
