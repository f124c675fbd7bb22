//! loom models of the inbox: no push is lost, no wake-up is lost.
//!
//! Bounds: two senders with one push each against one owner that takes at most three turns.
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
