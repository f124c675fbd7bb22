//! Where a transport stands between its start and `connection_lost()`, and whether it reads.
//!
//! The rules are those of `asyncio.selector_events`: a closing transport stops to read at once, and
//! its end is scheduled when nothing is left to send; a failure schedules it at once. It is scheduled
//! once, and what is written after that is counted.

/// The state of a transport, without what it reads or sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifecycle {
    reader_active: bool,
    paused: bool,
    closing: bool,
    lost: u32,
}

impl Lifecycle {
    /// After so many writes on a lost connection each further one is logged, as
    /// `asyncio.constants` has it.
    pub const LOG_THRESHOLD_FOR_CONNLOST_WRITES: u32 = 5;

    /// True while read events reach the protocol.
    #[must_use]
    pub fn is_reader_active(&self) -> bool {
        self.reader_active
    }

    /// Read events reach the protocol from now on.
    pub fn activate_reader(&mut self) {
        self.reader_active = true;
    }

    /// Read events no longer reach the protocol.
    pub fn deactivate_reader(&mut self) {
        self.reader_active = false;
    }

    /// What `is_reading()` answers.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        !self.closing && !self.paused
    }

    /// True between `pause_reading()` and `resume_reading()`.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// `pause_reading()` was called; true if that changes something.
    #[must_use]
    pub fn pause(&mut self) -> bool {
        if !self.is_reading() {
            return false;
        }
        self.paused = true;
        self.reader_active = false;
        true
    }

    /// `resume_reading()` was called. If it returns true, the caller activates the reader.
    #[must_use]
    pub fn resume(&mut self) -> bool {
        if self.closing || !self.paused {
            return false;
        }
        self.paused = false;
        true
    }

    /// True once the transport was told to close, or has failed.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// True once `connection_lost()` is scheduled.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost > 0
    }

    /// How often something was written since `connection_lost()` was scheduled, plus one; 0 before.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.lost
    }

    /// Starts an orderly close. True if `connection_lost(None)` is to be scheduled now, because
    /// nothing waits to be sent; else [`Lifecycle::drained`] tells when.
    #[must_use]
    pub fn close(&mut self, is_drained: bool) -> bool {
        if self.closing {
            return false;
        }
        self.closing = true;
        self.reader_active = false;
        self.drained(is_drained)
    }

    /// Something was sent, perhaps all. True if an orderly close waited for that, and
    /// `connection_lost(None)` is due.
    #[must_use]
    pub fn drained(&mut self, is_drained: bool) -> bool {
        let ends = self.closing && self.lost == 0 && is_drained;
        self.lost += u32::from(ends);
        ends
    }

    /// Gives up the transport. True if `connection_lost()` is to be scheduled, which happens once.
    #[must_use]
    pub fn force_close(&mut self) -> bool {
        if self.lost > 0 {
            return false;
        }
        self.closing = true;
        self.reader_active = false;
        self.lost = 1;
        true
    }

    /// The transport is released, whether its end was scheduled or not.
    pub fn end(&mut self) {
        let _scheduled = self.force_close();
    }

    /// Something was written. If the connection is lost, counts that and returns the count.
    pub fn note_write(&mut self) -> Option<u32> {
        if self.lost == 0 {
            return None;
        }
        self.lost = self.lost.saturating_add(1);
        Some(self.lost)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_orderly_close_ends_when_the_queue_is_empty() {
        let mut life = Lifecycle::default();
        life.activate_reader();
        assert!(!life.drained(true), "not closing");
        assert!(!life.close(false));
        assert!(life.is_closing() && !life.is_lost() && !life.is_reader_active());
        assert!(!life.drained(false));
        assert!(life.drained(true));
        assert!(!life.drained(true), "it ends once");
        assert!(!life.force_close(), "the end is scheduled");
        assert!(!life.close(true));
    }

    #[test]
    fn a_close_with_nothing_to_send_ends_at_once() {
        let mut life = Lifecycle::default();
        assert!(life.close(true));
        assert!(life.is_lost());
        assert!(!life.close(true));
    }

    #[test]
    fn a_failure_ends_at_once_even_while_closing() {
        let mut life = Lifecycle::default();
        assert!(!life.close(false));
        assert!(life.force_close());
        assert!(!life.force_close());
        assert!(!life.drained(true));
    }

    #[test]
    fn a_paused_transport_resumes_once_and_a_closing_one_never() {
        let mut life = Lifecycle::default();
        assert!(!life.resume());
        assert!(life.pause());
        assert!(!life.pause());
        assert!(!life.is_reading());
        assert!(life.resume());
        assert!(life.is_reading() && !life.is_reader_active());
        assert!(life.pause());
        assert!(!life.close(false));
        assert!(!life.resume() && !life.pause() && !life.is_reading());
    }

    #[test]
    fn writes_are_counted_from_the_end_on() {
        let mut life = Lifecycle::default();
        assert_eq!(life.note_write(), None);
        assert!(!life.close(false));
        assert_eq!(life.note_write(), None);
        assert!(life.drained(true));
        assert_eq!((life.note_write(), life.note_write()), (Some(2), Some(3)));
        assert_eq!(life.lost(), 3);
    }
}
