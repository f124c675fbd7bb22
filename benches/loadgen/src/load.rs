//! The engine: keeps a fixed number of requests in flight on a fixed number of connections.
//!
//! # Theory of operation
//!
//! A closed loop: a connection sends its next request when a reply has come (or a pause after that
//! is over), so the server sets the pace and a latency is the time from queueing a request to its last byte. (The latency of a
//! server that falls behind an outside rate is another question, not answered here.)
//!
//! A run is three phases: the warm-up, in which nothing is counted; the window; and the drain, in
//! which no new request starts and every reply still due is awaited, so that the server sees an
//! orderly end. A run by count is all window. The server's CPU clock is read as the window opens
//! and as it shuts.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};
use std::{error, fmt};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use crate::connection::{Connection, Wire};
use crate::exchange::{Exchange, WrongReply};
use crate::options::{Length, Plan};
use crate::process::CpuTime;
use crate::tls::TlsStream;

/// Without one reply for this long, the server counts as hung.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The longest latency that is told apart, in nanoseconds: no run waits longer for a reply.
const LONGEST_LATENCY: u64 = 2 * 1_000_000_000 * STALLED_AFTER.as_secs();

/// Bytes asked for in one read.
const READ_SIZE: usize = 256 * 1024;

/// What a run found out.
#[derive(Debug)]
pub(crate) struct Run {
    /// Replies that came within the window.
    pub(crate) replies: u64,
    /// Length of the window.
    pub(crate) elapsed: Duration,
    /// Latency of those replies, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The server's CPU time within the window, if the plan names the server.
    pub(crate) cpu: Option<CpuTime>,
}

/// Why a run has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered wrongly.
    Reply(WrongReply),
    /// The server closed a connection that had requests in flight or could have had.
    Closed,
    /// No reply came for `STALLED_AFTER`.
    Stalled,
    /// The system refused; what was being done, and why.
    System(&'static str, io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => reply.fmt(formatter),
            Self::Closed => write!(formatter, "the server closed a connection"),
            Self::Stalled => {
                write!(formatter, "no reply for {} seconds", STALLED_AFTER.as_secs())
            }
            Self::System(doing, error) => write!(formatter, "{doing}: {error}"),
        }
    }
}

impl error::Error for Failure {}

/// Names what was being done when the system refused.
fn while_doing(doing: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System(doing, error)
}

/// Loads the server as `plan` says; each connection holds the conversation that `make` returns.
pub(crate) fn run<E: Exchange>(plan: &Plan, make: impl Fn() -> E) -> Result<Run, Failure> {
    Engine::new(plan, make)?.run()
}

/// Where a run stands, with the moment at which it moves on.
#[derive(Debug, Clone, Copy)]
enum Phase {
    WarmUp { until: Instant },
    Window { opened: Instant, cpu: CpuTime, shuts: Option<Instant> },
    Drain,
}

struct Engine<'a, E, M> {
    plan: &'a Plan,
    make: M,
    poll: Poll,
    connections: Vec<Connection<E>>,
    buffer: Vec<u8>,
    phase: Phase,
    quota: Quota,
    /// Connections that pause, by when they go on: soonest first, as all pauses are equally long.
    pausing: VecDeque<(Instant, usize)>,
    run: Run,
}

/// Counts the requests of all connections together.
struct Quota {
    /// Requests that may still start.
    allowance: u64,
    in_flight: u64,
}

impl Quota {
    /// Queues one more request on `connection`, if one may still start.
    fn start_request<E: Exchange>(&mut self, connection: &mut Connection<E>) {
        if self.allowance > 0 {
            self.allowance -= 1;
            self.in_flight += 1;
            connection.queue_request();
        }
    }
}

impl<'a, E: Exchange, M: Fn() -> E> Engine<'a, E, M> {
    fn new(plan: &'a Plan, make: M) -> Result<Self, Failure> {
        let poll = Poll::new().map_err(while_doing("making a poll"))?;
        let now = Instant::now();
        let (phase, allowance) = match plan.length {
            Length::Window { warm_up, .. } => (Phase::WarmUp { until: now + warm_up }, u64::MAX),
            Length::Requests(requests) => {
                (Phase::Window { opened: now, cpu: cpu_time(plan)?, shuts: None }, requests)
            }
        };
        let latency =
            Histogram::new_with_bounds(1, LONGEST_LATENCY, 3).expect("bounds are in order");
        Ok(Self {
            plan,
            make,
            poll,
            connections: Vec::new(),
            buffer: vec![0; READ_SIZE],
            phase,
            quota: Quota { allowance, in_flight: 0 },
            pausing: VecDeque::new(),
            run: Run { replies: 0, elapsed: Duration::ZERO, latency, cpu: None },
        })
    }

    fn run(mut self) -> Result<Run, Failure> {
        for index in 0..self.plan.connections {
            let connection = self.open(Token(index))?;
            self.connections.push(connection);
        }
        let mut events = Events::with_capacity(1024);
        let mut last_reply = Instant::now();
        while !matches!(self.phase, Phase::Drain) || self.quota.in_flight > 0 {
            let wait = self.next_deadline(last_reply).saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(while_doing("waiting for events"))?,
            }
            for event in &events {
                if self.serve(event)? > 0 {
                    last_reply = Instant::now();
                }
            }
            let now = Instant::now();
            if now >= last_reply + STALLED_AFTER {
                return Err(Failure::Stalled);
            }
            self.advance(now)?;
            self.end_pauses(now)?;
        }
        for index in 0..self.connections.len() {
            self.close(index)?;
        }
        Ok(self.run)
    }

    /// The moment at which the engine must look up even if no event comes.
    fn next_deadline(&self, last_reply: Instant) -> Instant {
        let stalled = last_reply + STALLED_AFTER;
        let resumed = self.pausing.front().map_or(stalled, |(until, _)| *until);
        match self.phase {
            Phase::WarmUp { until } | Phase::Window { shuts: Some(until), .. } => {
                until.min(stalled).min(resumed)
            }
            Phase::Window { shuts: None, .. } | Phase::Drain => stalled.min(resumed),
        }
    }

    /// Starts the next request of each connection whose pause is over.
    fn end_pauses(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some((_, index)) = self.pausing.pop_front_if(|(until, _)| *until <= now) {
            let connection = &mut self.connections[index];
            self.quota.start_request(connection);
            connection.send().map_err(while_doing("sending"))?;
        }
        Ok(())
    }

    /// Moves to the next phase if its moment has come.
    fn advance(&mut self, now: Instant) -> Result<(), Failure> {
        match (self.phase, self.plan.length) {
            (Phase::WarmUp { until }, Length::Window { window, .. }) if now >= until => {
                let cpu = cpu_time(self.plan)?;
                // The reading takes time of its own: the window opens after it.
                let opened = Instant::now();
                self.phase = Phase::Window { opened, cpu, shuts: Some(opened + window) };
            }
            (Phase::Window { opened, cpu, shuts }, _) => {
                let over = match shuts {
                    Some(shuts) => now >= shuts,
                    None => self.quota.allowance == 0 && self.quota.in_flight == 0,
                };
                if over {
                    self.run.elapsed = opened.elapsed();
                    self.run.cpu = self.plan.server.map(|_| cpu_time(self.plan)).transpose()?;
                    self.run.cpu = self.run.cpu.map(|used| used.since(cpu));
                    self.quota.allowance = 0;
                    self.phase = Phase::Drain;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Opens a connection and queues its first requests.
    fn open(&mut self, token: Token) -> Result<Connection<E>, Failure> {
        let address = self.plan.address;
        let wire = match &self.plan.tls {
            Some(client) => TlsStream::connect(client, address).map(Box::new).map(Wire::Tls),
            None if self.plan.datagrams => Wire::datagrams(address),
            None => Wire::stream(address),
        };
        let mut wire = wire.map_err(while_doing("connecting"))?;
        self.poll
            .registry()
            .register(wire.source(), token, Interest::READABLE | Interest::WRITABLE)
            .map_err(while_doing("registering a connection"))?;
        let mut connection = Connection::new(wire, (self.make)(), self.plan.depth);
        for _ in 0..self.plan.depth {
            self.quota.start_request(&mut connection);
        }
        Ok(connection)
    }

    /// Handles one event and returns how many replies it completed.
    fn serve(&mut self, event: &Event) -> Result<u64, Failure> {
        let index = event.token().0;
        let mut replies = 0;
        if event.is_readable() || event.is_error() || event.is_read_closed() {
            replies = self.receive(index)?;
        }
        let finished = self.plan.replies_per_connection.is_some_and(|limit| {
            self.connections[index].replies >= limit && self.quota.allowance > 0
        });
        if finished {
            self.close(index)?;
            self.connections[index] = self.open(event.token())?;
        } else {
            // There is something to send after a reply, a handshake, or when there is room again.
            self.connections[index].send().map_err(while_doing("sending"))?;
        }
        Ok(replies)
    }

    /// Ends a connection in an orderly way.
    fn close(&mut self, index: usize) -> Result<(), Failure> {
        self.connections[index].wire.close().map_err(while_doing("closing"))
    }

    /// Reads what has come on a connection and queues a request for each reply in it.
    fn receive(&mut self, index: usize) -> Result<u64, Failure> {
        let mut replies = 0;
        loop {
            let connection = &mut self.connections[index];
            let length = match connection.wire.receive(&mut self.buffer) {
                Ok(0) => return Err(Failure::Closed),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(replies),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::System("receiving", error)),
            };
            let is_last = connection.wire.is_drained(length < self.buffer.len());
            let complete = connection.exchange.receive(&self.buffer[..length]);
            let complete = complete.map_err(Failure::Reply)?;
            let now = Instant::now();
            for _ in 0..complete {
                self.finish_request(index, now)?;
            }
            replies += complete;
            // A short read has emptied a stream: what comes later is a new edge (epoll(7)).
            if is_last {
                return Ok(replies);
            }
        }
    }

    /// Counts one reply and queues the request that follows it, or lets the connection pause.
    fn finish_request(&mut self, index: usize, now: Instant) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        // A reply to a request that was never sent is no echo.
        let queued = connection.queued_at.pop_front().ok_or(Failure::Reply(WrongReply::Differs))?;
        connection.replies += 1;
        self.quota.in_flight -= 1;
        if matches!(self.phase, Phase::Window { .. }) {
            self.run.replies += 1;
            let nanoseconds = u64::try_from((now - queued).as_nanos()).unwrap_or(u64::MAX);
            self.run.latency.saturating_record(nanoseconds);
        }
        let more = self.plan.replies_per_connection.is_none_or(|limit| connection.replies < limit);
        if more && self.plan.pause.is_zero() {
            self.quota.start_request(connection);
        } else if more {
            self.pausing.push_back((now + self.plan.pause, index));
        }
        Ok(())
    }
}

/// Reads the server's CPU clock; zero if the plan names no server.
fn cpu_time(plan: &Plan) -> Result<CpuTime, Failure> {
    let Some(server) = plan.server else {
        return Ok(CpuTime::default());
    };
    server.cpu_time().map_err(while_doing("reading the server's CPU time"))
}
