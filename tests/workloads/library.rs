//! A program in Rust that is half in the C library: it copies, asks for memory and calls the system. Usage: library CPU_SECONDS

use std::hint::black_box;
use std::time::Duration;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

const PROCESS: i32 = 2;
const THREAD: i32 = 3;

#[inline(always)]
fn cpu_ns(clock: i32) -> u64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` is laid out as C's `struct timespec` of 64-bit Linux, and lives through the call.
    unsafe { clock_gettime(clock, &mut time) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

#[inline(never)]
fn copies() {
    let from = vec![7u8; 1 << 16];
    for _ in 0..16 {
        black_box(black_box(&from).clone());
    }
}

#[inline(never)]
fn allocates() {
    let mut held: Vec<Box<[u8]>> = Vec::new();
    for bytes in 0..64usize {
        held.push(vec![1; 16 + bytes * 37 % 900].into_boxed_slice());
    }
    black_box(held);
}

#[inline(never)]
fn calls() {
    for name in ["A", "PATH", "HOME"] {
        black_box(std::env::var_os(name));
        black_box(std::fs::metadata("/nowhere").is_ok());
    }
}

#[inline(never)]
fn serve(seconds: f64) -> [u64; 3] {
    let mut spent = [0; 3];
    let mut now = cpu_ns(THREAD);
    let end = now + Duration::from_secs_f64(seconds).as_nanos() as u64;
    while now < end {
        for (part, spent) in spent.iter_mut().enumerate() {
            let until = now + 20_000_000;
            while now < until {
                let begun = now;
                for _ in 0..20 {
                    match part {
                        0 => copies(),
                        1 => allocates(),
                        _ => calls(),
                    }
                }
                now = cpu_ns(THREAD);
                *spent += now - begun;
            }
        }
    }
    spent
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let [copied, allocated, called] = serve(seconds);
    println!(
        "{{\"cpu_ns\": {}, \"stacks\": {{\"library::main;library::serve;library::copies\": {copied}, \
         \"library::main;library::serve;library::allocates\": {allocated}, \
         \"library::main;library::serve;library::calls\": {called}}}}}",
        cpu_ns(PROCESS)
    );
}
