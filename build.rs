//! Lets the crate ask for the version of Python at compile time: `cfg!(Py_3_13)` is true from 3.13
//! on. A wheel is for one version, so there is nothing to ask at run time.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
