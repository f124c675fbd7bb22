//! When to look at signals beside the iterations that something else asks for.
//!
//! CPython notes a signal when it comes and runs its handler between two bytecodes of the main thread. A
//! signal interrupts a wait for events, so a loop that waits notices it. One that comes after the last
//! bytecode and before the wait interrupts nothing. `signal.set_wakeup_fd()` would end the wait then, but it
//! belongs to the program, and CPython does not tell what the program has set it to. So a loop on the main
//! thread looks again [`DELAY`] after it has run something, once: an idle loop sleeps.

/// How late a signal that comes just before a wait is noticed, in seconds.
pub const DELAY: f64 = 0.5;

/// Whether the reminder of the main thread is to be set.
#[derive(Debug, Default)]
pub struct SignalChecks {
    /// This thread handles signals.
    is_main_thread: bool,
    /// Something ran since the reminder was set.
    has_run: bool,
    /// The reminder is set.
    is_set: bool,
}

impl SignalChecks {
    /// Called at the beginning of a run.
    pub fn begin(&mut self, is_main_thread: bool) {
        *self = Self { is_main_thread, has_run: true, is_set: false };
    }

    /// Something ran, or was asked to.
    pub fn note_run(&mut self) {
        self.has_run = true;
    }

    /// The reminder has rung.
    pub fn note_ring(&mut self) {
        self.is_set = false;
    }

    /// True if the caller, who is about to wait, has to set the reminder.
    #[must_use]
    #[inline]
    pub fn start(&mut self) -> bool {
        let starts = self.has_run && !self.is_set && self.is_main_thread;
        if starts {
            self.has_run = false;
            self.is_set = true;
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::SignalChecks;

    #[test]
    fn the_first_wait_of_a_run_sets_the_reminder() {
        let mut checks = SignalChecks::default();
        checks.begin(true);
        assert!(checks.start());
        assert!(!checks.start());
    }

    #[test]
    fn another_thread_sets_none() {
        let mut checks = SignalChecks::default();
        assert!(!checks.start());
        checks.begin(false);
        checks.note_run();
        assert!(!checks.start());
    }

    #[test]
    fn an_idle_loop_sets_none_after_the_reminder_has_rung() {
        let mut checks = SignalChecks::default();
        checks.begin(true);
        assert!(checks.start());
        checks.note_ring();
        assert!(!checks.start());
        checks.note_run();
        assert!(checks.start());
    }

    #[test]
    fn what_runs_while_it_is_set_sets_it_again_after_it_has_rung() {
        let mut checks = SignalChecks::default();
        checks.begin(true);
        assert!(checks.start());
        checks.note_run();
        assert!(!checks.start());
        checks.note_ring();
        assert!(checks.start());
    }
}
