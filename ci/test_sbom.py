"""Tests of ci/sbom.py: a made-up dependency tree with one crate of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sbom import Json, make_sbom

LOCK = """
[[package]]
name = "module"
version = "1.0.0"

[[package]]
name = "linked"
version = "2.0.0"
checksum = "ab12"

[[package]]
name = "macro"
version = "3.0.0"
checksum = "cd34"

[[package]]
name = "parser"
version = "4.0.0"
checksum = "ef56"

[[package]]
name = "test-only"
version = "5.0.0"
checksum = "ab78"
"""


def package(name: str, version: str, kind: str = "lib", licence: str = "MIT") -> Json:
    return {
        "id": f"path+file:///somewhere/{name}#{version}",
        "name": name,
        "version": version,
        "license": licence,
        "targets": [{"kind": [kind]}],
    }


def node(origin: Json, *edges: tuple[Json, str | None]) -> Json:
    deps = [{"pkg": other["id"], "dep_kinds": [{"kind": kind}]} for other, kind in edges]
    return {"id": origin["id"], "deps": deps}


MODULE = package("module", "1.0.0")
LINKED = package("linked", "2.0.0", licence="MIT/Apache-2.0")
MACRO = package("macro", "3.0.0", kind="proc-macro")
PARSER = package("parser", "4.0.0")
TEST_ONLY = package("test-only", "5.0.0")
METADATA: Json = {
    "packages": [TEST_ONLY, PARSER, MODULE, MACRO, LINKED],
    "resolve": {
        "root": MODULE["id"],
        "nodes": [
            node(MODULE, (LINKED, None), (MACRO, None), (TEST_ONLY, "dev")),
            node(LINKED, (PARSER, "build")),
            node(MACRO, (PARSER, None)),
            node(PARSER),
            node(TEST_ONLY),
        ],
    },
}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "Cargo.lock"
    path.write_text(LOCK, encoding="utf-8")
    return path


def components(document: Json) -> dict[str, Any]:
    return {component["name"]: component for component in document["components"]}


def test_what_is_linked_is_told_from_what_only_builds(lock: Path) -> None:
    found = components(make_sbom("distributed", METADATA, lock, {}))
    scopes = {name: component["scope"] for name, component in found.items()}
    assert scopes == {"linked": "required", "macro": "excluded", "parser": "excluded"}


def test_a_component_has_checksum_licence_and_address(lock: Path) -> None:
    linked = components(make_sbom("distributed", METADATA, lock, {}))["linked"]
    assert linked["hashes"] == [{"alg": "SHA-256", "content": "ab12"}]
    assert linked["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert linked["purl"] == "pkg:cargo/linked@2.0.0"


def test_dependencies_point_at_components(lock: Path) -> None:
    document = make_sbom("distributed", METADATA, lock, {})
    edges = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert edges["pkg:pypi/distributed@1.0.0"] == [
        "pkg:cargo/linked@2.0.0",
        "pkg:cargo/macro@3.0.0",
    ]
    assert edges["pkg:cargo/linked@2.0.0"] == ["pkg:cargo/parser@4.0.0"]


def test_it_is_about_the_distribution(lock: Path) -> None:
    document = make_sbom("distributed", METADATA, lock, {})
    component = document["metadata"]["component"]
    assert (component["name"], component["purl"]) == ("distributed", "pkg:pypi/distributed@1.0.0")
    edges = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert "pkg:cargo/linked@2.0.0" in edges[component["bom-ref"]]


def test_it_names_no_folder_and_is_the_same_every_time(lock: Path) -> None:
    document = make_sbom("distributed", METADATA, lock, {"target": "here"})
    assert "somewhere" not in json.dumps(document)
    assert document == make_sbom("distributed", METADATA, lock, {"target": "here"})


def test_its_number_tells_its_contents_apart(lock: Path) -> None:
    numbers = {
        make_sbom("distributed", METADATA, lock, {"target": target})["serialNumber"]
        for target in ("here", "there")
    }
    assert len(numbers) == 2
