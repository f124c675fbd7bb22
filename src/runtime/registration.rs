//! A descriptor in the shard's epoll set, or in its kqueue on macOS.
//!
//! tokio's is edge-triggered: an event comes once, and the next one only after the descriptor
//! was drained. Whoever reads or writes through a registration keeps that contract: it calls
//! [`Registration::drained`] once there is nothing left, which arms the wake-up, and queues another
//! event for the next iteration if there is.
//!
//! A waker does not run anything. It notes the event in a list of the driving thread, which the
//! next iteration takes ([`take_events`]): so events are handled in order, attached to Python, and
//! behind what was ready before.

use crate::runtime::process;
use crate::runtime::sys::{self, Descriptor};
use rloop_core::sync::ThreadCell;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What became possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// An event of a registration. The generation tells registrations of one descriptor apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) fd: RawFd,
    pub(crate) generation: u64,
    pub(crate) direction: Direction,
}

/// What fired on a thread since its last iteration.
pub(crate) struct Fired {
    pub(crate) events: Vec<Event>,
    /// The poller behind `add_reader` has something.
    pub(crate) polled: bool,
    /// The reminder has rung.
    pub(crate) reminded: bool,
}

impl Fired {
    pub(crate) const NOTHING: Self = Self { events: Vec::new(), polled: false, reminded: false };
}

thread_local! {
    static FIRED: ThreadCell<Fired> = const { ThreadCell::new(Fired::NOTHING) };
}

/// Moves the events that fired on this thread behind those in `events`, oldest first. Returns whether
/// the poller has something, and whether the reminder has rung.
pub(crate) fn take_events(events: &mut Vec<Event>) -> (bool, bool) {
    ThreadCell::lend(&FIRED, |fired| {
        if events.is_empty() {
            std::mem::swap(&mut fired.events, events);
        } else {
            events.append(&mut fired.events);
        }
        (std::mem::take(&mut fired.polled), std::mem::take(&mut fired.reminded))
    })
}

/// All that fired on this thread.
pub(crate) fn take_all() -> Fired {
    ThreadCell::lend(&FIRED, |fired| std::mem::replace(fired, Fired::NOTHING))
}

/// Notes that the poller has something.
pub(crate) struct PollerEvent;

impl Wake for PollerEvent {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        ThreadCell::lend(&FIRED, |fired| fired.polled = true);
    }
}

/// Notes that the reminder has rung.
pub(crate) struct ReminderEvent;

impl Wake for ReminderEvent {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        ThreadCell::lend(&FIRED, |fired| fired.reminded = true);
    }
}

impl Wake for Event {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        ThreadCell::lend(&FIRED, |fired| fired.events.push(**self));
    }
}

/// Whether a read event is to be expected.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Armed {
    /// An event comes with the next bytes.
    Waiting,
    /// There is something to read now, and no event comes.
    Ready,
}

/// A registered descriptor, owned by somebody else who keeps it open.
pub(crate) struct Registration {
    /// Invariant: `Some` until the registration is dropped.
    io: Option<AsyncFd<Descriptor>>,
    process: process::Stamp,
    on_readable: Waker,
    on_writable: Waker,
    read_event: Event,
}

impl Registration {
    /// Registers `fd` for the events of `interest`; the caller has entered the runtime.
    pub(crate) fn new(fd: RawFd, generation: u64, interest: Interest) -> io::Result<Self> {
        let read_event = Event { fd, generation, direction: Direction::Read };
        let write_event = Event { direction: Direction::Write, ..read_event };
        Ok(Self {
            io: Some(sys::register(fd, interest)?),
            process: process::Stamp::new(),
            on_readable: Arc::new(read_event).into(),
            on_writable: Arc::new(write_event).into(),
            read_event,
        })
    }

    /// The descriptor, for system calls.
    pub(crate) fn io(&self) -> &AsyncFd<Descriptor> {
        self.io.as_ref().expect("only drop takes it")
    }

    /// The event that this registration fires when it is readable.
    pub(crate) fn read_event(&self) -> Event {
        self.read_event
    }

    /// Notes that there is nothing left to read, and asks for the next read event. Called for an
    /// event only: readiness can be cleared after the fact because only this thread dispatches the
    /// kernel's events.
    pub(crate) fn drained(&self) -> Armed {
        let cleared: io::Result<()> =
            self.io().try_io(Interest::READABLE, |_| Err(io::ErrorKind::WouldBlock.into()));
        debug_assert!(cleared.is_err());
        self.arm_read()
    }

    /// Asks for a read event.
    pub(crate) fn arm_read(&self) -> Armed {
        let mut context = Context::from_waker(&self.on_readable);
        match self.io().poll_read_ready(&mut context) {
            Poll::Pending => Armed::Waiting,
            Poll::Ready(_) => Armed::Ready,
        }
    }

    /// Arranges for a write event once the descriptor, which was just found full, has room again.
    pub(crate) fn arm_write(&self) -> io::Result<()> {
        let mut context = Context::from_waker(&self.on_writable);
        while let Poll::Ready(guard) = self.io().poll_write_ready(&mut context) {
            guard?.clear_ready();
        }
        Ok(())
    }

    /// Asks for a write event when the descriptor fails or, if it is registered for that, has room.
    /// Returns false if it has failed already, which tokio remembers until [`Registration::renew`].
    ///
    /// epoll always reports a failure (`EPOLLERR`), and tokio takes it for a closed write side; kqueue
    /// reports one to whoever is registered for writing.
    pub(crate) fn arm_failure(&self) -> io::Result<bool> {
        let mut context = Context::from_waker(&self.on_writable);
        while let Poll::Ready(guard) = self.io().poll_write_ready(&mut context) {
            let mut guard = guard?;
            if guard.ready().is_write_closed() {
                return Ok(false);
            }
            guard.clear_ready();
        }
        Ok(true)
    }

    /// Registers the descriptor anew, for `interest`, and forgets what tokio remembers of it: a
    /// failure or a hang-up that may be over. What is ready now fires again. The caller has entered
    /// the runtime, and arms what it needs.
    pub(crate) fn renew(&mut self, interest: Interest) -> io::Result<()> {
        // In this order: epoll takes a descriptor once.
        drop(self.io.take());
        self.io = Some(sys::register(self.read_event.fd, interest)?);
        Ok(())
    }

    /// Leaves the epoll set as it is: the descriptor was closed by somebody else, and its number may
    /// be in the set for another file.
    pub(crate) fn forget(mut self) {
        if let Some(io) = &mut self.io {
            sys::disown(io);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.process.is_this() {
            // The epoll set is the parent's as well: leave its descriptor in it.
            std::mem::forget(self.io.take());
        }
    }
}
