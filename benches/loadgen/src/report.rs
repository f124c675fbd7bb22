//! The JSON that a load prints. Whole numbers in the unit that the field names.

use std::io;

use serde::Serialize;

use crate::load::Run;
use crate::options::Plan;
use crate::tls::Agreed;

/// The result of one load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    connections: usize,
    depth: usize,
    requests: u64,
    seconds: f64,
    requests_per_second: u64,
    latency_ns: Latency,
    server_cpu: Option<ServerCpu>,
    tls: Option<Agreed>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct ServerCpu {
    /// User and system time of the server process in the window, by the number of replies.
    ns_per_request: u64,
    user_seconds: f64,
    system_seconds: f64,
}

impl Report {
    /// # Errors
    /// If a server did not take up sessions that it should.
    pub(crate) fn new(plan: &Plan, run: &Run) -> io::Result<Self> {
        let per_second = u128::from(run.replies) * 1_000_000_000 / run.elapsed.as_nanos().max(1);
        let agreed = plan.tls.as_ref().map(|client| client.agreed(plan.connections)).transpose()?;
        Ok(Self {
            connections: plan.connections,
            depth: plan.depth,
            requests: run.replies,
            seconds: run.elapsed.as_secs_f64(),
            requests_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            latency_ns: Latency {
                p50: run.latency.value_at_quantile(0.5),
                p99: run.latency.value_at_quantile(0.99),
                max: run.latency.max(),
            },
            server_cpu: run.cpu.map(|used| ServerCpu {
                ns_per_request: u64::try_from(used.on_core.as_nanos()).unwrap_or(u64::MAX)
                    / run.replies.max(1),
                user_seconds: used.user.as_secs_f64(),
                system_seconds: used.system.as_secs_f64(),
            }),
            tls: agreed,
        })
    }
}
