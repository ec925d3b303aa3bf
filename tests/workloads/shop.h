/* A shop whose every function keeps a frame, and that knows where its CPU time went. */
#pragma once

#include <stdint.h>

/* Serves customers until this thread has spent `seconds` of CPU time: six tenths in price(), three in stock(), both
 * below checkout(), and one in report(). */
uint64_t serve(double seconds);

/* Prints what each stack below `root` spent, and what the process spent, as JSON. */
void print_spent(const char *root);
