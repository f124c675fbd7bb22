"""The client's other messages of the handshake."""

from collections.abc import Callable
from typing import Any

from tlslite.messages import ChangeCipherSpec, ClientKeyExchange

from tlsfuzzer.conversations import (
    ALERT,
    BAD_MAC,
    CCS,
    DATA,
    DECODE,
    DECRYPT,
    HANDSHAKE,
    ILLEGAL,
    UNEXPECTED,
    VERSION,
    add_conversation,
    message,
    plain_record,
    vector,
)
from tlsfuzzer.rogue import (
    ACCEPTED,
    TLS_1_2,
    TLS_1_3,
    Plain,
    Record,
    Sent,
    of_finished,
)

# The client's side of the handshake of TLS 1.3.


def finishing(
    name: str, change: Callable[[Any], Sent], *expected: str, version: tuple[int, int] = TLS_1_3
) -> None:
    """Add a conversation about the client's Finished."""
    add_conversation(
        name, lambda client: client.shake_hands(of_finished(change)), expected, version
    )


def _broken(message: Any) -> bytes:
    written = bytearray(message.write())
    written[-1] ^= 1
    return bytes(written)


for _version in (TLS_1_2, TLS_1_3):
    finishing(
        "a wrong Finished", lambda it: [Record(HANDSHAKE, _broken(it))], DECRYPT, version=_version
    )
    finishing(
        "a Finished that is cut off",
        lambda it: [Record(HANDSHAKE, message(20, bytes(it.write())[4:-1]))],
        DECODE,
        DECRYPT,
        version=_version,
    )
    finishing(
        "a Finished that is longer",
        lambda it: [Record(HANDSHAKE, message(20, bytes(it.write())[4:] + b"\0"))],
        DECODE,
        DECRYPT,
        version=_version,
    )
    finishing(
        "an empty Finished",
        lambda it: [Record(HANDSHAKE, message(20, b""))],
        DECODE,
        DECRYPT,
        version=_version,
    )
    finishing(
        "data in place of the Finished",
        lambda it: [Record(DATA, b"data")],
        UNEXPECTED,
        version=_version,
    )
    finishing(
        "a Finished in records of one byte",
        lambda it: [Record(HANDSHAKE, bytes([byte]), counts=True) for byte in bytes(it.write())],
        ACCEPTED,
        version=_version,
    )
    finishing(
        "an empty alert in place of the Finished",
        lambda it: [Record(ALERT, b"")],
        UNEXPECTED,
        version=_version,
    )
    finishing(
        "a second Finished",
        lambda it: [it, Record(HANDSHAKE, bytes(it.write()))],
        UNEXPECTED,
        BAD_MAC,
        version=_version,
    )
finishing(
    "new keys before the Finished", lambda it: [Record(HANDSHAKE, b"\x18\0\0\1\0"), it], UNEXPECTED
)
finishing(
    "the end of early data that was not offered",
    lambda it: [Record(HANDSHAKE, b"\5\0\0\0"), it],
    UNEXPECTED,
)
finishing(
    "a certificate that was not asked for",
    lambda it: [Record(HANDSHAKE, b"\x0b\0\0\4\0\0\0\0"), it],
    UNEXPECTED,
)
finishing(
    "a Finished with new keys in one record",
    lambda it: [Record(HANDSHAKE, bytes(it.write()) + b"\x18\0\0\1\0")],
    UNEXPECTED,
)
finishing(
    "an empty handshake record before the Finished",
    lambda it: [Record(HANDSHAKE, b""), it],
    UNEXPECTED,
    DECODE,
)
finishing(
    "a Finished that is not encrypted",
    lambda it: [Plain(plain_record(HANDSHAKE, bytes(it.write())))],
    UNEXPECTED,
    BAD_MAC,
)


def changing(
    name: str, change: Callable[[Any], Sent], *expected: str, version: tuple[int, int] = TLS_1_3
) -> None:
    """Add a conversation about the client's ChangeCipherSpec."""
    add_conversation(
        name,
        lambda client: client.shake_hands(
            lambda it: change(it) if isinstance(it, ChangeCipherSpec) else [it]
        ),
        expected,
        version,
    )


changing("no change of ciphers", lambda _: [], ACCEPTED)
changing(
    "two changes of ciphers", lambda _: [Plain(plain_record(CCS, b"\1"))] * 2, ACCEPTED, UNEXPECTED
)
changing(
    "a change of ciphers of 2", lambda _: [Plain(plain_record(CCS, b"\2"))], UNEXPECTED, ILLEGAL
)
changing(
    "a change of ciphers of two bytes",
    lambda _: [Plain(plain_record(CCS, b"\1\1"))],
    UNEXPECTED,
    DECODE,
)
changing(
    "an empty change of ciphers", lambda _: [Plain(plain_record(CCS, b""))], UNEXPECTED, DECODE
)
changing("no change of ciphers", lambda _: [], UNEXPECTED, BAD_MAC, DECODE, version=TLS_1_2)
changing("two changes of ciphers", lambda it: [it, it], UNEXPECTED, BAD_MAC, version=TLS_1_2)
changing(
    "a change of ciphers of 2",
    lambda _: [Record(CCS, b"\2")],
    UNEXPECTED,
    DECODE,
    ILLEGAL,
    version=TLS_1_2,
)
changing(
    "a change of ciphers of two bytes",
    lambda _: [Record(CCS, b"\1\1")],
    UNEXPECTED,
    DECODE,
    ILLEGAL,
    version=TLS_1_2,
)
changing(
    "data before the change of ciphers",
    lambda it: [Record(DATA, b"data"), it],
    UNEXPECTED,
    version=TLS_1_2,
)
changing(
    "an unknown record before the change of ciphers",
    lambda it: [Plain(plain_record(99, b"x")), it],
    UNEXPECTED,
    VERSION,
    version=TLS_1_2,
)


def exchanging(name: str, change: Callable[[Any], Sent], *expected: str) -> None:
    """Add a conversation about the ClientKeyExchange of TLS 1.2."""
    add_conversation(
        name,
        lambda client: client.shake_hands(
            lambda it: change(it) if isinstance(it, ClientKeyExchange) else [it]
        ),
        expected,
        TLS_1_2,
    )


exchanging("no key exchange", lambda _: [], UNEXPECTED)
exchanging("two key exchanges", lambda it: [it, it], UNEXPECTED)
exchanging(
    "an empty key exchange", lambda _: [Record(HANDSHAKE, message(16, b""))], DECODE, ILLEGAL
)
exchanging(
    "an empty key in the exchange",
    lambda _: [Record(HANDSHAKE, message(16, b"\0"))],
    DECODE,
    ILLEGAL,
)
exchanging(
    "an x25519 key of zeros",
    lambda _: [Record(HANDSHAKE, message(16, vector(bytes(32), 1)))],
    ILLEGAL,
)
exchanging(
    "an x25519 key of 31 bytes",
    lambda _: [Record(HANDSHAKE, message(16, vector(bytes(31), 1)))],
    ILLEGAL,
    DECODE,
)
exchanging(
    "a key exchange with something behind it",
    lambda it: [Record(HANDSHAKE, message(16, bytes(it.write())[4:] + b"x"))],
    DECODE,
)
exchanging(
    "a hello in place of the key exchange",
    lambda _: [Record(HANDSHAKE, message(1, bytes(40)))],
    UNEXPECTED,
    DECODE,
)
exchanging(
    "a change of ciphers before the key exchange", lambda it: [Record(CCS, b"\1"), it], UNEXPECTED
)
exchanging(
    "a key exchange in records of one byte",
    lambda it: [Record(HANDSHAKE, bytes([byte]), counts=True) for byte in bytes(it.write())],
    ACCEPTED,
)
exchanging(
    "a P-256 key that is not on the curve",
    lambda _: [Record(HANDSHAKE, message(16, vector(b"\4" + b"\1" * 64, 1)))],
    ILLEGAL,
    DECODE,
)
