//! `Worker`: a thread of a loop beside the one that runs it.
//!
//! A worker's thread lives as long as the loop does, because a task must finish on the thread that
//! created it. Between runs it waits here, detached. It refers to the loop only while that runs, so
//! that a loop that nobody closed can be collected: it lets go before it asks for the next command.

use crate::loop_::event_loop::EventLoop;
use crate::runtime::process;
use crate::shard::{Shard, exit};
use pyo3::prelude::*;
use rloop_core::commands::Commands;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The commands to a worker. In the child of a `fork()` its thread is not there, and may have held
/// the lock: there nothing is running.
pub(crate) struct Control {
    process: process::Stamp,
    commands: Commands<Py<EventLoop>>,
}

impl Control {
    fn new() -> Self {
        Self { process: process::Stamp::new(), commands: Commands::new() }
    }

    /// Lets the worker, which is parked, drive its shard. False if its thread has ended.
    pub(crate) fn run(&self, event_loop: Py<EventLoop>) -> bool {
        self.process.is_this() && self.commands.run(event_loop).is_ok()
    }

    /// Ends the thread once it is parked.
    pub(crate) fn end(&self) {
        if self.process.is_this() {
            drop(self.commands.end());
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_this() && self.commands.is_running()
    }

    /// Blocks until the worker is parked; false if `deadline` passes before. The thread is detached.
    pub(crate) fn wait_until_parked(&self, deadline: Instant) -> bool {
        !self.process.is_this() || self.commands.wait_until_parked(deadline)
    }
}

/// The thread of a worker, as Python sees it.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct Worker {
    pub(crate) control: Arc<Control>,
    /// A loop that is collected takes its shards along.
    shard: Weak<Shard>,
    index: u16,
}

impl Worker {
    pub(crate) fn new(shard: &Arc<Shard>) -> Self {
        Self {
            control: Arc::new(Control::new()),
            shard: Arc::downgrade(shard),
            index: shard.index(),
        }
    }
}

#[pymethods]
impl Worker {
    /// The index of the worker's shard.
    #[getter]
    fn shard(&self) -> u16 {
        self.index
    }

    /// Parks the calling thread, the worker's, until the loop runs, and returns the loop; `None` when
    /// the thread is to end. The caller refers to the loop no more.
    fn next_run(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        // A child of `fork()` that the worker's thread called has no loop to go on with.
        if !self.control.process.is_this() {
            return None;
        }
        py.detach(|| self.control.commands.next())
    }

    /// The thread ends, for whatever reason.
    fn leave(&self) {
        if self.control.process.is_this() {
            drop(self.control.commands.leave());
        }
    }

    /// Ends the thread once it is parked.
    fn end(&self) {
        self.control.end();
    }

    /// Leaves the thread alone, because its callback does not return: the end of the interpreter does
    /// not wait for it.
    fn abandon(&self) {
        exit::forget(&self.shard);
    }

    /// True while the worker drives its shard, until `timeout` seconds have passed.
    #[pyo3(signature = (timeout = 0.0))]
    fn is_running(&self, py: Python<'_>, timeout: f64) -> bool {
        if timeout <= 0.0 {
            return self.control.is_running();
        }
        let deadline = Instant::now() + Duration::from_secs_f64(timeout);
        !py.detach(|| self.control.wait_until_parked(deadline))
    }
}
