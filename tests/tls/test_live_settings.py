"""Settings that reach a context past the methods of ``rloop.tls.Context``.

Libraries such as truststore set attributes by the descriptors of ``ssl.SSLContext``. Each test
makes a connection first, so that the context's configuration for rustls exists already. What must
come of the next connection is what OpenSSL makes of it after the same change.
"""

import asyncio
import copy
import pickle
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from rloop import tls
from rloop._tls_context import Context
from support.certificates import HOST, Certificates
from support.fast_tls import as_openssl, on_loop
from support.tls_outcomes import Failure, Outcome, Success, outcome_of

Loop = asyncio.AbstractEventLoop

_PLAIN: Any = ssl.SSLContext

#: OpenSSL's X509_V_ERR_CERT_REVOKED.
_CERT_REVOKED = 23


def by_descriptor(context: ssl.SSLContext, name: str, value: object) -> None:
    getattr(_PLAIN, name).__set__(context, value)


def by_the_base_of_the_base(context: ssl.SSLContext, name: str, value: object) -> None:
    """As truststore does it."""
    getattr(super(_PLAIN, _PLAIN), name).__set__(context, value)


def by_super(context: ssl.SSLContext, name: str, value: object) -> None:
    assert isinstance(context, Context)
    super(Context, context).__setattr__(name, value)


def by_object(context: ssl.SSLContext, name: str, value: object) -> None:
    object.__setattr__(context, name, value)


def by_a_thread(context: ssl.SSLContext, name: str, value: object) -> None:
    thread = threading.Thread(target=by_descriptor, args=(context, name, value))
    thread.start()
    thread.join()


WAYS = {
    "descriptor": by_descriptor,
    "base of the base": by_the_base_of_the_base,
    "super": by_super,
    "object": by_object,
    "thread": by_a_thread,
}


class Silent(tls.Context):
    """A subclass whose attributes are set past its base."""

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass
class Pair:
    """A client's and a server's context, both of ``rloop.tls``."""

    client: tls.Context
    server: tls.Context

    async def connect(self, name: str = HOST) -> Outcome:
        return await outcome_of(self.client, self.server, name)


@pytest.fixture
def pair(certificates: Certificates, loop_name: str) -> Callable[..., Pair]:
    """Make contexts, ``engine`` of which decides what makes their connections."""

    def make(engine: str, side: str, **of_client: Any) -> Pair:
        client = tls.client_context(certificates.trusted.file, **of_client)
        server = tls.server_context(certificates["good"][0].file)
        if side == "client":
            as_openssl(server)
            client = on_loop(client, loop_name) if engine == "rustls" else as_openssl(client)
        else:
            as_openssl(client)
            server = on_loop(server, loop_name) if engine == "rustls" else as_openssl(server)
        return Pair(client, server)

    return make


#: The side whose context is changed, the attribute, and its new value.
ATTRIBUTES: dict[str, tuple[str, str, Any]] = {
    "server demands certificates": ("server", "verify_mode", ssl.CERT_REQUIRED),
    "server of TLS 1.3": ("server", "minimum_version", ssl.TLSVersion.TLSv1_3),
    "server of TLS 1.2": ("server", "maximum_version", ssl.TLSVersion.TLSv1_2),
    "server without TLS 1.3": ("server", "options", ssl.OP_NO_TLSv1_3),
    "server without both": ("server", "options", ssl.OP_NO_TLSv1_3 | ssl.OP_NO_TLSv1_2),
    "server's sni_callback": (
        "server",
        "sni_callback",
        lambda *_: ssl.ALERT_DESCRIPTION_ACCESS_DENIED,
    ),
    "client checks lists": ("client", "verify_flags", ssl.VERIFY_CRL_CHECK_LEAF),
    "client of TLS 1.2": ("client", "maximum_version", ssl.TLSVersion.TLSv1_2),
}

#: Who connects in what way, for settings that change nothing for other peers.
PEERS: dict[str, Callable[[Pair], None]] = {
    "server of TLS 1.3": lambda pair: setattr(
        pair.client, "maximum_version", ssl.TLSVersion.TLSv1_2
    ),
}


def describe(outcome: Outcome) -> list[Any]:
    """What two engines have to agree upon: who is accepted, and by which version."""
    return [
        outcome.is_accepted,
        *(
            side.version if isinstance(side, Success) else None
            for side in (outcome.client, outcome.server)
        ),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("setting", ATTRIBUTES)
async def test_attributes_set_past_the_context_count_for_the_next_connection(
    pair: Callable[..., Pair], certificates: Certificates, loop: Loop, setting: str, way: str
) -> None:
    side, name, value = ATTRIBUTES[setting]
    described = []
    for engine in ("openssl", "rustls"):
        made = pair(engine, side)
        if setting in PEERS:
            PEERS[setting](made)
        assert (await made.connect()).is_accepted
        WAYS[way](getattr(made, side), name, value)
        described.append(describe(await made.connect()))
    assert described[0] == described[1]


async def test_a_client_that_checks_names_again_checks_them(
    pair: Callable[..., Pair], loop: Loop
) -> None:
    for engine in ("openssl", "rustls"):
        made = pair(engine, "client", check_hostname=False)
        assert (await made.connect("other.example")).is_accepted
        _PLAIN.check_hostname.__set__(made.client, True)
        assert not (await made.connect("other.example")).is_accepted
        assert (await made.connect()).is_accepted


async def test_a_client_that_verifies_again_verifies(
    pair: Callable[..., Pair], certificates: Certificates, loop: Loop
) -> None:
    stranger = certificates["unknown authority"][0].file
    for engine in ("openssl", "rustls"):
        made = pair(engine, "client", verify=False)
        made.server = as_openssl(tls.server_context(stranger))
        assert (await made.connect()).is_accepted
        _PLAIN.verify_mode.__set__(made.client, ssl.CERT_REQUIRED)
        assert not (await made.connect()).is_accepted


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_ciphers_set_past_the_context_count(
    pair: Callable[..., Pair], loop: Loop, version: ssl.TLSVersion
) -> None:
    """The server's list decides, and the client would take another."""
    name = "ECDHE-ECDSA-CHACHA20-POLY1305"
    for engine in ("openssl", "rustls"):
        made = pair(
            engine, "server", ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", maximum_version=version
        )
        made.server.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:" + name)
        assert (await made.connect()).is_accepted
        _PLAIN.set_ciphers(made.server, name)
        is_accepted = (await made.connect()).is_accepted
        assert is_accepted == (version is ssl.TLSVersion.TLSv1_3)


async def test_protocols_set_past_the_context_count(pair: Callable[..., Pair], loop: Loop) -> None:
    for engine in ("openssl", "rustls"):
        made = pair(engine, "server", alpn=["http/1.1", "h2"])
        made.server.set_alpn_protocols(["http/1.1"])
        assert (await made.connect()).is_accepted
        _PLAIN.set_alpn_protocols(made.server, ["h2"])
        outcome = await made.connect()
        assert isinstance(outcome.client, Success)
        assert outcome.client.alpn == "h2"


async def test_authorities_loaded_past_the_context_count(
    pair: Callable[..., Pair], certificates: Certificates, loop: Loop
) -> None:
    stranger = certificates["unknown authority"][0].file
    data = certificates.unknown.file.read_text()
    for engine in ("openssl", "rustls"):
        made = pair(engine, "client")
        assert (await made.connect()).is_accepted
        _PLAIN.load_verify_locations(made.client, cadata=data)
        made.server = as_openssl(tls.server_context(stranger))
        assert (await made.connect()).is_accepted


async def test_revocation_lists_loaded_past_the_context_count(
    pair: Callable[..., Pair], certificates: Certificates, loop: Loop
) -> None:
    revoking = certificates.trusted.revoke(certificates["good"][0])
    for engine in ("openssl", "rustls"):
        made = pair(engine, "client")
        made.client.load_verify_locations(certificates.trusted.revoke())
        made.client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        assert (await made.connect()).is_accepted
        made = pair(engine, "client")
        assert (await made.connect()).is_accepted
        _PLAIN.load_verify_locations(made.client, revoking)
        flags = made.client.verify_flags | ssl.VERIFY_CRL_CHECK_LEAF
        _PLAIN.verify_flags.__set__(made.client, flags)
        outcome = await made.connect()
        assert isinstance(outcome.client, Failure)
        assert outcome.client.verify_code == _CERT_REVOKED


async def test_a_server_that_demands_certificates_past_the_context_checks_them(
    pair: Callable[..., Pair], certificates: Certificates, loop: Loop
) -> None:
    """As truststore does: first the authority, then the demand."""
    for engine in ("openssl", "rustls"):
        made = pair(engine, "server")
        assert (await made.connect()).is_accepted
        _PLAIN.load_verify_locations(made.server, certificates.trusted.file)
        _PLAIN.verify_mode.__set__(made.server, ssl.CERT_REQUIRED)
        assert not (await made.connect()).is_accepted
        made.client.load_cert_chain(certificates["good"][0].file)
        assert (await made.connect()).is_accepted
        made.client.load_cert_chain(certificates["unknown authority"][0].file)
        assert not (await made.connect()).is_accepted


async def test_a_subclass_may_set_attributes_in_its_own_way(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    server = Silent(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates["good"][0].file)
    client = as_openssl(tls.client_context(certificates.trusted.file))
    assert (await outcome_of(client, on_loop(server, loop_name), HOST)).is_accepted
    server.verify_mode = ssl.CERT_REQUIRED
    assert not (await outcome_of(client, server, HOST)).is_accepted


def test_attributes_that_a_subclass_pretends_do_not_count(certificates: Certificates) -> None:
    class Pretending(tls.Context):
        verify_mode: Any = property(lambda _self: ssl.CERT_NONE)

    context = Pretending(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.trusted.file)
    _PLAIN.minimum_version.__set__(context, ssl.TLSVersion.TLSv1_3)
    assert context.verify_mode is ssl.CERT_NONE
    assert context.engine == "rustls"
    assert context._built(server_side=False).live.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "change",
    [
        lambda context: _PLAIN.post_handshake_auth.__set__(context, True),
        lambda context: _PLAIN._msg_callback.__set__(context, lambda *_: None),
        lambda context: _PLAIN.options.__set__(context, 1 << 19),
        lambda context: context.__dict__.update(wrap_bio=lambda *_, **__: None),
        lambda context: context.__dict__.update(sslobject_class=type("Own", (ssl.SSLObject,), {})),
        lambda context: context.__dict__.update(_wrap_bio=None),
        lambda context: _PLAIN._host_flags.__set__(context, 0x2),
    ],
    ids=[
        "post_handshake_auth",
        "_msg_callback",
        "options",
        "wrap_bio",
        "sslobject_class",
        "_wrap_bio",
        "_host_flags",
    ],
)
def test_what_rustls_cannot_honour_is_noticed_past_the_context(
    certificates: Certificates, change: Callable[[tls.Context], None]
) -> None:
    for strict in (False, True):
        context = tls.server_context(certificates["good"][0].file, strict=strict)
        assert context._make_rustls(server_side=True, server_hostname=None) is not None
        change(context)
        assert context.engine_reason is not None
        if strict:
            with pytest.raises(ValueError, match="rustls cannot honour this context"):
                context._make_rustls(server_side=True, server_hostname=None)


def test_a_change_past_the_context_that_is_undone_brings_rustls_back(
    certificates: Certificates,
) -> None:
    context = tls.server_context(certificates["good"][0].file)
    _PLAIN.sni_callback.__set__(context, lambda *_: None)
    assert context.engine_reason == "an sni_callback"
    _PLAIN.sni_callback.__set__(context, None)
    assert context.engine == "rustls"


def test_a_configuration_is_kept_while_nothing_changes(certificates: Certificates) -> None:
    context = tls.client_context(certificates.trusted.file)
    built = context._built(server_side=False)
    assert context._built(server_side=False) is built
    _PLAIN.verify_flags.__set__(context, context.verify_flags ^ ssl.VERIFY_X509_STRICT)
    assert context._built(server_side=False) is not built


@pytest.mark.parametrize("kind", [tls.Context, ssl.SSLContext])
def test_contexts_can_be_copied_and_pickled_no_more_than_plain_ones(
    kind: type[ssl.SSLContext],
) -> None:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle"):
            duplicate(context)


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def test_a_certificate_that_was_loaded_by_halves_leaves_the_context_to_openssl(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tls.server_context(certificates["good"][0].file)

    def interrupt(_path: object) -> bytes:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr("rloop._tls_context._content", interrupt)
        with pytest.raises(Interrupted):
            context.load_cert_chain(certificates["expired"][0].file)
    assert context.engine == "openssl"
    assert context.engine_reason == "load_cert_chain() that did not come to its end"


def test_trusted_certificates_that_were_loaded_by_halves_leave_the_context_to_openssl(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tls.client_context(certificates.trusted.file)

    def interrupt(_path: object) -> bytes:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr("rloop._tls_context._content", interrupt)
        with pytest.raises(Interrupted):
            context.load_verify_locations(certificates.unknown.file)
    assert context.engine == "openssl"


def test_directories_that_were_loaded_by_halves_leave_the_context_to_openssl(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's numbers do not tell of them."""

    def interrupt(_paths: object) -> list[str]:
        raise Interrupted

    for name, arguments in (
        ("load_verify_locations", {"capath": "/"}),
        ("set_default_verify_paths", {}),
    ):
        context = tls.client_context(certificates.trusted.file)
        with monkeypatch.context() as patched:
            patched.setattr("rloop._tls_context._split_paths", interrupt)
            with pytest.raises(Interrupted):
                getattr(context, name)(**arguments)
        assert context.engine_reason == f"{name}() that did not come to its end"


def test_locations_that_cannot_be_loaded_change_nothing(
    certificates: Certificates, tmp_path: Any
) -> None:
    context = tls.client_context(certificates.trusted.file)
    for locations in (
        {"cafile": tmp_path / "missing"},
        {"cadata": "nothing"},
        {"cafile": 1},
        {},
    ):
        with pytest.raises((OSError, TypeError)):
            context.load_verify_locations(**locations)
    assert context.engine == "rustls"


def test_a_certificate_that_cannot_be_loaded_changes_nothing(
    certificates: Certificates, tmp_path: Any
) -> None:
    context = tls.Context(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(FileNotFoundError):
        context.load_cert_chain(tmp_path / "missing")
    context.load_cert_chain(certificates["good"][0].file)
    assert context.engine == "rustls"


def test_a_key_that_does_not_fit_leaves_the_context_to_openssl(
    certificates: Certificates,
) -> None:
    """OpenSSL has taken the chain of the failed call."""
    context = tls.server_context(certificates["good"][0].file)
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(certificates["expired"][0].file, certificates["good"][0].file)
    assert context.engine == "openssl"


async def test_a_security_level_set_past_the_context_holds_for_every_name(
    certificates: Certificates, loop: Loop
) -> None:
    """OpenSSL takes it from the context of the name."""
    issue = certificates.trusted.issue
    other = certificates.made("one.example", lambda: issue("one.example"))
    weak = rsa.generate_private_key(65537, 2048)
    of_client = certificates.made("weak", lambda: issue("weak.example", key=weak)).file
    for make in (as_openssl, lambda context: context):
        server = make(
            tls.server_context(
                certificates["good"][0].file,
                client_ca=certificates.trusted.file,
                verify="required",
                sni={"one.example": other.file},
            )
        )
        client = as_openssl(tls.client_context(certificates.trusted.file, certfile=of_client))
        for name in (HOST, "one.example"):
            _PLAIN.set_ciphers(server, "DEFAULT:@SECLEVEL=2")
            assert (await outcome_of(client, server, name)).is_accepted
            _PLAIN.set_ciphers(server, "DEFAULT:@SECLEVEL=3")
            assert not (await outcome_of(client, server, name)).is_accepted


@pytest.mark.slow
def test_settings_changed_by_another_thread_are_seen_whole(certificates: Certificates) -> None:
    """No connection begins after a change has returned and is made by what was before."""
    context = tls.server_context(certificates["good"][0].file, client_ca=certificates.trusted.file)
    is_over = threading.Event()

    def connect() -> None:
        while not is_over.is_set():
            context._make_rustls(server_side=True, server_hostname=None)

    threads = [threading.Thread(target=connect) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(300):
            mode = ssl.CERT_REQUIRED if round_ % 2 else ssl.CERT_NONE
            if round_ % 3:
                context.verify_mode = mode
            else:
                _PLAIN.verify_mode.__set__(context, mode)
            assert context._built(server_side=True).live.verify_mode == mode
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


async def test_named_certificates_are_not_served_with_settings_they_were_not_told(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    """OpenSSL takes authorities and ciphers from the context of the name."""
    other = certificates.made("one.example", lambda: certificates.trusted.issue("one.example"))
    server = as_openssl(
        tls.server_context(certificates["good"][0].file, sni={"one.example": other.file})
    )
    client = as_openssl(
        tls.client_context(
            certificates.trusted.file,
            ciphers="ECDHE-ECDSA-AES128-GCM-SHA256",
            maximum_version=ssl.TLSVersion.TLSv1_2,
        )
    )
    assert (await outcome_of(client, server, "one.example")).is_accepted
    _PLAIN.set_ciphers(server, "ECDHE-ECDSA-AES256-GCM-SHA384")
    for name in (HOST, "one.example"):
        assert not (await outcome_of(client, server, name)).is_accepted
    _PLAIN.set_ciphers(server, "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert (await outcome_of(client, server, "one.example")).is_accepted
    _PLAIN.load_verify_locations(server, certificates.unknown.file)
    assert (await outcome_of(client, server, HOST)).is_accepted
    assert not (await outcome_of(client, server, "one.example")).is_accepted
