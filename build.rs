//! Lets the crate ask for the version of Python at compile time: `cfg!(Py_3_13)` is true from 3.13
//! on. A wheel is for one version, so there is nothing to ask at run time. Refuses systems that the
//! crate has no code for. In debug builds, has each call of Python's C API checked, see
//! `src/py/ffi/entries.rs`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// The functions of the C API that this crate calls, one a line.
const ENTRIES: &str = "src/py/ffi/entries.txt";

/// Saves the registers of arguments, calls `check` with the string at r10, and jumps to r11.
const COMMON: &str = "
    .text
    .type rloop_python_entry,@function
rloop_python_entry:
    .cfi_startproc
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    pushq %r11
    subq $136, %rsp
    .cfi_adjust_cfa_offset 200
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    movq %r10, %rdi
    callq {check}
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    addq $136, %rsp
    popq %r11
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    .cfi_adjust_cfa_offset -200
    jmpq *%r11
    .cfi_endproc
    .size rloop_python_entry, .-rloop_python_entry
";

fn main() {
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !matches!(system.as_str(), "linux" | "macos") {
        println!("cargo::error=TokioLoop runs on Linux and on macOS only, not on {system}");
    }
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(python_entries_checked)");
    let machine = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if env::var("PROFILE").as_deref() == Ok("debug") && system == "linux" && machine == "x86_64" {
        check_entries();
    }
}

/// Redirects the functions of [`ENTRIES`] to the code that this writes to `entries.s`.
fn check_entries() {
    println!("cargo::rerun-if-changed={ENTRIES}");
    println!("cargo::rustc-cfg=python_entries_checked");
    let names = fs::read_to_string(ENTRIES).expect("the list of functions is part of the sources");
    let mut code = COMMON.to_owned();
    for name in names.lines() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,--wrap={name}");
        // The function is weak because not every version of Python has all of them.
        write!(
            code,
            "
    .weak __real_{name}
    .globl __wrap_{name}
    .hidden __wrap_{name}
    .type __wrap_{name},@function
__wrap_{name}:
    leaq 1f(%rip), %r10
    movq __real_{name}@GOTPCREL(%rip), %r11
    jmp rloop_python_entry
1:  .asciz \"{name}\"
"
        )
        .expect("a string takes everything");
    }
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&folder).join("entries.s"), code).expect("the folder is writable");
}
