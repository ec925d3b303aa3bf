/* Makes children by vfork() that end at once. Usage: vfork CHILDREN */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) int make_children(int children) {
    int status = 0;
    for (int i = 0; i < children; i++) {
        pid_t pid = vfork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return 1;
    }
    return status;
}

int main(int argc, char **argv) { return make_children(argc > 1 ? atoi(argv[1]) : 1); }
