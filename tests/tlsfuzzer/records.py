"""What comes after the handshake: data, alerts, new keys, and records that are none."""

from typing import Any

from tlslite.messages import KeyUpdate

from tlsfuzzer.conversations import (
    ALERT,
    BAD_MAC,
    CCS,
    DATA,
    DECODE,
    HANDSHAKE,
    HEARTBEAT,
    ILLEGAL,
    LARGEST_PLAINTEXT,
    OVERFLOW,
    UNEXPECTED,
    add_conversation,
    message,
    plain_record,
    said,
)
from tlsfuzzer.rogue import (
    ACCEPTED,
    CUT_OFF,
    ENDED,
    TLS_1_2,
    TLS_1_3,
    Client,
    Done,
    Record,
    Sent,
)

# After the handshake.


def after(
    name: str,
    kind: int,
    content: bytes,
    *expected: str,
    version: tuple[int, int] = TLS_1_3,
    times: int = 1,
) -> None:
    """Add a conversation about records that come after the handshake."""

    def say(client: Client) -> None:
        client.shake_hands()
        client.echo()
        for _ in range(times):
            client.send(kind, content)

    add_conversation(name, say, expected, version)


for _version in (TLS_1_2, TLS_1_3):
    after("an empty record of data", DATA, b"", ACCEPTED, version=_version)
    after("32 empty records of data", DATA, b"", ACCEPTED, version=_version, times=32)
    after("10,000 empty records of data", DATA, b"", UNEXPECTED, version=_version, times=10_000)
    after("an empty alert", ALERT, b"", UNEXPECTED, version=_version)
    after("half an alert", ALERT, b"\1", DECODE, UNEXPECTED, version=_version)
    after("an alert of three bytes", ALERT, b"\1\0\0", DECODE, UNEXPECTED, version=_version)
    after(
        "an alert of an unknown level",
        ALERT,
        b"\3\50",
        ILLEGAL,
        UNEXPECTED,
        DECODE,
        CUT_OFF,
        version=_version,
    )
    after("a close notification", ALERT, b"\1\0", ENDED, version=_version)
    after("a fatal alert", ALERT, b"\2\50", CUT_OFF, version=_version)
    after("a change of ciphers", CCS, b"\1", UNEXPECTED, version=_version)
    after("an unknown record", 99, b"x", UNEXPECTED, version=_version)
    after("a heartbeat", HEARTBEAT, b"\1\0\0" + bytes(16), UNEXPECTED, version=_version)
    after("an empty handshake record", HANDSHAKE, b"", UNEXPECTED, DECODE, version=_version)
    after("a Finished", HANDSHAKE, message(20, bytes(12)), UNEXPECTED, version=_version)
    after(
        "an unknown handshake message", HANDSHAKE, message(99, b"x"), UNEXPECTED, version=_version
    )

after("a cancellation by the user", ALERT, b"\1\132", ACCEPTED)
after("a warning", ALERT, b"\1\144", ACCEPTED, version=TLS_1_2)
after("10 warnings", ALERT, b"\1\144", UNEXPECTED, version=TLS_1_2, times=10)
after("an unknown request for new keys", HANDSHAKE, b"\x18\0\0\1\2", ILLEGAL)
after("an empty request for new keys", HANDSHAKE, b"\x18\0\0\0", DECODE)
after("a request for new keys of two bytes", HANDSHAKE, b"\x18\0\0\2\0\0", DECODE)
after("two requests for new keys in one record", HANDSHAKE, b"\x18\0\0\1\0" * 2, UNEXPECTED)
after("half a request for new keys, then data", HANDSHAKE, b"\x18\0\0", UNEXPECTED)
after("a hello", HANDSHAKE, message(1, bytes(40)), UNEXPECTED, DECODE)
after("a hello", HANDSHAKE, message(1, bytes(40)), "no_renegotiation", version=TLS_1_2)
after("a certificate", HANDSHAKE, message(11, bytes(4)), UNEXPECTED)
after("a ticket", HANDSHAKE, message(4, bytes(20)), UNEXPECTED)


@said("new keys, with and without an answer", ACCEPTED)
def _(client: Client) -> None:
    client.shake_hands()
    for wants_answer in (0, 1, 0, 1):
        for _ in client.tls.send_keyupdate_request(wants_answer):
            pass
        client.echo()


@said("33 requests for new keys", UNEXPECTED, ACCEPTED)
def _(client: Client) -> None:
    """No RFC has a limit."""
    client.shake_hands()
    for _ in range(33):
        for _ in client.tls.send_keyupdate_request(0):
            pass


@said("a request for new keys in records of one byte", ACCEPTED)
def _(client: Client) -> None:
    client.shake_hands()
    tls = client.tls

    def in_pieces(message: Any) -> Sent:
        if isinstance(message, KeyUpdate):
            return [Record(HANDSHAKE, bytes([byte])) for byte in bytes(message.write())]
        return [message]

    tls.alter = in_pieces
    for _ in tls.send_keyupdate_request(0):
        pass


for _version in (TLS_1_2, TLS_1_3):

    @said("data of the largest size", ACCEPTED, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.echo(bytes(LARGEST_PLAINTEXT))

    @said("data of more than the largest size", OVERFLOW, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.send(DATA, bytes(LARGEST_PLAINTEXT + 1))

    @said("a record of more than the largest size", OVERFLOW, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.send_plain(plain_record(DATA, bytes(LARGEST_PLAINTEXT + 2049)))

    @said("a record that was changed", BAD_MAC, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        record = client.encrypted(DATA, b"data")
        record[-1] ^= 1
        client.send_plain(bytes(record))

    @said("a record that was changed in the middle", BAD_MAC, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        record = client.encrypted(DATA, b"data")
        record[len(record) // 2] ^= 1
        client.send_plain(bytes(record))

    @said("a record twice", BAD_MAC, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        record = bytes(client.encrypted(DATA, b"ping"))
        client.send_plain(record)
        client.expect_echo(b"ping")
        client.send_plain(record)

    @said("a record that is too short", BAD_MAC, DECODE, OVERFLOW, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.send_plain(plain_record(DATA, b"x"))

    @said("data that is not encrypted", BAD_MAC, UNEXPECTED, DECODE, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.send_plain(plain_record(DATA, b"data" * 10))

    @said("an alert that is not encrypted", BAD_MAC, UNEXPECTED, DECODE, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.echo()
        client.send_plain(plain_record(ALERT, b"\2\50"))

    @said("the end of the stream", CUT_OFF, ENDED, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        client.echo()
        client.sock.shutdown(1)
        client.expect_echo()

    @said("a request and the end of the stream", ACCEPTED, version=_version)
    def _(client: Client) -> None:
        """The answer comes before the connection ends."""
        client.shake_hands()
        client.tls.write(bytearray(b"last"))
        client.sock.shutdown(1)
        client.expect_echo(b"last")
        raise Done

    @said("bytes of one record one by one", ACCEPTED, version=_version)
    def _(client: Client) -> None:
        client.shake_hands()
        for byte in client.encrypted(DATA, b"data"):
            client.send_plain(bytes([byte]))
        client.expect_echo(b"data")


def _inner(client: Client, content: bytes) -> None:
    """Send the inner plaintext of a record of TLS 1.3 as it is."""
    layer = client.tls._recordLayer
    header_padding = layer.padding_cb
    layer.padding_cb = lambda *_: 0
    original = layer._encryptThenSeal
    try:
        layer._encryptThenSeal = lambda buf, kind: original(bytearray(content), kind)
        client.send(DATA, b"")
    finally:
        layer._encryptThenSeal = original
        layer.padding_cb = header_padding


def inner(name: str, content: bytes, *expected: str) -> None:
    """Add a conversation about what is inside a record of TLS 1.3."""

    def say(client: Client) -> None:
        client.shake_hands()
        client.echo()
        _inner(client, content)

    add_conversation(name, say, expected)


inner("padding alone", bytes(20), UNEXPECTED)
inner("nothing at all", b"", UNEXPECTED, BAD_MAC, DECODE)
inner("an inner type that nobody knows", b"x\x63", UNEXPECTED)
inner("padding to the largest size", b"\x17" + bytes(LARGEST_PLAINTEXT), ACCEPTED)
inner("padding to more than the largest size", b"\x17" + bytes(LARGEST_PLAINTEXT + 1), OVERFLOW)
