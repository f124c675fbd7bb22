"""Contexts of ``rloop.tls``: which engine they choose, and that they forget nothing."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from rloop import tls
from support.certificates import HOST, Certificates
from support.fast_tls import as_openssl, on_loop
from support.outcome_matrix import VERSIONS
from support.tls_outcomes import Success, outcome_of

Loop = asyncio.AbstractEventLoop


@pytest.fixture
def server(certificates: Certificates) -> tls.Context:
    """A context of a server, without special wishes."""
    return tls.server_context(certificates["good"][0].file)


@pytest.fixture
def client(certificates: Certificates) -> tls.Context:
    """A context of a client, without special wishes."""
    return tls.client_context(certificates.trusted.file)


def test_contexts_are_contexts_of_openssl(server: tls.Context, client: tls.Context) -> None:
    for context in (server, client):
        assert isinstance(context, ssl.SSLContext)
        assert context.engine == "rustls"
        assert context.engine_reason is None
    assert client.verify_mode is ssl.CERT_REQUIRED
    assert client.check_hostname
    default = ssl.create_default_context()
    assert client.verify_flags == default.verify_flags
    assert client.options == default.options


def change(name: str, value: object) -> Callable[[tls.Context], None]:
    return lambda context: setattr(context, name, value)


def call(name: str, *arguments: object) -> Callable[[tls.Context], None]:
    return lambda context: getattr(context, name)(*arguments)


#: Whether OpenSSL switches TLS 1.0 and 1.1 off at security levels above 0. Debian's 3.0 does not.
DISABLES_OLD_VERSIONS = ssl.OPENSSL_VERSION_INFO >= (3, 6)


def permit_tls_1_1(context: tls.Context) -> None:
    """OpenSSL may switch it off at higher security levels, so that asking for it has no effect."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wish",
    [
        permit_tls_1_1,
        change("sni_callback", lambda *_: None),
        change("post_handshake_auth", True),
        change("verify_flags", ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_ALLOW_PROXY_CERTS),
        change("sslobject_class", type("Own", (ssl.SSLObject,), {})),
        change("options", 1 << 19),
        call("set_ciphers", "AES128-SHA"),
        call("set_ciphers", "TLSv1"),
        call("set_ecdh_curve", "secp521r1"),
        call("set_npn_protocols", ["h2"]),
    ],
    ids=[
        "old version",
        "sni_callback",
        "post_handshake_auth",
        "verify_flags",
        "sslobject_class",
        "options",
        "ciphers",
        "uvicorn's ciphers",
        "curve",
        "npn",
    ],
)
def test_what_rustls_cannot_honour_is_openssls(
    server: tls.Context, certificates: Certificates, wish: Callable[[tls.Context], None]
) -> None:
    try:
        wish(server)
    except (NotImplementedError, AttributeError):
        pytest.skip("this version of Python or OpenSSL does not have that")
    assert server.engine == "openssl"
    assert server.engine_reason
    strict = tls.server_context(certificates["good"][0].file, strict=True)
    with pytest.raises(ValueError, match="rustls cannot honour this context"):
        wish(strict)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wish",
    [
        change("minimum_version", ssl.TLSVersion.TLSv1_3),
        change("maximum_version", ssl.TLSVersion.TLSv1_2),
        change("options", ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION),
        change("num_tickets", 0),
        change("verify_flags", ssl.VERIFY_X509_STRICT),
        call("set_ciphers", "ECDHE+AESGCM:ECDHE+CHACHA20"),
        call("set_ciphers", "DEFAULT"),
        call("set_ecdh_curve", "prime256v1"),
        call("set_alpn_protocols", ["h2"]),
        call("load_default_certs"),
    ],
)
def test_what_rustls_can_honour_it_does(
    server: tls.Context, wish: Callable[[tls.Context], None]
) -> None:
    wish(server)
    assert server.engine_reason is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wish_that_is_taken_back_is_forgotten(server: tls.Context) -> None:
    permit_tls_1_1(server)
    assert server.engine_reason == "TLSv1_1 is enabled"
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    assert server.engine == "rustls"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_old_version_is_a_reason_for_openssl_where_openssl_speaks_it(
    certificates: Certificates, level: int
) -> None:
    def context(protocol: int) -> tls.Context:
        made = tls.Context(protocol)
        made.set_ciphers(f"ALL:@SECLEVEL={level}")
        made.minimum_version = ssl.TLSVersion.TLSv1_1
        return made

    server, client = context(ssl.PROTOCOL_TLS_SERVER), context(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificates["good"][0].file)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    engines = {server.engine, client.engine}
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (near, far, near, far, near):
        with contextlib.suppress(ssl.SSLError):
            side.do_handshake()
    speaks_it = near.version() == "TLSv1.1"
    assert speaks_it == (level == 0) or not DISABLES_OLD_VERSIONS
    assert engines == {"openssl" if speaks_it or not DISABLES_OLD_VERSIONS else "rustls"}


def test_an_encrypted_key_is_openssls(certificates: Certificates, tmp_path: Path) -> None:
    issued = certificates["good"][0]
    file = tmp_path / "encrypted.pem"
    file.write_bytes(
        issued.certificate.public_bytes(serialization.Encoding.PEM)
        + issued.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    context = tls.server_context(file, password="secret")
    assert context.engine_reason == "the private key is encrypted"


@pytest.mark.only_on("rloop")
async def test_the_move_to_openssl_is_logged_once(
    certificates: Certificates,
    server: tls.Context,
    client: tls.Context,
    loop: Loop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.sni_callback = lambda *_: None
    with caplog.at_level(logging.DEBUG, "rloop.tls"):
        for _ in range(2):
            assert (await outcome_of(client, server, HOST)).is_accepted
    messages = [record.getMessage() for record in caplog.records if record.name == "rloop.tls"]
    assert len(messages) == 1
    assert "is served by OpenSSL: an sni_callback" in messages[0]


@contextlib.contextmanager
def installed() -> Iterator[None]:
    tls.install()
    try:
        yield
    finally:
        tls.uninstall()


def test_install_changes_new_contexts_and_uninstall_undoes_it() -> None:
    before = ssl.create_default_context()
    original = ssl.SSLContext

    class Own(ssl.SSLContext):
        pass

    with installed():
        assert ssl.SSLContext is original
        assert isinstance(ssl.create_default_context(), tls.Context)
        assert isinstance(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls.Context)
        assert type(Own(ssl.PROTOCOL_TLS_CLIENT)) is Own
        before.options |= ssl.OP_NO_TICKET
        before.minimum_version = ssl.TLSVersion.TLSv1_3
    assert type(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) is ssl.SSLContext
    assert type(ssl.create_default_context()) is ssl.SSLContext


async def test_certificates_by_name(certificates: Certificates, loop_name: str, loop: Loop) -> None:
    issue = certificates.trusted.issue
    files: dict[str, Any] = {
        "one.example": issue("one.example").file,
        "*.two.example": (issue("*.two.example").file, None),
    }
    default = certificates["good"][0].file
    for served_by in ("rustls", "openssl"):
        for name in (HOST, "one.example", "a.two.example"):
            server = tls.server_context(default, sni=files)
            if served_by == "rustls":
                assert server.engine_reason is None
                server = on_loop(server, loop_name)
            else:
                server.post_handshake_auth = True
            client = tls.client_context(certificates.trusted.file)
            outcome = await outcome_of(on_loop(client, loop_name), server, name)
            assert isinstance(outcome.client, Success)
            assert outcome.is_accepted


#: What is asked of a server's context, what of a client's, and whether they come together.
WISHES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "protocols": ({"alpn": ["h2"]}, {"alpn": ["h2"]}, True),
    "other ciphers": (
        {"ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
        {
            "ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256",
            "maximum_version": ssl.TLSVersion.TLSv1_2,
        },
        False,
    ),
    "a client's certificate": ({"verify": "required"}, {"certfile": "good"}, True),
    "an unknown client's certificate": (
        {"verify": "required"},
        {"certfile": "unknown authority"},
        False,
    ),
    "no client's certificate": ({"verify": "required"}, {}, False),
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("served_by", ["rustls", "openssl"])
async def test_what_is_asked_holds_for_every_name(
    certificates: Certificates, loop_name: str, loop: Loop, served_by: str, wish: str
) -> None:
    of_server, of_client, is_accepted = WISHES[wish]
    if "certfile" in of_client:
        of_client = {"certfile": certificates[of_client["certfile"]][0].file}
    for name in (HOST, "one.example"):
        other = certificates.made("one.example", lambda: certificates.trusted.issue("one.example"))
        server = tls.server_context(
            certificates["good"][0].file,
            client_ca=certificates.trusted.file,
            sni={"one.example": other.file},
            **of_server,
        )
        if served_by == "rustls":
            on_loop(server, loop_name)
        else:
            as_openssl(server)
        client = tls.client_context(certificates.trusted.file, **of_client)
        outcome = await outcome_of(as_openssl(client), server, name)
        assert outcome.is_accepted == is_accepted
        if isinstance(outcome.client, Success) and "alpn" in of_client:
            assert outcome.client.alpn == "h2"


async def test_what_is_asked_later_holds_for_every_name(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    other = certificates.made("one.example", lambda: certificates.trusted.issue("one.example"))
    server = tls.server_context(certificates["good"][0].file, sni={"one.example": other.file})
    as_openssl(server)
    client = as_openssl(tls.client_context(certificates.trusted.file, alpn=["h2"]))
    server.set_alpn_protocols(["h2"])
    outcome = await outcome_of(client, server, "one.example")
    assert isinstance(outcome.client, Success)
    assert outcome.client.alpn == "h2"
    server.load_verify_locations(certificates.trusted.file)
    server.verify_mode = ssl.CERT_REQUIRED
    assert not (await outcome_of(client, server, "one.example")).is_accepted
    client.load_cert_chain(certificates["good"][0].file)
    assert (await outcome_of(client, server, "one.example")).is_accepted


@pytest.mark.parametrize("limit", VERSIONS.values(), ids=VERSIONS)
async def test_a_session_does_not_outlive_the_rules_it_was_made_by(
    certificates: Certificates,
    server: tls.Context,
    loop_name: str,
    loop: Loop,
    limit: ssl.TLSVersion,
) -> None:
    """A client without a certificate has one, and comes back when certificates are demanded."""
    client = on_loop(
        tls.client_context(certificates.trusted.file, resume=True, maximum_version=limit), loop_name
    )
    on_loop(server, loop_name)
    assert [await is_reused(client, server) for _ in range(2)] == [False, True]
    demanding = on_loop(
        tls.server_context(
            certificates["good"][0].file, client_ca=certificates.trusted.file, verify="required"
        ),
        loop_name,
    )
    assert not (await outcome_of(client, demanding, HOST)).is_accepted
    # The client has a session of it again.
    await is_reused(client, server)
    server.load_verify_locations(certificates.trusted.file)
    server.verify_mode = ssl.CERT_REQUIRED
    assert server.engine == "rustls"
    assert not (await outcome_of(client, server, HOST)).is_accepted


async def test_verify_flags_may_change_between_connections(
    certificates: Certificates, server: tls.Context, loop_name: str, loop: Loop
) -> None:
    revoking = certificates.trusted.revoke(certificates["good"][0])
    client = on_loop(tls.client_context(revoking), loop_name)
    without_check = client.verify_flags
    for flags, is_accepted in (
        (without_check, True),
        (without_check | ssl.VERIFY_CRL_CHECK_LEAF, False),
        (without_check, True),
    ):
        client.verify_flags = flags
        assert client.engine == "rustls"
        assert (await outcome_of(client, server, HOST)).is_accepted == is_accepted


async def test_sessions_are_resumed_if_asked(
    certificates: Certificates, server: tls.Context, loop_name: str, loop: Loop
) -> None:
    on_loop(server, loop_name)
    for resume in (True, False):
        client = on_loop(tls.client_context(certificates.trusted.file, resume=resume), loop_name)
        reused = [await is_reused(client, server) for _ in range(2)]
        assert reused == [False, resume]


async def is_reused(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    address = listening.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address, ssl=client, server_hostname=HOST)
    assert await reader.read() == b"x"
    reused: bool = writer.get_extra_info("ssl_object").session_reused
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()
    return reused


async def test_secrets_are_logged(
    certificates: Certificates, server: tls.Context, loop_name: str, loop: Loop, tmp_path: Path
) -> None:
    async def connect() -> None:
        # The file is open as long as the context lives.
        client = tls.client_context(certificates.trusted.file)
        client.keylog_filename = str(tmp_path / "keys")
        assert client.engine == "rustls"
        assert (await outcome_of(on_loop(client, loop_name), server, HOST)).is_accepted

    await connect()
    lines = (tmp_path / "keys").read_text().splitlines()
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= {
        line.split()[0] for line in lines if not line.startswith("#")
    }


def test_secrets_are_logged_where_the_environment_says(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "keys")
    monkeypatch.setenv("SSLKEYLOGFILE", file)
    assert ssl.create_default_context().keylog_filename == file
    assert tls.client_context(certificates.trusted.file).keylog_filename == file
    assert tls.server_context(certificates["good"][0].file).keylog_filename == file


def test_contexts_of_one_side_are_not_the_other(server: tls.Context, client: tls.Context) -> None:
    assert server._make_rustls(server_side=False, server_hostname=HOST) is None
    assert client._make_rustls(server_side=True, server_hostname=None) is None


def test_names_that_rustls_does_not_take_are_openssls(client: tls.Context) -> None:
    for name in ("trailing.dot.", "under_score..example"):
        with contextlib.suppress(ValueError, UnicodeError):
            assert client._make_rustls(server_side=False, server_hostname=name) is None
