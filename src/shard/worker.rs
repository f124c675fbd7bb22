//! `Worker`: a thread of a loop beside the one that runs it.
//!
//! A worker's thread lives as long as the loop does, because a task must finish on the thread that
//! created it. Between runs it waits here, detached. It refers to the loop only while that runs, so
//! that a loop which nobody closed can be collected: it lets go before it says that it is parked.

use crate::loop_::event_loop::EventLoop;
use crate::runtime::process;
use crate::shard::Shard;
use pyo3::prelude::*;
use rloop_core::sync::{Condvar, Mutex};
use std::sync::Arc;

enum Order {
    /// Wait for the next order.
    Wait,
    Run(Py<EventLoop>),
    End,
}

/// What a worker is told and what it does. In the child of a `fork()` the worker is not there, and
/// may have held the locks: there nothing is running.
pub(crate) struct Post {
    process: process::Stamp,
    order: Mutex<Order>,
    changed: Condvar,
    /// True from the order to run until the worker waits again.
    is_running: Mutex<bool>,
    parked: Condvar,
}

impl Post {
    fn new() -> Self {
        Self {
            process: process::Stamp::new(),
            order: Mutex::new(Order::Wait),
            changed: Condvar::new(),
            is_running: Mutex::new(false),
            parked: Condvar::new(),
        }
    }

    /// Lets the worker, which is parked, drive its shard. False if its thread has ended.
    pub(crate) fn run(&self, event_loop: Py<EventLoop>) -> bool {
        if !self.process.is_this() {
            return false;
        }
        let refused = {
            let mut order = self.order.lock();
            if matches!(*order, Order::End) {
                Some(event_loop)
            } else {
                *self.is_running.lock() = true;
                *order = Order::Run(event_loop);
                None
            }
        };
        self.changed.notify_all();
        refused.is_none()
    }

    /// Ends the thread once it is parked.
    pub(crate) fn end(&self) {
        if !self.process.is_this() {
            return;
        }
        let replaced = std::mem::replace(&mut *self.order.lock(), Order::End);
        drop(replaced);
        self.changed.notify_all();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_this() && *self.is_running.lock()
    }

    /// Blocks until the worker is parked. The thread is detached.
    pub(crate) fn wait_until_parked(&self) {
        if !self.process.is_this() {
            return;
        }
        let mut is_running = self.is_running.lock();
        while *is_running {
            self.parked.wait(&mut is_running);
        }
    }
}

/// The worker's side of its post.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct Worker {
    pub(crate) post: Arc<Post>,
    index: u16,
    /// Shard 0 while the loop runs; only the worker's thread touches it.
    leader: Mutex<Option<Arc<Shard>>>,
}

impl Worker {
    pub(crate) fn new(index: u16) -> Self {
        Self { post: Arc::new(Post::new()), index, leader: Mutex::default() }
    }
}

#[pymethods]
impl Worker {
    /// The index of the worker's shard.
    #[getter]
    fn shard(&self) -> u16 {
        self.index
    }

    /// Waits for the loop to run, and returns it; `None` when the thread is to end.
    fn wait(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        let event_loop = py.detach(|| {
            let mut order = self.post.order.lock();
            loop {
                match std::mem::replace(&mut *order, Order::Wait) {
                    Order::Run(event_loop) => return Some(event_loop),
                    Order::End => {
                        *order = Order::End;
                        return None;
                    }
                    Order::Wait => self.post.changed.wait(&mut order),
                }
            }
        })?;
        *self.leader.lock() = Some(Arc::clone(event_loop.get().main_shard()));
        Some(event_loop)
    }

    /// Says that the worker does not drive its shard any more, and does not refer to the loop: whoever
    /// ran it may let go of it now.
    fn park(&self) {
        let leader = self.leader.lock().take();
        *self.post.is_running.lock() = false;
        self.post.parked.notify_all();
        if let Some(leader) = leader {
            leader.notify();
        }
    }

    /// Ends the thread once it is parked.
    fn end(&self) {
        self.post.end();
    }
}
