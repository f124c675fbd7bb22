//! The loop as Python sees it: its methods, handles and tasks, and the registry of watched descriptors.
//!
//! | thing | file |
//! |---|---|
//! | the loop's methods, in asyncio's order | `event_loop` |
//! | `Handle` and `TimerHandle` | `handle` |
//! | the home shard of a callback, in its context | `homes` |
//! | native methods that the program has replaced | `overrides` |
//! | the object by which a handle refers to its loop | `owner` |
//! | how futures and tasks are made | `tasks` |
//! | watched descriptors and their waiters | `watches` |

pub(crate) mod event_loop;
pub(crate) mod handle;
pub(crate) mod homes;
pub(crate) mod overrides;
pub(crate) mod owner;
pub(crate) mod tasks;
pub(crate) mod watches;
