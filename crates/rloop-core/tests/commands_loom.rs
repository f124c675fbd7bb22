//! loom models of the commands to a worker: nothing runs once the leader saw it parked, and no command is
//! lost.
//!
//! Bounds: one leader and one worker, two runs.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p rloop-core --release --test commands_loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};
use rloop_core::commands::Commands;

#[derive(Default)]
struct Worker {
    commands: Commands<u32>,
    is_inside: AtomicBool,
    runs: AtomicUsize,
}

impl Worker {
    fn start() -> (Arc<Self>, JoinHandle<()>) {
        let worker = Arc::new(Self::default());
        let thread = {
            let worker = worker.clone();
            thread::spawn(move || {
                while worker.commands.next().is_some() {
                    worker.is_inside.store(true, Ordering::Relaxed);
                    worker.runs.fetch_add(1, Ordering::Relaxed);
                    worker.is_inside.store(false, Ordering::Relaxed);
                }
            })
        };
        (worker, thread)
    }

    fn run(&self, number: u32) {
        assert!(self.commands.run(number).is_ok());
    }

    fn assert_parked(&self) {
        self.commands.wait_until_parked();
        assert!(!self.is_inside.load(Ordering::Relaxed));
        let runs = self.runs.load(Ordering::Relaxed);
        thread::yield_now();
        assert_eq!(self.runs.load(Ordering::Relaxed), runs);
    }
}

#[test]
fn loom_each_run_is_taken_and_over_before_the_leader_goes_on() {
    loom::model(|| {
        let (worker, thread) = Worker::start();
        for number in 1..=2 {
            worker.run(number);
            worker.assert_parked();
            assert_eq!(worker.runs.load(Ordering::Relaxed), number as usize);
        }
        assert!(worker.commands.end().is_none());
        thread.join().expect("the worker does not panic");
    });
}

/// The leader was interrupted while the worker was inside a callback, and runs the loop again.
#[test]
fn loom_a_worker_left_behind_by_one_run_is_parked_after_the_next() {
    loom::model(|| {
        let (worker, thread) = Worker::start();
        worker.run(1);
        worker.run(2);
        worker.assert_parked();
        assert!(worker.runs.load(Ordering::Relaxed) >= 1);
        assert!(worker.commands.end().is_none());
        thread.join().expect("the worker does not panic");
    });
}
