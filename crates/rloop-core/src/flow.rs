//! Flow control: the water marks of a buffer and the pause they ask for.
//!
//! The rules are asyncio's. A socket's write buffer pauses its writer when it grows *above* the high
//! mark ([`FlowControl::grown`], `asyncio.transports._FlowControlMixin`), the buffers of a TLS
//! connection when they *reach* it ([`FlowControl::reached`], `asyncio.sslproto`). Both resume when
//! the buffer falls *to or below* the low mark.

/// The high-water mark of a socket unless the user asks for another, in bytes.
pub const DEFAULT_HIGH: u128 = 64 * 1024;

/// What the protocol has to be told.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowChange {
    /// Nothing.
    Unchanged,
    /// Call `pause_writing()`.
    Pause,
    /// Call `resume_writing()`.
    Resume,
}

/// The water marks and whether the protocol was told to pause.
#[derive(Clone, Copy, Debug)]
pub struct FlowControl {
    low: u128,
    high: u128,
    paused: bool,
}

impl FlowControl {
    /// The default marks: 16 KiB and 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_high(DEFAULT_HIGH)
    }

    /// Marks of a quarter of `high` bytes, and of `high`.
    #[must_use]
    pub fn with_high(high: u128) -> Self {
        Self { low: high / 4, high, paused: false }
    }

    /// Derives the marks (low, high) from what the user gave, or returns the refused pair.
    ///
    /// The numbers are wider than any buffer, because Python's integers are.
    pub fn derive_limits(
        default_high: u128,
        high: Option<i128>,
        low: Option<i128>,
    ) -> Result<(u128, u128), (i128, i128)> {
        let high = high.unwrap_or_else(|| match low {
            None => default_high.cast_signed(),
            Some(low) => low.saturating_mul(4),
        });
        let low = low.unwrap_or(high.div_euclid(4));
        match (u128::try_from(low), u128::try_from(high)) {
            (Ok(low_mark), Ok(high_mark)) if high_mark >= low_mark => Ok((low_mark, high_mark)),
            _ => Err((low, high)),
        }
    }

    /// Sets the marks, in bytes.
    pub fn set_limits(&mut self, low: u128, high: u128) {
        self.low = low;
        self.high = high;
    }

    /// The marks (low, high), in bytes.
    #[must_use]
    pub fn limits(&self) -> (u128, u128) {
        (self.low, self.high)
    }

    /// True while the protocol is told not to write.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The buffer may have grown to `buffered` bytes.
    pub fn grown(&mut self, buffered: usize) -> FlowChange {
        if buffered as u128 > self.high && !self.paused {
            self.paused = true;
            FlowChange::Pause
        } else {
            FlowChange::Unchanged
        }
    }

    /// The buffer of a TLS connection may have grown to `buffered` bytes. An empty one is never a
    /// reason to pause, whatever the marks.
    pub fn reached(&mut self, buffered: usize) -> FlowChange {
        if buffered as u128 >= self.high && buffered > 0 && !self.paused {
            self.paused = true;
            FlowChange::Pause
        } else {
            FlowChange::Unchanged
        }
    }

    /// The buffer may have shrunk to `buffered` bytes.
    pub fn shrunk(&mut self, buffered: usize) -> FlowChange {
        if self.paused && buffered as u128 <= self.low {
            self.paused = false;
            FlowChange::Resume
        } else {
            FlowChange::Unchanged
        }
    }
}

impl Default for FlowControl {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pauses_above_high_and_resumes_at_low() {
        let mut flow = FlowControl::new();
        flow.set_limits(10, 20);
        assert_eq!(flow.grown(20), FlowChange::Unchanged);
        assert_eq!(flow.grown(21), FlowChange::Pause);
        assert_eq!(flow.grown(30), FlowChange::Unchanged);
        assert_eq!(flow.shrunk(11), FlowChange::Unchanged);
        assert_eq!(flow.shrunk(10), FlowChange::Resume);
        assert_eq!(flow.shrunk(0), FlowChange::Unchanged);
    }

    #[test]
    fn reaching_the_high_mark_is_enough_unless_it_is_zero() {
        let mut flow = FlowControl::with_high(20);
        assert_eq!(flow.reached(19), FlowChange::Unchanged);
        assert_eq!(flow.reached(20), FlowChange::Pause);
        assert_eq!(flow.shrunk(5), FlowChange::Resume);
        flow.set_limits(0, 0);
        assert_eq!(flow.reached(0), FlowChange::Unchanged);
        assert_eq!(flow.reached(1), FlowChange::Pause);
    }

    #[test]
    fn limits_follow_from_each_other() {
        let derive = |high, low| FlowControl::derive_limits(DEFAULT_HIGH, high, low);
        assert_eq!(derive(None, None), Ok((16 * 1024, 64 * 1024)));
        assert_eq!(derive(Some(100), None), Ok((25, 100)));
        assert_eq!(derive(None, Some(100)), Ok((100, 400)));
        assert_eq!(derive(Some(0), None), Ok((0, 0)));
        assert_eq!(derive(Some(1), Some(2)), Err((2, 1)));
        assert_eq!(derive(Some(-1), None), Err((-1, -1)));
    }
}
