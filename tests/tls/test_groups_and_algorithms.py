"""Settings of contexts that ``ssl`` has from Python 3.15 on: groups, cipher suites, signatures.

Each is honoured by rustls, or the context is OpenSSL's. Outcomes are compared with OpenSSL's, with
the setting on either side, and with contexts that do not fit together.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from rloop import tls
from support.certificates import HOST, Certificates
from support.peers import stream_pair
from support.protocols import RecordingProtocol
from support.threads import eventually
from support.tls_outcomes import outcome_of

Loop = asyncio.AbstractEventLoop
Setting = tuple[str, str]

pytestmark = [
    pytest.mark.skipif(
        not hasattr(ssl.SSLContext, "set_groups"), reason="the ssl module has no such settings"
    ),
    pytest.mark.only_on("rloop"),
]

HONOURED: list[Setting] = [
    ("set_groups", "X25519MLKEM768"),
    ("set_groups", "x25519mlkem768:X25519:P-256"),
    ("set_groups", "secp384r1"),
    ("set_groups", "P-256:X25519"),
    ("set_ciphersuites", "TLS_AES_128_GCM_SHA256"),
    ("set_ciphersuites", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"),
]

OPENSSLS: list[Setting] = [
    ("set_groups", "x448"),
    ("set_groups", "X25519:secp521r1"),
    ("set_groups", "*X25519/P-256"),
    ("set_groups", "?X25519:P-256"),
    ("set_groups", "DEFAULT"),
    ("set_ciphersuites", "TLS_AES_128_CCM_SHA256"),
    ("set_client_sigalgs", "ecdsa_secp256r1_sha256"),
    ("set_server_sigalgs", "ecdsa_secp256r1_sha256"),
    ("set_server_sigalgs", "rsa_pss_rsae_sha256"),
]


def names(setting: Setting) -> str:
    """Name a setting in a test's id."""
    return "=".join(setting)


def apply(context: ssl.SSLContext, setting: Setting | None) -> ssl.SSLContext:
    """Make a setting; return the context."""
    if setting is not None:
        name, value = setting
        getattr(context, name)(value)
    return context


def plain_client(certificates: Certificates) -> ssl.SSLContext:
    """A client's context of OpenSSL, with the defaults of `rloop.tls`."""
    return ssl.create_default_context(cafile=certificates.trusted.file)


def plain_server(certificates: Certificates) -> ssl.SSLContext:
    """A server's context of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["good"][0].file)
    return context


def fast_client(certificates: Certificates) -> tls.Context:
    """The same of `rloop.tls`."""
    return tls.client_context(certificates.trusted.file)


def fast_server(certificates: Certificates) -> tls.Context:
    """The same of `rloop.tls`."""
    return tls.server_context(certificates["good"][0].file)


async def agreed(client: ssl.SSLContext, server: ssl.SSLContext) -> Any:
    """Return group and cipher of both sides, or None if they do not come to terms."""
    if not (await outcome_of(client, server, HOST)).is_accepted:
        return None
    loop = asyncio.get_running_loop()
    near, far = stream_pair("tcp")
    protocols = RecordingProtocol(), RecordingProtocol()
    await asyncio.gather(
        loop.create_connection(lambda: protocols[0], sock=near, ssl=client, server_hostname=HOST),
        loop.connect_accepted_socket(lambda: protocols[1], far, ssl=server),
    )
    objects = [protocol.transport.get_extra_info("ssl_object") for protocol in protocols]
    told = [(one.group(), one.cipher()) for one in objects]
    for protocol in protocols:
        protocol.transport.abort()
    await eventually(lambda: near.fileno() == far.fileno() == -1)
    return told


@pytest.mark.parametrize("setting", HONOURED, ids=names)
def test_rustls_honours_what_it_can(certificates: Certificates, setting: Setting) -> None:
    for context in (fast_client(certificates), fast_server(certificates)):
        apply(context, setting)
        assert context.engine_reason is None


@pytest.mark.parametrize("setting", OPENSSLS, ids=names)
def test_what_rustls_cannot_honour_is_openssls(
    certificates: Certificates, setting: Setting
) -> None:
    for context in (fast_client(certificates), fast_server(certificates)):
        apply(context, setting)
        assert context.engine == "openssl"
    strict = tls.client_context(certificates.trusted.file, strict=True)
    with pytest.raises(ValueError, match="rustls cannot honour this context"):
        apply(strict, setting)


@pytest.mark.parametrize("setting", [*HONOURED, *OPENSSLS], ids=names)
async def test_the_outcome_is_that_of_openssl(certificates: Certificates, setting: Setting) -> None:
    client, server = plain_client(certificates), plain_server(certificates)
    # By default OpenSSL permits groups that rustls does not have.
    is_fast = setting in HONOURED
    other_client = fast_client(certificates) if is_fast else client
    other_server = fast_server(certificates) if is_fast else server
    theirs = await agreed(apply(plain_client(certificates), setting), server)
    assert await agreed(apply(fast_client(certificates), setting), other_server) == theirs
    theirs = await agreed(client, apply(plain_server(certificates), setting))
    ours = await agreed(other_client, apply(fast_server(certificates), setting))
    if setting[0] == "set_groups" and is_fast:
        # Of several groups that are permitted, rustls may choose another one.
        permitted = setting[1].lower().replace("p-256", "secp256r1").split(":")
        assert ours is not None
        assert all(group.lower() in permitted for group, _ in ours)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("set_groups", "X25519MLKEM768"), ("set_groups", "X25519")),
        (("set_groups", "P-256"), ("set_groups", "secp384r1:X25519")),
        (
            ("set_ciphersuites", "TLS_AES_128_GCM_SHA256"),
            ("set_ciphersuites", "TLS_AES_256_GCM_SHA384"),
        ),
    ],
    ids=["hybrid", "curves", "ciphers"],
)
@pytest.mark.parametrize("slow", ["neither", "client", "server"])
async def test_settings_that_have_nothing_in_common_are_no_connection(
    certificates: Certificates, client: Setting, server: Setting, slow: str
) -> None:
    near: Callable[[Certificates], ssl.SSLContext]
    far: Callable[[Certificates], ssl.SSLContext]
    near = plain_client if slow == "client" else fast_client
    far = plain_server if slow == "server" else fast_server
    contexts = apply(near(certificates), client), apply(far(certificates), server)
    for context in contexts:
        # In TLS 1.2 they could agree on other ciphers.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        assert not isinstance(context, tls.Context) or context.engine == "rustls"
    assert await agreed(*contexts) is None


@pytest.mark.parametrize("name", ["set_groups", "set_ciphersuites", "set_server_sigalgs"])
def test_a_name_that_openssl_does_not_know_changes_nothing(
    certificates: Certificates, name: str
) -> None:
    context = fast_client(certificates)
    with pytest.raises(ssl.SSLError):
        getattr(context, name)("nonsense")
    if name != "set_server_sigalgs":
        assert context.engine_reason is None


def test_the_last_groups_count(certificates: Certificates) -> None:
    context: Any = fast_client(certificates)
    context.set_groups("x448")
    assert context.engine == "openssl"
    context.set_groups("X25519")
    assert context.engine == "rustls"
    assert "x25519" in context.get_groups()
    context.set_ecdh_curve("secp521r1")
    assert context.engine == "openssl"


async def test_contexts_of_other_names_have_the_settings_too(
    certificates: Certificates, loop: Loop
) -> None:
    other = certificates.trusted.issue("other.example").file
    server: Any = tls.server_context(certificates["good"][0].file, sni={"other.example": other})
    server.set_groups("X25519")
    client: Any = fast_client(certificates)
    client.set_groups("P-256")
    for engine in ("rustls", "openssl"):
        if engine == "openssl":
            server._unsupported("a test")
        assert server.engine == engine
        assert not (await outcome_of(client, server, "other.example")).is_accepted
