//! Lets the crate ask for the version of Python at compile time: `cfg!(Py_3_13)` is true from 3.13
//! on. A wheel is for one version, so there is nothing to ask at run time. Refuses systems that the
//! crate has no code for.

use std::env;

fn main() {
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !matches!(system.as_str(), "linux" | "macos") {
        println!("cargo::error=TokioLoop runs on Linux and on macOS only, not on {system}");
    }
    pyo3_build_config::use_pyo3_cfgs();
}
