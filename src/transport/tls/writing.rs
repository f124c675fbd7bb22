//! From `write()` to ciphertext, and flow control.

use super::engine::Engine;
use super::lower::Lower;
use super::protocol::{Remote, TlsProtocol};
use super::state::{LARGEST_JOINED, LARGEST_PIECE, Phase, Piece, WRITE_HIGH};
use crate::py::error::chained;
use crate::py::ffi::SharedBytes;
use crate::py::imports;
use crate::py::interrupt::{self, Interrupt};
use crate::transport::core::{Endpoint, Forwarding, checked_limits_from};
use crate::transport::stream::{StreamTransport, Written};
use pyo3::prelude::*;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

/// How much an application may write while it is being told something before it is encrypted all the
/// same, in bytes. It may be waiting to be paused.
const MOST_GATHERED: usize = 64 * 1024;

/// Records that were given to the transport below. It may pause us, or be lost, when the write is
/// completed.
struct Begun<'py> {
    lower: Bound<'py, StreamTransport>,
    written: Written,
}

impl Begun<'_> {
    fn complete(self) -> PyResult<()> {
        StreamTransport::finish_write(&self.lower, self.written)
    }
}

impl TlsProtocol {
    pub(super) fn write(
        slf: &Bound<'_, Self>,
        chunks: impl IntoIterator<Item = SharedBytes>,
    ) -> PyResult<()> {
        // Chunks without a byte, dropped without the lock.
        let mut empty = Vec::new();
        let (lost, may_wait) = {
            let mut state = slf.get().state.lock();
            if state.is_write_lost() {
                let lost = state.writing.lost;
                state.writing.lost = lost.saturating_add(1);
                (Some(lost), false)
            } else {
                for chunk in chunks {
                    empty.extend(state.writing.backlog.push(chunk, 0));
                }
                let writing = &state.writing;
                if state.phase != Phase::Wrapped
                    || writing.is_gathering && writing.backlog.len() < MOST_GATHERED
                {
                    return Ok(());
                }
                let is_short = writing.backlog.len() < LARGEST_JOINED;
                (None, is_short && !writing.is_gathering && !writing.is_held)
            }
        };
        match lost {
            None if may_wait && Self::send_later(slf)? => Ok(()),
            None => Self::or_fatal(slf, Self::send_backlog(slf, false)),
            Some(lost) if lost >= Lifecycle::LOG_THRESHOLD_FOR_CONNLOST_WRITES => {
                imports::logger(slf.py())?
                    .call_method1("warning", ("SSL connection is closed",))?;
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Deals with the exception of an object whose bytes cannot be had, as asyncio, which gives the object
    /// to the engine.
    #[cold]
    pub(super) fn no_buffer(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        if slf.get().home().is_some_and(|home| home.is_elsewhere()) {
            return Err(error);
        }
        if slf.get().state.lock().is_write_lost() {
            // Counts the write.
            return Self::write(slf, []);
        }
        Self::or_fatal(slf, Err(error))
    }

    /// Has the backlog sent after the callback that writes, so that several short writes are one record
    /// and one system call; false if no callback runs.
    fn send_later(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let is_later = match slf.get().home() {
            Some(home) => home.send_later(slf)?,
            None => false,
        };
        if is_later {
            slf.get().state.lock().writing.is_gathering = true;
        }
        Ok(is_later)
    }

    /// Sends what callbacks have written that have returned.
    pub(crate) fn send_gathered(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.lock().writing.is_gathering = false;
        Self::send_waiting(slf)
    }

    /// Deals with an exception of [`TlsProtocol::send_gathered`]. The `write()` that it would have reached
    /// has returned, so it ends the connection.
    #[cold]
    pub(crate) fn sending_failed(slf: &Bound<'_, Self>, error: PyErr) -> Result<(), Interrupt> {
        interrupt::contain(slf.py(), error, |error| {
            Self::fatal_error(slf, error, "Fatal error on SSL protocol")
        })
    }

    /// Sends the gathered writes before an operation that shows or decides whether they were sent.
    pub(super) fn send_early(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (is_gathering, inner_transport) = {
            let state = slf.get().state.lock();
            let inner_transport = state.links.lower.as_ref().map(|lower| lower.clone_ref(py));
            (state.writing.is_gathering, inner_transport)
        };
        let outer = inner_transport.and_then(|lower| lower.tls(py));
        if is_gathering {
            Self::send_waiting(slf)?;
        }
        // In TLS inside TLS, the other connection gathers the records of this one.
        outer.map_or(Ok(()), |outer| Self::send_early(outer.get().protocol().bind(py)))
    }

    /// [`TlsProtocol::send_early`] for a call that any thread may make: it does nothing on a thread
    /// that may not touch the connection.
    pub(super) fn send_early_if_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().home() {
            Some(home) if !home.is_elsewhere() => Self::send_early(slf),
            _ => Ok(()),
        }
    }

    fn send_waiting(slf: &Bound<'_, Self>) -> PyResult<()> {
        let has_backlog = {
            let state = slf.get().state.lock();
            state.phase == Phase::Wrapped && !state.writing.backlog.is_empty()
        };
        if has_backlog { Self::or_fatal(slf, Self::send_backlog(slf, false)) } else { Ok(()) }
    }

    /// Tells the application something. What it writes meanwhile leaves together when it returns.
    pub(super) fn gathering<R>(
        slf: &Bound<'_, Self>,
        operation: impl FnOnce() -> PyResult<R>,
    ) -> PyResult<R> {
        let outer = std::mem::replace(&mut slf.get().state.lock().writing.is_gathering, true);
        let told = operation();
        let has_written = {
            let mut state = slf.get().state.lock();
            state.writing.is_gathering = outer;
            !outer && !state.is_write_lost() && !state.writing.backlog.is_empty()
        };
        if !has_written {
            return told;
        }
        let sent = Self::send_backlog(slf, false);
        match told {
            Ok(value) => sent.map(|()| value),
            // As in asyncio, `write()` has ended the connection before the application fails.
            Err(error) => match Self::or_fatal(slf, sent) {
                Ok(()) => Err(error),
                Err(second) => Err(chained(slf.py(), error, second)),
            },
        }
    }

    /// Encrypts the backlog and hands it down, as far as the transport below wants it; with
    /// `everything`, all of it.
    pub(super) fn send_backlog(slf: &Bound<'_, Self>, everything: bool) -> PyResult<()> {
        let py = slf.py();
        let Some(engine) = slf.get().engine() else {
            return Ok(());
        };
        let mut encrypted = 0;
        loop {
            let piece = {
                let mut state = slf.get().state.lock();
                let writing = &mut state.writing;
                if writing.is_encrypting || writing.is_held && !everything {
                    break;
                }
                let Some(piece) = writing.next_piece(py)? else {
                    break;
                };
                writing.is_encrypting = true;
                piece
            };
            let ahead = Self::write_ahead(slf, &engine, &piece);
            let (written, begun) = match ahead {
                Some(Ok(begun)) => (Ok(Some(piece.part.len())), Some(begun)),
                Some(Err(error)) => (Err(error), None),
                None => (engine.write(&piece.data, piece.part), None),
            };
            let used = {
                let mut state = slf.get().state.lock();
                state.writing.is_encrypting = false;
                match written {
                    Ok(Some(count)) => {
                        encrypted += count;
                        // The connection may have been lost meanwhile, and the backlog dropped.
                        let count = count.min(state.writing.backlog.len());
                        state.writing.backlog.advance(count)
                    }
                    Ok(None) => break,
                    Err(error) => return Err(error),
                }
            };
            drop(used);
            if let Some(begun) = begun {
                let has_failed = matches!(begun.written, Written::Failed(_));
                begun.complete()?;
                if has_failed {
                    return Ok(());
                }
            }
            if encrypted >= LARGEST_PIECE {
                encrypted = 0;
                Self::hand_down(slf, everything)?;
            }
        }
        Self::send_records(slf, everything)
    }

    /// Encrypts a piece and gives the records straight to the socket, which spares an object for them;
    /// `None` if the engine or the transport below has no such way.
    fn write_ahead<'py>(
        slf: &Bound<'py, Self>,
        engine: &Engine,
        piece: &Piece<'py>,
    ) -> Option<PyResult<Begun<'py>>> {
        let py = slf.py();
        let Engine::Rustls(engine) = engine else { return None };
        let engine = engine.get();
        let lower = match &slf.get().state.lock().links.lower {
            Some(Lower::Stream(stream)) if engine.is_established() => stream.clone_ref(py),
            _ => return None,
        };
        let lower = lower.into_bound(py);
        let plaintext = &piece.data.as_bytes()[piece.part.clone()];
        let write = |records: &[u8]| lower.get().write_copied(records);
        let written = engine.write_through(py, plaintext, write)?;
        Some(written.map(|written| Begun { lower, written }))
    }

    /// Sends the records there are, and sees to the flow control.
    pub(super) fn send_records(slf: &Bound<'_, Self>, everything: bool) -> PyResult<()> {
        Self::hand_down(slf, everything)?;
        Self::control_writing(slf)
    }

    /// Hands down the records there are, if the transport below wants them or `everything` must go.
    fn hand_down(slf: &Bound<'_, Self>, everything: bool) -> PyResult<()> {
        let py = slf.py();
        let (engine, lower) = {
            let state = slf.get().state.lock();
            let lower = state.links.lower.as_ref().filter(|_| everything || !state.writing.is_held);
            (state.links.engine.clone(), lower.map(|lower| lower.clone_ref(py)))
        };
        if let (Some(engine), Some(lower)) = (engine, lower) {
            let records = engine.take_records(py)?;
            if !records.as_bytes().is_empty() {
                return lower.write(&records);
            }
        }
        Ok(())
    }

    /// The transport below can be written to again.
    pub(super) fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.lock().writing.is_held = false;
        // What is encrypted already comes first.
        Self::send_records(slf, false)?;
        Self::send_waiting(slf)
    }

    /// Tells the application to pause or to resume writing, by how much of it waits.
    pub(super) fn control_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        let waiting = slf.get().write_buffer_size(slf.py())?;
        let change = {
            let flow = &mut slf.get().state.lock().writing.flow;
            match flow.reached(waiting) {
                FlowChange::Unchanged => flow.shrunk(waiting),
                change => change,
            }
        };
        Self::apply_flow_change(slf, change)
    }

    pub(super) fn set_write_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = checked_limits_from(WRITE_HIGH, high, low)?;
        Self::make_or_forward(slf, Remote::SetWriteLimits(low, high))
    }

    /// What `get_write_buffer_size()` returns: what is gathered is sent first, as asyncio does at once.
    pub(super) fn unsent_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::send_early_if_here(slf)?;
        slf.get().write_buffer_size(slf.py())
    }

    /// What was written and not handed down, and records that no write asked for.
    pub(super) fn write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        let (backlog, engine) = {
            let state = self.state.lock();
            let writing = &state.writing;
            (writing.backlog.len(), state.links.engine.clone().filter(|_| writing.is_held))
        };
        Ok(backlog + engine.map_or(Ok(0), |engine| engine.unsent(py))?)
    }
}
