"""A client of TLS 1.3 that protects whatever it likes, which no library's interface allows.

OpenSSL makes the handshake and logs the secrets. The records that the client sends afterwards are
made here (RFC 8446, 5.2 and 7); what the server sends can be read, but is not decrypted.
"""

import re
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from support.certificates import HOST

APPLICATION_DATA = 23
HANDSHAKE = 22

_CIPHER = "TLS_AES_256_GCM_SHA384"
_KEY_SIZE = 32
_NONCE_SIZE = 12
_SECRET_SIZE = 48


def _expand(secret: bytes, label: str, size: int) -> bytes:
    """Return HKDF-Expand-Label() of RFC 8446, 7.1, with an empty context."""
    name = f"tls13 {label}".encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(hashes.SHA384(), size, info).derive(secret)


class _Keys(NamedTuple):
    """What one secret protects records with."""

    aead: AESGCM
    base: int
    """What the number of a record is combined with."""

    @classmethod
    def of(cls, secret: bytes) -> "_Keys":
        base = int.from_bytes(_expand(secret, "iv", _NONCE_SIZE), "big")
        return cls(AESGCM(_expand(secret, "key", _KEY_SIZE)), base)


def shaken_hands(
    raw: socket.socket, context: ssl.SSLContext
) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """Make a client's handshake; its last flight is in the second object, and not sent yet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))
        else:
            return secured, outgoing


class ForgingClient:
    """A client on a blocking socket, which it does not close; make it in a thread.

    Args:
        raw: connected to a server of the host ``support.certificates.HOST``.
        trusted: a file with the certificate of the server's authority.
        log: a file that does not exist yet, for the secrets.
    """

    def __init__(self, raw: socket.socket, trusted: Path, log: Path) -> None:
        self._raw = raw
        self._shake_hands(trusted, log)
        (logged,) = re.findall(
            r"^CLIENT_TRAFFIC_SECRET_0 \w+ (\w+)$", log.read_text(), re.MULTILINE
        )
        self._take(bytes.fromhex(logged))

    def _shake_hands(self, trusted: Path, log: Path) -> None:
        context = ssl.create_default_context(cafile=trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(log)
        session, outgoing = shaken_hands(self._raw, context)
        self._raw.sendall(outgoing.read())
        cipher = session.cipher()
        assert cipher is not None
        assert cipher[0] == _CIPHER

    def _take(self, secret: bytes) -> None:
        self._secret, self._keys, self._count = secret, _Keys.of(secret), 0

    def record(self, kind: int, content: bytes) -> bytes:
        """Return the record of any content of any kind."""
        inner = content + bytes([kind])
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._keys.base ^ self._count).to_bytes(_NONCE_SIZE, "big")
        self._count += 1
        return header + self._keys.aead.encrypt(nonce, inner, header)

    def data(self, content: bytes) -> bytes:
        """Return the record of data."""
        return self.record(APPLICATION_DATA, content)

    def key_updates(self, count: int, *, answered: bool) -> bytes:
        """Return records that each change the key; ``answered`` asks for the other side's too."""
        made = []
        for _ in range(count):
            made.append(self.record(HANDSHAKE, bytes([24, 0, 0, 1, answered])))
            self._take(_expand(self._secret, "traffic upd", _SECRET_SIZE))
        return b"".join(made)
