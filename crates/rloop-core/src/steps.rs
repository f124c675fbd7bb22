//! Steps: when what one shard sends reaches another.
//!
//! A step is what a shard runs without a pause: one callback, one step of a task, one event of a
//! transport. In asyncio nothing that a step wakes runs before the step has ended, and libraries rely on
//! it: they wake a task, then write what that task must come behind. So wake-ups that a step sends to
//! another shard are held there until the step has ended. Calls on transports are not, nor is what a program
//! hands to another thread on purpose, by `call_soon_threadsafe()`: the step may block until that is done.
//! It is held only behind a wake-up of the same step, which it must not overtake.
//!
//! # Theory of operation
//!
//! Everything goes through the one inbox of the target, at once and in order: [`Mail::Now`] is not held,
//! [`Mail::Held`] is a wake-up, and [`Mail::StepEnd`], behind all that the step sent there,
//! releases the sender's wake-ups. An inbox keeps the order of each sender, so when the target takes the
//! end of the step out, it has taken every call of the step before. Nothing is kept with the sender, so a
//! step that never ends, or whose thread ends, loses nothing: the target can release what it holds by
//! itself, see [`Held::deadline`].

use std::collections::VecDeque;

/// An item of an inbox.
pub enum Mail<T> {
    /// Due when it arrives.
    Now(T),
    /// Due once the step of that shard has ended.
    Held(u16, T),
    /// The step of that shard has ended.
    StepEnd(u16),
}

/// Items whose senders' steps have not ended, oldest first.
pub struct Held<T> {
    items: Vec<(u16, T)>,
    /// When the oldest arrived.
    since: f64,
}

impl<T> Held<T> {
    /// How long an item is held if its sender's step does not end, in seconds. The step is blocked, perhaps
    /// because it waits for what the item would do.
    pub const LONGEST: f64 = 0.5;

    /// Nothing is held.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new(), since: 0.0 }
    }

    /// Takes an item out of the inbox; appends to `ready` what is due by it.
    pub fn receive(&mut self, mail: Mail<T>, ready: &mut VecDeque<T>, now: impl FnOnce() -> f64) {
        match mail {
            Mail::Now(item) => ready.push_back(item),
            Mail::Held(sender, item) => {
                if self.items.is_empty() {
                    self.since = now();
                }
                self.items.push((sender, item));
            }
            Mail::StepEnd(sender) => {
                for (of, item) in std::mem::take(&mut self.items) {
                    if of == sender {
                        ready.push_back(item);
                    } else {
                        self.items.push((of, item));
                    }
                }
            }
        }
    }

    /// True if nothing is held.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The time at which what is held is to be released whatever the senders do; `None` if nothing is held.
    #[must_use]
    pub fn deadline(&self) -> Option<f64> {
        (!self.is_empty()).then_some(self.since + Self::LONGEST)
    }

    /// Appends everything that is held to `ready`.
    pub fn release_all(&mut self, ready: &mut VecDeque<T>) {
        ready.extend(self.items.drain(..).map(|(_, item)| item));
    }

    /// The items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn receive_all(held: &mut Held<u32>, mail: impl IntoIterator<Item = Mail<u32>>) -> Vec<u32> {
        let mut ready = VecDeque::new();
        for item in mail {
            held.receive(item, &mut ready, || 7.0);
        }
        ready.into()
    }

    #[test]
    fn wake_ups_come_behind_the_calls_of_their_step_and_in_order() {
        let mut held = Held::new();
        let mail =
            [Mail::Held(1, 10), Mail::Now(1), Mail::Held(1, 11), Mail::Now(2), Mail::StepEnd(1)];
        assert_eq!(receive_all(&mut held, mail), [1, 2, 10, 11]);
        assert!(held.is_empty());
    }

    #[test]
    fn the_end_of_a_step_releases_the_wake_ups_of_its_shard_only() {
        let mut held = Held::new();
        let mail = [Mail::Held(1, 10), Mail::Held(2, 20), Mail::Held(1, 11), Mail::StepEnd(1)];
        assert_eq!(receive_all(&mut held, mail), [10, 11]);
        assert!(held.iter().eq([&20]));
        assert_eq!(receive_all(&mut held, [Mail::StepEnd(1), Mail::StepEnd(2)]), [20]);
    }

    #[test]
    fn what_is_held_has_a_deadline_after_which_all_of_it_is_due() {
        let mut held = Held::new();
        assert_eq!(held.deadline(), None);
        assert!(receive_all(&mut held, [Mail::Held(1, 10), Mail::Held(2, 20)]).is_empty());
        assert_eq!(held.deadline(), Some(7.0 + Held::<u32>::LONGEST));
        let mut ready = VecDeque::new();
        held.release_all(&mut ready);
        assert_eq!(ready, [10, 20]);
        // The end of the step, when it comes, releases nothing twice.
        assert!(receive_all(&mut held, [Mail::StepEnd(1)]).is_empty());
        assert_eq!(held.deadline(), None);
    }
}
