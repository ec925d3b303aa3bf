#!/bin/bash
# What an operator does with the package, in the order of a service's life, on a Debian that has booted. Each step says when
# it begins, what it saw and how it ends, on the serial line; its last line is what is shown.
exec 2>&1
unit=profiler-daemon.service
page=4040
agent=4041

step() {
    echo "@begin $1"
    "$1"
    echo "@end $1 $?"
}

# Tries for so many seconds.
within() {
    local tries=$1
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 1
    done
}

property() { systemctl show --property="$1" --value $unit; }
# The answer to a GET of that path from that port.
get() {
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$2" "$1" >&3
    timeout 20 cat <&3
    exec 3>&-
}
told() { [ -n "$(property StatusText)" ]; }
active() { [ "$(property ActiveState)" = active ]; }
lists() { get $page /api/services | grep -q "\"$1\""; }
metric() { get $agent /metrics | awk -v name="$1" '$1 == name { print $2 + 0 }'; }
is() { [ "$(metric "$1")" = "$2" ]; }
# The sum of a metric over its labels that match one pattern and not the other.
sum() { get $agent /metrics | awk -v all="^$1[{]" -v yes="$2" -v no="$3" '$0 ~ all && $0 ~ yes && $0 !~ no { n += $NF } END { print n + 0 }'; }
# What became of samples by our fault.
lost() { sum profiler_samples_lost_total . 'tick skipped'; }
pushed() { sum profiler_push_attempts_total 'result="ok"' '^$'; }
pushes_after() { [ "$(pushed)" -gt "$1" ]; }
# A program burns under that name until the page, asked for the last minutes of it, has its function. In an emulator one sample stands for many
# ticks, so that it takes a while.
burns_until_shown() {
    systemd-run --unit="$1" --property=User=nobody --quiet /usr/local/bin/shop 600 || return
    within 240 shows "$1" price || { echo "nothing of $1"; last_words; return 1; }
    systemctl stop "$1"
}
shows() {
    local query="query=process_cpu:cpu:nanoseconds:cpu:nanoseconds%7Bservice_name%3D%22$1%22%7D&from=now-3m&until=now&format=json"
    get $page "/pyroscope/render?$query" | grep -q "\"$2\""
}
last_words() { journalctl --unit=$unit --no-pager --lines=40; }

# Everything has started but what Debian cannot start here.
booted() {
    systemctl is-system-running --wait
    systemctl --failed --no-legend
    echo "$(uname -r), $(systemctl --version | head -1), $(systemctl --failed --no-legend | wc -l) units failed"
}

installed() {
    dpkg --install /packages/first.deb || return
    [ "$(property ActiveState)" = inactive ] || { echo "it was started by itself"; return 1; }
    echo "$(dpkg-query --show profiler-daemon | tr '\t' ' '), nothing started"
}

enabled() {
    systemctl enable --now $unit || { last_words; return 1; }
    active && within 60 told || return
    echo "active: $(property StatusText); kernel.perf_event_paranoid $(cat /proc/sys/kernel/perf_event_paranoid)"
}

# The agent has six capabilities, its children none, or to read files; nobody is root.
confined() {
    local main faults=0 pid
    main=$(property MainPID)
    # The namers are started by the first samples.
    sleep 10
    for pid in $(cat /sys/fs/cgroup/system.slice/$unit/cgroup.procs); do
        local uid caps ambient
        uid=$(awk '/^Uid:/ { print $3 }' /proc/$pid/status)
        caps=$(awk '/^CapEff:/ { print $2 }' /proc/$pid/status)
        ambient=$(awk '/^CapAmb:/ { print $2 }' /proc/$pid/status)
        echo "$pid uid $uid effective $caps ambient $ambient: $(tr '\0' ' ' </proc/$pid/cmdline)"
        [ "$uid" != 0 ] || faults=$((faults + 1))
        case "$pid $caps" in
            "$main 000001c400080004") ;;
            *" 0000000000000000" | *" 0000000000000004") ;;
            *) faults=$((faults + 1)) ;;
        esac
    done
    echo "$(wc -l </sys/fs/cgroup/system.slice/$unit/cgroup.procs) processes, $faults of them with more than they need"
    [ $faults = 0 ]
}

# A program of another user is in the history by name, with its functions, and so are the kernel's.
profiled() {
    systemd-run --unit=shop --property=User=nobody --quiet /usr/local/bin/shop 40 || return
    within 120 lists shop || { get $page /api/services; last_words; return 1; }
    local query="query=process_cpu:cpu:nanoseconds:cpu:nanoseconds%7B%7D&from=now-10m&until=now&format=json"
    local name names
    names=$(get $page "/pyroscope/render?$query")
    for name in serve checkout price do_syscall_64; do
        grep -q "\"$name\"" <<<"$names" || { echo "no function $name in ${names:0:2000}"; return 1; }
    done
    echo "the page lists shop; serve, checkout, price and do_syscall_64 have their names"
}

# The clock goes an hour ahead, and back. What is sampled afterwards is where the clock is then.
jumped() {
    local pid before sets=0 at name seen
    pid=$(property MainPID)
    for name in ahead back; do
        # Just after a push, so that nothing is on its way.
        seen=$(pushed)
        within 60 pushes_after "$seen" || return
        before=$(lost)
        at=$(property WatchdogTimestampMonotonic)
        if [ $name = ahead ]; then date --set='+1 hour' || return; else date --set='-1 hour' || return; fi
        sets=$((sets + 1))
        within 60 is profiler_wall_clock_set_total $sets || { metric profiler_wall_clock_set_total; return 1; }
        burns_until_shown $name || return
        seen=$(pushed)
        within 60 pushes_after "$seen" || return
        [ "$(lost)" = "$before" ] || { echo "lost $(lost) instead of $before"; get $agent /metrics | grep samples_lost; return 1; }
        [ "$(property WatchdogTimestampMonotonic)" -gt "$at" ] || { echo "no sign of life"; return 1; }
        get $agent /-/healthy | grep -q '200 OK' || return
    done
    journalctl --unit=$unit --no-pager --lines=200 | grep 'wall clock was set'
    active && [ "$pid" = "$(property MainPID)" ] || return
    echo "an hour ahead and an hour back: each told and counted once, the windows after it where the clock is, none lost, the watchdog fed"
}

reloaded() {
    local file=/etc/profiler-daemon/profiler.toml pid
    pid=$(property MainPID)
    cp $file /tmp/as-it-was.toml
    echo 'interval = "soon"' >>$file
    systemctl reload $unit
    within 30 is profiler_config_last_reload_successful 0 || { metric profiler_config_last_reload_successful; return 1; }
    active || return
    journalctl --unit=$unit --no-pager --lines=5
    cp /tmp/as-it-was.toml $file
    systemctl reload $unit
    within 30 is profiler_config_last_reload_successful 1 || return
    [ "$pid" = "$(property MainPID)" ] || return
    echo "a broken configuration changed nothing and was told of; the mended one was taken; the same process"
}

# The new program takes the place of the old one and has its history.
upgraded() {
    local pid
    pid=$(property MainPID)
    dpkg --install /packages/second.deb || return
    within 60 active || { last_words; return 1; }
    [ "$pid" != "$(property MainPID)" ] || { echo "the old program still runs"; return 1; }
    within 60 lists shop || { echo "the history is gone"; last_words; return 1; }
    echo "$(dpkg-query --show profiler-daemon | tr '\t' ' '), another process, the history of the first"
}

again() { active && [ "$(property NRestarts)" -gt "$1" ]; }

killed() {
    local restarts
    restarts=$(property NRestarts)
    kill -KILL "$(property MainPID)"
    within 60 again "$restarts" || { last_words; return 1; }
    echo "started again by systemd"
}

# A minute without progress, and the time that an abort may take.
hung() {
    local restarts
    restarts=$(property NRestarts)
    kill -STOP "$(property MainPID)"
    within 180 again "$restarts" || { last_words; return 1; }
    journalctl --unit=$unit --no-pager --lines=100 | grep -i watchdog | head -3
    echo "ended by the watchdog and started again"
}

stopped() {
    local since=$SECONDS
    systemctl stop $unit || return
    [ "$(property Result)" = success ] || { property Result; last_words; return 1; }
    echo "stopped within $((SECONDS - since)) s, $(property Result)"
}

purged() {
    systemctl start $unit || return
    dpkg --purge profiler-daemon || return
    [ -z "$(pgrep -x profiler-daemon)" ] || { echo "it still runs"; return 1; }
    ! getent passwd profiler-daemon || return
    ! getent group profiler-daemon || return
    local left
    left=$(find / -xdev -path /proc -prune -o -path /packages -prune -o -iname '*profiler*' -print |
        grep -v -e '^/sys/' -e '^/usr/share/perl')
    [ -z "$left" ] || { echo "left: $left"; return 1; }
    systemctl daemon-reload
    ! systemctl cat $unit 2>/dev/null || return
    echo "no process, no file, no user, no unit"
}

for name in booted installed enabled confined profiled jumped reloaded upgraded killed hung stopped purged; do
    step $name
done
systemctl poweroff --force --no-block
