//! What a stream transport remembers, and the transitions that need no Python code.
//!
//! One lock guards it all. Transitions return what the caller has to do or to drop after it has let
//! go of the lock. The names follow `asyncio.selector_events`, whose rules these are.

use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::imports;
use crate::py::method::Method;
use crate::runtime::registration::{Armed, Event};
use crate::runtime::stream::{self, Flushed, Read, Sink, StreamSocket};
use crate::transport::core::SocketHold;
use crate::transport::tls::TlsProtocol;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use rloop_core::flow::{FlowChange, FlowControl};
use rloop_core::lifecycle::Lifecycle;
use rloop_core::write_queue::WriteQueue;
use std::io;
use std::sync::Arc;

/// How received bytes reach the protocol. As in asyncio, the class of the protocol decides this when the
/// transport gets it, and the methods are looked up for each event: a program may replace them.
pub(crate) enum Receiver {
    /// An `asyncio.Protocol`.
    Streaming { protocol: Py<PyAny>, data_received: Method },
    /// An `asyncio.BufferedProtocol`.
    Buffered { protocol: Py<PyAny>, get_buffer: Method, buffer_updated: Method },
    /// The native TLS protocol, which is called without Python.
    Tls(Py<TlsProtocol>),
}

impl Receiver {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Streaming { protocol, data_received } => Self::Streaming {
                protocol: protocol.clone_ref(py),
                data_received: data_received.clone_ref(py),
            },
            Self::Buffered { protocol, get_buffer, buffer_updated } => Self::Buffered {
                protocol: protocol.clone_ref(py),
                get_buffer: get_buffer.clone_ref(py),
                buffer_updated: buffer_updated.clone_ref(py),
            },
            Self::Tls(protocol) => Self::Tls(protocol.clone_ref(py)),
        }
    }

    /// Finds how `protocol` wants to receive.
    pub(crate) fn new(protocol: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = protocol.py();
        if let Ok(protocol) = protocol.cast::<TlsProtocol>() {
            return Ok(Self::Tls(protocol.clone().unbind()));
        }
        let is_buffered = protocol.is_instance(imports::BUFFERED_PROTOCOL.get(py)?)?;
        let protocol = protocol.clone().unbind();
        Ok(if is_buffered {
            let (get_buffer, buffer_updated) = (Method::unknown(), Method::unknown());
            Self::Buffered { protocol, get_buffer, buffer_updated }
        } else {
            Self::Streaming { protocol, data_received: Method::unknown() }
        })
    }

    /// The same with methods that are looked for again; `None` if that is not worth the while.
    pub(super) fn found_again(&self, py: Python<'_>) -> Option<Self> {
        match self {
            Self::Streaming { protocol, data_received } => {
                let object = protocol.bind(py);
                data_received.is_outdated(object).then(|| Self::Streaming {
                    protocol: protocol.clone_ref(py),
                    data_received: Method::find(object, intern!(py, "data_received")),
                })
            }
            Self::Buffered { protocol, get_buffer, buffer_updated } => {
                let object = protocol.bind(py);
                let is_outdated =
                    get_buffer.is_outdated(object) || buffer_updated.is_outdated(object);
                is_outdated.then(|| Self::Buffered {
                    protocol: protocol.clone_ref(py),
                    get_buffer: Method::find(object, intern!(py, "get_buffer")),
                    buffer_updated: Method::find(object, intern!(py, "buffer_updated")),
                })
            }
            Self::Tls(_) => None,
        }
    }

    pub(crate) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Streaming { protocol, data_received } => {
                visit.call(protocol)?;
                data_received.visit(&visit)
            }
            Self::Buffered { protocol, get_buffer, buffer_updated } => {
                visit.call(protocol)?;
                get_buffer.visit(&visit)?;
                buffer_updated.visit(&visit)
            }
            Self::Tls(protocol) => visit.call(protocol),
        }
    }
}

/// What a read event needs. It is shared with the event that is being handled, which may replace it:
/// one atomic count instead of three references.
pub(crate) struct ReadPath {
    pub(crate) receiver: Receiver,
    /// The context of the reading callbacks: the transport's own, or a copy made when reading last
    /// (re)started.
    pub(crate) context: Py<PyContext>,
}

/// The Python objects of an open transport. They are dropped together once it is closed.
pub(crate) struct Objects {
    pub(crate) event_loop: Py<EventLoop>,
    pub(crate) sock: Py<PyAny>,
    pub(crate) hold: SocketHold,
    pub(crate) protocol: Py<PyAny>,
    pub(crate) read_path: Arc<ReadPath>,
    pub(crate) server: Option<Py<PyAny>>,
    /// The transport's own context, in which all its callbacks run. `None` before CPython 3.15, where
    /// each callback runs in a copy of the context of the code that scheduled it.
    pub(crate) own_context: Option<Py<PyContext>>,
    /// The context of the writing callbacks: the transport's own, or a copy made when the queue last
    /// filled. `None` before the first, and while that is being made.
    pub(crate) write_context: Option<Py<PyContext>>,
}

/// What a write leaves to do after the lock was let go of.
#[must_use]
pub(crate) enum Written {
    /// Nothing: the kernel has taken it.
    Everything,
    /// Bytes were queued; `starts` tells that nothing was queued before.
    Queued {
        starts: bool,
        change: FlowChange,
    },
    /// The connection is gone; so many writes came after that, plus one.
    Lost(u32),
    /// The caller may not write.
    Refused(PyErr),
    Failed(io::Error),
}

/// The state of a stream transport.
pub(crate) struct StreamState {
    /// `None` once `connection_lost()` was called.
    pub(crate) objects: Option<Objects>,
    /// `None` before the transport starts and after it was closed.
    pub(crate) socket: Option<StreamSocket>,
    pub(crate) extra: Py<PyDict>,
    pub(crate) queue: WriteQueue<Chunk>,
    pub(crate) flow: FlowControl,
    pub(crate) life: Lifecycle,
    /// `write_eof()` was called.
    pub(crate) eof_written: bool,
    /// Set while `loop.sendfile()` waits for the queue to drain.
    pub(crate) empty_waiter: Option<Py<PyAny>>,
}

impl StreamState {
    pub(crate) fn new(objects: Objects, extra: Py<PyDict>) -> Self {
        Self {
            objects: Some(objects),
            socket: None,
            extra,
            queue: WriteQueue::new(),
            flow: FlowControl::new(),
            life: Lifecycle::default(),
            eof_written: false,
            empty_waiter: None,
        }
    }

    /// True while events of the socket matter.
    pub(crate) fn is_interested(&self) -> bool {
        self.socket.is_some() && (self.life.is_reader_active() || !self.queue.is_empty())
    }

    /// Receives into `buffer` if the socket has something.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        match &self.socket {
            Some(socket) => socket.read(buffer),
            None => Ok(Read::NotReady),
        }
    }

    /// Starts to hand read events to the protocol. Returns the first one if there is something to
    /// read already; the caller queues it.
    #[must_use]
    pub(crate) fn activate_reader(&mut self) -> Option<Event> {
        self.life.activate_reader();
        let registration = self.socket.as_ref()?.registration();
        match registration.arm_read() {
            Armed::Waiting => None,
            Armed::Ready => Some(registration.read_event()),
        }
    }

    /// # Errors
    /// `RuntimeError` if nothing may be written any more, whatever the data.
    pub(crate) fn check_writable(&self, method: &str) -> PyResult<()> {
        if self.eof_written {
            return Err(PyRuntimeError::new_err(format!(
                "Cannot call {method}() after write_eof()"
            )));
        }
        if self.empty_waiter.is_some() {
            return Err(PyRuntimeError::new_err(format!(
                "unable to {method}; sendfile is in progress"
            )));
        }
        Ok(())
    }

    /// Replaces the protocol; returns what is to be dropped.
    #[must_use]
    pub(crate) fn set_protocol(
        &mut self,
        py: Python<'_>,
        protocol: Py<PyAny>,
        receiver: Receiver,
    ) -> impl Sized + use<> {
        let Some(objects) = &mut self.objects else {
            return (protocol, Err(receiver));
        };
        let context = objects.read_path.context.clone_ref(py);
        let path = Arc::new(ReadPath { receiver, context });
        (
            std::mem::replace(&mut objects.protocol, protocol),
            Ok(std::mem::replace(&mut objects.read_path, path)),
        )
    }

    /// Makes `context` that of the reading callbacks; returns what is to be dropped.
    #[must_use]
    pub(crate) fn set_read_context(
        &mut self,
        py: Python<'_>,
        context: Py<PyContext>,
    ) -> impl Sized + use<> {
        let Some(objects) = &mut self.objects else {
            return Err(context);
        };
        let receiver = objects.read_path.receiver.clone_ref(py);
        let path = Arc::new(ReadPath { receiver, context });
        Ok(std::mem::replace(&mut objects.read_path, path))
    }

    /// Makes `context` that of the writing callbacks, if something waits; returns the one to drop.
    #[must_use]
    pub(crate) fn set_write_context(&mut self, context: Py<PyContext>) -> Option<Py<PyContext>> {
        match &mut self.objects {
            Some(objects) if !self.queue.is_empty() => objects.write_context.replace(context),
            _ => Some(context),
        }
    }

    /// The context that the writing callbacks run in.
    pub(crate) fn write_context(&self, py: Python<'_>) -> Option<Py<PyContext>> {
        let objects = self.objects.as_ref()?;
        let context = objects.write_context.as_ref().unwrap_or(&objects.read_path.context);
        Some(context.clone_ref(py))
    }

    /// Sends `data` at once if nothing waits before it, and queues what the kernel does not take: that
    /// is what `rest` makes of the number of bytes that are gone, a chunk and its offset.
    ///
    /// All of it happens under one lock, so no other write comes in between. `rest` must not run Python
    /// code.
    #[inline]
    pub(crate) fn write(
        &mut self,
        data: &[u8],
        rest: impl FnOnce(usize) -> io::Result<(Chunk, usize)>,
    ) -> Written {
        if (self.eof_written || self.empty_waiter.is_some())
            && let Err(error) = self.check_writable("write")
        {
            return Written::Refused(error);
        }
        // asyncio does not count an empty write.
        if data.is_empty() {
            return Written::Everything;
        }
        if let Some(count) = self.life.note_write() {
            return Written::Lost(count);
        }
        let sent = match &self.socket {
            Some(socket) if self.queue.is_empty() => socket.write(data),
            _ => Ok(0),
        };
        match sent {
            Ok(sent) if sent == data.len() => Written::Everything,
            Ok(sent) => match rest(sent) {
                Ok((chunk, offset)) => self.enqueue(chunk, offset),
                Err(error) => Written::Failed(error),
            },
            Err(error) => Written::Failed(error),
        }
    }

    /// Queues what is left of `chunk` from byte `offset` on, which is not nothing, and asks for a write
    /// event if the queue was empty.
    fn enqueue(&mut self, chunk: Chunk, offset: usize) -> Written {
        let starts = self.queue.is_empty();
        let empty = self.queue.push(chunk, offset);
        debug_assert!(empty.is_none());
        let armed = match &self.socket {
            Some(socket) if starts => socket.arm_write(),
            _ => Ok(()),
        };
        match armed {
            Ok(()) => Written::Queued { starts, change: self.flow.grown(self.queue.len()) },
            Err(error) => Written::Failed(error),
        }
    }

    /// Sends what the kernel takes of the queue. `used` receives the chunks to drop.
    pub(crate) fn flush(&mut self, used: &mut Vec<Chunk>) -> io::Result<Flushed> {
        match &self.socket {
            Some(socket) => stream::flush(&mut self.queue, socket, used),
            None => Ok(Flushed::Everything),
        }
    }

    pub(crate) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.extra)?;
        visit.call(&self.empty_waiter)?;
        let Some(objects) = &self.objects else {
            return Ok(());
        };
        visit.call(&objects.event_loop)?;
        visit.call(&objects.sock)?;
        visit.call(&objects.protocol)?;
        objects.read_path.receiver.visit(visit)?;
        visit.call(&objects.server)?;
        visit.call(&objects.read_path.context)?;
        visit.call(&objects.own_context)?;
        visit.call(&objects.write_context)
    }
}
