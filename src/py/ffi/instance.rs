//! Whether an attribute lookup still gives what it gave before, for a few instructions.
//!
//! A lookup of a method asks the class (about 150 instructions) and then the instance, which may have an
//! attribute of the same name (about 80). The interpreter's own bytecode skips both, by comparing
//! two numbers: the version of the class, and the number of attribute names that its instances have had so
//! far. Those names are shared by all instances of a class; an instance keeps its values behind the object,
//! one for each name. So a name that is not among them is an attribute of none. This does the same.
//!
//! The version of a class is a public field. The rest is laid out as `pycore_dict.h` and
//! `pycore_object.h` say, alike from Python 3.13 to 3.15. [`layout_is_known`] tries it out on an object, once
//! in a process. Where it is something else, every lookup is made anew.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};
use std::ffi::c_ulong;
use std::sync::atomic::{AtomicIsize, AtomicU8, AtomicU32, Ordering};

/// `Py_TPFLAGS_INLINE_VALUES`: instances keep the values of their attributes behind the object.
const INLINE_VALUES: c_ulong = 1 << 2;

/// The head of `struct _dictvalues`, which stands behind an object with inline values.
#[repr(C)]
struct Values {
    capacity: u8,
    size: u8,
    embedded: u8,
    /// Not zero while the attributes of the instance are exactly these.
    valid: AtomicU8,
}

/// The head of `struct _dictkeysobject`: the names that the instances of a class share.
#[repr(C)]
struct Names {
    references: isize,
    log2_size: u8,
    log2_index_bytes: u8,
    kind: u8,
    lock: u8,
    version: AtomicU32,
    usable: isize,
    /// How many names there are. It only grows.
    count: AtomicIsize,
}

/// A slot of the table behind [`Names`] and its indices.
#[repr(C)]
struct Slot {
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
}

/// What has to be the same for an instance to find a certain attribute where it found it before: in its
/// class.
#[derive(Clone, Copy)]
pub(crate) struct Unchanged {
    class_version: u32,
    /// How many names its instances shared; `None` if they have no attributes of their own.
    names: Option<isize>,
}

impl Unchanged {
    /// Describes how `instance` finds `name` now; `None` if that is not known to come from the class
    /// alone. The version has to be read before the class is asked, see [`class_version`].
    pub(crate) fn describe(
        instance: &Bound<'_, PyAny>,
        name: &Bound<'_, PyString>,
        class_version: u32,
    ) -> PyResult<Option<Self>> {
        let class = instance.get_type();
        if class_version == 0 || !looks_up_as_object_does(&class) {
            return Ok(None);
        }
        if !has_instance_attributes(&class) {
            return Ok(Some(Self { class_version, names: None }));
        }
        if !layout_is_known(instance.py())? {
            return Ok(None);
        }
        Self::describe_inline(instance, name, class_version)
    }

    /// The part of [`Unchanged::describe`] that depends on the layout.
    fn describe_inline(
        instance: &Bound<'_, PyAny>,
        name: &Bound<'_, PyString>,
        class_version: u32,
    ) -> PyResult<Option<Self>> {
        if !has_inline_values(&instance.get_type()) {
            return Ok(None);
        }
        // Before the names are compared: one that is added meanwhile changes it.
        let count = count_of_names(instance.get_type_ptr());
        let described = Self { class_version, names: Some(count) };
        let is_certain = !has_name(&instance.get_type(), count, name)? && described.holds(instance);
        Ok(is_certain.then_some(described))
    }

    /// True if `instance` still finds the attribute in its class, as it was there.
    #[inline]
    pub(crate) fn holds(&self, instance: &Bound<'_, PyAny>) -> bool {
        let class = instance.get_type_ptr();
        if version_of(class) != self.class_version {
            return false;
        }
        self.names.is_none_or(|count| {
            // The version is that of one class only, of which `describe_inline` has found out that
            // its instances are laid out like this.
            values_are_valid(instance) && count_of_names(class) == count
        })
    }
}

/// The version of an object's class: another one whenever the class or a base of it has changed; 0 if
/// nobody has asked it for an attribute since.
pub(crate) fn class_version(instance: &Bound<'_, PyAny>) -> u32 {
    version_of(instance.get_type_ptr())
}

/// The version of a class, see [`class_version`].
#[inline]
pub(crate) fn version_of_class(class: &Bound<'_, PyType>) -> u32 {
    version_of(class.as_type_ptr())
}

#[inline]
fn version_of(class: *mut ffi::PyTypeObject) -> u32 {
    // SAFETY: the caller has the class from an object that is alive, so it is, too.
    let version = unsafe { &raw mut (*class).tp_version_tag };
    // SAFETY: the field is aligned and lives as long as the class; the interpreter writes it atomically.
    unsafe { AtomicU32::from_ptr(version) }.load(Ordering::Relaxed)
}

/// True if instances of `class` find attributes as `object.__getattribute__()` does.
fn looks_up_as_object_does(class: &Bound<'_, PyType>) -> bool {
    // SAFETY: the class is alive; the field changes with the version of the class only.
    let lookup = unsafe { (*class.as_type_ptr()).tp_getattro };
    let usual: ffi::getattrofunc = ffi::PyObject_GenericGetAttr;
    lookup.is_some_and(|lookup| std::ptr::fn_addr_eq(lookup, usual))
}

/// True if calling `object.name(*arguments)` is calling `function(object, *arguments)`, where `function`
/// is what the class of `object` has under that name.
pub(crate) fn is_unbound_method(function: &Bound<'_, PyAny>) -> bool {
    flags_of(&function.get_type()) & ffi::Py_TPFLAGS_METHOD_DESCRIPTOR != 0
}

fn flags_of(class: &Bound<'_, PyType>) -> c_ulong {
    // SAFETY: the class is alive.
    unsafe { ffi::PyType_GetFlags(class.as_type_ptr()) }
}

/// True unless all attributes of instances of `class` are slots or in the class.
fn has_instance_attributes(class: &Bound<'_, PyType>) -> bool {
    // SAFETY: the class is alive; the field is set once.
    let offset = unsafe { (*class.as_type_ptr()).tp_dictoffset };
    offset != 0 || flags_of(class) & ffi::Py_TPFLAGS_MANAGED_DICT != 0
}

fn has_inline_values(class: &Bound<'_, PyType>) -> bool {
    let needed = INLINE_VALUES | ffi::Py_TPFLAGS_MANAGED_DICT | ffi::Py_TPFLAGS_HEAPTYPE;
    flags_of(class) & needed == needed && !names_of(class.as_type_ptr()).is_null()
}

/// The names that the instances of a class share. The class is one of Python code.
#[inline]
fn names_of(class: *mut ffi::PyTypeObject) -> *mut Names {
    // SAFETY: the caller has made sure that the class is alive and has the layout of such classes, and
    // the field is set once.
    unsafe { (*class.cast::<ffi::PyHeapTypeObject>()).ht_cached_keys }.cast()
}

#[inline]
fn count_of_names(class: *mut ffi::PyTypeObject) -> isize {
    // SAFETY: such a class keeps its names for life, and their layout is known; the interpreter writes
    // the count atomically, after the name.
    unsafe { (*names_of(class)).count.load(Ordering::Acquire) }
}

/// True if one of the first `count` names that the instances of `class` share is `name`.
fn has_name(class: &Bound<'_, PyType>, count: isize, name: &Bound<'_, PyString>) -> PyResult<bool> {
    let names = names_of(class.as_type_ptr());
    // SAFETY: as in `count_of_names`. The field is set once.
    let index_bytes = 1usize << unsafe { (*names).log2_index_bytes };
    // SAFETY: the indices stand behind the head, and the slots behind them, in one allocation. The
    // interpreter pads the indices to the alignment of the slots.
    let first: *mut Slot = unsafe { names.byte_add(size_of::<Names>() + index_bytes) }.cast();
    for index in 0..count {
        // SAFETY: there are `count` slots.
        let slot = unsafe { first.offset(index) };
        // SAFETY: the slot is initialized, and its name does not change.
        let shared = unsafe { (*slot).name };
        // SAFETY: the names own what they name, and are never taken out.
        let shared = unsafe { Borrowed::from_ptr(class.py(), shared) };
        if shared.eq(name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[inline]
fn values_are_valid(instance: &Bound<'_, PyAny>) -> bool {
    let class = instance.get_type_ptr();
    // SAFETY: the class is alive; the field is set once.
    let size = unsafe { (*class).tp_basicsize };
    // SAFETY: the values stand behind the object, in the same allocation.
    let values = unsafe { instance.as_ptr().byte_offset(size) }.cast::<Values>();
    // SAFETY: their layout is known; the interpreter writes the field atomically.
    let valid = unsafe { (*values).valid.load(Ordering::Acquire) };
    valid != 0
}

/// True if objects are laid out as this module thinks, as far as can be tried out.
///
/// # Errors
/// `MemoryError`
pub(crate) fn layout_is_known(py: Python<'_>) -> PyResult<bool> {
    static KNOWN: PyOnceLock<bool> = PyOnceLock::new();
    KNOWN
        .get_or_try_init(py, || {
            let version = py.version_info();
            Ok(((3, 13)..(3, 16)).contains(&(version.major, version.minor))
                && tried_layout_is_right(py)?)
        })
        .copied()
}

/// Gives an object one attribute after another and compares what can be read of it.
fn tried_layout_is_right(py: Python<'_>) -> PyResult<bool> {
    let name = PyString::new(py, "method");
    let namespace = PyDict::new(py);
    namespace.set_item(&name, py.None())?;
    let class = py.get_type::<PyType>().call1(("Tried", (), namespace))?;
    let (instance, other) = (class.call0()?, class.call0()?);
    let describe = |instance: &Bound<'_, PyAny>| {
        drop(instance.getattr(&name)?);
        Unchanged::describe_inline(instance, &name, class_version(instance))
    };
    let holds = |described: Option<Unchanged>, instance: &Bound<'_, PyAny>| {
        described.is_some_and(|described| described.holds(instance))
    };
    let fresh = describe(&instance)?;
    if !holds(fresh, &instance) || !holds(fresh, &other) {
        return Ok(false);
    }
    // Another name, which all instances share.
    instance.setattr("attribute", 1)?;
    let with_attribute = describe(&instance)?;
    if holds(fresh, &instance) || !holds(with_attribute, &instance) {
        return Ok(false);
    }
    // Another value, or the same again.
    instance.setattr("attribute", 2)?;
    if !holds(with_attribute, &instance) || !holds(with_attribute, &other) {
        return Ok(false);
    }
    // A dictionary in place of the values.
    other.setattr("__dict__", PyDict::new(py))?;
    if holds(with_attribute, &other) || !holds(with_attribute, &instance) {
        return Ok(false);
    }
    // The name itself.
    instance.setattr(&name, 3)?;
    Ok(!holds(with_attribute, &instance) && describe(&instance)?.is_none())
}
