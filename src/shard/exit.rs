//! The end of the interpreter: threads that run a loop are parked before it is finalized.
//!
//! A daemon thread may still run a loop when the interpreter ends. An `atexit` callback tells every
//! running shard to stay detached for ever and waits until they have. A shard whose callback does not
//! return in time is left to CPython, which lets no such thread attach again: from 3.14 on the thread
//! hangs, and before, `crate::runtime::sys` sees to it that it does.

use crate::runtime::process;
use crate::shard::Shard;
use pyo3::prelude::*;
use rloop_core::sync::Monitor;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long a callback may keep the interpreter from ending.
const PATIENCE: Duration = Duration::from_secs(1);

/// The shards that are running.
static RUNNING: Monitor<Vec<(process::Stamp, Weak<Shard>)>> = Monitor::new(Vec::new());

/// Lists a shard as running while it lives.
pub(crate) struct Run {
    shard: Weak<Shard>,
}

impl Run {
    pub(crate) fn begin(shard: &Arc<Shard>) -> Self {
        let shard = Arc::downgrade(shard);
        RUNNING.change(|running| running.push((process::Stamp::new(), shard.clone())));
        Self { shard }
    }

    fn end(&self) {
        forget(&self.shard);
    }

    /// Keeps this thread, which is detached, from ever attaching again.
    pub(crate) fn park_for_ever(&self) -> ! {
        self.end();
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes a shard off the list.
pub(super) fn forget(shard: &Weak<Shard>) {
    RUNNING.change(|running| running.retain(|(_, other)| !other.ptr_eq(shard)));
}

/// Parks every shard that is running; a loop may still be run after that, as other `atexit` callbacks
/// do. Called by `atexit`, when no loop runs on this thread.
pub(crate) fn park_all(py: Python<'_>) {
    let shards: Vec<_> = RUNNING.change(|running| {
        // The threads of a process that forked this one are not here.
        running.retain(|(process, _)| process.is_this());
        running.iter().filter_map(|(_, shard)| shard.upgrade()).collect()
    });
    for shard in &shards {
        shard.retire();
    }
    drop(shards);
    let deadline = Instant::now() + PATIENCE;
    py.detach(|| RUNNING.wait_until(deadline, |running| running.is_empty().then_some(())));
}
