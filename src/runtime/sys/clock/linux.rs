//! The clock behind `time.monotonic()`, and its cheap reading.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since an arbitrary point.
pub(crate) fn nanoseconds() -> i64 {
    in_nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// The same, as the kernel last noted it: a few milliseconds old at most.
pub(crate) fn coarse_nanoseconds() -> i64 {
    in_nanoseconds(clock_gettime(ClockId::MonotonicCoarse))
}

fn in_nanoseconds(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
