//! The loop's clock: the one behind `time.monotonic()`, in the same units.

pub(crate) use crate::runtime::sys::clock::{coarse_nanoseconds, nanoseconds};

const NANOSECONDS: f64 = 1e9;
/// The farthest deadline that is handed to the kernel, in seconds: about 126 years.
const FARTHEST: f64 = 4e9;

/// Seconds since an arbitrary point, as `time.monotonic()` gives them.
#[expect(clippy::cast_precision_loss, reason = "time.monotonic() rounds the same way")]
pub(crate) fn now() -> f64 {
    nanoseconds() as f64 / NANOSECONDS
}

/// A nanosecond at which [`now`] has certainly reached `deadline`, never zero (which would disarm a
/// timer).
///
/// The next whole nanosecond is not enough: it can round down to the number before `deadline`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i64 before")]
pub(crate) fn nanosecond_at_or_after(deadline: f64) -> i64 {
    // NaN sorts behind every deadline, so it is never reached either.
    let seconds = if deadline.is_nan() { FARTHEST } else { deadline.clamp(0.0, FARTHEST) };
    (seconds * NANOSECONDS).ceil() as i64 + 1
}
