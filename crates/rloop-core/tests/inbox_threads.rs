//! The inbox between real threads: what loom's models are too small for.
//!
//! Many senders, an owner that parks whenever it may, and nothing but the inbox's own word for when
//! to wake it: a wake-up that gets lost leaves the owner parked, and the test fails in the end.
#![cfg(not(loom))]

use rloop_core::inbox::{Inbox, Park, Wake};
use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const SENDERS: usize = 4;
const PUSHES: usize = 5_000;
/// How long the owner may sleep before a wake-up counts as lost.
const LOST: Duration = Duration::from_mins(1);

/// How much an iteration takes: little, so that iterations leave something behind.
const TAKEN_PER_ITERATION: usize = 16;

/// One iteration of the owner: takes some of what was pushed.
fn run_iteration(inbox: &Inbox<(usize, usize)>, seen: &mut VecDeque<(usize, usize)>) {
    if inbox.begin() {
        inbox.drain_some_into(TAKEN_PER_ITERATION, seen);
    }
}

#[test]
fn a_parked_owner_sees_every_push_in_its_senders_order() {
    let inbox = Inbox::new();
    let (bell, ringing) = mpsc::channel();
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (inbox, bell) = (&inbox, bell.clone());
            scope.spawn(move || {
                for number in 0..PUSHES {
                    if inbox.push((sender, number)) == Wake::Needed {
                        bell.send(()).expect("the owner waits for all pushes");
                    }
                }
            });
        }
        let mut seen = VecDeque::new();
        let mut next = [0; SENDERS];
        let mut left = SENDERS * PUSHES;
        while left > 0 {
            run_iteration(&inbox, &mut seen);
            for (sender, number) in seen.drain(..) {
                assert_eq!(number, next[sender]);
                next[sender] += 1;
                left -= 1;
            }
            if left > 0 && inbox.park() == Park::Allowed {
                ringing.recv_timeout(LOST).expect("a wake-up was lost");
            }
        }
    });
    assert_eq!(inbox.pushed(), (SENDERS * PUSHES) as u64);
}

#[test]
fn an_owner_that_other_events_wake_is_rung_once_per_park_at_most() {
    let inbox = Inbox::new();
    let (bell, ringing) = mpsc::channel();
    let mut parks = 0_u64;
    thread::scope(|scope| {
        let (pushing, bell) = (&inbox, bell);
        let sender = scope.spawn(move || {
            let mut rung = 0_u64;
            for number in 0..PUSHES {
                if pushing.push((0, number)) == Wake::Needed {
                    rung += 1;
                    bell.send(()).expect("the owner outlives the sender");
                }
            }
            rung
        });
        let mut seen = VecDeque::new();
        while seen.len() < PUSHES {
            run_iteration(&inbox, &mut seen);
            if inbox.park() == Park::Allowed {
                parks += 1;
                // Now and then something else ends the wait: no ring is asked for.
                if !parks.is_multiple_of(3) && seen.len() < PUSHES {
                    ringing.recv_timeout(LOST).expect("a wake-up was lost");
                }
            }
        }
        assert!(sender.join().expect("the sender does not panic") <= parks);
    });
}
