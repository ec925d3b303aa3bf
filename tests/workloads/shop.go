// The shop in Go. Usage: shop CPU_SECONDS
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	processClock = 2
	threadClock  = 3
)

// Called by every leaf, which therefore keeps a frame. Read seldom, so that it hardly shows.
//
//go:noinline
func cpuNs(clock uintptr) uint64 {
	var time syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&time)), 0)
	return uint64(time.Sec)*1_000_000_000 + uint64(time.Nsec)
}

//go:noinline
func price(ns uint64) uint64 {
	begun := cpuNs(threadClock)
	value := begun | 1
	for {
		for i := 0; i < 100000; i++ {
			value = value*6364136223846793005 + 1442695040888963407
		}
		if now := cpuNs(threadClock); now-begun >= ns {
			priceNs += now - begun
			return value
		}
	}
}

//go:noinline
func stock(ns uint64) uint64 {
	begun := cpuNs(threadClock)
	value := begun | 1
	for {
		for i := 0; i < 100000; i++ {
			value = value*6364136223846793005 + 1442695040888963407
		}
		if now := cpuNs(threadClock); now-begun >= ns {
			stockNs += now - begun
			return value
		}
	}
}

//go:noinline
func report(ns uint64) uint64 {
	begun := cpuNs(threadClock)
	value := begun | 1
	for {
		for i := 0; i < 100000; i++ {
			value = value*6364136223846793005 + 1442695040888963407
		}
		if now := cpuNs(threadClock); now-begun >= ns {
			reportNs += now - begun
			return value
		}
	}
}

//go:noinline
func checkout(ns uint64) uint64 {
	return price(ns*6) + stock(ns*3)
}

//go:noinline
func serve(seconds float64) uint64 {
	end := cpuNs(threadClock) + uint64(seconds*1e9)
	const tenthNs = 50_000_000
	value := uint64(0)
	for cpuNs(threadClock)+5*tenthNs < end {
		value += checkout(tenthNs) + report(tenthNs)
	}
	return value
}

var priceNs, stockNs, reportNs, sink uint64

func main() {
	runtime.LockOSThread()
	seconds := 1.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	sink = serve(seconds)
	const above = "runtime.main;main.main;main.serve"
	fmt.Printf(`{"cpu_ns": %d, "stacks": {"%s;main.checkout;main.price": %d, "%s;main.checkout;main.stock": %d, "%s;main.report": %d}}`+"\n",
		cpuNs(processClock), above, priceNs, above, stockNs, above, reportNs)
}
