//! What only the driving thread touches: the ready queue, the timers, the events, the transports.

use crate::loop_::handle::{Handle, Scheduled};
use crate::loop_::watches::{Waiter, Watches};
use crate::runtime::poller::Poller;
use crate::runtime::registration::{Direction, Event, Fired};
use crate::runtime::{clock, registration};
use crate::sock::Pending;
use crate::transport::core::{Call, Transport};
use crate::transport::stream::StreamTransport;
use crate::transport::tls::TlsProtocol;
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::inbox::Inbox;
use rloop_core::signals::SignalChecks;
use rloop_core::steps::{Held, Mail};
use rloop_core::timers::TimerHeap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// How far the clock may seem to lag behind the timer that rang, in seconds.
const ALARM_MARGIN: f64 = 1e-3;

/// How long a wait may last by a clock of the program, in seconds, as in asyncio.
const LONGEST_TIMEOUT: f64 = 24.0 * 3600.0;

/// Something for a shard to do.
pub(crate) enum Work {
    /// Run a handle.
    Run(Py<Handle>),
    /// Run an `asyncio.Handle` that the standard library made.
    RunForeign(Py<PyAny>),
    /// Try an operation of a `sock_*` method again.
    Operate(Arc<Pending>),
    /// Run a handle at a deadline, in seconds on the loop's clock.
    Schedule(f64, Py<Handle>),
    /// The descriptor of a transport is ready.
    Event(Event),
    /// A transport may start to read.
    StartReading(Transport),
    /// A transport could not be registered: it ends with that error.
    Fail(Py<StreamTransport>, Py<PyAny>),
    /// A call on a transport that was made on another thread.
    Remote(Box<Call>),
}

impl Work {
    /// True for what must not run on another shard before the step that sends it has ended. Calls on
    /// transports, and their events, wake nobody by themselves, and are to be done before what does.
    pub(super) fn waits_for_step(&self) -> bool {
        !matches!(self, Self::Remote(_) | Self::Event(_))
    }
}

/// What only the driving thread touches.
pub(super) struct Local {
    pub(super) ready: VecDeque<Work>,
    /// Wake-ups from steps of other shards that have not ended.
    pub(super) held: Held<Work>,
    /// Where the inbox is emptied into; empty in between.
    mail: VecDeque<Mail<Work>>,
    /// The events of the current iteration; those before `next_event` were dispatched.
    pub(super) events: Vec<Event>,
    pub(super) next_event: usize,
    pub(super) timers: TimerHeap<Scheduled>,
    /// The deadline the driver's alarm is set to, if it may still come.
    pub(super) alarm: Option<f64>,
    /// The transports whose events matter, by descriptor, each with its generation. This keeps them
    /// alive.
    pub(super) transports: Vec<Option<(u64, Transport)>>,
    /// The watches have to be looked at: an event came, or the last look found something.
    pub(super) watches_active: bool,
    /// The handles of a look before the wait are ready; they count as the next iteration's.
    pub(super) looked_ahead: bool,
    pub(super) signals: SignalChecks,
    /// How many iterations began since signals were last looked at.
    pub(super) unchecked_iterations: u8,
    /// Connections with something written by what runs now or ran just before, to be sent soon. Each
    /// comes with the context of its first write.
    pub(super) unsent: VecDeque<(Py<TlsProtocol>, Py<PyContext>)>,
    /// How many runs are around the current one, in whose callbacks it is.
    pub(super) depth: usize,
    /// Work that a run could not do inside the callbacks around it, with the depth of that run. It is resumed
    /// once the run has ended.
    pub(super) deferred: Vec<(usize, Work)>,
}

impl Local {
    pub(super) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            held: Held::new(),
            mail: VecDeque::new(),
            events: Vec::new(),
            next_event: 0,
            timers: TimerHeap::new(),
            alarm: None,
            transports: Vec::new(),
            // The first look asks for the first event.
            watches_active: true,
            looked_ahead: false,
            signals: SignalChecks::default(),
            unchecked_iterations: 0,
            unsent: VecDeque::new(),
            depth: 0,
            deferred: Vec::new(),
        }
    }

    /// Takes over what was pushed; at most `limit` items, if it is given.
    pub(super) fn take_mail(&mut self, inbox: &Inbox<Mail<Work>>, limit: Option<usize>) {
        match limit {
            None => inbox.drain_into(&mut self.mail),
            Some(limit) => inbox.drain_some_into(limit, &mut self.mail),
        }
        for mail in self.mail.drain(..) {
            self.held.receive(mail, &mut self.ready, clock::now);
        }
    }

    /// Queues the wake-ups that were held for too long, behind all that was pushed before them.
    pub(super) fn release_overdue(&mut self, inbox: &Inbox<Mail<Work>>) {
        if self.held.deadline().is_some_and(|deadline| clock::now() >= deadline) {
            self.take_mail(inbox, None);
            self.held.release_all(&mut self.ready);
        }
    }

    /// Takes over the events that fired on this thread.
    pub(super) fn take_events(&mut self) {
        if self.next_event == self.events.len() {
            self.events.clear();
            self.next_event = 0;
        }
        let (polled, reminded) = registration::take_events(&mut self.events);
        self.watches_active |= polled;
        if reminded {
            self.signals.note_ring();
        }
    }

    /// Takes over the events that fired on another thread.
    pub(super) fn accept(&mut self, fired: Fired) {
        self.events.extend(fired.events);
        self.watches_active |= fired.polled;
        if fired.reminded {
            self.signals.note_ring();
        }
        // The thread that handles signals did not wait for events, so none interrupts the next wait.
        self.signals.note_run();
    }

    /// The transport of the next event of this iteration and what it may do; `None` after the last.
    pub(super) fn next_event(&mut self, py: Python<'_>) -> Option<(Transport, Direction)> {
        while let Some(event) = self.events.get(self.next_event).copied() {
            self.next_event += 1;
            if let Some(transport) = self.target(py, event) {
                return Some((transport, event.direction));
            }
        }
        None
    }

    /// The transport that an event is for, unless it was closed after the event fired.
    pub(super) fn target(&mut self, py: Python<'_>, event: Event) -> Option<Transport> {
        match self.transport(event.fd)? {
            Some((generation, transport)) if *generation == event.generation => {
                Some(transport.clone_ref(py))
            }
            _ => None,
        }
    }

    /// Queues what runs deferred that have ended, before everything else.
    #[cold]
    pub(super) fn resume_deferred(&mut self) {
        let deferred = std::mem::take(&mut self.deferred);
        let (ended, others): (Vec<_>, Vec<_>) =
            deferred.into_iter().partition(|(depth, _)| *depth > self.depth);
        self.deferred = others;
        for (_, work) in ended.into_iter().rev() {
            self.ready.push_front(work);
        }
    }

    /// The events that transports wait for.
    pub(super) fn awaited_events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (fd, entry) in self.transports.iter().enumerate() {
            let (Some((generation, transport)), Ok(fd)) = (entry, RawFd::try_from(fd)) else {
                continue;
            };
            for (direction, is_awaited) in transport.awaits() {
                if is_awaited {
                    events.push(Event { fd, generation: *generation, direction });
                }
            }
        }
        events
    }

    /// Queues those who wait for ready descriptors.
    pub(super) fn collect_watches(
        &mut self,
        py: Python<'_>,
        home: u16,
        watches: &Watches,
        poller: &Poller,
    ) -> io::Result<()> {
        self.watches_active = watches.collect(py, home, poller, |waiter| {
            self.ready.push_back(match waiter {
                Waiter::Callback(handle) => Work::Run(handle),
                Waiter::Operation(pending) => Work::Operate(pending),
            });
        })?;
        Ok(())
    }

    /// Queues the timers that are due: those before `end_time` on the program's clock, if it is given,
    /// or else those that are not later than the time.
    pub(super) fn collect_due_timers(&mut self, end_time: Option<f64>) {
        if self.timers.is_empty() && self.alarm.is_none() {
            return;
        }
        let now = clock::now();
        let last = end_time.map_or(now, f64::next_down);
        while let Some(Scheduled(handle)) = self.timers.pop_due(last) {
            handle.get().set_scheduled(false);
            self.ready.push_back(Work::Run(handle));
        }
        // An alarm that may have rung is set again before the next wait: the margin makes sure that
        // one which rang while the clock lags behind is not taken for one to come.
        if self.alarm.is_some_and(|alarm| alarm <= now + ALARM_MARGIN) {
            self.alarm = None;
        }
    }

    /// The deadline that the alarm has to be set to before a wait, if it has to: that of the next timer, or
    /// in `timeout` seconds, or when a held wake-up is overdue.
    pub(super) fn next_alarm(&mut self, timeout: Option<f64>) -> Option<f64> {
        let next = match timeout {
            None => self.timers.next_deadline(),
            Some(timeout) => Some(clock::now() + timeout.min(LONGEST_TIMEOUT)),
        };
        let next = match (next, self.held.deadline()) {
            (Some(next), Some(deadline)) => next.min(deadline),
            (next, deadline) => next.or(deadline)?,
        };
        if self.alarm.is_some_and(|alarm| alarm <= next) {
            return None;
        }
        self.alarm = Some(next);
        Some(next)
    }

    /// The place of a descriptor in `transports`, if it has one.
    pub(super) fn transport(&mut self, fd: RawFd) -> Option<&mut Option<(u64, Transport)>> {
        self.transports.get_mut(usize::try_from(fd).ok()?)
    }
}
