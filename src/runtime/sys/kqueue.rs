//! kqueue(2), as far as the alarm and the poller use it.
//!
//! rustix has a wrapper, but a timer that it makes may be early by almost a second. Each change has an
//! answer of its own (`EV_RECEIPT`), and so a call that makes some returns no event.

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

/// A direction of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Read,
    Write,
}

impl Filter {
    fn number(self) -> i16 {
        match self {
            Self::Read => libc::EVFILT_READ,
            Self::Write => libc::EVFILT_WRITE,
        }
    }
}

/// What a kqueue is to watch, or no more.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Change(libc::kevent);

impl Change {
    /// Watches a direction of `fd`, until the first event only if `once`, and hands `data` back with
    /// each event.
    ///
    /// What is watched already keeps its old `once`, so it has to be removed first.
    pub(crate) fn add(fd: RawFd, filter: Filter, once: bool, data: usize) -> Self {
        let once = if once { libc::EV_ONESHOT } else { 0 };
        Self::new(fd, filter.number(), libc::EV_ADD | once, ptr::without_provenance_mut(data))
    }

    /// Stops watching a direction of `fd`. Fails with `ENOENT` if it is not watched.
    pub(crate) fn remove(fd: RawFd, filter: Filter) -> Self {
        Self::new(fd, filter.number(), libc::EV_DELETE, ptr::null_mut())
    }

    /// Fires once, so many nanoseconds from now on the clock of [`super::clock`], and as exactly as
    /// the kernel can.
    #[expect(clippy::cast_possible_truncation, reason = "a word has 64 bits on macOS")]
    pub(crate) fn add_timer(nanoseconds: i64) -> Self {
        let flags = libc::EV_ADD | libc::EV_ONESHOT;
        let Self(event) = Self::new(TIMER, libc::EVFILT_TIMER, flags, ptr::null_mut());
        let fflags = libc::NOTE_NSECONDS | libc::NOTE_CRITICAL;
        Self(libc::kevent { fflags, data: nanoseconds as isize, ..event })
    }

    /// Removes the timer, also one that has fired. Fails with `ENOENT` if there is none.
    pub(crate) fn remove_timer() -> Self {
        Self::new(TIMER, libc::EVFILT_TIMER, libc::EV_DELETE, ptr::null_mut())
    }

    #[expect(clippy::cast_sign_loss, reason = "the kernel refuses a negative descriptor")]
    fn new(ident: i32, filter: i16, flags: u16, udata: *mut libc::c_void) -> Self {
        let flags = flags | libc::EV_RECEIPT;
        Self(libc::kevent { ident: ident as usize, filter, flags, fflags: 0, data: 0, udata })
    }
}

/// The number of the one timer of a kqueue.
const TIMER: i32 = 0;

/// A direction of a descriptor is ready, or was asked for and has failed.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Event(libc::kevent);

impl Event {
    /// What the change that added it has handed over.
    pub(crate) fn data(&self) -> usize {
        self.0.udata.addr()
    }

    /// Whether it is about reading.
    pub(crate) fn is_read(&self) -> bool {
        self.0.filter == libc::EVFILT_READ
    }
}

/// Creates a kqueue, which neither a program that is executed nor a child of `fork()` inherits.
pub(crate) fn create() -> io::Result<OwnedFd> {
    let kqueue = rustix::event::kqueue::kqueue()?;
    fcntl_setfd(&kqueue, FdFlags::CLOEXEC)?;
    Ok(kqueue)
}

/// Applies `changes` in their order, also behind one that fails; returns how each went.
pub(crate) fn apply<const COUNT: usize>(
    kqueue: BorrowedFd<'_>,
    changes: [Change; COUNT],
) -> Result<[Result<(), Errno>; COUNT], Errno> {
    let mut answers = changes;
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a handful")]
    let count = COUNT as libc::c_int;
    // SAFETY: the kernel reads `COUNT` changes and writes as many answers at most, to an array that is
    // borrowed mutably for the call. The descriptors in them are numbers to it, open or not.
    let answered = unsafe {
        libc::kevent(
            kqueue.as_raw_fd(),
            changes.as_ptr().cast(),
            count,
            answers.as_mut_ptr().cast(),
            count,
            ptr::null(),
        )
    };
    if answered < 0 {
        return Err(super::last_error());
    }
    Ok(answers.map(|Change(answer)| {
        #[expect(clippy::cast_possible_truncation, reason = "the number of an error")]
        match answer.data as i32 {
            number if answer.flags & libc::EV_ERROR != 0 && number != 0 => {
                Err(Errno::from_raw_os_error(number))
            }
            _ => Ok(()),
        }
    }))
}

/// Takes what has fired, as far as there is room in `buffer`, without blocking.
pub(crate) fn take<'a>(
    kqueue: BorrowedFd<'_>,
    buffer: &'a mut [MaybeUninit<Event>],
) -> Result<&'a [Event], Errno> {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes no more events than the buffer has room for, which is borrowed mutably
    // for the call.
    let taken = unsafe {
        libc::kevent(
            kqueue.as_raw_fd(),
            ptr::null(),
            0,
            buffer.as_mut_ptr().cast(),
            buffer.len().try_into().unwrap_or(libc::c_int::MAX),
            &raw const at_once,
        )
    };
    let taken = usize::try_from(taken).map_err(|_| super::last_error())?;
    // SAFETY: the kernel has written so many.
    Ok(unsafe { buffer[..taken].assume_init_ref() })
}
