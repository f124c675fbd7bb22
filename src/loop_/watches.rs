//! The registry of watched descriptors: the handles and socket operations that wait for each of them, and
//! the shards that these belong to.
//!
//! # Theory of operation
//!
//! The loop has one registry, whatever the number of its shards. Any thread may add and remove, and any
//! shard finds the waiters of its events in it. The map is papaya's: nobody waits for a lock to find a
//! descriptor. Each descriptor has a lock of its own, which orders the changes to the sets of the kernel
//! ([`Descriptor`] decides on them); the kernel wakes a shard whose set gets a descriptor that is ready.
//!
//! A map that is read without a lock drops what was removed from it later, on any thread, attached or not.
//! So nothing is removed: an entry stays for as long as the registry lives, empty or not, and Python
//! objects are taken out of entries, and dropped by the caller after the lock was let go of. There are as
//! many entries as numbers that were ever watched, which the limit of open files bounds.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::handle::Handle;
use crate::runtime::poller::{Poller, Token};
use crate::sock::Pending;
use papaya::HashMap;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use rloop_core::sync::Mutex;
use rloop_core::watches::{Descriptor, Ready, Sets, Side, Waits, Watched};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Something that waits for a direction of a descriptor.
pub(crate) enum Waiter {
    /// The handle of `add_reader` or `add_writer`, run at each iteration that finds it ready.
    Callback(Py<Handle>),
    /// An operation of a `sock_*` method.
    Operation(Arc<Pending>),
}

impl Waits for Waiter {
    fn stays(&self) -> bool {
        matches!(self, Self::Callback(_))
    }
}

impl Waiter {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Callback(handle) => Self::Callback(handle.clone_ref(py)),
            Self::Operation(pending) => Self::Operation(pending.clone()),
        }
    }

    /// Tells a waiter that it was taken out of the registry. An operation learns nothing, as in
    /// asyncio: its future stays pending.
    pub(crate) fn cancel(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Callback(handle) => handle.call_method0(py, intern!(py, "cancel")).map(drop),
            Self::Operation(_) => Ok(()),
        }
    }

    fn is(&self, operation: &Arc<Pending>) -> bool {
        matches!(self, Self::Operation(pending) if Arc::ptr_eq(pending, operation))
    }
}

/// The waiters for a descriptor number.
#[derive(Default)]
struct Known {
    descriptor: Descriptor<Waiter>,
    /// The object that was given to `add_reader` or `add_writer` when nothing was watched, if it was not a
    /// number: a closed object is found by it, as in `selectors`.
    object: Option<Py<PyAny>>,
}

/// The lock guards the waiters, and orders the changes to the sets of the kernel.
type Entry = Arc<Mutex<Known>>;

/// The registry.
#[derive(Default)]
pub(crate) struct Watches {
    by_descriptor: HashMap<RawFd, Entry, Spread>,
}

/// The sets of a loop, as far as one descriptor is concerned.
struct SetsOfLoop<'a> {
    event_loop: &'a EventLoop,
    fd: RawFd,
}

impl SetsOfLoop<'_> {
    /// A loop that was closed meanwhile has no sets.
    fn with(&self, home: u16, operation: impl FnOnce(&Poller) -> io::Result<()>) -> io::Result<()> {
        let io = self.event_loop.shard(home).open_io();
        io.map_or(Ok(()), |io| operation(&io.poller))
    }
}

impl Sets for SetsOfLoop<'_> {
    type Error = io::Error;

    fn add(&self, home: u16, generation: u32, watched: Watched) -> io::Result<()> {
        self.with(home, |poller| poller.add(Token { fd: self.fd, generation }, watched))
    }

    fn modify(&self, home: u16, generation: u32, watched: Watched) -> io::Result<()> {
        self.with(home, |poller| poller.modify(Token { fd: self.fd, generation }, watched))
    }

    fn remove(&self, home: u16) -> io::Result<()> {
        self.with(home, |poller| poller.remove(self.fd))
    }
}

impl Watches {
    /// Lets `waiter` wait for `fd` on shard `home`, in place of the waiter that it returns. `object` is
    /// what the program gave for the number.
    ///
    /// # Errors
    /// The kernel's refusal: `EBADF` for a closed descriptor, and for one that cannot be polled `EPERM` on
    /// Linux, `EINVAL` among others on macOS. Then nothing waits for the descriptor any more.
    pub(crate) fn set(
        &self,
        event_loop: &EventLoop,
        fd: RawFd,
        side: Side,
        home: u16,
        waiter: Waiter,
        object: Option<Py<PyAny>>,
    ) -> io::Result<Option<Waiter>> {
        if fd < 0 {
            return Err(rustix::io::Errno::BADF.into());
        }
        // Dropped after the lock was let go of.
        let mut released = Vec::new();
        let entry = {
            let map = self.by_descriptor.pin();
            map.get_or_insert_with(fd, Entry::default).clone()
        };
        let mut known = entry.lock();
        let was_watched = known.descriptor.is_watched();
        let sets = SetsOfLoop { event_loop, fd };
        let replaced = known.descriptor.set(side, home, waiter, &sets, &mut released);
        let dropped = if replaced.is_err() {
            (known.object.take(), object)
        } else if was_watched {
            (None, object)
        } else {
            (std::mem::replace(&mut known.object, object), None)
        };
        drop(known);
        drop(dropped);
        replaced
    }

    /// Forgets who waits for a side of `fd` and returns it.
    pub(crate) fn remove(
        &self,
        event_loop: &EventLoop,
        fd: RawFd,
        side: Side,
    ) -> io::Result<Option<Waiter>> {
        self.take(event_loop, fd, side, |_| true)
    }

    /// Forgets an operation, if it still waits for `fd`.
    pub(crate) fn finish(
        &self,
        event_loop: &EventLoop,
        fd: RawFd,
        side: Side,
        operation: &Arc<Pending>,
    ) -> io::Result<()> {
        self.take(event_loop, fd, side, |waiter| waiter.is(operation)).map(drop)
    }

    fn take(
        &self,
        event_loop: &EventLoop,
        fd: RawFd,
        side: Side,
        condition: impl FnOnce(&Waiter) -> bool,
    ) -> io::Result<Option<Waiter>> {
        let Some(entry) = self.entry(fd) else {
            return Ok(None);
        };
        // Dropped after the lock was let go of.
        let mut released = Vec::new();
        let mut known = entry.lock();
        let sets = SetsOfLoop { event_loop, fd };
        let taken = known.descriptor.take(side, condition, &sets, &mut released);
        let object = if known.descriptor.is_watched() { None } else { known.object.take() };
        drop(known);
        drop(object);
        taken
    }

    /// Waits for another event on behalf of an operation, if it still waits for `fd`.
    pub(crate) fn renew(
        &self,
        event_loop: &EventLoop,
        fd: RawFd,
        side: Side,
        operation: &Arc<Pending>,
    ) -> io::Result<()> {
        let Some(entry) = self.entry(fd) else {
            return Ok(());
        };
        let sets = SetsOfLoop { event_loop, fd };
        entry.lock().descriptor.renew(side, |waiter| waiter.is(operation), &sets)
    }

    /// The number under which a closed object is watched.
    pub(crate) fn number_of(&self, object: &Bound<'_, PyAny>) -> Option<RawFd> {
        let map = self.by_descriptor.pin();
        let is_it = |entry: &Entry| entry.lock().object.as_ref().is_some_and(|it| it.is(object));
        map.iter().find(|(_, entry)| is_it(entry)).map(|(fd, _)| *fd)
    }

    /// The operation that `future` waits for. It probably waits for `fd`.
    pub(crate) fn pending(&self, fd: RawFd, future: &Bound<'_, PyAny>) -> Option<Arc<Pending>> {
        let search = |entry: &Entry| {
            entry.lock().descriptor.waiters().find_map(|waiter| match waiter {
                Waiter::Operation(pending) if pending.is_for(future) => Some(pending.clone()),
                _ => None,
            })
        };
        // If it does not, the socket was closed meanwhile.
        let probable = self.entry(fd).and_then(|entry| search(&entry));
        probable.or_else(|| self.by_descriptor.pin().values().find_map(search))
    }

    /// Hands the waiters of shard `home` whose descriptors its set finds ready to `sink`. Returns false if
    /// none is left: then, and only then, an event comes when there is one.
    pub(crate) fn collect(
        &self,
        py: Python<'_>,
        home: u16,
        poller: &Poller,
        mut sink: impl FnMut(Waiter),
    ) -> io::Result<bool> {
        poller.look(|fd, ready| {
            for waiter in self.waiters(py, home, fd, ready).into_iter().flatten() {
                sink(waiter);
            }
        })
    }

    fn waiters(&self, py: Python<'_>, home: u16, fd: RawFd, ready: Ready) -> [Option<Waiter>; 2] {
        let map = self.by_descriptor.pin();
        let Some(entry) = map.get(&fd) else {
            return [None, None];
        };
        let mut known = entry.lock();
        known.descriptor.ready(home, ready).map(|waiter| waiter.map(|waiter| waiter.clone_ref(py)))
    }

    /// The watched descriptors, for introspection: the number, the object that the program gave for it,
    /// and whether it has a reader and a writer.
    pub(crate) fn descriptors(
        &self,
        py: Python<'_>,
    ) -> Vec<(RawFd, Option<Py<PyAny>>, bool, bool)> {
        let map = self.by_descriptor.pin();
        map.iter()
            .filter_map(|(fd, entry)| {
                let known = entry.lock();
                let object = known.object.as_ref().map(|object| object.clone_ref(py));
                let [reader, writer] = [Side::Reader, Side::Writer]
                    .map(|side| known.descriptor.waiter(side).is_some());
                (reader || writer).then_some((*fd, object, reader, writer))
            })
            .collect()
    }

    /// Forgets everything and returns what it held. The sets, which are closed by the caller, forget it
    /// then.
    pub(crate) fn clear(&self) -> impl Sized + use<> {
        let mut held = (Vec::new(), Vec::new());
        for entry in self.by_descriptor.pin().values() {
            let mut known = entry.lock();
            held.0.extend(known.descriptor.clear());
            held.1.extend(known.object.take());
        }
        held
    }

    /// Visits everything that waits, for garbage collection. Skips a descriptor that is in use.
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for entry in self.by_descriptor.pin().values() {
            let Some(known) = entry.try_lock() else {
                continue;
            };
            visit.call(&known.object)?;
            for waiter in known.descriptor.waiters() {
                match waiter {
                    Waiter::Callback(handle) => visit.call(handle)?,
                    Waiter::Operation(pending) => pending.visit(visit)?,
                }
            }
        }
        Ok(())
    }

    fn entry(&self, fd: RawFd) -> Option<Entry> {
        self.by_descriptor.pin().get(&fd).cloned()
    }
}

/// Hashes descriptor numbers, which a program does not choose, by one multiplication.
#[derive(Clone, Default)]
struct Spread;

struct SpreadHasher(u64);

impl BuildHasher for Spread {
    type Hasher = SpreadHasher;

    fn build_hasher(&self) -> SpreadHasher {
        SpreadHasher(0)
    }
}

impl Hasher for SpreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i32(i32::from(*byte));
        }
    }

    #[inline]
    fn write_i32(&mut self, number: i32) {
        // The golden ratio of 64 bits. The map takes the low bits too, which a product spreads least.
        let product =
            (self.0 ^ u64::from(number.cast_unsigned())).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product.rotate_left(32);
    }
}
