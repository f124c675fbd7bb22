//! `add_reader` and `add_writer`: which handle waits for which descriptor.
//!
//! The registry is shared: any thread may add and remove, and the kernel wakes the shard when a new
//! descriptor is ready at once. Each entry has a token of its own, so that an event of a descriptor
//! that was closed and opened again meanwhile is not taken for one of its successor.

use crate::driving::poller::{Poller, Watched};
use crate::python::handle::Handle;
use parking_lot::Mutex;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

/// Which of a descriptor's two callbacks is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Reader,
    Writer,
}

/// The callbacks of one descriptor. Invariant: at least one is set.
struct Watch {
    token: u64,
    reader: Option<Py<Handle>>,
    writer: Option<Py<Handle>>,
}

impl Watch {
    fn slot(&mut self, side: Side) -> &mut Option<Py<Handle>> {
        match side {
            Side::Reader => &mut self.reader,
            Side::Writer => &mut self.writer,
        }
    }

    fn into_handles(self) -> impl Iterator<Item = Py<Handle>> {
        self.reader.into_iter().chain(self.writer)
    }

    fn watched(&self) -> Watched {
        Watched { readable: self.reader.is_some(), writable: self.writer.is_some() }
    }
}

/// The registry. The lock guards the map and orders the changes to the poller.
pub(crate) struct Watches {
    poller: Poller,
    map: Mutex<Map>,
}

#[derive(Default)]
struct Map {
    by_descriptor: HashMap<RawFd, Watch>,
    next_token: u32,
}

impl Watches {
    /// Creates the registry; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, map: Mutex::default() })
    }

    /// Calls `handle` whenever `fd` is ready, in place of the handle it returns. What a failure makes
    /// the registry forget goes to `released`, so that the caller drops it when it holds no lock.
    ///
    /// # Errors
    /// What epoll answers: `EPERM` for a descriptor that cannot be polled, `EBADF` for a closed one.
    pub(crate) fn set(
        &self,
        fd: RawFd,
        side: Side,
        handle: Py<Handle>,
        released: &mut Vec<Py<Handle>>,
    ) -> io::Result<Option<Py<Handle>>> {
        let mut map = self.map.lock();
        if let Some(watch) = map.by_descriptor.get_mut(&fd) {
            let replaced = watch.slot(side).replace(handle);
            // Also when nothing seems to change: the number may name another file by now.
            return match self.poller.modify(fd, watch.token, watch.watched()) {
                Ok(()) => Ok(replaced),
                Err(error) => {
                    // As selectors does: a descriptor that cannot be watched any more is forgotten.
                    let gone = map.by_descriptor.remove(&fd).into_iter();
                    released.extend(gone.flat_map(Watch::into_handles).chain(replaced));
                    Err(error)
                }
            };
        }
        map.next_token = map.next_token.wrapping_add(1);
        #[expect(clippy::cast_sign_loss, reason = "a descriptor that epoll took is not negative")]
        let token = u64::from(map.next_token) << 32 | u64::from(fd as u32);
        let mut watch = Watch { token, reader: None, writer: None };
        *watch.slot(side) = Some(handle);
        match self.poller.add(fd, token, watch.watched()) {
            Ok(()) => {
                map.by_descriptor.insert(fd, watch);
                Ok(None)
            }
            Err(error) => {
                released.extend(watch.into_handles());
                Err(error)
            }
        }
    }

    /// Forgets a callback and returns it.
    pub(crate) fn remove(&self, fd: RawFd, side: Side) -> io::Result<Option<Py<Handle>>> {
        let mut map = self.map.lock();
        let Some(watch) = map.by_descriptor.get_mut(&fd) else {
            return Ok(None);
        };
        let removed = watch.slot(side).take();
        let watched = watch.watched();
        if watched.readable || watched.writable {
            if removed.is_some() {
                self.poller.modify(fd, watch.token, watched)?;
            }
        } else {
            map.by_descriptor.remove(&fd);
            self.poller.remove(fd)?;
        }
        Ok(removed)
    }

    /// Hands the handles of all ready descriptors to `sink`. Returns false if there was none: then,
    /// and only then, an event comes when there is one.
    pub(crate) fn collect(
        &self,
        py: Python<'_>,
        mut sink: impl FnMut(Py<Handle>),
    ) -> io::Result<bool> {
        self.poller.look(|ready| {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is the descriptor")]
            let fd = ready.token as RawFd;
            let (reader, writer) = {
                let map = self.map.lock();
                match map.by_descriptor.get(&fd) {
                    Some(watch) if watch.token == ready.token => (
                        watch
                            .reader
                            .as_ref()
                            .filter(|_| ready.readable)
                            .map(|handle| handle.clone_ref(py)),
                        watch
                            .writer
                            .as_ref()
                            .filter(|_| ready.writable)
                            .map(|handle| handle.clone_ref(py)),
                    ),
                    _ => (None, None),
                }
            };
            reader.into_iter().chain(writer).for_each(&mut sink);
        })
    }

    /// Which descriptors are watched, for introspection.
    pub(crate) fn descriptors(&self) -> Vec<(RawFd, bool, bool)> {
        let map = self.map.lock();
        map.by_descriptor
            .iter()
            .map(|(fd, watch)| (*fd, watch.reader.is_some(), watch.writer.is_some()))
            .collect()
    }

    /// Forgets everything and returns what it held.
    pub(crate) fn clear(&self) -> Vec<Py<Handle>> {
        let watches = std::mem::take(&mut self.map.lock().by_descriptor);
        watches
            .into_iter()
            .flat_map(|(fd, watch)| {
                // Closing the set, which follows, would remove it as well.
                drop(self.poller.remove(fd));
                [watch.reader, watch.writer]
            })
            .flatten()
            .collect()
    }

    /// Calls `visit` with every handle, for garbage collection. Skips a registry that is in use.
    pub(crate) fn visit<E>(
        &self,
        mut visit: impl FnMut(&Py<Handle>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(map) = self.map.try_lock() else {
            return Ok(());
        };
        map.by_descriptor
            .values()
            .flat_map(|watch| watch.reader.iter().chain(&watch.writer))
            .try_for_each(&mut visit)
    }
}
