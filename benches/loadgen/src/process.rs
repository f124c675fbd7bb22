//! What the server process has used so far, from /proc.
//!
//! Linux keeps two clocks: `stat` counts user and system time of the whole process, exited threads
//! included, in clock ticks of 10 ms; `schedstat` counts nanoseconds on a core, one file for each
//! live thread. Short windows need the second; the first splits user from system time.

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::time::Duration;

/// A process whose use of the machine is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// Process id.
    pub(crate) id: u32,
}

/// CPU time that a process has used since it started, or between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// Time on a core, summed over the live threads, exact to the nanosecond.
    pub(crate) on_core: Duration,
    /// Time in user space, in steps of a clock tick.
    pub(crate) user: Duration,
    /// Time in the kernel, in steps of a clock tick.
    pub(crate) system: Duration,
}

impl CpuTime {
    /// What was used since `earlier`. A thread that ended in between takes its nanoseconds along,
    /// which saturates to zero rather than failing.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            on_core: self.on_core.saturating_sub(earlier.on_core),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

impl Process {
    /// Reads the CPU time used so far; an error if the process is gone.
    pub(crate) fn cpu_time(self) -> io::Result<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let (user, system) = parse_stat(&stat).ok_or_else(|| unreadable("stat"))?;
        Ok(CpuTime { on_core: self.time_on_core()?, user, system })
    }

    fn time_on_core(self) -> io::Result<Duration> {
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id))? {
            let schedstat = match fs::read_to_string(thread?.path().join("schedstat")) {
                // The thread ended after the directory was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                result => result?,
            };
            let nanoseconds = schedstat.split(' ').next().and_then(|field| field.parse().ok());
            let nanoseconds = nanoseconds.ok_or_else(|| unreadable("schedstat"))?;
            total += Duration::from_nanos(nanoseconds);
        }
        Ok(total)
    }

    /// Reads the resident set size, in bytes.
    pub(crate) fn resident_bytes(self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        parse_resident(&status).ok_or_else(|| unreadable("status"))
    }
}

/// Returns user and system time from the text of /proc/PID/stat, or None if it has another shape.
fn parse_stat(stat: &str) -> Option<(Duration, Duration)> {
    // The second field, the command's name, may hold spaces and brackets: count from its end.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || Some(Duration::from_secs(1) * fields.next()?.parse::<u32>().ok()?);
    let (user, system) = (ticks()?, ticks()?);
    let ticks_per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((user / ticks_per_second, system / ticks_per_second))
}

/// Returns `VmRSS` in bytes from the text of /proc/PID/status.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn unreadable(file: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("/proc/PID/{file} has an unknown shape"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 1 2 3 4 250 50 0 0 20 0 1 0 9";
        let tick = Duration::from_secs(1)
            / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap();
        assert_eq!(parse_stat(stat), Some((tick * 250, tick * 50)));
    }

    #[test]
    fn the_resident_set_is_given_in_bytes() {
        assert_eq!(parse_resident("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(parse_resident("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn this_process_has_used_memory_and_time() {
        let process = Process { id: std::process::id() };
        assert!(process.resident_bytes().unwrap() > 0);
        assert!(process.cpu_time().unwrap().on_core > Duration::ZERO);
    }
}
