//! A shard: one thread of the loop, its queues, and the order of one iteration.
//!
//! # Theory of operation
//!
//! What only the driving thread touches is in [`Local`]. While a shard runs, its `Local` lies in a
//! thread-local of that thread, so `call_soon` takes no lock; while it is stopped, it lies in the
//! shard, under a lock, and any thread may add to it. Everybody else goes through the inbox.
//!
//! An iteration is asyncio's `_run_once` with the wait moved to its end: take what the wait brought
//! (events, inbox, due timers), run what was ready at that point, then decide how to wait. What
//! events and timers woke runs at the end of the same iteration, so that a task that waits for a packet
//! costs no second look at the kernel; callbacks scheduled after that wait for the next iteration.
//!
//! A step is what runs without a pause: one item of the ready queue, or one event. What it wakes on other
//! shards is held there until [`Shard::end_step`]; see [`rloop_core::steps`].
//!
//! The thread is attached to Python for the iteration and detached for the wait, whether or not the wait
//! blocks: other threads get the GIL, and a stop-the-world request is not held up by a busy loop.
//!
//! | thing | file |
//! |---|---|
//! | the shard, as other threads see it | `handle` |
//! | what only the driving thread touches | `local` |
//! | the run and its iterations | `iteration` |
//! | a single iteration, for nested runs | `step` |
//! | the other shards of a loop, and their threads | `crew`, `worker` |
//! | the end of the interpreter | `exit` |
//! | what a shard counts about itself | `statistics` |

pub(crate) mod crew;
pub(crate) mod exit;
mod handle;
mod iteration;
mod local;
mod statistics;
mod step;
pub(crate) mod worker;

pub(crate) use handle::{Shard, driven_index, own_loop};
pub(crate) use iteration::Role;
pub(crate) use local::Work;
pub(crate) use statistics::{Reading, coarse_now};
