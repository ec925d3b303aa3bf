// Thousands of goroutines that serve by turns and wait for each other. Usage: crowd CPU_SECONDS
package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

func cpuNs() uint64 {
	var time syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 2, uintptr(unsafe.Pointer(&time)), 0)
	return uint64(time.Sec)*1_000_000_000 + uint64(time.Nsec)
}

// A leaf without a frame.
//
//go:noinline
func spin(value uint64) uint64 {
	for i := 0; i < 20000; i++ {
		value = value*6364136223846793005 + 1442695040888963407
	}
	return value
}

//go:noinline
func sorted(value uint64) uint64 {
	values := make([]uint64, 512)
	for i := range values {
		value = value*6364136223846793005 + 1442695040888963407
		values[i] = value
	}
	sort.Slice(values, func(a, b int) bool { return values[a] < values[b] })
	return values[7]
}

//go:noinline
func serve(value uint64) uint64 { return spin(value) + sorted(value) }

func main() {
	seconds := 1.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	var sink atomic.Uint64
	var all sync.WaitGroup
	work := make(chan uint64)
	for i := 0; i < 2000; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for value := range work {
				sink.Add(serve(value))
			}
		}()
	}
	for end, i := cpuNs()+uint64(seconds*1e9), uint64(0); cpuNs() < end; i++ {
		work <- i
	}
	close(work)
	all.Wait()
	fmt.Printf("{\"cpu_ns\": %d}\n", cpuNs())
}
