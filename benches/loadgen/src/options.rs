//! The command line, parsed into a plan that can be run as it is.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lexopt::{Arg, Error, Parser, ValueExt};

use crate::exchange;
use crate::process::Process;
use crate::tls::TlsClient;

pub(crate) const USAGE: &str = "\
loadgen echo    --address IP:PORT [--size BYTES] [--lines] [--datagrams] [load options]
loadgen connect --address IP:PORT [--size BYTES] [load options]
loadgen http    --address IP:PORT [--target /] [load options]
loadgen download --address IP:PORT [--size BYTES] [load options]
loadgen idle    --address IP:PORT --server-pid PID [--connections N] [--hold SECONDS] [--tls FILE]
loadgen certificates --folder FOLDER

echo     messages to an echo server; with --lines each message is one line,
         with --datagrams one UDP datagram
connect  as echo, but every message has a connection of its own
http     HTTP/1.1 GET with keep-alive; every reply must have status 200
download  asks for so many bytes in 8 bytes, big-endian, and expects the alphabet again and again
idle     opens N connections, exchanges one message on each and holds them
certificates  makes an authority and a certificate for a server

load options:
  --connections N     connections at a time (1)
  --depth D           requests in flight on each connection (1)
  --seconds S         length of the measured window (3)
  --warm-up S         load before the window opens (0.5)
  --pause S           time between a reply and the next request (0), at most 1
  --requests M        instead of a window: exactly M requests, from the first connect on
  --tls FILE          speak TLS 1.3 and trust the certificates in FILE; with connect, every connection
                      begins with a full handshake
  --resume            with connect: every connection but the first ones takes up a session
  --server-pid PID    also measure this process's CPU time";

/// A pause must not look like a server that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the command line asks for.
pub(crate) enum Command {
    /// Print the usage.
    Help,
    /// Load an echo server with this message.
    Echo(Plan, Arc<[u8]>),
    /// Load an HTTP server with GETs of this target.
    Http(Plan, String),
    /// Load a server with requests for so many bytes.
    Download(Plan, usize),
    /// Make certificates in this folder.
    Certificates(PathBuf),
    /// Hold idle connections.
    Idle(IdlePlan),
}

/// How much load to put on which server.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    /// Whether a connection is a UDP socket instead of a TCP stream.
    pub(crate) datagrams: bool,
    /// Connections at a time; at least 1.
    pub(crate) connections: usize,
    /// Requests in flight on each connection; at least 1.
    pub(crate) depth: usize,
    /// Replies after which a connection is replaced by a new one; None: never.
    pub(crate) replies_per_connection: Option<u64>,
    /// Time between a reply and the next request; far shorter than a stall.
    pub(crate) pause: Duration,
    pub(crate) length: Length,
    pub(crate) server: Option<Process>,
    /// How to speak TLS, if that is to be done.
    pub(crate) tls: Option<Rc<TlsClient>>,
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// After a measured window, before which the server is warmed up.
    Window { warm_up: Duration, window: Duration },
    /// After exactly this many requests, all of them measured.
    Requests(u64),
}

/// How many connections to hold open, and for how long.
pub(crate) struct IdlePlan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u32,
    pub(crate) hold: Duration,
    pub(crate) server: Process,
    pub(crate) tls: Option<Rc<TlsClient>>,
}

/// The options as given, before they are checked against the command.
#[derive(Default)]
struct Given {
    address: Option<SocketAddr>,
    connections: Option<u32>,
    depth: Option<u32>,
    size: Option<u32>,
    lines: bool,
    datagrams: bool,
    target: Option<String>,
    seconds: Option<Duration>,
    warm_up: Option<Duration>,
    requests: Option<u64>,
    pause: Duration,
    hold: Option<Duration>,
    server: Option<Process>,
    tls: Option<PathBuf>,
    resume: bool,
    folder: Option<PathBuf>,
}

/// Parses a command line, program name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = Parser::from_iter(arguments);
    let mut command = None;
    let mut given = Given::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            Arg::Value(value) if command.is_none() => command = Some(value.string()?),
            Arg::Long("address") => given.address = Some(parser.value()?.parse()?),
            Arg::Long("connections") => given.connections = Some(positive(&mut parser)?),
            Arg::Long("depth") => given.depth = Some(positive(&mut parser)?),
            Arg::Long("size") => given.size = Some(positive(&mut parser)?),
            Arg::Long("lines") => given.lines = true,
            Arg::Long("datagrams") => given.datagrams = true,
            Arg::Long("target") => given.target = Some(parser.value()?.string()?),
            Arg::Long("seconds") => given.seconds = Some(seconds(&mut parser)?),
            Arg::Long("warm-up") => given.warm_up = Some(seconds(&mut parser)?),
            Arg::Long("requests") => given.requests = Some(positive(&mut parser)?.into()),
            Arg::Long("pause") => given.pause = seconds(&mut parser)?,
            Arg::Long("hold") => given.hold = Some(seconds(&mut parser)?),
            Arg::Long("server-pid") => {
                given.server = Some(Process { id: positive(&mut parser)? });
            }
            Arg::Long("tls") => given.tls = Some(parser.value()?.into()),
            Arg::Long("resume") => given.resume = true,
            Arg::Long("folder") => given.folder = Some(parser.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    match command.as_deref() {
        Some("echo") => Ok(Command::Echo(given.plan(None)?, given.message())),
        Some("connect") => Ok(Command::Echo(given.plan(Some(1))?, given.message())),
        Some("http") => {
            let target = given.target.clone().unwrap_or_else(|| "/".to_owned());
            Ok(Command::Http(given.plan(None)?, target))
        }
        Some("download") => {
            Ok(Command::Download(given.plan(None)?, usize_from(given.size.unwrap_or(1024))))
        }
        Some("certificates") => {
            Ok(Command::Certificates(given.folder.ok_or("--folder is missing")?))
        }
        Some("idle") => Ok(Command::Idle(given.idle_plan()?)),
        Some(other) => Err(format!("no command {other:?}\n\n{USAGE}").into()),
        None => Err(format!("no command\n\n{USAGE}").into()),
    }
}

impl Given {
    fn plan(&self, replies_per_connection: Option<u64>) -> Result<Plan, Error> {
        let length = match self.requests {
            Some(_) if self.seconds.is_some() || self.warm_up.is_some() => {
                return Err("--requests excludes --seconds and --warm-up".into());
            }
            Some(requests) => Length::Requests(requests),
            None => Length::Window {
                warm_up: self.warm_up.unwrap_or(Duration::from_millis(500)),
                window: self.seconds.unwrap_or(Duration::from_secs(3)),
            },
        };
        let depth = self.depth.unwrap_or(1);
        if replies_per_connection.is_some() && (depth > 1 || !self.pause.is_zero()) {
            return Err(
                "connect has one message for each connection: no --depth, no --pause".into()
            );
        }
        if replies_per_connection.is_some() && self.datagrams {
            return Err("a datagram has no connection of its own: no --datagrams".into());
        }
        if self.pause > LONGEST_PAUSE {
            return Err("--pause is at most 1 second".into());
        }
        if self.datagrams && self.tls.is_some() {
            return Err("there is no TLS on datagrams: no --tls".into());
        }
        if self.resume && replies_per_connection.is_none() {
            return Err("--resume is for connect: elsewhere, connections are not repeated".into());
        }
        Ok(Plan {
            address: self.address.ok_or("--address is missing")?,
            datagrams: self.datagrams,
            connections: usize_from(self.connections.unwrap_or(1)),
            depth: usize_from(depth),
            replies_per_connection,
            pause: self.pause,
            length,
            server: self.server,
            tls: self.tls_client()?,
        })
    }

    fn tls_client(&self) -> Result<Option<Rc<TlsClient>>, Error> {
        let Some(roots) = &self.tls else {
            return if self.resume { Err("--resume is for --tls".into()) } else { Ok(None) };
        };
        let client = TlsClient::new(roots, self.resume);
        let client = client.map_err(|error| format!("{}: {error}", roots.display()))?;
        Ok(Some(Rc::new(client)))
    }

    fn message(&self) -> Arc<[u8]> {
        exchange::message(usize_from(self.size.unwrap_or(1024)), self.lines)
    }

    fn idle_plan(&self) -> Result<IdlePlan, Error> {
        Ok(IdlePlan {
            address: self.address.ok_or("--address is missing")?,
            connections: self.connections.unwrap_or(1000),
            hold: self.hold.unwrap_or_default(),
            server: self.server.ok_or("idle measures a process: --server-pid is missing")?,
            tls: self.tls_client()?,
        })
    }
}

fn positive(parser: &mut Parser) -> Result<u32, Error> {
    let number: NonZero<u32> = parser.value()?.parse()?;
    Ok(number.get())
}

fn seconds(parser: &mut Parser) -> Result<Duration, Error> {
    parser.value()?.parse_with(|text| {
        let number = text.parse::<f64>().map_err(|error| error.to_string())?;
        Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
    })
}

/// Widens a count. The platforms that have /proc/PID/schedstat have at least 32-bit addresses.
fn usize_from(count: u32) -> usize {
    usize::try_from(count).expect("usize has at least 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, Error> {
        let words = ["loadgen"].into_iter().chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    #[test]
    fn an_echo_is_a_window_on_one_connection_unless_asked_otherwise() {
        let Ok(Command::Echo(plan, message)) = parse_line("echo --address 127.0.0.1:7") else {
            panic!("not an echo");
        };
        assert_eq!((plan.connections, plan.depth, message.len()), (1, 1, 1024));
        assert!(matches!(plan.length, Length::Window { .. }));
    }

    #[test]
    fn a_count_has_no_window() {
        let line = "echo --address 127.0.0.1:7 --requests 9";
        assert!(parse_line(line).is_ok());
        assert!(parse_line(&format!("{line} --seconds 1")).is_err());
    }

    #[test]
    fn zero_connections_and_negative_times_are_refused() {
        assert!(parse_line("echo --address 127.0.0.1:7 --connections 0").is_err());
        assert!(parse_line("echo --address 127.0.0.1:7 --seconds=-1").is_err());
    }

    #[test]
    fn a_pause_is_short_and_between_messages_of_one_connection() {
        let rest = "--address 127.0.0.1:7 --pause";
        assert!(parse_line(&format!("echo {rest} 0.5")).is_ok());
        assert!(parse_line(&format!("echo {rest} 1.5")).is_err());
        assert!(parse_line(&format!("connect {rest} 0.5")).is_err());
    }

    #[test]
    fn datagrams_are_echoed_without_connections() {
        let rest = "--address 127.0.0.1:7 --datagrams";
        assert!(parse_line(&format!("echo {rest}")).is_ok());
        assert!(parse_line(&format!("connect {rest}")).is_err());
    }

    #[test]
    fn sessions_are_taken_up_by_repeated_connections_with_tls() {
        let rest = "--address 127.0.0.1:7 --resume";
        assert!(parse_line(&format!("connect {rest}")).is_err());
        assert!(parse_line(&format!("echo {rest} --tls root.pem")).is_err());
        assert!(parse_line("echo --address 127.0.0.1:7 --tls /no/such/file.pem").is_err());
    }

    #[test]
    fn idle_needs_a_process_to_measure() {
        assert!(parse_line("idle --address 127.0.0.1:7").is_err());
        assert!(parse_line("idle --address 127.0.0.1:7 --server-pid 1").is_ok());
    }
}
