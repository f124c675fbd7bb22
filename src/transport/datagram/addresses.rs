//! Addresses as Python's socket module has them.

use crate::py::imports;
use crate::runtime::datagram::{Address, Family};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use std::ffi::{CStr, OsStr};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;

/// The largest flow label that Python accepts.
const MAX_FLOW_INFO: u32 = 0xf_ffff;

/// The longest text of an IP address, in bytes.
const MAX_TEXT: usize = 48;

/// What `socket.recvfrom()` returns for the sender `address`.
pub(super) fn to_python<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    match address {
        Address::Unnamed => Ok(py.None().into_bound(py)),
        Address::Inet(address) => {
            let host = text(py, *address.ip());
            Ok((host, address.port()).into_pyobject(py)?.into_any())
        }
        Address::Inet6(address) => {
            let ip = *address.ip();
            let host = if ip.segments()[..5] == [0; 5] {
                // The C library has rules of its own for addresses that embed one of IPv4.
                let family = libc::AF_INET6;
                imports::INET_NTOP.get(py)?.call1((family, PyBytes::new(py, &ip.octets())))?
            } else {
                text(py, ip).into_any()
            };
            let address = (host, address.port(), address.flowinfo(), address.scope_id());
            Ok(address.into_pyobject(py)?.into_any())
        }
        Address::Unix(name) if cfg!(target_os = "linux") && name.first() == Some(&0) => {
            Ok(PyBytes::new(py, name).into_any())
        }
        Address::Unix(name) => {
            let path = CStr::from_bytes_until_nul(name).map_or(&**name, CStr::to_bytes);
            Ok(OsStr::from_bytes(path).into_pyobject(py)?.into_any())
        }
    }
}

fn text(py: Python<'_>, address: impl std::fmt::Display) -> Bound<'_, PyString> {
    let mut buffer = [0; MAX_TEXT];
    let mut rest = buffer.as_mut_slice();
    write!(rest, "{address}").expect("an IP address is shorter");
    let unused = rest.len();
    let written = &buffer[..MAX_TEXT - unused];
    PyString::new(py, std::str::from_utf8(written).expect("an IP address is ASCII"))
}

/// The address that `object` is, if it is a numeric one: anything else is for Python to resolve or
/// to refuse. Runs no Python code.
pub(super) fn from_python(family: Family, object: &Bound<'_, PyAny>) -> Option<Address> {
    let parts = object.cast_exact::<PyTuple>().ok()?;
    let host = parts.get_borrowed_item(0).ok()?;
    let host = host.cast_exact::<PyString>().ok()?;
    let host = host.to_str().ok()?;
    match (family, parts.len()) {
        (Family::Inet, 2) => {
            let ip = host.parse::<Ipv4Addr>().ok()?;
            Some(Address::Inet(SocketAddrV4::new(ip, number(parts, 1)?.try_into().ok()?)))
        }
        (Family::Inet6, length @ 2..=4) => {
            let ip = host.parse::<Ipv6Addr>().ok()?;
            let port = number(parts, 1)?.try_into().ok()?;
            let flow = if length > 2 { number(parts, 2)? } else { 0 };
            let scope = if length > 3 { number(parts, 3)? } else { 0 };
            (flow <= MAX_FLOW_INFO)
                .then(|| Address::Inet6(SocketAddrV6::new(ip, port, flow, scope)))
        }
        _ => None,
    }
}

fn number(parts: &Bound<'_, PyTuple>, index: usize) -> Option<u32> {
    let part = parts.get_borrowed_item(index).ok()?;
    part.cast_exact::<PyInt>().ok()?.extract().ok()
}
