//! Datagram sockets: how a transport's datagrams become system calls.
//!
//! The socket is registered for reading only. A datagram socket that is also registered for writing
//! fires whenever the other side has consumed something of it, which costs a wake-up per datagram;
//! so room is asked for only while something is queued, by registering anew.
//!
//! A failure, such as an ICMP refusal, fires a write event on Linux: see [`Registration::arm_failure`].
//! On macOS it fires a read event, and the receipt tells how.

use crate::runtime::registration::{Armed, Event, Registration};
use crate::runtime::sys;
use crate::runtime::sys::datagrams::{BATCH, Buffers};
use crate::runtime::sys::sockets::SEND;
use rustix::io::Errno;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, RawFd};
use tokio::io::Interest;

/// The kinds of datagram socket that are received from natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// The family with this number, if it is one of ours.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        match number {
            libc::AF_INET => Some(Self::Inet),
            libc::AF_INET6 => Some(Self::Inet6),
            libc::AF_UNIX => Some(Self::Unix),
            _ => None,
        }
    }
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The sender has none.
    Unnamed,
    Inet(SocketAddrV4),
    Inet6(SocketAddrV6),
    /// `sun_path` as the kernel gave it: a path with the NUL that ends it, or an abstract name.
    Unix(Box<[u8]>),
}

impl Address {
    /// Reads the `sockaddr` of a socket of `family`.
    pub(crate) fn from_bytes(family: Family, name: &[u8]) -> Self {
        match (family, name) {
            (Family::Inet, &[_, _, port_high, port_low, first, second, third, fourth, ..]) => {
                let port = u16::from_be_bytes([port_high, port_low]);
                Self::Inet(SocketAddrV4::new([first, second, third, fourth].into(), port))
            }
            (Family::Inet6, name) if name.len() >= 28 => {
                let port = u16::from_be_bytes([name[2], name[3]]);
                let flow = u32::from_be_bytes([name[4], name[5], name[6], name[7]]);
                let scope = u32::from_ne_bytes([name[24], name[25], name[26], name[27]]);
                let mut octets = [0; 16];
                octets.copy_from_slice(&name[8..24]);
                Self::Inet6(SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope))
            }
            (Family::Unix, name) if !name.is_empty() => {
                Self::Unix(name.get(2..).unwrap_or_default().into())
            }
            _ => Self::Unnamed,
        }
    }
}

/// What a receipt found.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// So many datagrams; an event follows when there are more.
    All(usize),
    /// So many datagrams, maybe none, and there may be more, for which no event comes.
    More(usize),
}

/// A datagram socket. It sends before it is registered, too.
pub(crate) struct DatagramSocket {
    fd: RawFd,
    generation: u64,
    registration: Option<Registration>,
    /// Registered for writing as well.
    awaits_room: bool,
}

impl DatagramSocket {
    pub(crate) fn new(fd: RawFd, generation: u64) -> Self {
        Self { fd, generation, registration: None, awaits_room: false }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// Asks for a read event, and registers the socket first if it is not. Returns the event if there
    /// is something to read already. The caller has entered the runtime.
    pub(crate) fn start_reading(&mut self) -> io::Result<Option<Event>> {
        if self.registration.is_none() {
            self.renew(false)?;
        }
        Ok(self.arm_read())
    }

    /// Asks for a read event; returns it if there is something to read already.
    pub(crate) fn arm_read(&self) -> Option<Event> {
        let registration = self.registration.as_ref()?;
        match registration.arm_read() {
            Armed::Waiting => None,
            Armed::Ready => Some(registration.read_event()),
        }
    }

    /// Receives into `buffers`. Called for an event only.
    pub(crate) fn receive(&self, buffers: &mut Buffers) -> io::Result<Receipt> {
        let Some(registration) = &self.registration else {
            return Ok(Receipt::All(0));
        };
        let received = match buffers.receive(registration.io().as_fd()) {
            Ok(received) => received,
            Err(Errno::AGAIN) => 0,
            Err(Errno::INTR) => return Ok(Receipt::More(0)),
            Err(error) => return Err(error.into()),
        };
        if received < BATCH && registration.drained() == Armed::Waiting {
            Ok(Receipt::All(received))
        } else {
            Ok(Receipt::More(received))
        }
    }

    /// Sends a datagram to `address`, or to where the socket is connected. Returns false if there is
    /// no room for it.
    pub(crate) fn send(&self, data: &[u8], address: Option<&Address>) -> io::Result<bool> {
        let sent = sys::with_descriptor(self.fd, |socket| match address {
            Some(Address::Inet(address)) => rustix::net::sendto(socket, data, SEND, address),
            Some(Address::Inet6(address)) => rustix::net::sendto(socket, data, SEND, address),
            Some(Address::Unix(_) | Address::Unnamed) => Err(Errno::DESTADDRREQ),
            None => rustix::net::send(socket, data, SEND),
        })?;
        match sent {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a write event once the socket, which was just found full, has room. The caller has
    /// entered the runtime. Returns true if the socket has failed: then a receipt tells how.
    pub(crate) fn await_room(&mut self) -> io::Result<bool> {
        let failed = self.has_failed()?;
        if failed || !self.awaits_room {
            self.renew(true)?;
        }
        Ok(failed)
    }

    /// Goes back to events of reading and of failures only, after a write event whose work is done.
    /// The caller has entered the runtime. Returns true if the socket has failed: then a receipt
    /// tells how.
    pub(crate) fn rest(&mut self) -> io::Result<bool> {
        let failed = self.has_failed()?;
        if failed || self.awaits_room {
            self.renew(false)?;
        }
        Ok(failed)
    }

    /// Asks for write events, unless tokio remembers a failure.
    fn has_failed(&self) -> io::Result<bool> {
        match &self.registration {
            Some(registration) => Ok(!registration.arm_failure()?),
            None => Ok(false),
        }
    }

    fn renew(&mut self, awaits_room: bool) -> io::Result<()> {
        let writing = if awaits_room { Interest::WRITABLE } else { Interest::READABLE };
        let interest = Interest::READABLE | writing;
        let registration = match self.registration.take() {
            None => Registration::new(self.fd, self.generation, interest)?,
            Some(mut registration) => {
                registration.renew(interest)?;
                registration
            }
        };
        // A fresh registration knows of nothing yet, so both are waited for.
        let (_, _) = (registration.arm_read(), registration.arm_failure()?);
        self.registration = Some(registration);
        self.awaits_room = awaits_room;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let name = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let expected = Address::Inet("127.0.0.1:8080".parse().unwrap());
        assert_eq!(Address::from_bytes(Family::Inet, &name), expected);
        let mut name = [0; 28];
        name[3] = 9;
        name[7] = 5;
        name[23] = 1;
        name[24..28].copy_from_slice(&3_u32.to_ne_bytes());
        let expected = Address::Inet6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 5, 3));
        assert_eq!(Address::from_bytes(Family::Inet6, &name), expected);
        let expected = Address::Unix(b"\0abstract".as_slice().into());
        assert_eq!(Address::from_bytes(Family::Unix, b"\x01\0\0abstract"), expected);
    }

    #[test]
    fn a_sender_without_a_name_has_none() {
        for family in [Family::Inet, Family::Inet6, Family::Unix] {
            assert_eq!(Address::from_bytes(family, b""), Address::Unnamed);
        }
    }
}
