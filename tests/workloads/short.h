/* What one of the codes that a short process ends with is worth. */
#define TELL_NS 5000u
