//! What the transports of every kind share: where one lives, how its shard keeps it, and how events
//! and calls from other threads find it.

use crate::loop_::event_loop::EventLoop;
use crate::py::initialized::Initialized;
use crate::py::interrupt::Interrupt;
use crate::runtime::registration::{Direction, Event};
use crate::shard::{Shard, Work};
use crate::transport::core::{Forwarding, Polled, Queueing};
use crate::transport::datagram::DatagramTransport;
use crate::transport::pipe::{ReadPipeTransport, WritePipeTransport};
use crate::transport::stream::StreamTransport;
use crate::transport::tls::TlsProtocol;
use pyo3::prelude::*;
use pyo3::types::PyContext;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(0);

/// A transport of any kind.
pub(crate) enum Transport {
    Stream(Py<StreamTransport>),
    Datagram(Py<DatagramTransport>),
    ReadPipe(Py<ReadPipeTransport>),
    WritePipe(Py<WritePipeTransport>),
}

impl Transport {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Stream(transport) => Self::Stream(transport.clone_ref(py)),
            Self::Datagram(transport) => Self::Datagram(transport.clone_ref(py)),
            Self::ReadPipe(transport) => Self::ReadPipe(transport.clone_ref(py)),
            Self::WritePipe(transport) => Self::WritePipe(transport.clone_ref(py)),
        }
    }

    /// Handles an event of the transport's descriptor. The reference is given up while attached, which
    /// `PyO3` then need not ask about.
    pub(crate) fn on_event(
        self,
        event_loop: &Bound<'_, EventLoop>,
        direction: Direction,
    ) -> Result<(), Interrupt> {
        let py = event_loop.py();
        match (self, direction) {
            (Self::Stream(transport), Direction::Read) => {
                let transport = transport.into_bound(py);
                StreamTransport::make_earlier_stop(&transport)?;
                StreamTransport::on_readable(&transport, event_loop)
            }
            (Self::Stream(transport), Direction::Write) => {
                StreamTransport::on_writable(&transport.into_bound(py), event_loop)
            }
            (Self::Datagram(transport), Direction::Read) => {
                let transport = transport.into_bound(py);
                DatagramTransport::make_earlier_stop(&transport)?;
                DatagramTransport::on_readable(&transport, event_loop)
            }
            (Self::Datagram(transport), Direction::Write) => {
                DatagramTransport::on_writable(&transport.into_bound(py), event_loop)
            }
            (Self::ReadPipe(transport), Direction::Read) => {
                let transport = transport.into_bound(py);
                ReadPipeTransport::make_earlier_stop(&transport)?;
                ReadPipeTransport::on_readable(&transport, event_loop)
            }
            (Self::ReadPipe(transport), Direction::Write) => {
                ReadPipeTransport::on_failure(&transport.into_bound(py), event_loop)
            }
            (Self::WritePipe(transport), _) => {
                WritePipeTransport::on_event(&transport.into_bound(py), event_loop)
            }
        }
    }

    /// Whether the transport waits to read and to write. A pipe that is written and has nothing to send waits
    /// for the end of its reader, which is neither.
    pub(crate) fn awaits(&self) -> [(Direction, bool); 2] {
        fn reads<T: Polled>(transport: &Py<T>) -> bool {
            transport.get().with_lifecycle(|life| life.is_reader_active())
        }
        fn writes<T: Queueing>(transport: &Py<T>) -> bool {
            transport.get().with_queue(|_, is_empty| !is_empty)
        }
        let (reads, writes) = match self {
            Self::Stream(transport) => (reads(transport), writes(transport)),
            Self::Datagram(transport) => (reads(transport), writes(transport)),
            Self::ReadPipe(transport) => (reads(transport), false),
            Self::WritePipe(transport) => (false, writes(transport)),
        };
        [(Direction::Read, reads), (Direction::Write, writes)]
    }

    /// The context of the callbacks of that direction; `None` once the transport is closed.
    pub(crate) fn context(&self, py: Python<'_>, direction: Direction) -> Option<Py<PyContext>> {
        match self {
            Self::Stream(transport) => transport.get().context_of(py, direction),
            Self::Datagram(transport) => transport.get().context_of(py, direction),
            Self::ReadPipe(transport) => transport.get().context(py),
            Self::WritePipe(transport) => transport.get().context(py),
        }
    }

    /// Called once `connection_made()` has run.
    pub(crate) fn start_reading(&self, event_loop: &Bound<'_, EventLoop>) -> Result<(), Interrupt> {
        let py = event_loop.py();
        match self {
            Self::Stream(transport) => {
                StreamTransport::start_reading(transport.bind(py));
                Ok(())
            }
            Self::Datagram(transport) => {
                DatagramTransport::start_reading(transport.bind(py), event_loop)
            }
            Self::ReadPipe(transport) => {
                ReadPipeTransport::start_reading(transport.bind(py), event_loop)
            }
            Self::WritePipe(transport) => {
                WritePipeTransport::start_watching(transport.bind(py), event_loop)
            }
        }
    }

    /// Calls `visit` with the object, for garbage collection.
    pub(crate) fn visit<E>(
        &self,
        mut visit: impl FnMut(&Py<PyAny>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Stream(transport) => visit(transport.as_any()),
            Self::Datagram(transport) => visit(transport.as_any()),
            Self::ReadPipe(transport) => visit(transport.as_any()),
            Self::WritePipe(transport) => visit(transport.as_any()),
        }
    }
}

/// The calls on a transport that were made on another thread than its own, up to that number.
pub(crate) enum Call {
    Stream(Py<StreamTransport>, u64),
    Datagram(Py<DatagramTransport>, u64),
    ReadPipe(Py<ReadPipeTransport>, u64),
    WritePipe(Py<WritePipeTransport>, u64),
    Tls(Py<TlsProtocol>, u64),
}

impl Call {
    /// Makes the calls, on the transport's thread.
    pub(crate) fn run(self, event_loop: &Bound<'_, EventLoop>) -> Result<(), Interrupt> {
        let py = event_loop.py();
        match self {
            Self::Stream(transport, number) => {
                StreamTransport::run_errand(transport.bind(py), event_loop, number)
            }
            Self::Datagram(transport, number) => {
                DatagramTransport::run_errand(transport.bind(py), event_loop, number)
            }
            Self::ReadPipe(transport, number) => {
                ReadPipeTransport::run_errand(transport.bind(py), event_loop, number)
            }
            Self::WritePipe(transport, number) => {
                WritePipeTransport::run_errand(transport.bind(py), event_loop, number)
            }
            Self::Tls(protocol, number) => {
                TlsProtocol::run_errand(protocol.bind(py), event_loop, number)
            }
        }
    }

    /// Calls `visit` with the transport, for garbage collection.
    pub(crate) fn visit<E>(
        &self,
        mut visit: impl FnMut(&Py<PyAny>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Stream(transport, _) => visit(transport.as_any()),
            Self::Datagram(transport, _) => visit(transport.as_any()),
            Self::ReadPipe(transport, _) => visit(transport.as_any()),
            Self::WritePipe(transport, _) => visit(transport.as_any()),
            Self::Tls(protocol, _) => visit(protocol.as_any()),
        }
    }
}

/// Where a transport lives.
pub(crate) struct Place {
    pub(crate) fd: RawFd,
    /// Tells the transports that had this descriptor apart.
    pub(crate) generation: u64,
    /// The shard that runs the transport.
    pub(crate) home: Arc<Shard>,
    /// Whether the shard keeps the transport alive; only the home thread changes this.
    attached: AtomicBool,
    /// Another thread has called `close()` or `abort()`, and the call is on its way home.
    close_forwarded: AtomicBool,
    /// Whether the shard counts the transport as open.
    counted: AtomicBool,
    initialized: Initialized,
}

impl Place {
    pub(crate) fn new(fd: RawFd, home: Arc<Shard>) -> Self {
        home.load.open(fd);
        Self {
            fd,
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            home,
            attached: AtomicBool::new(false),
            close_forwarded: AtomicBool::new(false),
            counted: AtomicBool::new(true),
            initialized: Initialized::new(),
        }
    }

    /// False while the collector sees a transport that is not there yet.
    pub(crate) fn is_initialized(&self) -> bool {
        self.initialized.is_set()
    }

    /// The transport is closed.
    pub(crate) fn leave(&self) {
        if self.counted.swap(false, Ordering::Relaxed) {
            self.home.load.close();
        }
    }

    /// True once a call that closes the transport is on its way.
    pub(crate) fn will_close(&self) -> bool {
        self.close_forwarded.load(Ordering::Relaxed)
    }

    /// An event of the transport's descriptor.
    pub(crate) fn event(&self, direction: Direction) -> Event {
        Event { fd: self.fd, generation: self.generation, direction }
    }

    /// Queues an event that the driver will not deliver.
    pub(crate) fn expect_event(&self, event: Option<Event>) {
        if let Some(event) = event {
            self.home.push(Work::Event(event));
        }
    }

    /// A call that closes the transport is on its way.
    pub(crate) fn note_close(&self) {
        self.close_forwarded.store(true, Ordering::Relaxed);
    }

    /// Lets the shard keep the transport alive while events are `wanted`, as a selector would, and
    /// no longer. `is_writing` tells that a write event is among them.
    pub(crate) fn update_interest(
        &self,
        wanted: bool,
        is_writing: bool,
        transport: impl FnOnce() -> Transport,
    ) {
        if wanted != self.attached.swap(wanted, Ordering::Relaxed) {
            if wanted {
                drop(self.home.attach(self.fd, self.generation, transport()));
            } else {
                drop(self.home.detach(self.fd, self.generation));
            }
        }
        if is_writing && !self.home.is_driven_here() {
            // The write began while the loop was stopped. If it has started meanwhile, its driver may
            // have seen the descriptor ready before this thread asked for the event.
            self.home.push(Work::Event(self.event(Direction::Write)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
