//! The waiters for a descriptor, the shard that each belongs to, and the requests to the kernel that
//! follow from them.
//!
//! Each shard has a set of descriptors that the kernel watches, and a waiter is served by the set of its
//! home: level-triggered events have to be dealt with by the shard that sees them. So the reader and the
//! writer of one descriptor may be in two sets, or in one.
//!
//! A waiter that stays is watched until it is taken out. If all waiters of a set want one event, the set
//! is asked for one; after it has come, the kernel has stopped watching, and [`Descriptor::renew`] or
//! [`Descriptor::take`] follows.
//!
//! Each request has a generation, so that an event of a descriptor that was closed and opened again
//! meanwhile, or of an earlier request, is not taken for an answer to the present one. The request is made
//! anew even if nothing seems to change, because the number may mean another file by now.
//!
//! No method drops a waiter. They are handed back, to be dropped where dropping is allowed.

/// One of the two directions of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Something can be read.
    Reader,
    /// Something can be written.
    Writer,
}

/// The events that a set watches a descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// Until the first event only. A kqueue counts events of each direction apart.
    pub once: bool,
}

/// The sets of all shards, as far as one descriptor is concerned.
pub trait Sets {
    /// A failed request.
    type Error;

    /// Watches a descriptor that the set of shard `home` probably does not know.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn add(&self, home: u16, generation: u32, watched: Watched) -> Result<(), Self::Error>;

    /// Watches a descriptor that the set of shard `home` probably knows.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn modify(&self, home: u16, generation: u32, watched: Watched) -> Result<(), Self::Error>;

    /// Stops watching.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn remove(&self, home: u16) -> Result<(), Self::Error>;
}

/// Something that waits for a descriptor.
pub trait Waits {
    /// False if it waits for one event only.
    fn stays(&self) -> bool;
}

/// An event of a set.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The generation of the request that it answers.
    pub generation: u32,
    /// The descriptor can be read, or has failed.
    pub readable: bool,
    /// The descriptor can be written, or has failed.
    pub writable: bool,
    /// The kernel has stopped watching the descriptor, or this direction of it.
    pub was_last: bool,
}

struct Watch<W> {
    home: u16,
    waiter: W,
}

/// The last request to a set that may know the descriptor.
struct Request {
    home: u16,
    generation: u32,
    /// One event was asked for and has come: the set knows the descriptor and does not watch it.
    is_served: bool,
}

/// The waiters for a descriptor number.
pub struct Descriptor<W> {
    /// Of the last request to any set.
    generation: u32,
    reader: Option<Watch<W>>,
    writer: Option<Watch<W>>,
    /// At most one for each home.
    requests: Vec<Request>,
}

impl<W> Default for Descriptor<W> {
    fn default() -> Self {
        Self { generation: 0, reader: None, writer: None, requests: Vec::new() }
    }
}

impl<W: Waits> Descriptor<W> {
    /// True if something waits.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.reader.is_some() || self.writer.is_some()
    }

    /// The waiter of a side.
    #[must_use]
    pub fn waiter(&self, side: Side) -> Option<&W> {
        let watch = match side {
            Side::Reader => &self.reader,
            Side::Writer => &self.writer,
        };
        watch.as_ref().map(|watch| &watch.waiter)
    }

    /// The waiters of both sides.
    pub fn waiters(&self) -> impl Iterator<Item = &W> {
        self.reader.iter().chain(&self.writer).map(|watch| &watch.waiter)
    }

    /// Lets `waiter` wait on shard `home`, in place of the waiter that it returns.
    ///
    /// # Errors
    /// A refused request. Then nothing waits any more, as in `selectors`: all waiters are in `released`.
    pub fn set<S: Sets>(
        &mut self,
        side: Side,
        home: u16,
        waiter: W,
        sets: &S,
        released: &mut Vec<W>,
    ) -> Result<Option<W>, S::Error> {
        let replaced = self.slot(side).replace(Watch { home, waiter });
        let left = match &replaced {
            Some(replaced) if replaced.home != home => self.leave(replaced.home, sets),
            _ => Ok(()),
        };
        let asked = left.and_then(|()| self.ask(home, sets));
        let replaced = replaced.map(|watch| watch.waiter);
        self.unless_refused(asked, replaced, sets, released)
    }

    /// Takes the waiter of a side out, if it fulfils the condition.
    ///
    /// # Errors
    /// A refused request. Then nothing waits any more, as in `selectors`: all waiters are in `released`.
    pub fn take<S: Sets>(
        &mut self,
        side: Side,
        condition: impl FnOnce(&W) -> bool,
        sets: &S,
        released: &mut Vec<W>,
    ) -> Result<Option<W>, S::Error> {
        let Some(taken) = self.slot(side).take_if(|watch| condition(&watch.waiter)) else {
            return Ok(None);
        };
        let left = self.leave(taken.home, sets);
        self.unless_refused(left, Some(taken.waiter), sets, released)
    }

    /// Waits for another event on behalf of the waiter of a side, if it fulfils the condition.
    ///
    /// # Errors
    /// A refused request.
    pub fn renew<S: Sets>(
        &mut self,
        side: Side,
        condition: impl FnOnce(&W) -> bool,
        sets: &S,
    ) -> Result<(), S::Error> {
        match self.slot(side) {
            Some(watch) if condition(&watch.waiter) => {
                let home = watch.home;
                let is_served = self.request(home).is_some_and(|request| request.is_served);
                if is_served { self.ask(home, sets) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// The waiters that an event of the set of shard `home` is for.
    pub fn ready(&mut self, home: u16, event: Ready) -> [Option<&W>; 2] {
        match self.request(home) {
            Some(request) if request.generation == event.generation => {
                request.is_served |= event.was_last;
            }
            _ => return [None, None],
        }
        let waiter = |watch: &'_ Watch<W>, is_ready| is_ready && watch.home == home;
        [
            self.reader.as_ref().filter(|watch| waiter(watch, event.readable)).map(|it| &it.waiter),
            self.writer.as_ref().filter(|watch| waiter(watch, event.writable)).map(|it| &it.waiter),
        ]
    }

    /// Takes all waiters out, without a request to the kernel.
    pub fn clear(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.requests.clear();
        let watches = [self.reader.take(), self.writer.take()];
        watches.into_iter().flatten().map(|watch| watch.waiter)
    }

    /// Hands out `waiter` unless a request was refused.
    fn unless_refused<S: Sets>(
        &mut self,
        asked: Result<(), S::Error>,
        waiter: Option<W>,
        sets: &S,
        released: &mut Vec<W>,
    ) -> Result<Option<W>, S::Error> {
        let Err(error) = asked else {
            return Ok(waiter);
        };
        for request in &self.requests {
            // The descriptor was probably closed, and each set that knew it has forgotten it.
            let _refused = sets.remove(request.home).is_err();
        }
        released.extend(waiter);
        released.extend(self.clear());
        Err(error)
    }

    fn slot(&mut self, side: Side) -> &mut Option<Watch<W>> {
        match side {
            Side::Reader => &mut self.reader,
            Side::Writer => &mut self.writer,
        }
    }

    fn request(&mut self, home: u16) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.home == home)
    }

    /// The events that the waiters of a shard want; `None` without any.
    fn wanted(&self, home: u16) -> Option<Watched> {
        let reader = self.reader.as_ref().filter(|watch| watch.home == home);
        let writer = self.writer.as_ref().filter(|watch| watch.home == home);
        (reader.is_some() || writer.is_some()).then(|| Watched {
            readable: reader.is_some(),
            writable: writer.is_some(),
            once: !reader.into_iter().chain(writer).any(|watch| watch.waiter.stays()),
        })
    }

    /// Asks the set of a shard for the events that its waiters want, of which there is at least one.
    fn ask<S: Sets>(&mut self, home: u16, sets: &S) -> Result<(), S::Error> {
        let Some(watched) = self.wanted(home) else {
            return Ok(());
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        if let Some(request) = self.request(home) {
            sets.modify(home, generation, watched)?;
            *request = Request { home, generation, is_served: false };
        } else {
            sets.add(home, generation, watched)?;
            self.requests.push(Request { home, generation, is_served: false });
        }
        Ok(())
    }

    /// Asks the set of a shard for less, because one of its waiters is gone. A set that does not watch the
    /// descriptor any more is left as it is: the next operation on the descriptor then needs one request.
    fn leave<S: Sets>(&mut self, home: u16, sets: &S) -> Result<(), S::Error> {
        if self.wanted(home).is_some() {
            return self.ask(home, sets);
        }
        let position =
            self.requests.iter().position(|request| request.home == home && !request.is_served);
        match position {
            Some(position) => {
                self.requests.swap_remove(position);
                sets.remove(home)
            }
            None => Ok(()),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    #[expect(clippy::disallowed_types, reason = "a model on one thread")]
    use std::cell::RefCell;
    use std::collections::HashMap;

    const HOMES: u16 = 3;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Waiter {
        number: usize,
        stays: bool,
    }

    impl Waits for Waiter {
        fn stays(&self) -> bool {
            self.stays
        }
    }

    /// A kernel with a set for each home and one descriptor number.
    #[derive(Default)]
    #[expect(clippy::disallowed_types, reason = "a model on one thread")]
    struct Kernel {
        is_closed: Cell<bool>,
        sets: RefCell<HashMap<u16, (u32, Watched)>>,
        /// The sets that have served a request for one event.
        disabled: RefCell<Vec<u16>>,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Closed;

    impl Kernel {
        fn watch(&self, home: u16, generation: u32, watched: Watched) -> Result<(), Closed> {
            if self.is_closed.get() {
                return Err(Closed);
            }
            self.sets.borrow_mut().insert(home, (generation, watched));
            self.disabled.borrow_mut().retain(|disabled| *disabled != home);
            Ok(())
        }

        /// Closes the file of the number; `reopened` gives the number to another file.
        fn close(&self, reopened: bool) {
            self.sets.borrow_mut().clear();
            self.disabled.borrow_mut().clear();
            self.is_closed.set(!reopened);
        }

        /// An event of the set of a home, for everything that it watches.
        fn event(&self, home: u16) -> Option<Ready> {
            if self.disabled.borrow().contains(&home) {
                return None;
            }
            let (generation, watched) = *self.sets.borrow().get(&home)?;
            if watched.once {
                self.disabled.borrow_mut().push(home);
            }
            let Watched { readable, writable, once } = watched;
            Some(Ready { generation, readable, writable, was_last: once })
        }
    }

    impl Sets for Kernel {
        type Error = Closed;

        fn add(&self, home: u16, generation: u32, watched: Watched) -> Result<(), Closed> {
            self.watch(home, generation, watched)
        }

        fn modify(&self, home: u16, generation: u32, watched: Watched) -> Result<(), Closed> {
            self.watch(home, generation, watched)
        }

        fn remove(&self, home: u16) -> Result<(), Closed> {
            self.sets.borrow_mut().remove(&home);
            Ok(())
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(Side, u16, bool),
        Take(Side),
        /// An event comes; its waiters that want one event renew or are done.
        Event(u16, bool),
        Close(bool),
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Reader), Just(Side::Writer)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (side(), 0..HOMES, any::<bool>()).prop_map(|(side, home, stays)| Step::Set(side, home, stays)),
            3 => side().prop_map(Step::Take),
            4 => (0..HOMES, any::<bool>()).prop_map(|(home, renews)| Step::Event(home, renews)),
            1 => any::<bool>().prop_map(Step::Close),
        ]
    }

    /// The waiters by side, each with its home, as they should be.
    type Model = [Option<(u16, Waiter)>; 2];

    fn index(side: Side) -> usize {
        usize::from(side == Side::Writer)
    }

    /// Every waiter that nothing has happened to since the last request is watched for by its home.
    fn check(descriptor: &Descriptor<Waiter>, kernel: &Kernel, model: &Model, is_stale: bool) {
        for side in [Side::Reader, Side::Writer] {
            let expected = model[index(side)].as_ref().map(|(_, waiter)| waiter);
            assert_eq!(descriptor.waiter(side), expected);
        }
        if is_stale {
            // The number was closed: only the next request tells.
            return;
        }
        for home in 0..HOMES {
            let waits = |side: Side| model[index(side)].as_ref().filter(|(at, _)| *at == home);
            let waiters: Vec<_> =
                waits(Side::Reader).into_iter().chain(waits(Side::Writer)).collect();
            let is_disabled = kernel.disabled.borrow().contains(&home);
            let watched = kernel.sets.borrow().get(&home).map(|(_, watched)| *watched);
            if waiters.is_empty() {
                assert!(watched.is_none() || is_disabled, "nobody waits on shard {home}");
            } else {
                let expected = Watched {
                    readable: waits(Side::Reader).is_some(),
                    writable: waits(Side::Writer).is_some(),
                    once: !waiters.iter().any(|(_, waiter)| waiter.stays),
                };
                assert_eq!(watched, Some(expected));
                assert!(!is_disabled || expected.once);
            }
        }
    }

    proptest! {
        #[test]
        fn every_waiter_is_watched_for_by_its_own_shard(steps in prop::collection::vec(step(), 1..60)) {
            let kernel = Kernel::default();
            let mut descriptor = Descriptor::default();
            let mut model: Model = [None, None];
            let mut is_stale = false;
            for (number, step) in steps.into_iter().enumerate() {
                let mut released = Vec::new();
                match step {
                    Step::Set(side, home, stays) => {
                        let waiter = Waiter { number, stays };
                        let before = model[index(side)].replace((home, waiter.clone()));
                        let before = before.map(|(_, waiter)| waiter);
                        if let Ok(replaced) = descriptor.set(side, home, waiter, &kernel, &mut released) {
                            prop_assert_eq!(replaced, before);
                        } else {
                            prop_assert!(kernel.is_closed.get());
                            let kept = model.iter_mut().filter_map(Option::take).count();
                            prop_assert_eq!(released.len(), kept + usize::from(before.is_some()));
                        }
                    }
                    Step::Take(side) => {
                        let before = model[index(side)].take().map(|(_, waiter)| waiter);
                        if let Ok(taken) = descriptor.take(side, |_| true, &kernel, &mut released) {
                            prop_assert_eq!(taken, before);
                        } else {
                            prop_assert!(kernel.is_closed.get());
                            let kept = model.iter_mut().filter_map(Option::take).count();
                            prop_assert_eq!(released.len(), kept + usize::from(before.is_some()));
                        }
                    }
                    Step::Event(home, renews) => {
                        let Some(event) = kernel.event(home) else { continue };
                        let ready = descriptor.ready(home, event).map(Option::<&Waiter>::cloned);
                        for (side, waiter) in [Side::Reader, Side::Writer].into_iter().zip(ready) {
                            let expected = model[index(side)].clone().filter(|(at, _)| *at == home);
                            prop_assert_eq!(&waiter, &expected.map(|(_, waiter)| waiter));
                            let Some(waiter) = waiter.filter(|waiter| !waiter.stays) else { continue };
                            if renews {
                                descriptor.renew(side, |it| *it == waiter, &kernel).expect("it is open");
                            } else {
                                let taken =
                                    descriptor.take(side, |it| *it == waiter, &kernel, &mut released);
                                prop_assert_eq!(taken, Ok(Some(waiter)));
                                model[index(side)] = None;
                            }
                        }
                    }
                    Step::Close(reopened) => {
                        kernel.close(reopened);
                        is_stale = true;
                    }
                }
                if model.iter().all(Option::is_none) {
                    is_stale = false;
                }
                check(&descriptor, &kernel, &model, is_stale);
            }
        }
    }

    #[test]
    fn an_event_of_an_earlier_request_is_for_nobody() {
        let kernel = Kernel::default();
        let mut descriptor = Descriptor::default();
        let mut released = Vec::new();
        let waiter = Waiter { number: 1, stays: true };
        assert_eq!(
            descriptor.set(Side::Reader, 0, waiter.clone(), &kernel, &mut released),
            Ok(None)
        );
        let event = kernel.event(0).expect("it is watched");
        let replaced = descriptor.set(Side::Reader, 0, waiter.clone(), &kernel, &mut released);
        assert_eq!(replaced, Ok(Some(waiter)));
        assert_eq!(descriptor.ready(0, event), [None, None]);
    }

    #[test]
    fn a_served_operation_leaves_no_request_to_be_taken_back() {
        let kernel = Kernel::default();
        let mut descriptor = Descriptor::default();
        let mut released = Vec::new();
        let waiter = Waiter { number: 1, stays: false };
        assert_eq!(
            descriptor.set(Side::Reader, 0, waiter.clone(), &kernel, &mut released),
            Ok(None)
        );
        let event = kernel.event(0).expect("it is watched");
        assert_eq!(descriptor.ready(0, event), [Some(&waiter), None]);
        let taken = descriptor.take(Side::Reader, |_| true, &kernel, &mut released);
        assert_eq!(taken, Ok(Some(waiter)));
        assert!(kernel.sets.borrow().contains_key(&0), "one request an operation");
    }
}
