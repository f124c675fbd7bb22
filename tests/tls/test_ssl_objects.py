"""What ``get_extra_info("ssl_object")`` has and tells: the fast engine's object beside OpenSSL's.

Both are asked after the same handshake. What the fast one lacks or tells otherwise is in
``docs/tls.md`` and in the two sets below, which are held strictly.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from rloop import tls
from support.certificates import HOST, Certificates
from support.fast_tls import as_openssl, on_loop
from support.peers import stream_pair
from support.protocols import RecordingProtocol
from support.threads import eventually

#: Methods that move data, which is the transport's part.
MISSING = {"do_handshake", "read", "unwrap", "write"}

#: What rustls does not keep.
TOLD_OTHERWISE = {"client_sigalg", "server_sigalg", "session", "shared_ciphers"}

pytestmark = pytest.mark.filterwarnings("ignore:ssl NPN is deprecated:DeprecationWarning")

VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


async def ssl_objects(
    client: ssl.SSLContext, server: ssl.SSLContext, ask: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Connect two contexts; return what ``ask`` says of the client's object and of the server's."""
    loop = asyncio.get_running_loop()
    near, far = stream_pair("tcp")
    protocols = RecordingProtocol(), RecordingProtocol()
    await asyncio.gather(
        loop.create_connection(lambda: protocols[0], sock=near, ssl=client, server_hostname=HOST),
        loop.connect_accepted_socket(lambda: protocols[1], far, ssl=server),
    )
    # What the server sends after its handshake belongs to the session.
    protocols[1].transport.write(b"x")
    await protocols[0].received(1)
    told = tuple(ask(one.transport.get_extra_info("ssl_object")) for one in protocols)
    for protocol in protocols:
        protocol.transport.abort()
    await eventually(lambda: near.fileno() == far.fileno() == -1)
    return told[0], told[1]


def described(ssl_object: Any) -> dict[str, Any]:
    """Ask the object everything that needs no argument."""
    told: dict[str, Any] = {
        name: getattr(ssl_object, name)
        for name in ("server_hostname", "server_side", "session", "session_reused")
    }
    for name in (
        "cipher",
        "client_sigalg",
        "compression",
        "get_unverified_chain",
        "get_verified_chain",
        "getpeercert",
        "group",
        "pending",
        "selected_alpn_protocol",
        "selected_npn_protocol",
        "server_sigalg",
        "shared_ciphers",
        "version",
    ):
        if hasattr(ssl.SSLObject, name):
            told[name] = getattr(ssl_object, name)()
    told["binary"] = ssl_object.getpeercert(True)
    return told


def public(names: Any) -> set[str]:
    """Keep the names that programs may use."""
    return {name for name in names if not name.startswith("_")}


async def test_nothing_is_missing_but_what_moves_data(
    certificates: Certificates, loop_name: str
) -> None:
    """On asyncio an adapter with these methods is around the object."""
    client = on_loop(tls.client_context(certificates.trusted.file), loop_name)
    server = on_loop(tls.server_context(certificates["good"][0].file), loop_name)
    for missing in await ssl_objects(
        client, server, lambda one: {name for name in dir(ssl.SSLObject) if not hasattr(one, name)}
    ):
        assert public(missing) == (MISSING if loop_name == "rloop" else set())


@each_version
async def test_both_objects_tell_the_same(
    certificates: Certificates, loop_name: str, version: ssl.TLSVersion
) -> None:
    issued, trusted = certificates["good"][0].file, certificates.trusted.file
    # With the authority's certificate, which OpenSSL adds to what it sends.
    chain = certificates.trusted.folder / "chain.pem"
    chain.write_bytes(issued.read_bytes() + trusted.read_bytes())

    def client(**wishes: Any) -> tls.Context:
        context = tls.client_context(trusted, certfile=chain, alpn=["h2"], **wishes)
        context.minimum_version = context.maximum_version = version
        return context

    def server(**wishes: Any) -> tls.Context:
        return tls.server_context(chain, client_ca=trusted, alpn=["h2"], **wishes)

    for verify in (True, False):
        for mode in ("none", "optional", "required"):
            fast = await ssl_objects(
                on_loop(client(verify=verify), loop_name),
                on_loop(server(verify=mode), loop_name),
                described,
            )
            slow = await ssl_objects(
                as_openssl(client(verify=verify)), as_openssl(server(verify=mode)), described
            )
            for ours, theirs in zip(fast, slow, strict=True):
                if not verify and not ours["server_side"]:
                    # OpenSSL builds a path although it is to check nothing.
                    theirs.pop("get_verified_chain", None)
                different = {name for name in theirs if ours[name] != theirs[name]}
                assert different <= TOLD_OTHERWISE


def test_nothing_is_told_before_the_handshake(certificates: Certificates) -> None:
    fast = tls.client_context(certificates.trusted.file)._make_rustls(
        server_side=False, server_hostname=HOST
    )
    slow = tls.client_context(certificates.trusted.file).wrap_bio(
        ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=HOST
    )
    # Contexts that may ask for certificates later are OpenSSL's.
    others = {"context", "verify_client_post_handshake"}
    for name in sorted(public(dir(ssl.SSLObject)) - MISSING - others):
        assert answer_of(fast, name) == answer_of(slow, name), name


def answer_of(ssl_object: Any, name: str) -> object:
    """Ask for an attribute, or what a method returns or raises without arguments."""
    found = getattr(ssl_object, name)
    if not callable(found):
        return found
    if name == "get_channel_binding":
        with pytest.raises(ValueError, match="channel binding type not implemented"):
            found("tls-exporter")
        return None
    try:
        return found()
    except (ValueError, NotImplementedError, ssl.SSLError) as error:
        return type(error)
