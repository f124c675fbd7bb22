//! What is said on a connection: the request, and when a reply is complete and right.
//!
//! Pure: bytes in, counts out. The engine in `load` asks for the request's bytes and hands over
//! whatever it received, in chunks of any size.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A conversation in which every request is the same bytes and every request has one reply.
pub(crate) trait Exchange {
    /// The bytes of one request.
    fn request(&self) -> &Arc<[u8]>;

    /// Takes received bytes and returns how many replies they completed.
    fn receive(&mut self, bytes: &[u8]) -> Result<u64, WrongReply>;
}

/// The server's answer was not the one asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WrongReply {
    /// An echoed byte differs from the one sent.
    Differs,
    /// The HTTP status is not 200.
    Status(String),
    /// The HTTP head is not one that this client understands.
    Head(&'static str),
}

impl fmt::Display for WrongReply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs => write!(formatter, "the echo differs from what was sent"),
            Self::Status(line) => write!(formatter, "the server answered {line:?}"),
            Self::Head(reason) => write!(formatter, "unreadable HTTP response: {reason}"),
        }
    }
}

impl std::error::Error for WrongReply {}

/// Builds a message of `size` bytes for an echo server; with `line`, its last byte is its only
/// newline.
pub(crate) fn message(size: usize, line: bool) -> Arc<[u8]> {
    // The alphabet's 26 does not divide a power of two: a chunk that is repeated or lost shows.
    let mut bytes: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
    if line && let Some(last) = bytes.last_mut() {
        *last = b'\n';
    }
    bytes.into()
}

/// The server sends back what it gets.
#[derive(Debug)]
pub(crate) struct Echo {
    message: Arc<[u8]>,
    /// Bytes of the current reply that have come. Invariant: less than `message.len()`.
    received: usize,
}

impl Echo {
    /// Starts a conversation of `message`, which must not be empty.
    pub(crate) fn new(message: Arc<[u8]>) -> Self {
        assert!(!message.is_empty(), "an empty message has no echo");
        Self { message, received: 0 }
    }
}

impl Exchange for Echo {
    fn request(&self) -> &Arc<[u8]> {
        &self.message
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<u64, WrongReply> {
        let mut complete = 0;
        while !bytes.is_empty() {
            let expected = &self.message[self.received..];
            let length = expected.len().min(bytes.len());
            let (now, later) = bytes.split_at(length);
            if now != &expected[..length] {
                return Err(WrongReply::Differs);
            }
            bytes = later;
            self.received += length;
            if self.received == self.message.len() {
                self.received = 0;
                complete += 1;
            }
        }
        Ok(complete)
    }
}

/// The server sends the alphabet again and again, as many bytes as it is asked for.
#[derive(Debug)]
pub(crate) struct Download {
    request: Arc<[u8]>,
    length: usize,
    /// Bytes of the current reply that have come. Invariant: less than `length`.
    received: usize,
    /// The alphabet, repeated beyond what is compared at a time.
    pattern: Vec<u8>,
}

/// The letters of the alphabet.
const LETTERS: usize = 26;

/// How much of a download is compared at a time, in bytes.
const COMPARED: usize = 16 * 1024;

impl Download {
    /// Starts a conversation of requests for `length` bytes, of which there must be some.
    pub(crate) fn new(length: usize) -> Self {
        assert!(length > 0, "nothing cannot be awaited");
        let pattern = (b'a'..=b'z').cycle().take(COMPARED + LETTERS).collect();
        Self {
            request: (length as u64).to_be_bytes().as_slice().into(),
            length,
            received: 0,
            pattern,
        }
    }
}

impl Exchange for Download {
    fn request(&self) -> &Arc<[u8]> {
        &self.request
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<u64, WrongReply> {
        let mut complete = 0;
        while !bytes.is_empty() {
            let left = self.length - self.received;
            let (now, later) = bytes.split_at(bytes.len().min(left).min(COMPARED));
            let letter = self.received % LETTERS;
            if *now != self.pattern[letter..][..now.len()] {
                return Err(WrongReply::Differs);
            }
            bytes = later;
            self.received += now.len();
            if self.received == self.length {
                self.received = 0;
                complete += 1;
            }
        }
        Ok(complete)
    }
}

/// HTTP/1.1 GET with keep-alive; a reply is complete when its Content-Length has come.
#[derive(Debug)]
pub(crate) struct HttpGet {
    request: Arc<[u8]>,
    /// The head that is being received; empty while a body is.
    head: Vec<u8>,
    /// Bytes of the body still to come; None while a head is being received.
    body_left: Option<usize>,
}

/// The longest response head that is accepted, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

impl HttpGet {
    /// Starts a conversation of GETs for `target` at `address`.
    pub(crate) fn new(address: SocketAddr, target: &str) -> Self {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
        Self { request: request.into_bytes().into(), head: Vec::new(), body_left: None }
    }

    /// Takes bytes of the head; returns the rest of them once the head is whole.
    fn receive_head<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, WrongReply> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let search_from = before.saturating_sub(END.len() - 1);
        let found = self.head[search_from..].windows(END.len()).position(|window| window == END);
        let Some(position) = found else {
            if self.head.len() > HEAD_LIMIT {
                return Err(WrongReply::Head("the head is too long"));
            }
            return Ok(None);
        };
        let end = search_from + position + END.len();
        self.body_left = Some(content_length(&self.head[..end])?);
        self.head.clear();
        Ok(Some(&bytes[end - before..]))
    }
}

impl Exchange for HttpGet {
    fn request(&self) -> &Arc<[u8]> {
        &self.request
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<u64, WrongReply> {
        let mut complete = 0;
        loop {
            let left = match self.body_left {
                Some(left) => left,
                None if bytes.is_empty() => return Ok(complete),
                None => match self.receive_head(bytes)? {
                    None => return Ok(complete),
                    Some(rest) => {
                        bytes = rest;
                        continue;
                    }
                },
            };
            if left > bytes.len() {
                self.body_left = Some(left - bytes.len());
                return Ok(complete);
            }
            bytes = &bytes[left..];
            self.body_left = None;
            complete += 1;
        }
    }
}

/// Returns the Content-Length of a whole response head whose status is 200.
fn content_length(head: &[u8]) -> Result<usize, WrongReply> {
    let head = str::from_utf8(head).map_err(|_| WrongReply::Head("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(WrongReply::Status(status.to_owned()));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or(WrongReply::Head("no Content-Length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    fn get() -> HttpGet {
        HttpGet::new(SocketAddr::from(([127, 0, 0, 1], 80)), "/")
    }

    #[test]
    fn an_echo_is_counted_whatever_the_chunks_are() {
        let sent = message(100, false);
        let stream: Vec<u8> = sent.iter().copied().cycle().take(1000).collect();
        for chunk in [1, 7, 100, 333, 1000] {
            let mut echo = Echo::new(sent.clone());
            let counts = stream.chunks(chunk).map(|bytes| echo.receive(bytes).unwrap());
            assert_eq!(counts.sum::<u64>(), 10, "in chunks of {chunk}");
        }
    }

    #[test]
    fn an_echo_with_a_lost_byte_is_wrong() {
        let mut echo = Echo::new(message(64, true));
        assert_eq!(echo.receive(b"abd"), Err(WrongReply::Differs));
    }

    #[test]
    fn a_download_is_counted_whatever_the_chunks_are() {
        let reply: Vec<u8> = (b'a'..=b'z').cycle().take(40_000).collect();
        let stream = reply.repeat(3);
        for chunk in [1, 25, 39_999, 120_000] {
            let mut download = Download::new(40_000);
            let counts = stream.chunks(chunk).map(|bytes| download.receive(bytes).unwrap());
            assert_eq!(counts.sum::<u64>(), 3, "in chunks of {chunk}");
        }
        assert_eq!(Download::new(40_000).receive(b"abd"), Err(WrongReply::Differs));
    }

    #[test]
    fn a_line_ends_in_its_only_newline() {
        let line = message(64, true);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(63));
    }

    #[test]
    fn responses_are_counted_whatever_the_chunks_are() {
        let stream = RESPONSE.repeat(3);
        for chunk in 1..=stream.len() {
            let mut get = get();
            let counts = stream.chunks(chunk).map(|bytes| get.receive(bytes).unwrap());
            assert_eq!(counts.sum::<u64>(), 3, "in chunks of {chunk}");
        }
    }

    #[test]
    fn an_empty_body_completes_a_response() {
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length:0\r\n\r\n";
        assert_eq!(get().receive(reply), Ok(1));
    }

    #[test]
    fn a_status_other_than_200_is_wrong() {
        let status = "HTTP/1.1 500 Internal Server Error";
        let reply = format!("{status}\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(get().receive(reply.as_bytes()), Err(WrongReply::Status(status.to_owned())));
    }

    #[test]
    fn a_response_without_length_is_refused() {
        let reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(get().receive(reply), Err(WrongReply::Head("no Content-Length")));
    }
}
