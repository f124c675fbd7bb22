//! Load generator: drives an echo, HTTP or download server over N connections, with TLS or without,
//! or UDP sockets, and says what that cost.
//!
//! Called by benches/run.py and benches/demo.py, once per measured cell, pinned to a core that the
//! server does not use. It prints one JSON object and exits with 0, or prints an error and exits
//! with 1; every reply is checked, so a number is only printed for a server that answered rightly.
//!
//! One thread and one epoll drive all connections: the generator has to cost much less than any
//! server that it measures, or it would measure itself.

mod connection;
mod exchange;
mod idle;
mod load;
mod options;
mod process;
mod report;
mod tls;

use std::io::Write;
use std::process::ExitCode;

use exchange::{Download, Echo, HttpGet};
use options::{Command, USAGE};

fn main() -> ExitCode {
    match run() {
        Ok(output) => {
            // A closed standard output leaves nobody to tell.
            let written = writeln!(std::io::stdout(), "{output}");
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command line's request and returns the JSON that answers it.
fn run() -> Result<String, Box<dyn std::error::Error>> {
    let report = match options::parse(std::env::args_os())? {
        Command::Help => return Ok(USAGE.to_owned()),
        Command::Echo(plan, message) => {
            let run = load::run(&plan, || Echo::new(message.clone()))?;
            serde_json::to_string_pretty(&report::Report::new(&plan, &run)?)?
        }
        Command::Http(plan, target) => {
            let run = load::run(&plan, || HttpGet::new(plan.address, &target))?;
            serde_json::to_string_pretty(&report::Report::new(&plan, &run)?)?
        }
        Command::Download(plan, length) => {
            let run = load::run(&plan, || Download::new(length))?;
            serde_json::to_string_pretty(&report::Report::new(&plan, &run)?)?
        }
        Command::Certificates(folder) => {
            tls::TlsClient::write_certificates(&folder)?;
            serde_json::to_string_pretty(&folder)?
        }
        Command::Idle(plan) => serde_json::to_string_pretty(&idle::run(&plan)?)?,
    };
    Ok(report)
}
