/* Two threads serve, each with a name of its own. Usage: threads CPU_SECONDS, half of them in each thread */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "shop.h"

static double seconds = 1;

static void *till(void *number) {
    char name[16];
    snprintf(name, sizeof name, "wl-threads-%d", (int)(intptr_t)number);
    pthread_setname_np(pthread_self(), name);
    volatile uint64_t value = serve(seconds / 2);
    (void)value;
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[2];
    if (argc > 1)
        seconds = atof(argv[1]);
    for (intptr_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, till, (void *)i))
            return 1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    print_spent("till");
}
