//! Which native methods of a loop the program has replaced: in a class that derives from the loop's, on a
//! class by a test, or on the loop itself.
//!
//! asyncio's methods call each other as attributes of the loop: `call_later()` asks `time()` and calls
//! `call_at()`, an iteration asks `time()`, a transport calls `call_soon()`. Native code that stands in
//! for them calls native code directly while nothing is replaced, which a comparison of the class's
//! version shows, and as asyncio does from then on.

use crate::loop_::event_loop::EventLoop;
use crate::py::ffi;
use crate::py::ffi::instance;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A set of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Methods(u8);

impl Methods {
    const NONE: Self = Self(0);
    const CALL_SOON: Self = Self(1);
    const CALL_AT: Self = Self(1 << 1);
    /// Also a clock resolution that is not the clock's.
    const TIME: Self = Self(1 << 2);
    const ALL: Self = Self(0b111);

    const BY_NAME: [(&str, Self); 3] =
        [("call_soon", Self::CALL_SOON), ("call_at", Self::CALL_AT), ("time", Self::TIME)];

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has_any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if callbacks are scheduled by a `call_soon()` of the program.
    #[inline]
    pub(crate) fn has_call_soon(self) -> bool {
        self.has_any_of(Self::CALL_SOON)
    }

    /// True if timers are set by a method of the program, or for its clock.
    #[inline]
    pub(crate) fn has_timers(self) -> bool {
        self.has_any_of(Self::CALL_AT.and(Self::TIME))
    }

    /// True if the clock is the program's.
    #[inline]
    pub(crate) fn has_clock(self) -> bool {
        self.has_any_of(Self::TIME)
    }
}

/// What is known of one loop.
pub(crate) struct Overrides {
    /// The version of the loop's class, and below it what was replaced in that version.
    class: AtomicU64,
    /// What was replaced on the loop itself.
    instance: AtomicU8,
}

impl Overrides {
    pub(crate) const fn new() -> Self {
        Self { class: AtomicU64::new(0), instance: AtomicU8::new(0) }
    }

    /// What is replaced now.
    #[inline]
    pub(crate) fn of(event_loop: &Bound<'_, EventLoop>) -> Methods {
        let this = &event_loop.get().overrides;
        let version = instance::class_version(event_loop.as_any());
        let known = this.class.load(Ordering::Relaxed);
        let in_class = if version != 0 && known >> 32 == u64::from(version) {
            #[expect(clippy::cast_possible_truncation, reason = "the set is the lowest byte")]
            let known = known as u8;
            Methods(known)
        } else {
            this.look_at_class(event_loop, version)
        };
        in_class.and(Methods(this.instance.load(Ordering::Relaxed)))
    }

    #[cold]
    fn look_at_class(&self, event_loop: &Bound<'_, EventLoop>, version: u32) -> Methods {
        let class = event_loop.get_type();
        let replaced = Methods::BY_NAME
            .into_iter()
            .filter(|(name, _)| !is_native(&class, name))
            .fold(Methods::NONE, |all, (_, method)| all.and(method));
        self.class.store(u64::from(version) << 32 | u64::from(replaced.0), Ordering::Relaxed);
        replaced
    }

    /// An attribute of the loop itself is set, or deleted.
    pub(crate) fn attribute_changes(&self, name: &str, exists: bool) {
        let method = match Methods::BY_NAME.iter().find(|(method, _)| *method == name) {
            Some((_, method)) => *method,
            None if name == "_clock_resolution" => Methods::TIME,
            // Every attribute may be meant.
            None if name == "__dict__" => Methods::ALL,
            None => return,
        };
        if exists {
            self.instance.fetch_or(method.0, Ordering::Relaxed);
        } else {
            self.instance.fetch_and(!method.0, Ordering::Relaxed);
        }
    }
}

/// True if `class` has the method of `EventLoop` under its name.
fn is_native(class: &Bound<'_, PyType>, name: &str) -> bool {
    let native = class.py().get_type::<EventLoop>().getattr(name);
    let found = class.getattr(name);
    // Whatever cannot be looked up is not native.
    native.is_ok_and(|native| found.is_ok_and(|found| ffi::is_same_native_method(&native, &found)))
}
