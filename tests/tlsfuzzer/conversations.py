"""Conversations, and what they are made of.

A conversation is one of tlsfuzzer's kinds, in a few lines: what is said to a server, and what the
RFCs have it answer. Where it may answer in several ways, because the RFCs name no alert or allow
servers to go on, all of them are listed. Where an engine is known to answer in another way,
``differences.py`` says so, and why.

| thing | file |
|---|---|
| the client's hello, and what comes in its place | ``hellos`` |
| the client's other messages of the handshake | ``handshakes`` |
| what comes after the handshake | ``records`` |
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tlslite.extensions import TLSExtension

from tlsfuzzer.rogue import TLS_1_3, Client, Sent, of_hello

CCS, ALERT, HANDSHAKE, DATA, HEARTBEAT = 20, 21, 22, 23, 24

UNEXPECTED = "unexpected_message"
DECODE = "decode_error"
ILLEGAL = "illegal_parameter"
DECRYPT = "decrypt_error"
FAILURE = "handshake_failure"
BAD_MAC = "bad_record_mac"
OVERFLOW = "record_overflow"
VERSION = "protocol_version"
MISSING = "missing_extension"

LARGEST_PLAINTEXT = 1 << 14


class Conversation(NamedTuple):
    """A name, what is said, and the outcomes that are right."""

    name: str
    say: Callable[[Client], object]
    expected: frozenset[str]
    version: tuple[int, int]


ALL: list[Conversation] = []


def said(
    name: str, *expected: str, version: tuple[int, int] = TLS_1_3
) -> Callable[[Callable[[Client], object]], Callable[[Client], object]]:
    """Add a conversation."""

    def add(say: Callable[[Client], object]) -> Callable[[Client], object]:
        add_conversation(name, say, expected, version)
        return say

    return add


def add_conversation(
    name: str,
    say: Callable[[Client], object],
    expected: Iterable[str],
    version: tuple[int, int] = TLS_1_3,
) -> None:
    """Add a conversation that has no function of its own."""
    label = "TLS 1.3" if version == TLS_1_3 else "TLS 1.2"
    ALL.append(Conversation(f"{label}: {name}", say, frozenset(expected), version))


def hello(
    name: str,
    change: Callable[[Any], Sent | None],
    *expected: str,
    version: tuple[int, int] = TLS_1_3,
) -> None:
    """Add a conversation that is about the client's hello alone."""
    add_conversation(name, lambda client: client.shake_hands(of_hello(change)), expected, version)


def extension(kind: int, payload: bytes) -> TLSExtension:
    return TLSExtension(extType=kind).create(kind, bytearray(payload))


def replaced(kind: int, payload: bytes | None) -> Callable[[Any], None]:
    """Give an extension another payload, or leave it out."""

    def change(message: Any) -> None:
        kept = [it for it in message.extensions if it.extType != kind]
        if payload is not None:
            # A pre-shared key would have to stay the last one.
            kept.append(extension(kind, payload))
        message.extensions = kept

    return change


def vector(payload: bytes, size: int) -> bytes:
    return len(payload).to_bytes(size, "big") + payload


def message(kind: int, body: bytes) -> bytes:
    """Return a handshake message."""
    return bytes([kind]) + vector(body, 3)


def plain_record(kind: int, content: bytes, version: bytes = b"\3\3") -> bytes:
    return bytes([kind]) + version + vector(content, 2)
