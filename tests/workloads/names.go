// Says what Go itself calls places of this program: every frame of a stack with calls that were inlined, and then the function, file
// and line of places all over its code. Each line is an address, a function, and a file with a line. Then it waits.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
)

var out = bufio.NewWriter(os.Stdout)
var sink int

func say(kind string, pc uintptr, frame runtime.Frame) {
	fmt.Fprintf(out, "%s %x %s %s:%d\n", kind, pc, frame.Function, frame.File, frame.Line)
}

//go:noinline
func stack() int {
	pcs := make([]uintptr, 100)
	pcs = pcs[:runtime.Callers(1, pcs)]
	frames := runtime.CallersFrames(pcs)
	for _, pc := range pcs {
		frame, _ := frames.Next()
		say("frame", pc-1, frame)
	}
	return len(pcs)
}

func third(x int) int  { return stack() + x }
func second(x int) int { return third(x) * 3 }
func first(x int) int  { return second(x+1) - 1 }

type shelf[T any] struct{ things []T }

//go:noinline
func (s *shelf[T]) each(do func(T) int) {
	for _, thing := range s.things {
		sink += do(thing)
	}
}

type box struct{ x int }

//go:noinline
func (b box) open() { sink += first(b.x) }

//go:noinline
func deep(depth int) {
	if depth > 0 {
		deep(depth - 1)
		sink++
		return
	}
	s := shelf[string]{things: []string{"one"}}
	s.each(func(thing string) int { box{x: len(thing)}.open(); return 1 })
}

// Places all over the executable mappings of this program.
func places() {
	maps, _ := os.ReadFile("/proc/self/maps")
	exe, _ := os.Readlink("/proc/self/exe")
	for _, line := range strings.Split(string(maps), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "r-xp" || fields[5] != exe {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, _ := strconv.ParseUint(from, 16, 64)
		end, _ := strconv.ParseUint(to, 16, 64)
		for pc := uintptr(start); pc < uintptr(end); pc += 61 {
			frame, _ := runtime.CallersFrames([]uintptr{pc + 1}).Next()
			if frame.Function != "" && pc > frame.Entry {
				say("place", pc, frame)
			}
		}
	}
}

func main() {
	sort.Slice([]int{2, 1}, func(i, j int) bool { deep(3); return i < j })
	places()
	fmt.Fprintln(out)
	out.Flush()
	os.Stdin.Read(make([]byte, 1))
	call()
}
