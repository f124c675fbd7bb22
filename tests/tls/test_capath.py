"""Directories of trusted certificates: rustls finds in them what OpenSSL finds.

OpenSSL's command line makes the names of files. Where a file is added or removed, OpenSSL is asked
by a new context each time, because a context of OpenSSL keeps the certificates it has found.
"""

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from rloop import tls
from support.certificates import HOST, Certificates, Workshop
from support.fast_tls import as_openssl, on_loop
from support.tls_outcomes import outcome_of

Loop = asyncio.AbstractEventLoop
Attribute = x509.NameAttribute

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


def subject_hash(certificate: Path) -> str:
    """Return the hash by which OpenSSL finds a certificate."""
    command = ("openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate))
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Folder:
    """A directory of certificates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def add(self, certificate: Path, *, number: int = 0, name: str | None = None) -> Path:
        """Add a certificate under its hash or under a name of its own; return the file."""
        file = self.path / (name or f"{subject_hash(certificate)}.{number}")
        shutil.copy(certificate, file)
        return file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "trusted")


class Judges:
    """Asks clients of both engines, which trust a directory, for their opinion of a server."""

    def __init__(self, server: tls.Context, loop_name: str) -> None:
        self.server = as_openssl(server)
        self._loop_name = loop_name

    async def accept(self, capath: Path | str, **options: Any) -> bool:
        """Return whether new clients accept the server, which they have to agree upon."""
        verdicts = []
        for choose in (as_openssl, lambda context: on_loop(context, self._loop_name)):
            client = choose(tls.client_context(capath=capath, **options))
            verdicts.append((await outcome_of(client, self.server, HOST)).is_accepted)
        assert verdicts[0] == verdicts[1]
        return verdicts[0]


@pytest.fixture
def judges(certificates: Certificates, loop_name: str) -> Judges:
    return Judges(tls.server_context(certificates["good"][0].file), loop_name)


async def test_a_certificate_is_found_by_the_hash_of_its_subject(
    certificates: Certificates, folder: Folder, judges: Judges, loop: Loop
) -> None:
    assert not await judges.accept(folder.path)
    folder.add(certificates.trusted.file)
    assert await judges.accept(folder.path)


@pytest.mark.parametrize("name", ["00000000.0", "trusted.pem", "{hash}.1", "{hash}", "{HASH}.0"])
async def test_a_certificate_under_another_name_is_not_found(
    certificates: Certificates, folder: Folder, judges: Judges, loop: Loop, name: str
) -> None:
    true_hash = subject_hash(certificates.trusted.file)
    chosen = name.format(hash=true_hash, HASH=true_hash.upper())
    if chosen == f"{true_hash}.0":
        pytest.skip("the hash has no letters")
    folder.add(certificates.trusted.file, name=chosen)
    assert not await judges.accept(folder.path)


async def test_certificates_with_one_hash_are_numbered(
    certificates: Certificates, folder: Folder, judges: Judges, tmp_path: Path, loop: Loop
) -> None:
    (tmp_path / "other").mkdir()
    namesake = Workshop(tmp_path / "other", "trusted")
    assert subject_hash(namesake.file) == subject_hash(certificates.trusted.file)
    folder.add(namesake.file, number=0)
    assert not await judges.accept(folder.path)
    folder.add(certificates.trusted.file, number=1)
    assert await judges.accept(folder.path)


async def test_a_certificate_in_a_file_of_another_ones_hash_does_not_count(
    certificates: Certificates, folder: Folder, judges: Judges, loop: Loop
) -> None:
    """Nothing that the peer presents leads to that name."""
    folder.add(certificates.unknown.file)
    name = f"{subject_hash(certificates.unknown.file)}.1"
    folder.add(certificates.trusted.file, name=name)
    assert not await judges.accept(folder.path)


@pytest.mark.parametrize("content", ["nothing", "text", "DER", "a key", "a revocation list"])
async def test_a_file_without_a_certificate_in_pem_is_the_last_one(
    certificates: Certificates,
    folder: Folder,
    judges: Judges,
    loop_name: str,
    loop: Loop,
    content: str,
) -> None:
    """OpenSSL 3.0 ends there too; OpenSSL 3.6 goes on."""
    trusted = certificates.trusted
    pem = serialization.Encoding.PEM
    file = folder.add(trusted.file, number=0)
    file.write_bytes(
        {
            "nothing": b"",
            "text": b"-----BEGIN",
            "DER": ssl.PEM_cert_to_DER_cert(trusted.file.read_text()),
            "a key": trusted.key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "a revocation list": trusted.revoke().read_bytes()[len(trusted.file.read_bytes()) :],
        }[content]
    )
    assert not await judges.accept(folder.path)
    folder.add(trusted.file, number=1)
    client = on_loop(tls.client_context(capath=folder.path), loop_name)
    assert not (await outcome_of(client, judges.server, HOST)).is_accepted


async def test_a_file_may_hold_several_certificates(
    certificates: Certificates, folder: Folder, judges: Judges, loop: Loop
) -> None:
    file = folder.add(certificates.trusted.file)
    file.write_bytes(certificates.unknown.file.read_bytes() + file.read_bytes())
    assert await judges.accept(folder.path)


async def test_several_directories_may_be_given(
    certificates: Certificates, folder: Folder, judges: Judges, tmp_path: Path, loop: Loop
) -> None:
    empty = Folder(tmp_path / "empty")
    folder.add(certificates.trusted.file)
    assert await judges.accept(os.pathsep.join([str(empty.path), "", str(folder.path)]))
    assert await judges.accept(os.pathsep.join([str(tmp_path / "missing"), str(folder.path)]))


NAMES = {
    "capitals": x509.Name([Attribute(NameOID.COMMON_NAME, "Some AUTHORITY")]),
    "blanks": x509.Name([Attribute(NameOID.COMMON_NAME, "  some \t authority ")]),
    "no capitals of ASCII": x509.Name([Attribute(NameOID.COMMON_NAME, "ÄÖÜ Straße")]),
    "other strings": x509.Name(
        [
            Attribute(NameOID.COMMON_NAME, "Größe", _type=x509.name._ASN1Type.BMPString),
            Attribute(NameOID.SURNAME, "Maße", _type=x509.name._ASN1Type.UniversalString),
            Attribute(NameOID.TITLE, "A b", _type=x509.name._ASN1Type.PrintableString),
            Attribute(NameOID.EMAIL_ADDRESS, "A@b", _type=x509.name._ASN1Type.IA5String),
            Attribute(NameOID.PSEUDONYM, "Größe", _type=x509.name._ASN1Type.T61String),
        ]
    ),
    "sets": x509.Name(
        [
            x509.RelativeDistinguishedName(
                [Attribute(NameOID.SURNAME, "Z"), Attribute(NameOID.COMMON_NAME, "a")]
            ),
            x509.RelativeDistinguishedName([Attribute(NameOID.GIVEN_NAME, "C")]),
        ]
    ),
    "long": x509.Name(
        [Attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Unit " * 12) for _ in range(4)]
    ),
}


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_every_kind_are_hashed_as_openssl_does(
    folder: Folder, tmp_path: Path, loop_name: str, loop: Loop, name: str
) -> None:
    authority = Workshop(tmp_path, "authority", NAMES[name])
    folder.add(authority.file)
    server = tls.server_context(authority.issue(HOST).file)
    assert await Judges(server, loop_name).accept(folder.path)


async def test_a_self_signed_certificate_is_found(
    certificates: Certificates, folder: Folder, tmp_path: Path, loop_name: str, loop: Loop
) -> None:
    own = certificates.trusted.issue(HOST, self_signed=True)
    folder.add(own.file)
    judges = Judges(tls.server_context(own.file), loop_name)
    assert await judges.accept(folder.path)


@pytest.mark.parametrize("partial", [False, True])
async def test_a_certificate_that_did_not_sign_itself_is_found(
    certificates: Certificates, folder: Folder, loop_name: str, loop: Loop, partial: bool
) -> None:
    issued = certificates["good"][0]
    folder.add(issued.file)
    server = as_openssl(tls.server_context(issued.file))
    verdicts = []
    for choose in (as_openssl, lambda context: on_loop(context, loop_name)):
        client = tls.client_context(capath=folder.path)
        flags = client.verify_flags & ~ssl.VERIFY_X509_PARTIAL_CHAIN
        client.verify_flags = flags | (ssl.VERIFY_X509_PARTIAL_CHAIN if partial else 0)
        verdicts.append((await outcome_of(choose(client), server, HOST)).is_accepted)
    assert verdicts == [partial, partial]


async def test_a_certificate_that_is_added_or_removed_counts_for_the_next_connection(
    certificates: Certificates, folder: Folder, judges: Judges, loop_name: str, loop: Loop
) -> None:
    client = on_loop(tls.client_context(capath=folder.path), loop_name)
    for _ in range(2):
        assert not (await outcome_of(client, judges.server, HOST)).is_accepted
        file = folder.add(certificates.trusted.file)
        assert (await outcome_of(client, judges.server, HOST)).is_accepted
        file.unlink()
    assert not (await outcome_of(client, judges.server, HOST)).is_accepted


async def test_clients_of_a_server_are_checked_by_a_directory_too(
    certificates: Certificates, folder: Folder, loop_name: str, loop: Loop
) -> None:
    server = tls.server_context(certificates["good"][0].file)
    server.load_verify_locations(capath=folder.path)
    server.verify_mode = ssl.CERT_REQUIRED
    server = on_loop(server, loop_name)
    client = as_openssl(
        tls.client_context(certificates.trusted.file, certfile=certificates["good"][0].file)
    )
    assert not (await outcome_of(client, server, HOST)).is_accepted
    file = folder.add(certificates.trusted.file)
    assert (await outcome_of(client, server, HOST)).is_accepted
    file.unlink()
    assert not (await outcome_of(client, server, HOST)).is_accepted


async def test_the_systems_directory_is_the_one_that_the_environment_names(
    certificates: Certificates,
    folder: Folder,
    judges: Judges,
    loop_name: str,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder.add(certificates.trusted.file)
    for path, is_accepted in ((folder.path, True), (folder.path / "missing", False)):
        monkeypatch.setenv("SSL_CERT_DIR", str(path))
        choices: tuple[Callable[[tls.Context], tls.Context], ...] = (
            as_openssl,
            lambda context: on_loop(context, loop_name),
        )
        for choose in choices:
            client = choose(tls.client_context())
            assert (await outcome_of(client, judges.server, HOST)).is_accepted == is_accepted


async def test_certificates_that_openssl_has_found_do_not_move_a_context(
    certificates: Certificates, folder: Folder, judges: Judges, loop: Loop
) -> None:
    """OpenSSL keeps them with those that were loaded."""
    file = folder.add(certificates.trusted.file)
    client = tls.client_context(capath=folder.path)
    plain = ssl.SSLContext.wrap_bio
    assert client.engine == "rustls"

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
    connecting = plain(client, incoming, outgoing, server_hostname=HOST)
    accepting = judges.server.wrap_bio(theirs, ours, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        connecting.do_handshake()
    theirs.write(outgoing.read())
    with pytest.raises(ssl.SSLWantReadError):
        accepting.do_handshake()
    incoming.write(ours.read())
    connecting.do_handshake()

    assert client.cert_store_stats()["x509"] == 1
    assert client.engine_reason is None
    file.unlink()
    # OpenSSL still trusts it, so nobody can tell where it came from.
    ssl.SSLContext.load_verify_locations(client, certificates.unknown.file)
    assert client.engine_reason == "trusted certificates that its own methods have not loaded"
