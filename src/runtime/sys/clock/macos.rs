//! The clock behind `time.monotonic()`, and its cheap reading.
//!
//! CPython reads `mach_absolute_time()`, which stands still while the machine sleeps, and which is
//! this clock. `CLOCK_MONOTONIC` is another one.

/// Nanoseconds since an arbitrary point.
pub(crate) fn nanoseconds() -> i64 {
    read(libc::CLOCK_UPTIME_RAW)
}

/// The same, as the kernel last noted it: a few milliseconds old at most.
pub(crate) fn coarse_nanoseconds() -> i64 {
    read(libc::CLOCK_UPTIME_RAW_APPROX)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to `time`, which is borrowed mutably for the call.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(status, 0, "every version of macOS that Rust runs on has these clocks");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
