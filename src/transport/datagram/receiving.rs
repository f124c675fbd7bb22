//! From a read event to the protocol: `datagram_received()` and `error_received()`.

use super::addresses;
use super::state::{ReadPath, Received};
use super::transport::DatagramTransport;
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{OrOsError, os_error};
use crate::py::ffi;
use crate::py::interrupt::Interrupt;
use crate::runtime::datagram::{Address, Receipt};
use crate::runtime::registration::Direction;
use crate::runtime::sys::datagrams::{BATCH, Buffers};
use crate::transport::core::{Endpoint, Polled};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::sync::put;
use std::cell::Cell;
use std::io;
use std::sync::Arc;

thread_local! {
    /// Where datagrams are received before their sizes are known; made by the first receipt, and taken out
    /// of here by each.
    static BUFFERS: Cell<Option<Buffers>> = const { Cell::new(None) };
}

/// The next thing to tell the protocol.
enum Next {
    /// Nothing: an event follows, or the transport is not reading.
    Nothing,
    /// A datagram after which there is nothing; an event follows.
    Last(Received, Arc<ReadPath>),
    Datagram(Received, Arc<ReadPath>),
    Failure(io::Error, Py<PyContext>),
    /// There was no memory for what was received.
    Broken(PyErr, Arc<ReadPath>),
}

impl DatagramTransport {
    /// Called once `connection_made()` has run.
    pub(crate) fn start_reading(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        Self::add_reader(slf)
            .or_else(|error| Self::callback_failed(slf, event_loop, "_add_reader", None, error))
    }

    /// Starts to hand read events to the protocol.
    pub(super) fn add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if !this.state.lock().life.is_reading() {
            return Ok(());
        }
        let io = this.place.home.io()?;
        let activated = {
            let _entered = io.driver.enter();
            this.state.lock().activate_reader(this.place.event(Direction::Read))
        };
        let event = activated.or_os_error(slf.py())?;
        Self::update_interest(slf);
        this.place.expect_event(event);
        Ok(())
    }

    /// The socket has something to read, or may have, or something received waits to be delivered.
    pub(crate) fn on_readable(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let mut failed = false;
        for round in 0..BATCH {
            match Self::next(slf, round == 0) {
                Next::Nothing => return Ok(()),
                Next::Last(received, path) => {
                    return Self::deliver(slf, event_loop, received, &path);
                }
                Next::Datagram(received, path) => {
                    failed = false;
                    let home = &slf.get().place.home;
                    let before = home.ready_count();
                    let delivered = Self::deliver(slf, event_loop, received, &path);
                    // What the protocol has scheduled comes before the next datagram.
                    if delivered.is_err() || home.ready_count() > before {
                        Self::expect_more(slf);
                        return delivered;
                    }
                }
                Next::Failure(error, context) => {
                    let context = context.bind(slf.py());
                    let delivered = Self::deliver_failure(slf, event_loop, &error, context);
                    if delivered.is_err() || failed {
                        Self::expect_more(slf);
                        return delivered;
                    }
                    failed = true;
                }
                Next::Broken(error, path) => {
                    let context = path.context.bind(slf.py());
                    let message = "Fatal read error on datagram transport";
                    let ended = ffi::in_context(context, || Self::fatal_error(slf, error, message));
                    return ended.or_else(|error| {
                        Self::callback_failed(slf, event_loop, "_read_ready", Some(context), error)
                    });
                }
            }
        }
        Self::expect_more(slf);
        Ok(())
    }

    /// Lets another event come if there is, or may be, something left to deliver.
    fn expect_more(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let event = {
            let state = this.state.lock();
            if !state.life.is_reader_active() {
                return;
            }
            state.next_read(this.place.event(Direction::Read))
        };
        this.place.expect_event(event);
    }

    /// Takes what was received before, or receives: for an event, or if tokio still says that there
    /// is something.
    fn next(slf: &Bound<'_, Self>, for_event: bool) -> Next {
        let path = {
            let mut state = slf.get().state.lock();
            let reading = state.objects.as_ref().filter(|_| state.life.is_reader_active());
            let Some(path) = reading.map(|objects| objects.read_path.clone()) else {
                return Next::Nothing;
            };
            if let Some(received) = state.received.pop_front() {
                return Next::Datagram(received, path);
            }
            path
        };
        let mut buffers = BUFFERS.take().unwrap_or_else(Buffers::new);
        let next = Self::receive(slf, &mut buffers, path, for_event);
        BUFFERS.set(Some(buffers));
        next
    }

    fn receive(
        slf: &Bound<'_, Self>,
        buffers: &mut Buffers,
        path: Arc<ReadPath>,
        for_event: bool,
    ) -> Next {
        let py = slf.py();
        let receipt = match &slf.get().state.lock().socket {
            Some(socket) if for_event || socket.arm_read().is_some() => socket.receive(buffers),
            _ => return Next::Nothing,
        };
        let count = match receipt {
            Ok(Receipt::All(0)) => return Next::Nothing,
            Ok(Receipt::More(0)) => {
                Self::expect_more(slf);
                return Next::Nothing;
            }
            Ok(Receipt::All(count) | Receipt::More(count)) => count,
            Err(error) => return Next::Failure(error, path.context.clone_ref(py)),
        };
        let is_last = matches!(receipt, Ok(Receipt::All(1)));
        let take = |index| {
            let (data, name) = buffers.datagram(index);
            let sender = Address::from_bytes(slf.get().family, name);
            PyResult::Ok(Received { data: ffi::new_bytes(py, data)?.unbind(), sender })
        };
        let first = take(0);
        if count > 1 {
            match (1..count).map(take).collect::<PyResult<Vec<_>>>() {
                Ok(others) => slf.get().state.lock().received.extend(others),
                Err(error) => return Next::Broken(error, path),
            }
        }
        match first {
            Ok(first) if is_last => Next::Last(first, path),
            Ok(first) => Next::Datagram(first, path),
            Err(error) => Next::Broken(error, path),
        }
    }

    fn deliver(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        received: Received,
        path: &Arc<ReadPath>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let data = received.data;
        let context = path.context.bind(py);
        let called = slf.get().sender_object(py, received.sender).and_then(|sender| {
            ffi::in_context(context, || {
                let protocol = path.protocol.bind(py);
                match path.datagram_received.function(protocol) {
                    Some(function) => function.call1((protocol, data, sender)),
                    None => Self::look_up(slf, path, || {
                        protocol.call_method1(intern!(py, "datagram_received"), (data, sender))
                    }),
                }
            })
        });
        match called {
            Ok(_) => Ok(()),
            Err(error) => {
                Self::callback_failed(slf, event_loop, "_read_ready", Some(context), error)
            }
        }
    }

    /// Calls the method by its name, and keeps what was found for the next datagram.
    #[cold]
    fn look_up<R>(slf: &Bound<'_, Self>, path: &Arc<ReadPath>, call: impl FnOnce() -> R) -> R {
        let called = call();
        let Some(renewed) = path.found_again(slf.py()) else {
            return called;
        };
        let replaced = {
            let mut state = slf.get().state.lock();
            match &mut state.objects {
                Some(objects) if Arc::ptr_eq(&objects.read_path, path) => {
                    std::mem::replace(&mut objects.read_path, renewed)
                }
                _ => renewed,
            }
        };
        drop(replaced);
        called
    }

    /// What Python knows the sender by.
    fn sender_object(&self, py: Python<'_>, sender: Address) -> PyResult<Py<PyAny>> {
        if let Some((address, object)) = &self.state.lock().last_sender
            && *address == sender
        {
            return Ok(object.clone_ref(py));
        }
        let object = addresses::to_python(py, &sender)?.unbind();
        let copy = object.clone_ref(py);
        let replaced = self.state.lock().last_sender.replace((sender, copy));
        drop(replaced);
        Ok(object)
    }

    fn deliver_failure(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        error: &io::Error,
        context: &Bound<'_, PyContext>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let called = ffi::in_context(context, || Self::error_received(slf, os_error(py, error)));
        called.or_else(|error| {
            Self::callback_failed(slf, event_loop, "_read_ready", Some(context), error)
        })
    }

    /// Tells the protocol of a failure that the transport survives.
    pub(super) fn error_received(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if let Some(protocol) = slf.get().protocol(py) {
            protocol.call_method1(py, intern!(py, "error_received"), (error,))?;
        }
        Ok(())
    }

    pub(super) fn resume_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let context = ffi::copy_context(py)?;
        let Some(protocol) = this.protocol(py) else {
            return Ok(());
        };
        let path = ReadPath::new(protocol, context);
        let replaced = {
            let mut state = this.state.lock();
            if !state.life.resume() {
                return Ok(());
            }
            put(state.objects.as_mut().map(|objects| &mut objects.read_path), path)
        };
        drop(replaced);
        Self::add_reader(slf)?;
        Self::log(slf, "debug", "%r resumes reading")
    }
}
