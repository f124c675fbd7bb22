//! The loop's clock: the one behind `time.monotonic()`, in the same units.

use rustix::time::{ClockId, Timespec, clock_gettime};

const NANOSECONDS: f64 = 1e9;
/// The farthest deadline that is handed to the kernel, in seconds: about 126 years.
const FARTHEST: f64 = 4e9;

/// Seconds since an arbitrary point, as `time.monotonic()` gives them.
#[expect(clippy::cast_precision_loss, reason = "time.monotonic() rounds the same way")]
pub(crate) fn now() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec) as f64 / NANOSECONDS
}

/// A nanosecond at which [`now`] has certainly reached `deadline`, never zero (which would disarm a
/// timer).
///
/// The next whole nanosecond is not enough: it can round down to the number before `deadline`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i64 before")]
pub(crate) fn timespec_at_or_after(deadline: f64) -> Timespec {
    // NaN sorts behind every deadline, so it is never reached either.
    let seconds = if deadline.is_nan() { FARTHEST } else { deadline.clamp(0.0, FARTHEST) };
    let nanoseconds = (seconds * NANOSECONDS).ceil() as i64 + 1;
    Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 }
}
