#!/bin/busybox sh
# What runs in the emulated machine, as its first and only process. Each step says when it begins and how it ends; the
# other end of the serial line reads that.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
ifconfig lo up

step() {
    name=$1
    shift
    echo "@begin $name"
    "$@" 2>&1
    echo "@end $name $?"
}

# Tries for a minute.
until_it_is() {
    tries=60
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 1
    done
}

services() { wget -q -O /tmp/services http://127.0.0.1:4040/api/services && grep -q '"shop"' /tmp/services; }

running() {
    PROFILER_LOG=debug profiler-daemon run -F 99 --interval 5s &
    daemon=$!
    until_it_is wget -q -O /dev/null http://127.0.0.1:4041/-/ready 2>/dev/null
    shop 4 >/dev/null
    until_it_is services 2>/dev/null && echo "the page lists shop"
    kill -TERM $daemon
    wait $daemon
}

# Both processors at the bottom of a deep stack without frame pointers, whose tables are there before it begins.
walking() {
    bare 60 90 &
    first=$!
    bare 60 90 &
    second=$!
    sleep 2
    profiler-daemon bench-kernel --program bench_walk -d 3s --tables $first --tables $second "$@"
    code=$?
    kill $first $second
    return $code
}

step release uname -r
for program in cpu bench_walk bench_get_stack kernel_names; do
    step "verify $program" profiler-daemon bench-kernel --program $program -d 1s
done
for program in cpu bench_walk; do
    step "verify $program bounded" profiler-daemon bench-kernel --program $program -d 1s --bounded-loop
done
step record profiler-daemon record -F 99 -d 5s -o /tmp/x.folded -- sh -c 'shop 3 >/dev/null & till 2 >/dev/null; wait'
step folded cat /tmp/x.folded
step "walk loop" walking
step "walk bounded" walking --bounded-loop
step run running
poweroff -f
