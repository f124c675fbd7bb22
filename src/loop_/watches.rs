//! Which handle or socket operation waits for which descriptor.
//!
//! The registry is shared: any thread may add and remove, and the kernel wakes the shard when a new
//! descriptor is ready at once. Each request to the kernel has a generation, so that an event of a
//! descriptor that was closed and opened again meanwhile is not taken for one of its successor.
//!
//! A descriptor with a handle of `add_reader` or `add_writer` is watched until that is removed; one
//! that only operations wait for is watched for one event, after which whoever ran the operation
//! calls [`Watches::renew`] or [`Watches::finish`].

use crate::loop_::handle::Handle;
use crate::runtime::poller::{Poller, Ready, Token, Watched};
use crate::sock::Pending;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use rloop_core::sync::Mutex;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Which of a descriptor's two directions is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Reader,
    Writer,
}

/// Who waits for a direction of a descriptor.
pub(crate) enum Waiter {
    /// The handle of `add_reader` or `add_writer`, run at each iteration that finds it ready.
    Callback(Py<Handle>),
    /// An operation of a `sock_*` method.
    Operation(Arc<Pending>),
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

/// What the kernel was last asked about a descriptor. It forgets one that is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Request {
    /// Nothing, or to stop watching it.
    #[default]
    None,
    /// To watch it.
    Standing,
    /// To watch it for one event, which has come.
    Served,
}

/// What is known about a descriptor number.
#[derive(Default)]
struct Watch {
    /// Of the last request.
    generation: u32,
    request: Request,
    reader: Option<Waiter>,
    writer: Option<Waiter>,
}

impl Watch {
    fn slot(&mut self, side: Side) -> &mut Option<Waiter> {
        match side {
            Side::Reader => &mut self.reader,
            Side::Writer => &mut self.writer,
        }
    }

    fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.reader.into_iter().chain(self.writer)
    }

    fn is_watched(&self) -> bool {
        self.reader.is_some() || self.writer.is_some()
    }

    /// Asks the kernel for what the waiters want.
    fn ask(&mut self, poller: &Poller, fd: RawFd) -> io::Result<()> {
        let has_callback = |slot: &Option<Waiter>| matches!(slot, Some(Waiter::Callback(_)));
        let watched = Watched {
            readable: self.reader.is_some(),
            writable: self.writer.is_some(),
            once: !has_callback(&self.reader) && !has_callback(&self.writer),
        };
        // An event that answers an earlier request is not for those who wait now.
        self.generation = self.generation.wrapping_add(1);
        let token = Token { fd, generation: self.generation };
        // Also when nothing seems to change: the number may mean another file by now.
        match self.request {
            Request::None => poller.add(token, watched)?,
            Request::Standing | Request::Served => poller.modify(token, watched)?,
        }
        self.request = Request::Standing;
        Ok(())
    }
}

/// The registry. The lock guards the list and orders the changes to the poller.
pub(crate) struct Watches {
    poller: Poller,
    by_descriptor: Mutex<Vec<Watch>>,
}

impl Watches {
    /// Creates the registry; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, by_descriptor: Mutex::default() })
    }

    /// Lets `waiter` wait for `fd`, in place of the waiter it returns. What a failure makes the
    /// registry forget goes to `released`, so that the caller drops it when it holds no lock.
    ///
    /// # Errors
    /// What the kernel answers: `EBADF` for a closed descriptor, and for one that cannot be polled
    /// `EPERM` on Linux, `EINVAL` among others on macOS.
    pub(crate) fn set(
        &self,
        fd: RawFd,
        side: Side,
        waiter: Waiter,
        released: &mut Vec<Waiter>,
    ) -> io::Result<Option<Waiter>> {
        let Ok(index) = usize::try_from(fd) else {
            released.push(waiter);
            return Err(rustix::io::Errno::BADF.into());
        };
        let mut watches = self.by_descriptor.lock();
        let mut fresh = Watch::default();
        let known = watches.len() > index;
        let watch = if known { &mut watches[index] } else { &mut fresh };
        let replaced = watch.slot(side).replace(waiter);
        if let Err(error) = watch.ask(&self.poller, fd) {
            // As selectors does: a descriptor that cannot be watched any more is forgotten.
            let fresh_again = Watch { generation: watch.generation, ..Watch::default() };
            let forgotten = std::mem::replace(watch, fresh_again);
            released.extend(forgotten.into_waiters().chain(replaced));
            return Err(error);
        }
        if !known {
            watches.resize_with(index, Watch::default);
            watches.push(fresh);
        }
        Ok(replaced)
    }

    /// Forgets who waits and returns it.
    pub(crate) fn remove(&self, fd: RawFd, side: Side) -> io::Result<Option<Waiter>> {
        self.take(fd, side, |_| true)
    }

    /// Forgets an operation, if it still waits for `fd`.
    pub(crate) fn finish(&self, fd: RawFd, side: Side, operation: &Arc<Pending>) -> io::Result<()> {
        self.take(fd, side, |waiter| waiter.is(operation)).map(drop)
    }

    fn take(
        &self,
        fd: RawFd,
        side: Side,
        condition: impl FnOnce(&Waiter) -> bool,
    ) -> io::Result<Option<Waiter>> {
        let mut watches = self.by_descriptor.lock();
        let Some(watch) = usize::try_from(fd).ok().and_then(|index| watches.get_mut(index)) else {
            return Ok(None);
        };
        let Some(taken) = watch.slot(side).take_if(|waiter| condition(waiter)) else {
            return Ok(None);
        };
        let asked = if watch.is_watched() {
            watch.ask(&self.poller, fd)
        } else if watch.request == Request::Standing {
            watch.request = Request::None;
            self.poller.remove(fd)
        } else {
            Ok(())
        };
        // Dropping what was taken may run Python code.
        drop(watches);
        asked.map(|()| Some(taken))
    }

    /// The operation that `future` waits for. It probably waits for `fd`.
    pub(crate) fn pending(&self, fd: RawFd, future: &Bound<'_, PyAny>) -> Option<Arc<Pending>> {
        let watches = self.by_descriptor.lock();
        let probable = usize::try_from(fd).ok().and_then(|index| watches.get(index));
        // If not, the socket was closed meanwhile.
        for watch in probable.into_iter().chain(watches.iter()) {
            for waiter in watch.reader.iter().chain(&watch.writer) {
                if let Waiter::Operation(pending) = waiter
                    && pending.is_for(future)
                {
                    return Some(pending.clone());
                }
            }
        }
        None
    }

    /// Waits for another event on behalf of an operation, if it still waits for `fd`.
    pub(crate) fn renew(&self, fd: RawFd, side: Side, operation: &Arc<Pending>) -> io::Result<()> {
        let mut watches = self.by_descriptor.lock();
        let Some(watch) = usize::try_from(fd).ok().and_then(|index| watches.get_mut(index)) else {
            return Ok(());
        };
        let still_waits = watch.slot(side).as_ref().is_some_and(|waiter| waiter.is(operation));
        if still_waits && watch.request == Request::Served {
            watch.ask(&self.poller, fd)
        } else {
            Ok(())
        }
    }

    /// Hands those who wait for ready descriptors to `sink`. Returns false if none is left: then, and
    /// only then, an event comes when there is one.
    pub(crate) fn collect(&self, py: Python<'_>, mut sink: impl FnMut(Waiter)) -> io::Result<bool> {
        self.poller.look(|ready| {
            for waiter in self.waiters(py, &ready).into_iter().flatten() {
                sink(waiter);
            }
        })
    }

    fn waiters(&self, py: Python<'_>, ready: &Ready) -> [Option<Waiter>; 2] {
        let mut watches = self.by_descriptor.lock();
        let index = usize::try_from(ready.token.fd).ok();
        let watch = index.and_then(|index| watches.get_mut(index));
        match watch.filter(|watch| watch.generation == ready.token.generation) {
            Some(watch) => {
                if ready.was_last {
                    watch.request = Request::Served;
                }
                let clone = |waiter: &Waiter| waiter.clone_ref(py);
                [
                    watch.reader.as_ref().filter(|_| ready.readable).map(clone),
                    watch.writer.as_ref().filter(|_| ready.writable).map(clone),
                ]
            }
            None => [None, None],
        }
    }

    /// Which descriptors are watched, for introspection.
    pub(crate) fn descriptors(&self) -> Vec<(RawFd, bool, bool)> {
        let watches = self.by_descriptor.lock();
        watches
            .iter()
            .zip(0..)
            .filter(|(watch, _)| watch.is_watched())
            .map(|(watch, fd)| (fd, watch.reader.is_some(), watch.writer.is_some()))
            .collect()
    }

    /// Forgets everything and returns what it held.
    pub(crate) fn clear(&self) -> Vec<Waiter> {
        let watches = std::mem::take(&mut *self.by_descriptor.lock());
        let mut held = Vec::new();
        for (watch, fd) in watches.into_iter().zip(0..) {
            if watch.request != Request::None {
                // Closing the set, which follows, would remove it as well.
                drop(self.poller.remove(fd));
            }
            held.extend(watch.into_waiters());
        }
        held
    }

    /// Visits everybody who waits, for garbage collection. Skips a registry that is in use.
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(watches) = self.by_descriptor.try_lock() else {
            return Ok(());
        };
        for waiter in watches.iter().flat_map(|watch| watch.reader.iter().chain(&watch.writer)) {
            match waiter {
                Waiter::Callback(handle) => visit.call(handle)?,
                Waiter::Operation(pending) => pending.visit(visit)?,
            }
        }
        Ok(())
    }
}
