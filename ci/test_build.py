"""Tests of ci/build.py: what it takes out of the environment, and puts into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from build import build_environment

SOURCE = Path("/home/someone/a checkout")


def remapped(path: str, inherited: dict[str, str]) -> str:
    """Return what rustc makes of `path`: the last prefix that fits is replaced."""
    result = path
    for flag in build_environment(SOURCE, inherited)["CARGO_ENCODED_RUSTFLAGS"].split("\x1f"):
        name, _, mapping = flag.partition("=")
        if name != "--remap-path-prefix":
            continue
        before, after = mapping.split("=")
        if path.startswith(f"{before}/"):
            result = after + path.removeprefix(before)
    return result


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (
            "/cargo home/registry/src/index-1/tokio-1.0/src/lib.rs",
            "/cargo/index-1/tokio-1.0/src/lib.rs",
        ),
        ("/home/someone/a checkout/src/lib.rs", "/source/src/lib.rs"),
        ("/home/someone/a checkout/target/out/generated.rs", "/target/out/generated.rs"),
    ],
)
def test_folders_leave_no_trace(path: str, shown: str) -> None:
    assert remapped(path, {"CARGO_HOME": "/cargo home"}) == shown


def test_a_target_folder_elsewhere_leaves_no_trace() -> None:
    inherited = {"CARGO_HOME": "/cargo", "CARGO_TARGET_DIR": "/scratch/target"}
    assert remapped("/scratch/target/out/generated.rs", inherited) == "/target/out/generated.rs"


@pytest.mark.parametrize(
    "name",
    [
        "CXXFLAGS",
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_PROFILE_RELEASE_LTO",
        "CARGO_INCREMENTAL",
    ],
)
def test_variables_that_change_the_code_are_taken_out(name: str) -> None:
    environment = build_environment(SOURCE, {"CARGO_HOME": "/cargo", "PATH": "/bin", name: "set"})
    assert name not in environment
    assert environment["PATH"] == "/bin"


def test_rust_and_c_code_has_frame_pointers_whatever_the_flags_were() -> None:
    environment = build_environment(SOURCE, {"CFLAGS": "-O1", "RUSTFLAGS": "-Copt-level=0"})
    assert "-Cforce-frame-pointers=yes" in environment["CARGO_ENCODED_RUSTFLAGS"].split("\x1f")
    assert environment["CFLAGS"] == "-fno-omit-frame-pointer -mno-omit-leaf-frame-pointer"


@pytest.mark.parametrize(
    ("name", "value"), [("SOURCE_DATE_EPOCH", "315532800"), ("MACOSX_DEPLOYMENT_TARGET", "11.0")]
)
def test_the_time_and_the_oldest_macos_are_always_the_same(name: str, value: str) -> None:
    inherited = {"CARGO_HOME": "/cargo", name: "1795366993"}
    assert build_environment(SOURCE, inherited)[name] == value
