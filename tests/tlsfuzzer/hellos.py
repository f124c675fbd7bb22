"""The client's hello: what it may offer, and what has to be refused, alone or in its place."""

from collections.abc import Callable
from typing import Any

from tlslite.constants import ExtensionType
from tlslite.extensions import TLSExtension

from tlsfuzzer.conversations import (
    ALERT,
    CCS,
    DATA,
    DECODE,
    FAILURE,
    HANDSHAKE,
    HEARTBEAT,
    ILLEGAL,
    MISSING,
    OVERFLOW,
    UNEXPECTED,
    VERSION,
    add_conversation,
    extension,
    hello,
    message,
    plain_record,
    replaced,
    said,
    vector,
)
from tlsfuzzer.rogue import (
    ACCEPTED,
    CUT_OFF,
    TLS_1_2,
    TLS_1_3,
    WENT_ON,
    Client,
    Record,
    Sent,
    of_hello,
)

# What a client may offer.

for _version in (TLS_1_2, TLS_1_3):
    add_conversation("an honest client", lambda client: client.shake_hands(), [ACCEPTED], _version)


def _with_settings(**settings: Any) -> Callable[[Client], object]:
    def say(client: Client) -> None:
        for name, value in settings.items():
            setattr(client.settings, name, value)
        client.shake_hands()

    return say


for _cipher in ("aes128gcm", "aes256gcm", "chacha20-poly1305"):
    for _version in (TLS_1_2, TLS_1_3):
        add_conversation(_cipher, _with_settings(cipherNames=[_cipher]), [ACCEPTED], _version)
for _group in ("x25519", "x448", "secp256r1", "secp384r1", "secp521r1"):
    add_conversation(
        f"the group {_group}",
        _with_settings(eccCurves=[_group], keyShares=[_group]),
        [ACCEPTED],
    )
add_conversation("a hello without key shares", _with_settings(keyShares=[]), [ACCEPTED])
add_conversation(
    "no extended master secret",
    _with_settings(useExtendedMasterSecret=False),
    [ACCEPTED],
    TLS_1_2,
)
add_conversation(
    "finite-field groups alone",
    _with_settings(eccCurves=[], dhGroups=["ffdhe2048"], keyShares=["ffdhe2048"]),
    [ACCEPTED],
)


@said("a protocol in common", ACCEPTED)
def _(client: Client) -> None:
    client.alpn = [bytearray(b"http/1.1")]
    client.shake_hands()
    assert client.tls.session.appProto == b"http/1.1"


@said("no protocol in common", ACCEPTED, "no_application_protocol")
def _(client: Client) -> None:
    client.alpn = [bytearray(b"http/0.9")]
    client.shake_hands()


@said("a session that is resumed", ACCEPTED)
def _(client: Client) -> None:
    client.shake_hands()
    client.echo()
    again = Client(client.address, client.version)
    again.shake_hands(session=client.tls.session)
    again.echo()
    assert again.tls.resumed
    again.sock.close()


@said("a session that is resumed", ACCEPTED, version=TLS_1_2)
def _(client: Client) -> None:
    client.shake_hands()
    client.echo()
    again = Client(client.address, client.version)
    again.shake_hands(session=client.tls.session)
    again.echo()
    again.sock.close()


@said("a random that warns of a downgrade", ACCEPTED, version=TLS_1_2)
def _(client: Client) -> None:
    """RFC 8446, 4.1.3: the server could have done TLS 1.3."""
    client.shake_hands()
    assert bytes(client.tls._serverRandom[-8:]) == b"DOWNGRD\1"


def _fragmented(size: int) -> Callable[[Any], Sent]:
    def change(message: Any) -> Sent:
        written = bytes(message.write())
        for start in range(0, len(written), size):
            yield Record(HANDSHAKE, written[start : start + size], counts=True)

    return change


for _size in (1, 2, 100):
    for _version in (TLS_1_2, TLS_1_3):
        hello(
            f"a hello in records of {_size} bytes", _fragmented(_size), ACCEPTED, version=_version
        )
hello(
    "a hello of 20,000 bytes in records of one",
    lambda it: [*_fragmented(1)(_padded(it, 20_000))],
    ACCEPTED,
)
hello("a hello of 60,000 bytes", lambda it: [_padded(it, 60_000)], ACCEPTED)


def _padded(message: Any, size: int) -> Any:
    message.extensions.insert(0, extension(0xFA5A, bytes(size)))
    return message


hello("an unknown extension", lambda it: it.extensions.insert(0, extension(0xFA5A, b"x")), ACCEPTED)
hello(
    "200 unknown extensions",
    lambda it: it.extensions.extend(extension(0xE000 + n, b"") for n in range(200)),
    ACCEPTED,
)
hello("extensions the other way round", lambda it: it.extensions.reverse(), ACCEPTED)
hello("unknown ciphers first", lambda it: it.cipher_suites.insert(0, 0xFAFA), ACCEPTED)

# Hellos that have to be refused.


def _setting(name: str, value: object) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, value)


hello("unknown ciphers alone", _setting("cipher_suites", [0xFAFA]), FAILURE)
hello(
    "unknown ciphers alone",
    _setting("cipher_suites", [0xFAFA]),
    FAILURE,
    version=TLS_1_2,
)
hello("no ciphers", _setting("cipher_suites", []), DECODE, ILLEGAL, FAILURE)
hello(
    "ciphers of TLS 1.2 alone",
    _setting("cipher_suites", [0xC02B, 0xC02F]),
    FAILURE,
    ILLEGAL,
)
for _name, _methods, _right in (
    ("two compression methods", [0, 1], [ILLEGAL]),
    ("compression alone", [1], [ILLEGAL, DECODE]),
    ("no compression method", [], [DECODE, ILLEGAL]),
):
    hello(_name, _setting("compression_methods", _methods), *_right)
hello(
    "no compression method",
    _setting("compression_methods", []),
    DECODE,
    ILLEGAL,
    FAILURE,
    version=TLS_1_2,
)
hello("a session ID of 33 bytes", _setting("session_id", bytearray(33)), DECODE, ILLEGAL)
hello("no key shares at all", replaced(ExtensionType.key_share, None), MISSING)
hello("no groups", replaced(ExtensionType.supported_groups, None), MISSING)
hello("no signature algorithms", replaced(ExtensionType.signature_algorithms, None), MISSING)
hello("empty signature algorithms", replaced(ExtensionType.signature_algorithms, b"\0\0"), DECODE)
hello(
    "unknown signature algorithms",
    replaced(ExtensionType.signature_algorithms, b"\0\2\xfa\xfa"),
    FAILURE,
)
hello(
    "SHA-1 signatures alone",
    replaced(ExtensionType.signature_algorithms, b"\0\4\2\1\2\3"),
    FAILURE,
    version=TLS_1_2,
)
hello("empty groups", replaced(ExtensionType.supported_groups, b"\0\0"), DECODE)
hello(
    "unknown groups",
    replaced(ExtensionType.supported_groups, b"\0\2\xfa\xfa"),
    FAILURE,
    ILLEGAL,
)
hello("empty versions", replaced(ExtensionType.supported_versions, b"\0"), DECODE)
hello("an unknown version", replaced(ExtensionType.supported_versions, b"\2\x7f\x1c"), VERSION)
hello("a version that is cut off", replaced(ExtensionType.supported_versions, b"\3\3\4\3"), DECODE)
for _old in (0x0300, 0x0301, 0x0302):
    hello(
        f"the version {_old:#06x} alone",
        _setting("client_version", divmod(_old, 256)),
        VERSION,
        FAILURE,
        version=TLS_1_2,
    )
_SHARE = {"x25519": 29, "secp256r1": 23}


def _share(*shares: tuple[int, bytes]) -> bytes:
    return vector(b"".join(group.to_bytes(2, "big") + vector(key, 2) for group, key in shares), 2)


hello(
    "an x25519 share of zeros", replaced(ExtensionType.key_share, _share((29, bytes(32)))), ILLEGAL
)
hello(
    "an x25519 share of 31 bytes",
    replaced(ExtensionType.key_share, _share((29, bytes(31)))),
    ILLEGAL,
)
hello("an empty share", replaced(ExtensionType.key_share, _share((29, b""))), ILLEGAL, DECODE)


def _p256(name: str, key: bytes) -> None:
    def say(client: Client) -> None:
        client.settings.eccCurves = client.settings.keyShares = ["secp256r1"]
        client.shake_hands(of_hello(replaced(ExtensionType.key_share, _share((23, key)))))

    add_conversation(name, say, [ILLEGAL])


_p256("a P-256 share that is not on the curve", b"\4" + b"\1" * 64)
_p256("a compressed P-256 share", b"\2" + b"\1" * 32)
_p256("a P-256 share that is too short", b"\4" + b"\1" * 63)
hello(
    "two shares of one group",
    replaced(ExtensionType.key_share, _share((29, b"\1" * 32), (29, b"\2" * 32))),
    ILLEGAL,
    WENT_ON,
)
hello("a share that is cut off", replaced(ExtensionType.key_share, b"\0\4\0\x1d\0\x20"), DECODE)
hello(
    "an extension twice",
    lambda it: it.extensions.extend([extension(0xFA5A, b""), extension(0xFA5A, b"")]),
    ILLEGAL,
    DECODE,
    ACCEPTED,
)
hello(
    "the versions twice",
    lambda it: it.extensions.append(extension(ExtensionType.supported_versions, b"\2\3\4")),
    ILLEGAL,
    DECODE,
)
hello(
    "a server name that is cut off", replaced(ExtensionType.server_name, b"\0\5\0\0\4abc"), DECODE
)
hello(
    "an empty server name",
    replaced(ExtensionType.server_name, vector(b"\0" + vector(b"", 2), 2)),
    DECODE,
    ILLEGAL,
)
hello(
    "a server name with a zero",
    replaced(ExtensionType.server_name, vector(b"\0" + vector(b"a\0b", 2), 2)),
    "unrecognized_name",
    ILLEGAL,
    DECODE,
)
hello("empty protocols", replaced(ExtensionType.alpn, b"\0\0"), DECODE)
hello("an empty protocol", replaced(ExtensionType.alpn, b"\0\1\0"), DECODE)
hello("a protocol that is cut off", replaced(ExtensionType.alpn, b"\0\4\4h2"), DECODE)
hello(
    "point formats without the uncompressed one",
    replaced(ExtensionType.ec_point_formats, b"\1\1"),
    ILLEGAL,
    FAILURE,
    version=TLS_1_2,
)
hello(
    "an extended master secret with a payload",
    replaced(ExtensionType.extended_master_secret, b"\0"),
    DECODE,
    version=TLS_1_2,
)
hello(
    "renegotiation of a first handshake",
    replaced(ExtensionType.renegotiation_info, b"\2ab"),
    FAILURE,
    version=TLS_1_2,
)
hello(
    "a fallback to TLS 1.2",
    lambda it: it.cipher_suites.append(0x5600),
    "inappropriate_fallback",
    version=TLS_1_2,
)
hello("a pre-shared key without modes", lambda it: _with_unknown_ticket(it, b""), MISSING)
hello(
    "a pre-shared key that is not last",
    lambda it: it.extensions.insert(0, _pre_shared_key()),
    ILLEGAL,
)


def _pre_shared_key(binder: bytes = bytes(32)) -> TLSExtension:
    identities = vector(b"unknown ticket", 2) + bytes(4)
    return extension(
        ExtensionType.pre_shared_key, vector(identities, 2) + vector(vector(binder, 1), 2)
    )


def _with_unknown_ticket(message: Any, modes: bytes = b"\1\1") -> None:
    replaced(ExtensionType.psk_key_exchange_modes, modes or None)(message)
    message.extensions.append(_pre_shared_key())


hello("a ticket that nobody knows", _with_unknown_ticket, ACCEPTED)


def _cut(message: Any) -> Sent:
    written = bytes(message.write())
    return [Record(HANDSHAKE, message_of(written, written[4:-1]))]


def message_of(written: bytes, body: bytes) -> bytes:
    return bytes([written[0]]) + vector(body, 3)


for _version in (TLS_1_2, TLS_1_3):
    hello("a hello that is cut off", _cut, DECODE, version=_version)
    hello(
        "a hello with something behind it",
        lambda it: [Record(HANDSHAKE, message_of(bytes(it.write()), bytes(it.write())[4:] + b"x"))],
        DECODE,
        version=_version,
    )
hello("an empty hello", lambda _: [Record(HANDSHAKE, b"\1\0\0\0")], DECODE)
hello(
    "a hello that says it is too long",
    lambda _: [Record(HANDSHAKE, b"\1\xff\xff\xff" + bytes(100))],
    DECODE,
    ILLEGAL,
    "record_overflow",
    UNEXPECTED,
)


def _before_the_hello(name: str, octets: bytes, *expected: str) -> None:
    add_conversation(name, lambda client: _plain_first(client, octets), expected)


def _plain_first(client: Client, octets: bytes) -> None:
    client.send_plain(octets)
    client.shake_hands()


_before_the_hello("a change of ciphers first", plain_record(CCS, b"\1"), UNEXPECTED)
_before_the_hello("data first", plain_record(DATA, b"data"), UNEXPECTED)
_before_the_hello(
    "an empty handshake record first", plain_record(HANDSHAKE, b""), UNEXPECTED, DECODE
)
_before_the_hello("an empty alert first", plain_record(ALERT, b""), UNEXPECTED)
_before_the_hello("half an alert first", plain_record(ALERT, b"\1"), UNEXPECTED, DECODE)
_before_the_hello("a fatal alert first", plain_record(ALERT, b"\2\50"), CUT_OFF)
_before_the_hello("an unknown record first", plain_record(99, b"x"), UNEXPECTED, VERSION)
_before_the_hello("a heartbeat first", plain_record(HEARTBEAT, b"\1\0\0" + bytes(16)), UNEXPECTED)
_before_the_hello(
    "a record of version 2 first",
    plain_record(HANDSHAKE, b"\1", b"\2\0"),
    VERSION,
    DECODE,
    UNEXPECTED,
)
_before_the_hello(
    "a record that is too long first",
    plain_record(HANDSHAKE, b"\1\0\x80\0" + bytes(17_000)),
    OVERFLOW,
    DECODE,
)
_before_the_hello("a Finished first", plain_record(HANDSHAKE, message(20, bytes(32))), UNEXPECTED)
_before_the_hello("HTTP first", b"GET / HTTP/1.1\r\n\r\n", UNEXPECTED, VERSION, DECODE, CUT_OFF)
_before_the_hello(
    "a hello of SSL 2 first",
    b"\x80\x2e\1\0\2\0\x15\0\0\0\x10" + bytes(37),
    UNEXPECTED,
    VERSION,
    FAILURE,
    DECODE,
    CUT_OFF,
)
