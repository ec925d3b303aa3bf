//! The shop in Rust: names with a crate and a module in them. Usage: shop CPU_SECONDS

use std::cell::Cell;

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

mod shop {
    use super::{Cell, THREAD, cpu_ns};

    #[derive(Default)]
    pub struct Till {
        pub price_ns: Cell<u64>,
        pub stock_ns: Cell<u64>,
        pub report_ns: Cell<u64>,
    }

    /// Inlined, so that the leaf itself is what runs; the clock is read seldom, so that it hardly shows.
    #[inline(always)]
    fn spend(spent: &Cell<u64>, ns: u64) -> u64 {
        let begun = cpu_ns(THREAD);
        let mut value = begun | 1;
        loop {
            for _ in 0..100_000 {
                value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
            let now = cpu_ns(THREAD);
            if now - begun >= ns {
                spent.set(spent.get() + (now - begun));
                return value;
            }
        }
    }

    impl Till {
        #[inline(never)]
        pub fn price(&self, ns: u64) -> u64 {
            spend(&self.price_ns, ns)
        }

        #[inline(never)]
        pub fn stock(&self, ns: u64) -> u64 {
            spend(&self.stock_ns, ns)
        }

        #[inline(never)]
        pub fn report(&self, ns: u64) -> u64 {
            spend(&self.report_ns, ns)
        }

        #[inline(never)]
        pub fn checkout(&self, ns: u64) -> u64 {
            self.price(ns * 6) ^ self.stock(ns * 3)
        }
    }

    #[inline(never)]
    pub fn serve(till: &Till, seconds: f64) -> u64 {
        let end = cpu_ns(THREAD) + (seconds * 1e9) as u64;
        let tenth_ns = 50_000_000;
        let mut value = 0;
        while cpu_ns(THREAD) + 5 * tenth_ns < end {
            value ^= till.checkout(tenth_ns) ^ till.report(tenth_ns);
        }
        value
    }
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(1.0);
    let till = shop::Till::default();
    std::hint::black_box(shop::serve(&till, seconds));
    let (price, stock, report) = (till.price_ns.get(), till.stock_ns.get(), till.report_ns.get());
    let serve = "shop::main;shop::shop::serve";
    let cpu_ns = cpu_ns(PROCESS);
    println!(
        r#"{{"cpu_ns": {cpu_ns}, "stacks": {{"{serve};shop::shop::Till::checkout;shop::shop::Till::price": {price},
            "{serve};shop::shop::Till::checkout;shop::shop::Till::stock": {stock},
            "{serve};shop::shop::Till::report": {report}}}}}"#
    );
}
