//! loom models of the inbox: no push is lost, no wake-up is lost.
//!
//! Bounds: two senders with one push each against one owner that takes at most three iterations; one sender
//! against an owner that other events wake; a flag raised before a notification, as what ends a run is
//! told; a run that ends and another that begins.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p rloop-core --release --test inbox_loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use rloop_core::inbox::{Inbox, Park, Wake};
use std::collections::VecDeque;

/// The model's eventfd: counts wake-ups, and a parked owner waits for one.
#[derive(Default)]
struct Doorbell(AtomicUsize);

fn drain(inbox: &Inbox<u32>, seen: &mut VecDeque<u32>) {
    if inbox.begin() {
        inbox.drain_into(seen);
    }
}

/// An iteration that takes one item, and leaves the others for the next.
fn drain_one(inbox: &Inbox<u32>, seen: &mut VecDeque<u32>) {
    if inbox.begin() {
        inbox.drain_some_into(1, seen);
    }
}

#[test]
fn loom_every_push_is_seen_or_rings_the_bell() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let bell = Arc::new(Doorbell::default());
        let senders: Vec<_> = (0..2)
            .map(|number| {
                let (inbox, bell) = (inbox.clone(), bell.clone());
                thread::spawn(move || {
                    if inbox.push(number) == Wake::Needed {
                        bell.0.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();

        let mut seen = VecDeque::new();
        let mut parked = false;
        for _ in 0..3 {
            drain(&inbox, &mut seen);
            if inbox.park() == Park::Allowed {
                parked = true;
                break;
            }
        }
        for sender in senders {
            sender.join().expect("a sender does not panic");
        }
        if parked {
            // Asleep: what was not seen must have rung, and nobody rings twice. (A sender that is
            // between its push and its swap may ring for an item that was seen: a spurious wake.)
            let rung = bell.0.load(Ordering::SeqCst);
            assert!(rung <= 1);
            assert!(seen.len() == 2 || rung == 1);
        }
        drain(&inbox, &mut seen);
        assert_eq!(seen.len(), 2);
    });
}

/// An owner that a socket or a timer wakes parks again. Whatever is pushed meanwhile is seen or rings
/// after it last parked, and so is what an iteration left behind.
#[test]
fn loom_a_wake_up_by_something_else_hides_no_push() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let bell = Arc::new(Doorbell::default());
        let sender = {
            let (inbox, bell) = (inbox.clone(), bell.clone());
            thread::spawn(move || {
                for number in 0..2 {
                    if inbox.push(number) == Wake::Needed {
                        bell.0.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };

        let mut seen = VecDeque::new();
        let mut parks = 0;
        let mut is_asleep = false;
        for _ in 0..3 {
            drain_one(&inbox, &mut seen);
            // Parked or not, the next iteration begins because a socket is ready.
            is_asleep = inbox.park() == Park::Allowed;
            parks += usize::from(is_asleep);
        }
        sender.join().expect("the sender does not panic");
        let rung = bell.0.load(Ordering::SeqCst);
        assert!(rung <= parks);
        if is_asleep && seen.len() < 2 {
            assert!(rung > 0);
        }
        drain(&inbox, &mut seen);
        assert_eq!(seen, [0, 1]);
    });
}

/// What ends a run, or a thread, is a flag and then a notification. An owner that looks at the flag
/// between `begin` and `park` sees it or is rung; one that looks before `begin` may sleep for ever.
#[test]
fn loom_a_flag_raised_before_a_notification_is_seen_or_rings() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32>::new());
        let bell = Arc::new(Doorbell::default());
        let flag = Arc::new(AtomicUsize::new(0));
        let sender = {
            let (inbox, bell, flag) = (inbox.clone(), bell.clone(), flag.clone());
            thread::spawn(move || {
                // The notification orders this before the iteration that sees it.
                flag.store(1, Ordering::Relaxed);
                if inbox.notify() == Wake::Needed {
                    bell.0.fetch_add(1, Ordering::SeqCst);
                }
            })
        };

        let mut is_asleep = false;
        for _ in 0..2 {
            inbox.begin();
            if flag.load(Ordering::Relaxed) == 1 {
                break;
            }
            is_asleep = inbox.park() == Park::Allowed;
            if is_asleep {
                break;
            }
        }
        sender.join().expect("the sender does not panic");
        let rung = bell.0.load(Ordering::SeqCst);
        assert!(!is_asleep || rung == 1);
        // The wake-up ends in an iteration, and that sees the flag.
        inbox.begin();
        assert_eq!(flag.load(Ordering::Relaxed), 1);
    });
}

/// Between two runs nobody parks. What is pushed then, and what the last run left, is seen by the next,
/// which another thread may drive.
#[test]
fn loom_a_push_between_two_runs_is_seen_by_the_next() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let bell = Arc::new(Doorbell::default());
        let sender = {
            let (inbox, bell) = (inbox.clone(), bell.clone());
            thread::spawn(move || {
                if inbox.push(0) == Wake::Needed {
                    bell.0.fetch_add(1, Ordering::SeqCst);
                }
            })
        };

        let mut seen = VecDeque::new();
        drain(&inbox, &mut seen);
        // The first run ends here, and its driver asks to be looked at once more.
        let _ = inbox.notify();
        let next = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                drain(&inbox, &mut seen);
                (inbox.park() == Park::Allowed, seen)
            })
        };
        let (is_asleep, mut seen) = next.join().expect("the next run does not panic");
        sender.join().expect("the sender does not panic");
        let rung = bell.0.load(Ordering::SeqCst);
        if is_asleep && seen.is_empty() {
            assert_eq!(rung, 1);
        }
        drain(&inbox, &mut seen);
        assert_eq!(seen, [0]);
    });
}
