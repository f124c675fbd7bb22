//! Failures of TLS as the exceptions that the `ssl` module raises for them.
//!
//! The text has the module's form, with `rustls` where it names a line of its source.

use crate::py::imports;
use pyo3::intern;
use pyo3::prelude::*;
use rloop_tls::error::{TlsError, alert_reason, spoken};
use rloop_tls::verify::VerifyFailure;

/// `ssl.SSL_ERROR_SSL`
const SSL_ERROR_SSL: i32 = 1;

/// `ssl.SSL_ERROR_ZERO_RETURN`
const SSL_ERROR_ZERO_RETURN: i32 = 6;

/// The alert by which a peer ends a connection in good order.
const CLOSE_NOTIFY: u8 = 0;

/// The exception for `error`. `name` is what the server's certificate was checked for.
pub(super) fn exception(py: Python<'_>, error: &TlsError, name: Option<&str>) -> PyErr {
    let made = match error {
        TlsError::Certificate(failure) => certificate_error(py, *failure, name),
        TlsError::Alert(CLOSE_NOTIFY) => closed(py),
        TlsError::Alert(description) => {
            let reason = alert_reason(*description).unwrap_or("SSLV3_ALERT_UNKNOWN");
            ssl_error(py, reason, &spoken(reason))
        }
        TlsError::Protocol { reason, detail } => {
            ssl_error(py, reason.name(), &format!("{reason}: {detail}"))
        }
        other => ssl_error(py, "INTERNAL_ERROR", &other.to_string()),
    };
    made.unwrap_or_else(|failed| failed)
}

fn ssl_error(py: Python<'_>, reason: &str, text: &str) -> PyResult<PyErr> {
    describe(imports::SSL_ERROR.get(py)?, reason, text).map(PyErr::from_value)
}

/// The peer has ended the connection before the handshake was over.
fn closed(py: Python<'_>) -> PyResult<PyErr> {
    let text = "TLS/SSL connection has been closed (EOF) (rustls)";
    let class = imports::SSL_ZERO_RETURN_ERROR.get(py)?;
    let exception = class.call1((SSL_ERROR_ZERO_RETURN, text))?;
    exception.setattr(intern!(py, "library"), py.None())?;
    exception.setattr(intern!(py, "reason"), py.None())?;
    Ok(PyErr::from_value(exception))
}

fn certificate_error(
    py: Python<'_>,
    failure: VerifyFailure,
    name: Option<&str>,
) -> PyResult<PyErr> {
    let message = match (failure, name) {
        (VerifyFailure::HOSTNAME_MISMATCH, Some(name)) => {
            format!("Hostname mismatch, certificate is not valid for '{name}'.")
        }
        (VerifyFailure::IP_ADDRESS_MISMATCH, Some(name)) => {
            format!("IP address mismatch, certificate is not valid for '{name}'.")
        }
        _ => failure.message().to_owned(),
    };
    let exception = describe(
        imports::SSL_CERTIFICATE_ERROR.get(py)?,
        "CERTIFICATE_VERIFY_FAILED",
        &format!("certificate verify failed: {message}"),
    )?;
    exception.setattr(intern!(py, "verify_code"), failure.code())?;
    exception.setattr(intern!(py, "verify_message"), message)?;
    Ok(PyErr::from_value(exception))
}

fn describe<'py>(
    class: &Bound<'py, PyAny>,
    reason: &str,
    text: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    let exception = class.call1((SSL_ERROR_SSL, format!("[SSL: {reason}] {text} (rustls)")))?;
    exception.setattr(intern!(py, "library"), "SSL")?;
    exception.setattr(intern!(py, "reason"), reason)?;
    Ok(exception)
}
