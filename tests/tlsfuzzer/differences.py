"""Outcomes that differ from what the RFCs say, and why that is so."""

from typing import NamedTuple

from tlsfuzzer.conversations import DECODE, FAILURE, ILLEGAL, VERSION, Conversation
from tlsfuzzer.rogue import ACCEPTED, CUT_OFF, ENDED, SILENT, WENT_ON


class Difference(NamedTuple):
    """What a server answers, and why."""

    outcome: str
    reason: str


_NO_GROUP = Difference(FAILURE, "rustls has X25519, P-256, P-384 and X25519MLKEM768 only")
_VERSION_UNKNOWN = Difference(
    FAILURE, "rustls finds that out before it has chosen TLS 1.3, which alone has missing_extension"
)
_ENCRYPTED = Difference(
    DECODE, "the alert is encrypted, and rustls reads it as one that is cut off"
)

RUSTLS = {
    "TLS 1.3: the group x448": _NO_GROUP,
    "TLS 1.3: the group secp521r1": _NO_GROUP,
    "TLS 1.3: finite-field groups alone": _NO_GROUP,
    "TLS 1.3: no groups": _VERSION_UNKNOWN,
    "TLS 1.3: no signature algorithms": _VERSION_UNKNOWN,
    "TLS 1.2: renegotiation of a first handshake": Difference(
        ACCEPTED, "rustls does not read the extension, because it never renegotiates"
    ),
    "TLS 1.2: an empty alert in place of the Finished": _ENCRYPTED,
    "TLS 1.3: an empty alert in place of the Finished": _ENCRYPTED,
    "TLS 1.3: an empty handshake record before the Finished": Difference(
        ACCEPTED, "rustls takes 32 empty records in a row"
    ),
}
"""Of rustls. A difference that is gone is a failure too."""

_OTHER_ALERT = "OpenSSL has another alert for it"

OPENSSL = {
    "TLS 1.3: empty versions": Difference(VERSION, _OTHER_ALERT),
    "TLS 1.3: a version that is cut off": Difference(VERSION, _OTHER_ALERT),
    "TLS 1.3: an empty server name": Difference(WENT_ON, "OpenSSL takes it for none"),
    "TLS 1.3: an empty handshake record first": Difference(ACCEPTED, "OpenSSL skips it"),
    "TLS 1.2: an empty handshake record": Difference(ACCEPTED, "OpenSSL skips it"),
    "TLS 1.3: a fatal alert first": Difference("unexpected_message", "OpenSSL waits for a hello"),
    "TLS 1.3: a record of version 2 first": Difference(CUT_OFF, "OpenSSL takes it for no TLS"),
    "TLS 1.3: a change of ciphers of two bytes": Difference(ILLEGAL, _OTHER_ALERT),
    "TLS 1.3: an empty change of ciphers": Difference(ILLEGAL, _OTHER_ALERT),
    "TLS 1.2: two changes of ciphers": Difference("internal_error", _OTHER_ALERT),
    "TLS 1.2: an empty key exchange": Difference(FAILURE, _OTHER_ALERT),
    "TLS 1.2: a warning": Difference(FAILURE, "OpenSSL refuses no_renegotiation"),
    "TLS 1.2: 10 warnings": Difference(FAILURE, "OpenSSL refuses no_renegotiation"),
    "TLS 1.3: a request for new keys of two bytes": Difference(ILLEGAL, _OTHER_ALERT),
    "TLS 1.2: a record that is too short": Difference("internal_error", _OTHER_ALERT),
    "TLS 1.2: an alert that is not encrypted": Difference("internal_error", _OTHER_ALERT),
    "TLS 1.3: padding to more than the largest size": Difference(
        ACCEPTED, "OpenSSL limits the content without its type"
    ),
}
"""Of the OpenSSL at hand. Other versions may do what the RFCs say."""

#: What asyncio lets through: it sends the alerts of warnings.
_NO_FATAL_ALERTS = {ACCEPTED, ENDED, CUT_OFF, SILENT, WENT_ON, "no_renegotiation"}


def expected_of(server: str, conversation: Conversation) -> frozenset[str]:
    """Return the outcomes that are right for a server."""
    if server == "rustls":
        difference = RUSTLS.get(conversation.name)
        return conversation.expected if difference is None else frozenset([difference.outcome])
    difference = OPENSSL.get(conversation.name)
    expected = conversation.expected
    if difference is not None:
        expected |= {difference.outcome}
    if server == "asyncio":
        return frozenset(it if it in _NO_FATAL_ALERTS else CUT_OFF for it in expected)
    return expected
