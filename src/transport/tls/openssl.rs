//! OpenSSL behind `ssl.SSLObject` and two `ssl.MemoryBIO`: every `ssl.SSLContext` works.
//!
//! `SSLObject`'s methods are Python functions around those of a native object. Of an `SSLObject`
//! itself, not of a subclass, that native object is called directly.
//!
//! A read that finds no whole record raises `SSLWantReadError`, which costs several times what
//! decrypting a small record does. So the ends of the records are watched
//! ([`RecordBoundaries`]), and OpenSSL is asked only if it has something. It reads no further than
//! the record it is asked for, so what it has not decrypted is still in the BIO.

use super::engine::{Batch, End, Filled, Progress};
use crate::py::imports;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice, PyString};
use rloop_core::records::RecordBoundaries;
use rloop_core::sync::Mutex;
use std::ops::Range;

/// The most that a record holds, in bytes of plaintext.
const LONGEST_PLAINTEXT: usize = 1 << 14;

/// What is known of the ciphertext that was fed.
struct Input {
    boundaries: RecordBoundaries,
    /// Bytes in the incoming BIO; `None` if OpenSSL has taken some since they were counted.
    unread: Option<usize>,
    /// The last read filled its buffer: OpenSSL may hold the rest of the record.
    may_hold_plaintext: bool,
}

/// One connection of OpenSSL.
pub(super) struct OpenSsl {
    ssl_object: Py<PyAny>,
    /// What is called: the native object behind `ssl_object`, or `ssl_object`.
    session: Py<PyAny>,
    is_native: bool,
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    input: Mutex<Input>,
}

impl OpenSsl {
    /// Takes an `SSLObject` and the two BIOs it was made with.
    pub(super) fn new(
        ssl_object: Bound<'_, PyAny>,
        incoming: Bound<'_, PyAny>,
        outgoing: Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let py = ssl_object.py();
        let is_native = ssl_object.get_type().is(imports::SSL_OBJECT.get(py)?);
        let session = if is_native {
            ssl_object.getattr(intern!(py, "_sslobj"))?
        } else {
            ssl_object.clone()
        };
        Ok(Self {
            ssl_object: ssl_object.unbind(),
            session: session.unbind(),
            is_native,
            incoming: incoming.unbind(),
            outgoing: outgoing.unbind(),
            input: Mutex::new(Input {
                boundaries: RecordBoundaries::new(),
                unread: Some(0),
                may_hold_plaintext: false,
            }),
        })
    }

    pub(super) fn feed(&self, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        let py = ciphertext.py();
        self.incoming.bind(py).call_method1(intern!(py, "write"), (ciphertext,))?;
        let ciphertext = ciphertext.as_bytes();
        let mut input = self.input.lock();
        input.boundaries.advance(ciphertext);
        input.unread = input.unread.map(|unread| unread + ciphertext.len());
        Ok(())
    }

    pub(super) fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        self.step(intern!(py, "do_handshake"))
    }

    /// Calls a method that reads and writes as much as it can.
    fn step(&self, method: &Bound<'_, PyString>) -> PyResult<Progress> {
        let py = method.py();
        let called = self.session.bind(py).call_method0(method);
        self.input.lock().unread = None;
        match called {
            Ok(_) => Ok(Progress::Done),
            Err(error) if wants_more(py, &error)? => Ok(Progress::Waiting),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read<'py>(&self, py: Python<'py>) -> Batch<'py> {
        let mut first = None;
        let mut others = Vec::new();
        let end = loop {
            match self.read_record(py) {
                Ok(None) => break Ok(End::Drained),
                Ok(Some(record)) if record.as_bytes().is_empty() => break Ok(End::Closed),
                Ok(Some(record)) if first.is_none() => first = Some(record),
                Ok(Some(record)) => others.push(record),
                Err(error) => break Err(error),
            }
        };
        match first {
            Some(first) if !others.is_empty() => match join(&first, &others) {
                Ok(data) => Batch { data: Some(data), end },
                Err(error) => Batch { data: None, end: Err(error) },
            },
            data => Batch { data, end },
        }
    }

    /// Decrypts a record, or what is left of one. An empty one stands for the close notification.
    fn read_record<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(len) = self.next_read(py)? else {
            return Ok(None);
        };
        let read = self.session.bind(py).call_method1(intern!(py, "read"), (len,));
        match self.after_read(py, read)? {
            Some(record) => {
                let record = record.cast_into::<PyBytes>()?;
                self.input.lock().may_hold_plaintext = record.as_bytes().len() == len;
                Ok(Some(record))
            }
            None => Ok(None),
        }
    }

    /// The most that the next read can bring, plus at least one; `None` if it can bring nothing.
    fn next_read(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let unread = self.unread(py)?;
        let input = self.input.lock();
        Ok(match input.boundaries.incomplete() {
            _ if input.may_hold_plaintext => Some(LONGEST_PLAINTEXT + 1),
            None => Some(LONGEST_PLAINTEXT + 1),
            Some(incomplete) if unread <= incomplete => None,
            // A record is longer than what is in it.
            Some(_) => Some(unread.min(LONGEST_PLAINTEXT + 1)),
        })
    }

    /// Takes note of a read; `None` if there was nothing.
    fn after_read<'py>(
        &self,
        py: Python<'py>,
        read: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        {
            let mut input = self.input.lock();
            input.unread = None;
            input.may_hold_plaintext = false;
        }
        match read {
            Ok(value) => Ok(Some(value)),
            Err(error) if wants_more(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read_into(&self, target: &Bound<'_, PyAny>) -> Filled {
        let mut len = 0;
        let end = self.fill(target, &mut len);
        Filled { len, end }
    }

    fn fill(&self, target: &Bound<'_, PyAny>, filled: &mut usize) -> PyResult<End> {
        let py = target.py();
        let mut view = PyMemoryView::from(target)?.into_any();
        if !view.getattr(intern!(py, "itemsize"))?.eq(1)? {
            view = view.call_method1(intern!(py, "cast"), ("B",))?;
        }
        let capacity = view.len()?;
        while *filled < capacity {
            if self.next_read(py)?.is_none() {
                return Ok(End::Drained);
            }
            let rest = slice(&view, *filled..capacity)?;
            let room = capacity - *filled;
            let read = self.session.bind(py).call_method1(intern!(py, "read"), (room, rest));
            let Some(read) = self.after_read(py, read)? else {
                return Ok(End::Drained);
            };
            let read: usize = read.extract()?;
            if read == 0 {
                return Ok(End::Closed);
            }
            *filled += read;
            self.input.lock().may_hold_plaintext = *filled == capacity;
        }
        Ok(End::Full)
    }

    pub(super) fn write(
        &self,
        data: &Bound<'_, PyBytes>,
        part: Range<usize>,
    ) -> PyResult<Option<usize>> {
        let py = data.py();
        let argument = if part == (0..data.as_bytes().len()) {
            data.as_any().clone()
        } else {
            slice(&PyMemoryView::from(data.as_any())?.into_any(), part)?
        };
        match self.session.bind(py).call_method1(intern!(py, "write"), (argument,)) {
            Ok(written) => Ok(Some(written.extract()?)),
            Err(error) if wants_more(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn take_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(self.outgoing.bind(py).call_method0(intern!(py, "read"))?.cast_into()?)
    }

    pub(super) fn close(&self, py: Python<'_>) -> PyResult<Progress> {
        let method = if self.is_native { intern!(py, "shutdown") } else { intern!(py, "unwrap") };
        let mut refused = None;
        loop {
            let has_dropped = self.discard(py)?;
            if let Some(error) = refused.take()
                && !has_dropped
            {
                return Err(error);
            }
            match self.step(method) {
                Err(error) if is_data_after_close(py, &error)? => {
                    self.input.lock().may_hold_plaintext = true;
                    refused = Some(error);
                }
                progress => return progress,
            }
        }
    }

    /// Drops the plaintext that has come; true if there was some.
    fn discard(&self, py: Python<'_>) -> PyResult<bool> {
        let mut has_dropped = false;
        loop {
            match self.read_record(py) {
                Ok(Some(record)) if !record.as_bytes().is_empty() => has_dropped = true,
                Ok(_) => return Ok(has_dropped),
                Err(error) if error.is_instance(py, imports::SSL_ZERO_RETURN_ERROR.get(py)?) => {
                    return Ok(has_dropped);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes in the incoming BIO.
    fn unread(&self, py: Python<'_>) -> PyResult<usize> {
        if let Some(unread) = self.input.lock().unread {
            return Ok(unread);
        }
        let unread = self.incoming.bind(py).getattr(intern!(py, "pending"))?.extract()?;
        self.input.lock().unread = Some(unread);
        Ok(unread)
    }

    pub(super) fn undecrypted(&self, py: Python<'_>) -> PyResult<usize> {
        let unread = self.unread(py)?;
        Ok(unread.saturating_sub(self.input.lock().boundaries.incomplete().unwrap_or(0)))
    }

    pub(super) fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        self.outgoing.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    pub(super) fn ssl_object<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        self.ssl_object.bind(py)
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.ssl_object)?;
        visit.call(&self.session)?;
        visit.call(&self.incoming)?;
        visit.call(&self.outgoing)
    }
}

/// A part of a memoryview.
fn slice<'py>(view: &Bound<'py, PyAny>, part: Range<usize>) -> PyResult<Bound<'py, PyAny>> {
    let [start, end] =
        [part.start, part.end].map(|index| isize::try_from(index).unwrap_or(isize::MAX));
    view.get_item(PySlice::new(view.py(), start, end, 1))
}

fn join<'py>(
    first: &Bound<'py, PyBytes>,
    others: &[Bound<'py, PyBytes>],
) -> PyResult<Bound<'py, PyBytes>> {
    let records = || std::iter::once(first).chain(others).map(PyBytesMethods::as_bytes);
    PyBytes::new_with(first.py(), records().map(<[u8]>::len).sum(), |mut target| {
        for record in records() {
            let (now, later) = target.split_at_mut(record.len());
            now.copy_from_slice(record);
            target = later;
        }
        Ok(())
    })
}

/// True if OpenSSL has to hear from the peer first; asyncio takes the same two exceptions for that.
fn wants_more(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    Ok(error.is_instance(py, imports::SSL_WANT_READ_ERROR.get(py)?)
        || error.is_instance(py, imports::SSL_SYSCALL_ERROR.get(py)?))
}

/// True if the peer went on sending; what came has to be read before its close notification.
fn is_data_after_close(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    if !error.is_instance(py, imports::SSL_ERROR.get(py)?) {
        return Ok(false);
    }
    let reason = error.value(py).getattr(intern!(py, "reason"))?;
    reason.eq("APPLICATION_DATA_AFTER_CLOSE_NOTIFY")
}
