//! A transport's hold on its socket.

use crate::py::error::Finally;
use crate::py::imports;
use pyo3::intern;
use pyo3::prelude::*;

/// One of the socket's `_io_refs`, as `socket.makefile()` takes one: `sock.close()` by somebody else
/// does not free the descriptor. Only an initialized `socket.socket` has them.
#[derive(Default)]
pub(crate) struct SocketHold {
    is_held: bool,
}

impl SocketHold {
    pub(crate) fn new(sock: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = sock.py();
        if !sock.is_instance(imports::SOCKET.get(py)?)? {
            return Ok(Self::default());
        }
        let Some(references) = sock.getattr_opt(intern!(py, "_io_refs"))? else {
            return Ok(Self::default());
        };
        sock.setattr(intern!(py, "_io_refs"), references.add(1)?)?;
        Ok(Self { is_held: true })
    }

    /// Gives the reference back. A socket that the program has closed meanwhile is closed now.
    pub(crate) fn release(self, sock: &Bound<'_, PyAny>) -> PyResult<()> {
        if !self.is_held {
            return Ok(());
        }
        let py = sock.py();
        // Not what a subclass makes of it: asyncio does not call this.
        let class = imports::SOCKET.get(py)?;
        class.call_method1(intern!(py, "_decref_socketios"), (sock,)).map(drop)
    }

    /// Gives the reference back, and closes the socket, or the file of a pipe.
    pub(crate) fn close(self, sock: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = sock.py();
        let released = self.release(sock);
        released.finally(py, sock.call_method0(intern!(py, "close")).map(drop))
    }
}
