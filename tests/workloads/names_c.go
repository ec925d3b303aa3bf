//go:build cgo

package main

// #include <stdlib.h>
// int in_c(int x) { return x + rand(); }
import "C"

func call() { sink += int(C.in_c(1)) }
