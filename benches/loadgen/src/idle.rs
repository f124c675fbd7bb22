//! Idle connections: what one costs the server in memory, and what many cost it in CPU time.
//!
//! Each connection exchanges one message first: only then is it certain that the server has
//! accepted it and holds all that a connection in use holds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::options::IdlePlan;

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
    let first = open_many(plan.address, half)?;
    let with_half = plan.server.resident_bytes()?;
    let second = open_many(plan.address, half)?;
    let with_all = plan.server.resident_bytes()?;
    let cpu_before = plan.server.cpu_time()?;
    #[expect(clippy::disallowed_methods, reason = "the pause is what is measured")]
    thread::sleep(plan.hold);
    let idle = plan.server.cpu_time()?.since(cpu_before);
    drop((first, second));
    Ok(IdleReport {
        connections: 2 * half,
        resident_bytes_with_half: with_half,
        resident_bytes_with_all: with_all,
        bytes_per_connection: with_all.saturating_sub(with_half) / u64::from(half),
        hold_seconds: plan.hold.as_secs_f64(),
        server_cpu_ns_while_idle: u64::try_from(idle.on_core.as_nanos()).unwrap_or(u64::MAX),
    })
}

fn open_many(address: SocketAddr, count: u32) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| open(address)).collect()
}

/// Opens one connection and exchanges one message on it.
fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_WITHIN))?;
    stream.write_all(MESSAGE)?;
    let mut reply = [0; MESSAGE.len()];
    stream.read_exact(&mut reply)?;
    if reply != *MESSAGE {
        return Err(io::Error::other("the echo differs from what was sent"));
    }
    Ok(stream)
}
