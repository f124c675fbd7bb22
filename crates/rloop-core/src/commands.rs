//! `Commands`: what the thread that runs a loop tells the thread of a worker.
//!
//! # Theory of operation
//!
//! A worker counts as running from the command to run until it asks for the next one and finds none.
//! So the leader, who ends a run by raising a flag that the worker looks at, waits for
//! [`Commands::is_running`] to become false, and knows that the worker has run at least one iteration.
//! A worker that is still inside a callback of an interrupted run counts as running. A command to run
//! that it gets meanwhile stays in force until it asks, and until then the worker counts as running,
//! too. `tests/commands_loom.rs` checks that nothing runs once the leader saw a worker parked.

use crate::sync::Monitor;
#[cfg(not(loom))]
use std::time::Instant;

enum Command<R> {
    Wait,
    /// Drive the shard of this loop.
    Run(R),
    /// End the thread.
    End,
}

struct State<R> {
    command: Command<R>,
    is_running: bool,
}

impl<R> State<R> {
    /// Gives a command; returns what an earlier one refers to that was not taken.
    fn give(&mut self, command: Command<R>) -> Option<R> {
        match std::mem::replace(&mut self.command, command) {
            Command::Run(subject) => Some(subject),
            Command::Wait | Command::End => None,
        }
    }
}

impl<R> Default for Commands<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// The commands to one worker. `R` is what it needs to run.
pub struct Commands<R> {
    state: Monitor<State<R>>,
}

impl<R> Commands<R> {
    /// No command; the worker is parked.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Monitor::new(State { command: Command::Wait, is_running: false }) }
    }

    /// Lets the worker run.
    ///
    /// # Errors
    /// Hands `subject` back if the thread was told to end.
    pub fn run(&self, subject: R) -> Result<Option<R>, R> {
        self.state.change(|state| match state.command {
            Command::End => Err(subject),
            Command::Wait | Command::Run(_) => {
                state.is_running = true;
                Ok(state.give(Command::Run(subject)))
            }
        })
    }

    /// Ends the thread once it asks. Returns what a command that it did not take referred to.
    pub fn end(&self) -> Option<R> {
        self.state.change(|state| state.give(Command::End))
    }

    /// True from the command to run until the worker has asked for another one.
    pub fn is_running(&self) -> bool {
        self.state.read(|state| state.is_running)
    }

    /// Blocks until the worker is parked; false if `deadline` passes before.
    #[cfg(not(loom))]
    pub fn wait_until_parked(&self, deadline: Instant) -> bool {
        self.state.wait_until(deadline, |state| (!state.is_running).then_some(())).is_some()
    }

    /// Blocks until the worker is parked.
    #[cfg(loom)]
    pub fn wait_until_parked(&self) {
        self.state.wait_for(|state| (!state.is_running).then_some(()));
    }

    /// Parks the calling worker until there is a command; `None` if its thread is to end.
    pub fn next(&self) -> Option<R> {
        self.park();
        self.state.wait_for(|state| match std::mem::replace(&mut state.command, Command::Wait) {
            Command::Run(subject) => Some(Some(subject)),
            Command::End => {
                state.command = Command::End;
                Some(None)
            }
            Command::Wait => None,
        })
    }

    /// The calling worker runs no more, unless a command waits for it.
    fn park(&self) {
        self.state.change(|state| {
            state.is_running = matches!(state.command, Command::Run(_));
        });
    }

    /// The thread of the worker ends, for whatever reason.
    pub fn leave(&self) -> Option<R> {
        self.state.change(|state| {
            state.is_running = false;
            state.give(Command::End)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_worker_counts_as_running_from_the_command_until_it_asks_again() {
        let commands = Commands::new();
        assert!(!commands.is_running());
        assert_eq!(commands.run(1), Ok(None));
        assert!(commands.is_running());
        assert_eq!(commands.next(), Some(1));
        assert!(commands.is_running());
        assert!(!commands.wait_until_parked(Instant::now() + Duration::from_millis(1)));
        assert_eq!(commands.end(), None);
        assert_eq!(commands.next(), None);
        assert!(!commands.is_running());
        assert!(commands.wait_until_parked(Instant::now()));
        assert_eq!(commands.run(2), Err(2));
        assert_eq!(commands.next(), None, "the end is final");
    }

    #[test]
    fn a_command_given_to_a_running_worker_is_taken_when_it_asks() {
        let commands = Commands::new();
        assert_eq!(commands.run(1), Ok(None));
        assert_eq!(commands.next(), Some(1));
        assert_eq!(commands.run(2), Ok(None));
        assert_eq!(commands.run(3), Ok(Some(2)), "the command that was not taken is handed back");
        assert_eq!(commands.next(), Some(3));
        assert!(commands.is_running());
    }

    #[test]
    fn a_thread_that_leaves_takes_no_more_commands() {
        let commands = Commands::new();
        assert_eq!(commands.run(1), Ok(None));
        assert_eq!(commands.leave(), Some(1));
        assert!(!commands.is_running());
        assert_eq!(commands.run(2), Err(2));
    }
}
