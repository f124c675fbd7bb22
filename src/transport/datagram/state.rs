//! What a datagram transport remembers.
//!
//! One lock guards it all. The names follow `asyncio.selector_events`, whose rules these are.

use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::method::Method;
use crate::runtime::datagram::{Address, DatagramSocket};
use crate::runtime::registration::Event;
use crate::transport::core::SocketHold;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyContext, PyDict};
use rloop_core::flow::FlowControl;
use rloop_core::lifecycle::Lifecycle;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What a delivery needs. It is shared with the delivery that is under way, which may replace it.
pub(super) struct ReadPath {
    pub(super) protocol: Py<PyAny>,
    pub(super) datagram_received: Method,
    /// The context of the reading callbacks: a copy made when reading last (re)started.
    pub(super) context: Py<PyContext>,
}

impl ReadPath {
    pub(super) fn new(protocol: Py<PyAny>, context: Py<PyContext>) -> Arc<Self> {
        Arc::new(Self { protocol, datagram_received: Method::unknown(), context })
    }

    /// The same with the method looked for again; `None` if that is not worth the while.
    pub(super) fn found_again(&self, py: Python<'_>) -> Option<Arc<Self>> {
        let protocol = self.protocol.bind(py);
        self.datagram_received.is_outdated(protocol).then(|| {
            Arc::new(Self {
                protocol: self.protocol.clone_ref(py),
                datagram_received: Method::find(protocol, intern!(py, "datagram_received")),
                context: self.context.clone_ref(py),
            })
        })
    }
}

/// The Python objects of an open transport. They are dropped together once it is closed.
pub(super) struct Objects {
    pub(super) event_loop: Py<EventLoop>,
    pub(super) sock: Py<PyAny>,
    pub(super) hold: SocketHold,
    pub(super) protocol: Py<PyAny>,
    pub(super) read_path: Arc<ReadPath>,
    /// The context of the writing callbacks: a copy made when the queue last filled.
    pub(super) write_context: Option<Py<PyContext>>,
}

/// A datagram that was received and not delivered yet.
pub(super) struct Received {
    pub(super) data: Py<PyBytes>,
    pub(super) sender: Address,
}

/// Where a datagram goes.
pub(super) enum Destination {
    /// To where the socket is connected.
    Connected,
    Numeric(Address),
    /// To what Python makes of this.
    Other(Py<PyAny>),
}

/// A datagram that waits for room.
pub(super) struct Queued {
    pub(super) data: Chunk,
    pub(super) destination: Destination,
}

/// The state of a datagram transport.
pub(super) struct DatagramState {
    /// `None` once `connection_lost()` was called.
    pub(super) objects: Option<Objects>,
    /// `None` once the transport was closed.
    pub(super) socket: Option<DatagramSocket>,
    pub(super) extra: Py<PyDict>,
    pub(super) received: VecDeque<Received>,
    /// The sender of the last datagram, with the object that Python knows it by: an answer to it
    /// names the same object.
    pub(super) last_sender: Option<(Address, Py<PyAny>)>,
    pub(super) queue: VecDeque<Queued>,
    /// What the queue counts for, in bytes.
    pub(super) queued: usize,
    /// The socket object is being asked to send the oldest datagram, which is not in the queue.
    pub(super) is_sending_by_python: bool,
    pub(super) flow: FlowControl,
    pub(super) life: Lifecycle,
}

impl DatagramState {
    pub(super) fn new(objects: Objects, socket: DatagramSocket, extra: Py<PyDict>) -> Self {
        Self {
            objects: Some(objects),
            socket: Some(socket),
            extra,
            received: VecDeque::new(),
            last_sender: None,
            queue: VecDeque::new(),
            queued: 0,
            is_sending_by_python: false,
            flow: FlowControl::new(),
            life: Lifecycle::default(),
        }
    }

    /// True while write events matter: something is queued, or the close that waited for it.
    pub(super) fn is_writing(&self) -> bool {
        !self.queue.is_empty() || (self.life.is_closing() && !self.life.is_lost())
    }

    /// True while events of the socket matter.
    pub(super) fn is_interested(&self) -> bool {
        self.socket.as_ref().is_some_and(DatagramSocket::is_registered)
            && (self.life.is_reader_active() || self.is_writing())
    }

    /// Starts to hand read events to the protocol. Returns the first one if there is something to
    /// deliver already; the caller queues it. The caller has entered the runtime.
    pub(super) fn activate_reader(&mut self, event: Event) -> io::Result<Option<Event>> {
        let read = match &mut self.socket {
            Some(socket) => socket.start_reading()?,
            None => None,
        };
        self.life.activate_reader();
        Ok(if self.received.is_empty() { read } else { Some(event) })
    }

    /// The read event, if there is something left to deliver or to receive. Otherwise one comes.
    #[must_use]
    pub(super) fn next_read(&self, event: Event) -> Option<Event> {
        if self.received.is_empty() { self.socket.as_ref()?.arm_read() } else { Some(event) }
    }

    /// What is not sent, to be dropped.
    #[must_use]
    pub(super) fn take_queue(&mut self) -> VecDeque<Queued> {
        self.queued = 0;
        std::mem::take(&mut self.queue)
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.extra)?;
        for queued in &self.queue {
            if let Destination::Other(address) = &queued.destination {
                visit.call(address)?;
            }
        }
        let Some(objects) = &self.objects else {
            return Ok(());
        };
        visit.call(&objects.event_loop)?;
        visit.call(&objects.sock)?;
        visit.call(&objects.protocol)?;
        visit.call(&objects.read_path.protocol)?;
        objects.read_path.datagram_received.visit(&visit)?;
        visit.call(&objects.read_path.context)?;
        visit.call(&objects.write_context)
    }
}
