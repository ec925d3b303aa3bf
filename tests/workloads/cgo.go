// Go that calls C and is called back by it. Usage: cgo CPU_SECONDS
package main

/*
#include <stdint.h>

uint64_t goSpin(uint64_t);

static __attribute__((noinline)) uint64_t c_spin(uint64_t value) {
	for (int i = 0; i < 100000; i++)
		value = value * 6364136223846793005u + 1442695040888963407u;
	return value;
}

static __attribute__((noinline)) uint64_t c_serve(uint64_t value) { return c_spin(value) + goSpin(value); }
*/
import "C"

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

func cpuNs() uint64 {
	var time syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 2, uintptr(unsafe.Pointer(&time)), 0)
	return uint64(time.Sec)*1_000_000_000 + uint64(time.Nsec)
}

//export goSpin
func goSpin(value C.uint64_t) C.uint64_t { return C.uint64_t(spin(uint64(value))) }

//go:noinline
func spin(value uint64) uint64 {
	for i := 0; i < 100000; i++ {
		value = value*6364136223846793005 + 1442695040888963407
	}
	return value
}

//go:noinline
func serve(value uint64) uint64 { return uint64(C.c_serve(C.uint64_t(value))) + 1 }

func main() {
	seconds := 1.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	value := uint64(1)
	for end := cpuNs() + uint64(seconds*1e9); cpuNs() < end; {
		value = serve(value)
	}
	fmt.Printf("{\"cpu_ns\": %d, \"sink\": %d}\n", cpuNs(), value&1)
}
