//! Idle connections: what one costs the server in memory, and what many cost it in CPU time.
//!
//! Each connection exchanges one message first: only then is it certain that the server has
//! accepted it and holds all that a connection in use holds.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConnection, StreamOwned};
use serde::Serialize;

use crate::options::IdlePlan;
use crate::tls::{Agreed, TlsClient};

/// Without a reply for this long, the server counts as hung.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

const MESSAGE: &[u8] = b"present\n";

/// What idle connections cost.
#[derive(Debug, Serialize)]
pub(crate) struct IdleReport {
    connections: u32,
    /// Resident set of the server with the first half of the connections.
    resident_bytes_with_half: u64,
    /// Resident set of the server with all of them.
    resident_bytes_with_all: u64,
    bytes_per_connection: u64,
    hold_seconds: f64,
    /// CPU time that the server used while nothing happened on any connection.
    server_cpu_ns_while_idle: u64,
    tls: Option<Agreed>,
}

/// Opens the connections, holds them, and reads the server's memory and CPU clock around that.
///
/// The cost of one is the growth over the second half: the first fills what the start of the
/// interpreter left free, and a garbage collection on the way may even shrink the process.
pub(crate) fn run(plan: &IdlePlan) -> io::Result<IdleReport> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised)?;
    let half = plan.connections.div_ceil(2);
    let first = open_many(plan, half)?;
    let with_half = plan.server.resident_bytes()?;
    let second = open_many(plan, half)?;
    let with_all = plan.server.resident_bytes()?;
    let cpu_before = plan.server.cpu_time()?;
    #[expect(clippy::disallowed_methods, reason = "the pause is what is measured")]
    thread::sleep(plan.hold);
    let idle = plan.server.cpu_time()?.since(cpu_before);
    for connection in first.into_iter().chain(second) {
        if let Held::Tls(mut stream) = connection {
            stream.conn.send_close_notify();
            stream.flush()?;
        }
    }
    let at_once = usize::try_from(plan.connections).unwrap_or(usize::MAX);
    let agreed = plan.tls.as_ref().map(|client| client.agreed(at_once)).transpose()?;
    Ok(IdleReport {
        connections: 2 * half,
        resident_bytes_with_half: with_half,
        resident_bytes_with_all: with_all,
        bytes_per_connection: with_all.saturating_sub(with_half) / u64::from(half),
        hold_seconds: plan.hold.as_secs_f64(),
        server_cpu_ns_while_idle: u64::try_from(idle.on_core.as_nanos()).unwrap_or(u64::MAX),
        tls: agreed,
    })
}

fn open_many(plan: &IdlePlan, count: u32) -> io::Result<Vec<Held>> {
    (0..count).map(|_| open(plan)).collect()
}

/// An open connection.
enum Held {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Opens one connection and exchanges one message on it.
fn open(plan: &IdlePlan) -> io::Result<Held> {
    let stream = TcpStream::connect(plan.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_WITHIN))?;
    let mut held = match &plan.tls {
        None => Held::Plain(stream),
        Some(client) => {
            let name = TlsClient::server_name();
            let session = ClientConnection::new(client.config.clone(), name);
            let session = session.map_err(io::Error::other)?;
            Held::Tls(Box::new(StreamOwned::new(session, stream)))
        }
    };
    match &mut held {
        Held::Plain(stream) => exchange(stream)?,
        Held::Tls(stream) => {
            exchange(stream)?;
            if let Some(client) = &plan.tls {
                client.note(&stream.conn)?;
            }
        }
    }
    Ok(held)
}

fn exchange(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(MESSAGE)?;
    let mut reply = [0; MESSAGE.len()];
    stream.read_exact(&mut reply)?;
    if reply != *MESSAGE {
        return Err(io::Error::other("the echo differs from what was sent"));
    }
    Ok(())
}
