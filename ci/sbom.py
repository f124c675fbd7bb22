"""Lists the Rust code that a wheel is made of, as a CycloneDX SBOM.

Called by distribution.py. maturin and cargo-cyclonedx write the folders of the build into theirs,
so no two would be equal (decision 6). This one is a function of the sources, of the target and of
the compiler. It lies beside the wheels: the Rust code is the same for every interpreter.

What cargo resolves for the target is divided in two: what is linked into the extension module is
``required``; build scripts, procedural macros and what only they need is ``excluded``.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIFICATION = "1.6"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/tokioloop/rloop")

Json = dict[str, Any]


def make_sbom(name: str, metadata: Json, lock: Path, properties: dict[str, str]) -> Json:
    """Return the SBOM of the package that `metadata` is about.

    Args:
        name: the name of the distribution, which is another than the package's.
        metadata: what ``cargo metadata`` prints for one target.
        lock: Cargo.lock, for the checksums.
        properties: what else is to be said of the build, by name.
    """
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    references = {identifier: _reference(package) for identifier, package in packages.items()}
    references[root] = f"pkg:pypi/{name}@{packages[root]['version']}"
    checksums = {
        (package["name"], package["version"]): package.get("checksum")
        for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    }

    def neighbours(identifier: str, kinds: Iterable[str | None]) -> set[str]:
        return {
            dependency["pkg"]
            for dependency in nodes[identifier]["deps"]
            if any(kind["kind"] in kinds for kind in dependency["dep_kinds"])
        }

    def linked(identifier: str) -> set[str]:
        return {other for other in neighbours(identifier, {None}) if not _is_macro(packages[other])}

    def used(identifier: str) -> set[str]:
        return neighbours(identifier, {None, "build"})

    required = _reachable(root, linked)
    everything = _reachable(root, used)
    components = []
    for identifier in everything - {root}:
        package = packages[identifier]
        scope = "required" if identifier in required else "excluded"
        component = _component(package) | {"scope": scope}
        if checksum := checksums[package["name"], package["version"]]:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        components.append(component)
    dependencies = [
        {
            "ref": references[identifier],
            "dependsOn": sorted(references[other] for other in used(identifier)),
        }
        for identifier in everything
    ]
    document: Json = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "component": _component(packages[root])
            | {"bom-ref": references[root], "name": name, "purl": references[root]},
            "properties": [
                {"name": name, "value": value} for name, value in sorted(properties.items())
            ],
        },
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
        "dependencies": sorted(dependencies, key=lambda dependency: str(dependency["ref"])),
    }
    # A name for exactly these contents, where CycloneDX proposes a random one.
    contents = json.dumps(document, sort_keys=True)
    return document | {"serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, contents)}"}


def _reachable(root: str, edges: Any) -> set[str]:
    """Return `root` and what can be reached from it along `edges`."""
    found = {root}
    unseen = [root]
    while unseen:
        new = edges(unseen.pop()) - found
        found |= new
        unseen += new
    return found


def _is_macro(package: Json) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _reference(package: Json) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def _component(package: Json) -> Json:
    component: Json = {
        "type": "library",
        "bom-ref": _reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": _reference(package),
    }
    if package["license"]:
        # Before there were expressions, crates wrote a slash for "or".
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return component
