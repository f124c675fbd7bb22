//! The Python fence: C-API calls that PyO3 does not wrap.
//!
//! Everything else in this crate goes through PyO3's safe API.
#![allow(unsafe_code, reason = "this module is one of the two fences")]

#[cfg(python_entries_checked)]
mod entries;
pub(crate) mod instance;

use pyo3::exceptions::{PyMemoryError, PyOSError, PyTypeError};
use pyo3::ffi::compat;
use pyo3::intern;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyContext, PyDict, PyString, PyTuple, PyType};
use pyo3::{PyTypeInfo, ffi};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};

/// A thread that is detached from Python and attaches for short spells.
///
/// `Python::detach` with `Python::attach` inside does the same; this remembers the thread state
/// instead of looking it up twice per spell, which is about 110 of the 3,600 instructions of an
/// echoed message.
pub(crate) struct Detached {
    thread_state: Cell<*mut ffi::PyThreadState>,
}

/// Detaches the thread while `operation` runs; it may attach through what it is handed.
///
/// `operation` must not touch Python objects outside [`Detached::attached`]: `PyO3` still counts the
/// thread as attached. The `Send` bound keeps `Python<'_>` and `Bound` out.
pub(crate) fn detached<R>(_py: Python<'_>, operation: impl FnOnce(&Detached) -> R + Send) -> R {
    // SAFETY: `_py` proves that the thread is attached.
    let thread_state = unsafe { ffi::PyEval_SaveThread() };
    let detached = Detached { thread_state: Cell::new(thread_state) };
    // Dropping `detached` attaches again, on unwinding as well.
    operation(&detached)
}

impl Detached {
    /// Attaches the thread while `operation` runs.
    pub(crate) fn attached<R>(&self, operation: impl FnOnce(Python<'_>) -> R) -> R {
        struct Spell<'a>(&'a Detached);
        impl Drop for Spell<'_> {
            fn drop(&mut self) {
                // SAFETY: the spell's begin attached this thread, and `operation` has returned.
                self.0.thread_state.set(unsafe { ffi::PyEval_SaveThread() });
            }
        }
        self.restore();
        let _spell = Spell(self);
        // SAFETY: `restore` attached the thread, and `_spell` is dropped after `operation`.
        operation(unsafe { Python::assume_attached() })
    }

    fn restore(&self) {
        let thread_state = self.thread_state.replace(std::ptr::null_mut());
        if !thread_state.is_null() {
            // SAFETY: the state is this thread's own (`Detached` is not `Sync`), was saved by
            // `PyEval_SaveThread`, and is restored once, because the cell is empty now.
            unsafe { ffi::PyEval_RestoreThread(thread_state) };
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.restore();
    }
}

/// A method that takes one argument and returns `None`.
pub(crate) trait OneArgumentMethod: 'static {
    /// The class it belongs to.
    type Class: PyTypeInfo;
    /// The name and docstring.
    const NAME: &'static CStr;
    const DOC: &'static CStr;
    /// The method itself.
    fn call(slf: &Bound<'_, Self::Class>, argument: &Bound<'_, PyAny>) -> PyResult<()>;
}

/// Adds a method to its class with the C calling convention for one argument (`METH_O`).
///
/// `#[pymethods]` always parses keywords, which is 150 instructions per call more; this is for the
/// methods that are called per packet. The definition is leaked: a class refers to it for ever.
pub(crate) fn add_one_argument_method<M: OneArgumentMethod>(py: Python<'_>) -> PyResult<()> {
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: M::NAME.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: one_argument::<M> },
        ml_flags: ffi::METH_O,
        ml_doc: M::DOC.as_ptr(),
    }));
    let class = M::Class::type_object(py);
    // SAFETY: the definition is that of a method of this class, and lives for ever.
    let descriptor = unsafe { method_descriptor(&class, definition) }?;
    class.setattr(M::NAME.to_string_lossy().as_ref(), descriptor)
}

/// Gives a class a native method that it inherits as a method of its own. What is no native method
/// of a base stays as it is.
pub(crate) fn own_method(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<()> {
    let method = class.getattr(name)?;
    let Some(definition) = definition_of(&method) else {
        return Ok(());
    };
    let base = method.getattr(intern!(class.py(), "__objclass__"))?;
    // Not issubclass(), which a metaclass answers as it likes.
    if !class.mro().iter().any(|kind| kind.is(&base)) {
        return Ok(());
    }
    // SAFETY: a method of a base takes instances of the class, and the base lives as long as the
    // class, as do its definitions.
    let descriptor = unsafe { method_descriptor(class, definition) }?;
    class.setattr(name, descriptor)
}

/// True if both are descriptors of one native method, as those are that [`own_method`] makes.
pub(crate) fn is_same_native_method(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
    let definition = definition_of(one);
    definition.is_some() && definition == definition_of(other)
}

/// The definition behind the descriptor of a native method; `None` for any other object.
fn definition_of(method: &Bound<'_, PyAny>) -> Option<*mut ffi::PyMethodDef> {
    if method.get_type_ptr() != &raw mut ffi::PyMethodDescr_Type {
        return None;
    }
    // SAFETY: objects of exactly this type have this layout.
    Some(unsafe { (*method.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method })
}

/// Sets or deletes an attribute as `object.__setattr__()` and `object.__delattr__()` do.
pub(crate) fn set_attribute(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let value = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: the objects are alive and the thread attached; no value deletes the attribute.
    let failed = unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value) };
    if failed == 0 { Ok(()) } else { Err(PyErr::fetch(object.py())) }
}

/// Makes the descriptor of a method.
///
/// # Safety
/// The definition's function takes instances of `class`, and the definition lives as long as it.
unsafe fn method_descriptor<'py>(
    class: &Bound<'py, PyType>,
    definition: *mut ffi::PyMethodDef,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `class` is a type object; the rest is the caller's promise.
    let descriptor = unsafe { ffi::PyDescr_NewMethod(class.as_type_ptr(), definition) };
    // SAFETY: the call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(class.py(), descriptor) }
}

/// The C function behind a [`OneArgumentMethod`].
///
/// # Safety
/// Only the interpreter calls this: attached, with a receiver that the method descriptor has checked
/// to be an instance of the class it was added to, hence of `M::Class`, and an argument.
unsafe extern "C" fn one_argument<M: OneArgumentMethod>(
    slf: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // A panic must not unwind into C.
    let called = std::panic::catch_unwind(|| {
        // SAFETY: the interpreter calls this attached. PyO3's count of attachments is left alone,
        // which saves a thread-local access: on a thread that is in no other function of this
        // crate, a `Py` that is dropped here is released by the next one.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the interpreter passes valid, borrowed objects.
        let slf = unsafe { Borrowed::from_ptr(py, slf) };
        // SAFETY: as above.
        let argument = unsafe { Borrowed::from_ptr(py, argument) };
        // SAFETY: the descriptor has checked the receiver's class.
        let slf = unsafe { slf.cast_unchecked::<M::Class>() };
        match M::call(&slf, &argument) {
            Ok(()) => py.None().into_ptr(),
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    });
    called.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic in native code");
        Python::attach(|py| PanicException::new_err(message.to_owned()).restore(py));
        std::ptr::null_mut()
    })
}

/// Makes a class immortal, so that no thread counts references to it. It must be one of this module's,
/// which `PyO3` keeps for ever in any case.
///
/// Without the GIL the interpreter counts the reference that each instance has to its class for every
/// thread apart, but `PyO3` gives it back by a plain decrement: an atomic operation, on one cache line
/// for all threads. With the GIL there is nothing to gain.
pub(crate) fn make_immortal<T: PyTypeInfo>(py: Python<'_>) {
    let class = T::type_object_raw(py);
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: `class` is a type object, and the field is atomic. The value is the one that
    // `PyObject_HEAD_INIT` gives to static types: whoever counts leaves such objects alone.
    unsafe {
        (*class).ob_base.ob_base.ob_ref_local.store(u32::MAX, std::sync::atomic::Ordering::Relaxed);
    }
    #[cfg(not(Py_GIL_DISABLED))]
    let _ = class;
}

/// The exception that Python's own modules raise for `errno`: `OSError`, or its subclass for that
/// number, with the number and the system's message.
pub(crate) fn os_error(py: Python<'_>, errno: c_int) -> PyErr {
    #[cfg(target_os = "linux")]
    // SAFETY: the C library has a number of this thread alone.
    let place = unsafe { libc::__errno_location() };
    #[cfg(target_os = "macos")]
    // SAFETY: the C library has a number of this thread alone.
    let place = unsafe { libc::__error() };
    // SAFETY: it is valid while the thread lives, and nobody refers to it.
    unsafe { place.write(errno) };
    let class = PyOSError::type_object_raw(py).cast();
    // SAFETY: the thread is attached, and `class` is a class of exceptions.
    unsafe { ffi::PyErr_SetFromErrno(class) };
    PyErr::fetch(py)
}

/// Makes a dict an instance of `class`, which is dict or a subclass of the same layout.
///
/// `object.__class__` cannot be set on a dict. This does what the interpreter does where it can be.
pub(crate) fn set_dict_class(dict: &Bound<'_, PyDict>, class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = dict.py();
    let plain = PyDict::type_object(py);
    let layout = [
        intern!(py, "__basicsize__"),
        intern!(py, "__dictoffset__"),
        intern!(py, "__weakrefoffset__"),
    ];
    for class in [class, &dict.get_type()] {
        let mut is_dict = class.is_subclass(&plain)?;
        for attribute in layout {
            is_dict &= class.getattr(attribute)?.eq(plain.getattr(attribute)?)?;
        }
        if !is_dict {
            return Err(PyTypeError::new_err("the class must have the layout of dict"));
        }
    }
    let old = dict.get_type();
    if is_heap_type(class) {
        // An object has a reference to its class, unless that is a static type.
        std::mem::forget(class.clone());
    }
    // SAFETY: `dict` is a live object. Both classes have the layout of dict, so code that reads the
    // object by its old class finds the fields it expects.
    unsafe { (*dict.as_ptr()).ob_type = class.as_type_ptr() };
    if is_heap_type(&old) {
        // SAFETY: the object had a reference to its old class, and no longer refers to it.
        unsafe { ffi::Py_DECREF(old.as_ptr()) };
    }
    Ok(())
}

fn is_heap_type(class: &Bound<'_, PyType>) -> bool {
    // SAFETY: `class` is a type object.
    unsafe { ffi::PyType_HasFeature(class.as_type_ptr(), ffi::Py_TPFLAGS_HEAPTYPE) != 0 }
}

/// A copy of the current context, as `contextvars.copy_context()`.
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Py<PyContext>> {
    // SAFETY: `py` proves that the thread is attached.
    let pointer = unsafe { ffi::PyContext_CopyCurrent() };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, pointer) }?;
    Ok(context.cast_into::<PyContext>()?.unbind())
}

/// A callback that runs: its context, which this thread has entered, and whose callback it is.
#[derive(Clone, Copy)]
struct OwnedCall {
    context: *mut ffi::PyObject,
    owner: *mut ffi::PyObject,
}

thread_local! {
    /// The innermost callback that [`call_in_context_of`] runs on this thread.
    static OWNED_CALL: Cell<Option<OwnedCall>> = const { Cell::new(None) };
}

/// Calls `callback(*arguments)` inside `context`, for [`shares_variables_with_call_of`] `owner`.
pub(crate) fn call_in_context_of<'py, T>(
    owner: &Bound<'py, T>,
    context: &Bound<'py, PyContext>,
    callback: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    struct Restore(Option<OwnedCall>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OWNED_CALL.set(self.0);
        }
    }
    in_context(context, || {
        let call = OwnedCall { context: context.as_ptr(), owner: owner.as_ptr() };
        let _restore = Restore(OWNED_CALL.replace(Some(call)));
        callback.call1(arguments)
    })
}

/// A copy of `context`, as `Context.copy()`. No thread may run in `context` meanwhile.
pub(crate) fn copy_of_context(context: &Bound<'_, PyContext>) -> PyResult<Py<PyContext>> {
    // SAFETY: `context` is a context object, and the thread is attached.
    let pointer = unsafe { ffi::PyContext_Copy(context.as_ptr()) };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let copy = unsafe { Bound::from_owned_ptr_or_err(context.py(), pointer) }?;
    Ok(copy.cast_into::<PyContext>()?.unbind())
}

/// A context without variables, as `contextvars.Context()`.
pub(crate) fn new_context(py: Python<'_>) -> PyResult<Bound<'_, PyContext>> {
    // SAFETY: `py` proves that the thread is attached.
    let pointer = unsafe { ffi::PyContext_New() };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, pointer) }?;
    Ok(context.cast_into::<PyContext>()?)
}

/// True if a callback of `owner` runs on this thread, and `context` holds the same variables with the
/// same values as the callback's. May be false even so, if they were set in each.
///
/// A context and its copy refer to one immutable mapping until a variable is set in either. To compare
/// what they refer to costs half as much as to look a variable up. What that is, is asked of the way
/// in which contexts are collected as garbage: they visit the context that they were entered from,
/// and the mapping. If a version of CPython visits more than that, or less, nothing is shared.
pub(crate) fn shares_variables_with_call_of<T>(
    owner: &Bound<'_, T>,
    context: &Bound<'_, PyContext>,
) -> bool {
    /// What a context refers to besides the context that it was entered from, and how much that is.
    struct Mapping {
        object: *mut ffi::PyObject,
        count: usize,
    }
    extern "C" fn find(object: *mut ffi::PyObject, mapping: *mut c_void) -> c_int {
        // SAFETY: it is the one that is passed below, which nobody else uses meanwhile.
        let mapping = unsafe { &mut *mapping.cast::<Mapping>() };
        // SAFETY: what a context refers to is alive while nobody changes the context.
        if unsafe { ffi::PyContext_CheckExact(object) } == 0 {
            *mapping = Mapping { object, count: mapping.count + 1 };
        }
        0
    }
    extern "C" fn compare(object: *mut ffi::PyObject, mapping: *mut c_void) -> c_int {
        // Ends the traversal when it is found.
        c_int::from(object.cast() == mapping)
    }
    let Some(call) = OWNED_CALL.get().filter(|call| call.owner == owner.as_ptr()) else {
        return false;
    };
    let class = PyContext::type_object_raw(context.py());
    // SAFETY: it is a valid type object, which nobody writes to.
    let Some(traverse) = (unsafe { (*class).tp_traverse }) else {
        return false;
    };
    let mut mapping = Mapping { object: std::ptr::null_mut(), count: 0 };
    // SAFETY: `call_in_context_of` holds this context. Only who has entered a context changes it, which
    // is this thread, and `find` takes a pointer to a `Mapping`.
    unsafe { traverse(call.context, find, (&raw mut mapping).cast()) };
    if mapping.count != 1 {
        return false;
    }
    // SAFETY: `context` is an object of that class. Another thread may change it meanwhile, but
    // `compare` follows no pointer, and the mapping it looks for stays alive.
    let found = unsafe { traverse(context.as_ptr(), compare, mapping.object.cast()) };
    found != 0
}

/// The value of a context variable in the current context, as `ContextVar.get()` without a default.
///
/// # Errors
/// `TypeError` if `variable` is no context variable.
pub(crate) fn context_variable<'py>(
    variable: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = variable.py();
    let mut value = std::ptr::null_mut();
    // SAFETY: the thread is attached, both objects are alive, and `value` is a place for a pointer.
    let found =
        unsafe { ffi::PyContextVar_Get(variable.as_ptr(), std::ptr::null_mut(), &raw mut value) };
    if found != 0 {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the call stored a new reference, or null if the variable has no value.
    Ok(unsafe { Bound::from_owned_ptr_or_opt(py, value) })
}

/// Sets a context variable in the current context, as `ContextVar.set()`; returns the token.
///
/// # Errors
/// `TypeError` if `variable` is no context variable.
pub(crate) fn set_context_variable<'py>(
    variable: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached, and both objects are alive.
    let token = unsafe { ffi::PyContextVar_Set(variable.as_ptr(), value.as_ptr()) };
    // SAFETY: the call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(variable.py(), token) }
}

/// Runs `operation` inside `context`, as `Context.run` does.
///
/// # Errors
/// `RuntimeError` if the context is entered already; else what `operation` returns.
pub(crate) fn in_context<R>(
    context: &Bound<'_, PyContext>,
    operation: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let py = context.py();
    // SAFETY: `context` is a context object, and the thread is attached.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let _exit = ExitContext(context);
    operation()
}

/// Leaves the context, on unwinding as well.
struct ExitContext<'a, 'py>(&'a Bound<'py, PyContext>);

impl Drop for ExitContext<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: `in_context` entered this context on this thread, and it is attached again or
        // still whenever a `Bound` is alive.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}

/// Calls `callback(*arguments)` inside `context`.
pub(crate) fn call_in_context<'py>(
    context: &Bound<'py, PyContext>,
    callback: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    in_context(context, || callback.call1(arguments))
}

/// A `bytes` object with these bytes.
///
/// # Errors
/// `MemoryError`, for which `PyBytes::new` panics.
#[inline]
pub(crate) fn new_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let start = bytes.as_ptr().cast();
    // SAFETY: the thread is attached, and a slice is readable for its length.
    let object = unsafe { ffi::PyBytes_FromStringAndSize(start, bytes.len().cast_signed()) };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object) }?;
    // SAFETY: it is a `bytes` object.
    Ok(unsafe { object.cast_into_unchecked() })
}

/// True if the buffer protocol gives the bytes of `object` itself. From Python 3.12 on a subclass may have
/// a `__buffer__()` of its own.
pub(crate) fn exports_itself(object: &Bound<'_, PyBytes>) -> bool {
    let export_of = |class: *mut ffi::PyTypeObject| {
        // SAFETY: `class` is the class of a live object or a static type, so it is valid. The interpreter
        // itself reads the field without a lock.
        let procs = unsafe { (*class).tp_as_buffer };
        // SAFETY: the table belongs to the class. It is null for a class without a buffer.
        let procs = unsafe { procs.as_ref() };
        procs.and_then(|procs| procs.bf_getbuffer).map(|export| export as *const c_void)
    };
    export_of(object.get_type_ptr()) == export_of(PyBytes::type_object_raw(object.py()))
}

/// A `bytes` object whose bytes may be read on any thread, attached or not.
///
/// Making one increments a count and does nothing else. (`PyBackedBytes` decrements it as well, which may
/// not be done while a lock is held.)
pub(crate) struct SharedBytes {
    object: Py<PyBytes>,
    /// The bytes of `object`.
    bytes: &'static [u8],
}

impl SharedBytes {
    pub(crate) fn new(object: &Bound<'_, PyBytes>) -> Self {
        let bytes = object.as_bytes();
        // SAFETY: a `bytes` object neither moves nor changes, and this one lives as long as the result,
        // which lends the slice for no longer.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
        Self { object: object.clone().unbind(), bytes }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { object: self.object.clone_ref(py), bytes: self.bytes }
    }

    pub(crate) fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyBytes> {
        self.object.bind(py)
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// A new `bytes` object that `fill` writes: it gets `capacity` bytes, all zero, and returns how many of
/// them are kept. The object is not moved, unless much less is kept.
///
/// # Errors
/// `MemoryError`
///
/// # Panics
/// If `fill` returns more than `capacity`.
pub(crate) fn bytes_with(
    py: Python<'_>,
    capacity: usize,
    fill: impl FnOnce(&mut [u8]) -> usize,
) -> PyResult<Bound<'_, PyBytes>> {
    let made = bytes_filled_by(py, capacity, |target| {
        target.fill(MaybeUninit::new(0));
        // SAFETY: every byte was just written.
        let target = unsafe { target.assume_init_mut() };
        let len = fill(target);
        Ok(Some(&mut target[..len]))
    })?;
    // There is always something, if only of length 0.
    Ok(made.unwrap_or_else(|| PyBytes::new(py, b"")))
}

/// Runs `operation` on the memory of a bytes-like object: where it begins, and how many bytes it has.
/// Without any, it may begin anywhere.
///
/// `PyO3`'s buffers do the same on the heap, and describe themselves in full: 230 instructions more.
///
/// # Errors
/// What the buffer protocol raises; memory that is not contiguous is among it.
fn with_memory<R>(
    object: &Bound<'_, PyAny>,
    flags: c_int,
    operation: impl FnOnce(*mut u8, usize) -> R,
) -> PyResult<R> {
    struct Export(*mut ffi::Py_buffer);
    impl Drop for Export {
        fn drop(&mut self) {
            // SAFETY: the view below was filled, has not moved, and outlives this. `object` shows
            // that the thread is attached.
            unsafe { ffi::PyBuffer_Release(self.0) }
        }
    }
    let mut view = MaybeUninit::<ffi::Py_buffer>::uninit();
    // SAFETY: the object is alive, the thread attached, and `view` is there to be filled.
    if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    let export = Export(view.as_mut_ptr());
    // SAFETY: the call has filled the view.
    let memory = unsafe { &*export.0 };
    Ok(operation(memory.buf.cast::<u8>(), memory.len.cast_unsigned()))
}

/// Runs `operation` on the bytes of a bytes-like object, without copying them.
///
/// Another thread may change a mutable object meanwhile; as with `socket.send`, which releases the
/// GIL over the same memory, the bytes are then unspecified. They go to the kernel or into a copy,
/// and nothing is decided from their values.
///
/// # Errors
/// What the buffer protocol raises, and `BufferError` if the memory is not contiguous.
pub(crate) fn with_bytes<R>(
    object: &Bound<'_, PyAny>,
    operation: impl FnOnce(&[u8]) -> R,
) -> PyResult<R> {
    with_memory(object, ffi::PyBUF_SIMPLE, |start, len| {
        if len == 0 {
            return operation(&[]);
        }
        // SAFETY: what is exported without strides is contiguous, so `len` bytes are readable while
        // `with_memory` keeps the export; see above for concurrent changes.
        operation(unsafe { std::slice::from_raw_parts(start, len) })
    })
}

/// Makes a `bytes` object of what `fill` wrote to the start of a buffer of `capacity` bytes, without
/// copying it; `None` if `fill` returned that.
///
/// # Errors
/// `MemoryError`; else what `fill` returns.
pub(crate) fn bytes_filled_by<'py>(
    py: Python<'py>,
    capacity: usize,
    fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> PyResult<Option<&'a mut [u8]>>,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    struct Writer(*mut compat::PyBytesWriter);
    impl Drop for Writer {
        fn drop(&mut self) {
            // SAFETY: the writer was created and not finished: `finish` forgets it.
            unsafe { compat::PyBytesWriter_Discard(self.0) }
        }
    }
    let size = isize::try_from(capacity).map_err(|_| PyMemoryError::new_err(()))?;
    // SAFETY: `py` proves that the thread is attached.
    let writer = Writer(unsafe { compat::PyBytesWriter_Create(size) });
    if writer.0.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the writer was just created.
    let start = unsafe { compat::PyBytesWriter_GetData(writer.0) }.cast::<MaybeUninit<u8>>();
    // SAFETY: the writer's buffer holds `capacity` bytes, is nobody else's, and neither moves nor
    // goes away before the writer is finished or discarded. Uninitialized bytes are allowed.
    let buffer = unsafe { std::slice::from_raw_parts_mut(start, capacity) };
    let Some(filled) = fill(buffer)? else {
        return Ok(None);
    };
    assert!(std::ptr::eq(filled.as_ptr().cast(), start), "filled from the start");
    let len = filled.len().cast_signed();
    let writer = ManuallyDrop::new(writer);
    // SAFETY: the writer is not used any more, and `filled` shows that so many bytes were written.
    let bytes = unsafe { compat::PyBytesWriter_FinishWithSize(writer.0, len) };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let bytes = unsafe { Bound::from_owned_ptr_or_err(py, bytes) }?;
    // SAFETY: it is a `bytes` object.
    Ok(Some(unsafe { bytes.cast_into_unchecked() }))
}

/// Runs `operation` on the writable bytes of a buffer that somebody handed out to be filled.
///
/// # Errors
/// `TypeError`, worded as of a method of which the buffer is the argument called `argument`.
pub(crate) fn with_writable_bytes<R>(
    object: &Bound<'_, PyAny>,
    argument: &str,
    operation: impl FnOnce(&mut [u8]) -> R,
) -> PyResult<R> {
    with_memory(object, ffi::PyBUF_WRITABLE, |start, len| {
        if len == 0 {
            return operation(&mut []);
        }
        // SAFETY: what is exported without strides is contiguous, so `len` bytes may be written while
        // `with_memory` keeps the export. Who handed the buffer out leaves them alone meanwhile.
        operation(unsafe { std::slice::from_raw_parts_mut(start, len) })
    })
    .map_err(|_| not_writable(object, argument))
}

#[cold]
fn not_writable(object: &Bound<'_, PyAny>, argument: &str) -> PyErr {
    let class = object.get_type();
    match class.name() {
        Ok(class) => PyTypeError::new_err(format!(
            "{argument} must be read-write bytes-like object, not {class}"
        )),
        Err(error) => error,
    }
}
