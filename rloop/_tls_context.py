"""``Context``: an ``ssl.SSLContext`` that remembers what was asked of it.

A plain context cannot be read back: its keys, chains and protocols are OpenSSL's. This one is
configured for OpenSSL in the same way, and remembers what it cannot be asked for later, so that
TokioLoop may serve it with rustls. The rule: never weaker than asked. What rustls cannot honour is
a reason to stay with OpenSSL. The contexts are made by :mod:`rloop.tls`.
"""

import logging
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from rloop import _rloop

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

__all__ = ["Context"]

Engine = Literal["rustls", "openssl"]

_logger = logging.getLogger("rloop.tls")

_PROTOCOLS = (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)

_VERSION_OPTIONS = {
    ssl.TLSVersion.TLSv1: ssl.OP_NO_TLSv1,
    ssl.TLSVersion.TLSv1_1: ssl.OP_NO_TLSv1_1,
    ssl.TLSVersion.TLSv1_2: ssl.OP_NO_TLSv1_2,
    ssl.TLSVersion.TLSv1_3: ssl.OP_NO_TLSv1_3,
}

# Options that rustls follows, or that switch off what it does not have.
_HONOURED_OPTIONS = (
    ssl.OP_ALL
    | ssl.OP_NO_SSLv2
    | ssl.OP_NO_SSLv3
    | ssl.OP_NO_TLSv1
    | ssl.OP_NO_TLSv1_1
    | ssl.OP_NO_TLSv1_2
    | ssl.OP_NO_TLSv1_3
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_SINGLE_DH_USE
    | ssl.OP_SINGLE_ECDH_USE
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_NO_TICKET
    | ssl.OP_NO_RENEGOTIATION
    | ssl.OP_ENABLE_MIDDLEBOX_COMPAT
    | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
)

_CRL_FLAGS = ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_CRL_CHECK_LEAF

# OpenSSL finds certificates of a directory by these names.
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")

# OpenSSL prefers the hybrid with ML-KEM from this version on.
_PREFERS_POST_QUANTUM = ssl.OPENSSL_VERSION_INFO >= (3, 5)

# What a context can be told that needs no memory, because it can be asked for it, or because it is
# no setting. Whatever else a version of Python has is a reason for OpenSSL once it is used.
_KNOWN_NAMES = frozenset(
    {
        "cert_store_stats",
        "check_hostname",
        "get_ca_certs",
        "get_ciphers",
        "hostname_checks_common_name",
        "keylog_filename",
        "maximum_version",
        "minimum_version",
        "num_tickets",
        "options",
        "post_handshake_auth",
        "protocol",
        "security_level",
        "session_stats",
        "sni_callback",
        "sslobject_class",
        "sslsocket_class",
        "verify_flags",
        "verify_mode",
        "wrap_bio",
        "wrap_socket",
        "load_cert_chain",
        "load_default_certs",
        "load_verify_locations",
        "set_alpn_protocols",
        "set_ciphers",
        "set_default_verify_paths",
        "set_ecdh_curve",
        "set_servername_callback",
    }
)


# What is not passed on to the contexts of other certificates, which are chosen by the first.
_OWN_SETTINGS = frozenset({"sni_callback", "_record", "wrap_bio", "wrap_socket"})


class Refused(Exception):
    """Rustls cannot do what was asked; the message is the reason."""


class Identity(NamedTuple):
    """A certificate chain and its private key, both in PEM."""

    chain: bytes
    key: bytes


class _Built(NamedTuple):
    """What came of the settings of one side, when they had changed `generation` times."""

    generation: int
    setup: _rloop.RustlsSetup | None
    reason: str | None


@dataclass
class _Record:
    """What a context was told that it cannot be asked for."""

    generation: int = 0
    identities: list[Identity] = field(default_factory=list)
    alpn: list[bytes] = field(default_factory=list)
    trusted: list[bytes] = field(default_factory=list)
    trusted_folders: list[str] = field(default_factory=list)
    groups: list[str] | None = None
    reasons: list[str] = field(default_factory=list)
    """Why it cannot be rustls any more."""
    named: list[tuple[str, list[Identity]]] = field(default_factory=list)
    own_sni_callback: Callable[..., object] | None = None
    others: "list[Context]" = field(default_factory=list)
    """What OpenSSL takes for `named`. A connection that it moves there keeps little of what it was
    made with, so these are told whatever the context is told, but its own certificates."""
    tickets: bool = True
    resume: bool = False
    strict: bool = False
    built: dict[bool, _Built] = field(default_factory=dict)
    has_logged: bool = False


class Context(ssl.SSLContext):
    """An ``ssl.SSLContext`` whose connections on TokioLoop are made by rustls where it can.

    Other loops, and plain sockets, use it as what it is: a context of OpenSSL.
    """

    _record: _Record

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Take the arguments of ``ssl.SSLContext``."""
        self: Self = _original_new(cls, *args, **kwargs)
        object.__setattr__(self, "_record", _Record())
        return self

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name not in _OWN_SETTINGS:
            self._tell_others(lambda other: setattr(other, name, value))
        self._changed()

    def _tell_others(self, tell: "Callable[[Context], object]") -> None:
        record: _Record | None = self.__dict__.get("_record")
        for other in record.others if record is not None else ():
            tell(other)

    @property
    def engine(self) -> Engine:
        """What makes the connections of this context on TokioLoop.

        A context for both sides (``ssl.PROTOCOL_TLS``) tells the server's.
        """
        return "openssl" if self.engine_reason else "rustls"

    @property
    def engine_reason(self) -> str | None:
        """Why it is not rustls; None if it is."""
        return self._built(server_side=self.protocol is not ssl.PROTOCOL_TLS_CLIENT).reason

    @property
    def strict(self) -> bool:
        """Whether a setting that rustls cannot honour raises ValueError."""
        return self._record.strict

    def load_cert_chain(
        self,
        certfile: "StrOrBytesPath",
        keyfile: "StrOrBytesPath | None" = None,
        password: Any = None,
    ) -> None:
        """See :meth:`ssl.SSLContext.load_cert_chain`."""
        super().load_cert_chain(certfile, keyfile, password)
        chain = _content(certfile)
        key = chain if keyfile is None else _content(keyfile)
        self._record.identities.append(Identity(chain, key))
        self._changed()

    def load_verify_locations(
        self,
        cafile: "StrOrBytesPath | None" = None,
        capath: "StrOrBytesPath | None" = None,
        cadata: Any = None,
    ) -> None:
        """See :meth:`ssl.SSLContext.load_verify_locations`."""
        super().load_verify_locations(cafile, capath, cadata)
        self._tell_others(lambda other: other.load_verify_locations(cafile, capath, cadata))
        if cafile is not None:
            self._record.trusted.append(_content(cafile))
        if capath is not None:
            self._record.trusted_folders.append(os.fsdecode(capath))
        if cadata is not None:
            self._record.trusted.append(
                cadata.encode("ascii") if isinstance(cadata, str) else bytes(cadata)
            )
        self._changed()

    def set_default_verify_paths(self) -> None:
        """See :meth:`ssl.SSLContext.set_default_verify_paths`."""
        super().set_default_verify_paths()
        self._tell_others(lambda other: other.set_default_verify_paths())
        paths = ssl.get_default_verify_paths()
        cafile = os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
        if os.path.isfile(cafile):
            self._record.trusted.append(_content(cafile))
        folders = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
        self._record.trusted_folders += folders.split(os.pathsep)
        self._changed()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """See :meth:`ssl.SSLContext.set_alpn_protocols`."""
        protocols = list(alpn_protocols)
        super().set_alpn_protocols(protocols)
        self._tell_others(lambda other: other.set_alpn_protocols(protocols))
        self._record.alpn = [protocol.encode("ascii") for protocol in protocols]
        self._changed()

    def set_ciphers(self, cipherlist: str, /) -> None:
        """See :meth:`ssl.SSLContext.set_ciphers`."""
        super().set_ciphers(cipherlist)
        self._tell_others(lambda other: other.set_ciphers(cipherlist))
        self._changed()

    def set_ecdh_curve(self, name: Any, /) -> None:
        """See :meth:`ssl.SSLContext.set_ecdh_curve`."""
        super().set_ecdh_curve(name)
        self._tell_others(lambda other: other.set_ecdh_curve(name))
        self._record.groups = [os.fsdecode(name)]
        self._changed()

    def _changed(self) -> None:
        record: _Record | None = self.__dict__.get("_record")
        if record is None:
            return
        record.generation += 1
        if record.strict:
            self._check()

    def _check(self) -> None:
        """Raise ValueError if rustls cannot do what was asked so far."""
        if reason := self.engine_reason:
            raise ValueError(f"rustls cannot honour this context: {reason}")

    def _unsupported(self, reason: str) -> None:
        self._record.reasons.append(reason)
        self._changed()

    def _make_rustls(
        self, *, server_side: bool, server_hostname: str | None
    ) -> _rloop.RustlsObject | None:
        """Make a connection, or return None if it has to be OpenSSL's.

        Raises:
            ValueError: if it would have to be OpenSSL's and the context is strict.
        """
        reason = setup = None
        if server_side and server_hostname:
            return None
        if not server_side and self.check_hostname and not server_hostname:
            # OpenSSL says what is wrong with it.
            return None
        name = None if server_hostname is None else self._encode_hostname(server_hostname)
        setup, reason = self._built(server_side)[1:]
        if setup is not None:
            try:
                return _rloop.RustlsObject(setup, name, self)
            except ValueError as refused:
                reason = str(refused)
        if self._record.strict:
            raise ValueError(f"rustls cannot honour this context: {reason}")
        self._log_once(reason)
        return None

    if TYPE_CHECKING:

        def _encode_hostname(self, hostname: str) -> str: ...

    def _log_once(self, reason: str | None) -> None:
        if not self._record.has_logged:
            self._record.has_logged = True
            _logger.debug("%r is served by OpenSSL: %s", self, reason)

    def _built(self, server_side: bool) -> _Built:
        record = self._record
        built = record.built.get(server_side)
        if built is None or built.generation != record.generation:
            generation = record.generation
            try:
                setup = _rloop.RustlsSetup(server_side, self._settings(server_side))
                built = _Built(generation, setup, None)
            except (Refused, ValueError) as refused:
                built = _Built(generation, None, str(refused))
            record.built[server_side] = built
        return built

    def _settings(self, server_side: bool) -> "_rloop._RustlsSettings":
        """What rustls has to do.

        Raises:
            Refused: if it is clear already that it cannot.
        """
        record = self._record
        self._check_settings(server_side)
        versions = self._versions()
        verify_flags = int(self.verify_flags)
        trusted = list(record.trusted)
        if self.verify_mode != ssl.CERT_NONE:
            if record.trusted_folders and verify_flags & _CRL_FLAGS:
                raise Refused("revocation lists in a directory, which may be added at any time")
            for folder in record.trusted_folders:
                trusted += _certificates_in(folder)
        return {
            "tls12": ssl.TLSVersion.TLSv1_2 in versions,
            "tls13": ssl.TLSVersion.TLSv1_3 in versions,
            "ciphers": [cipher["name"] for cipher in self.get_ciphers()],
            "groups": record.groups,
            "prefer_post_quantum": _PREFERS_POST_QUANTUM,
            "alpn": record.alpn,
            "identities": record.identities,
            "trusted": trusted,
            "verify_mode": int(self.verify_mode),
            "verify_flags": verify_flags,
            "key_log": self.keylog_filename,
            "check_hostname": self.check_hostname,
            "resume": record.resume,
            "prefer_own_ciphers": bool(self.options & ssl.OP_CIPHER_SERVER_PREFERENCE),
            "tickets": record.tickets and not self.options & ssl.OP_NO_TICKET,
            "ticket_count": self.num_tickets,
            "named": record.named,
        }

    def _check_settings(self, server_side: bool) -> None:
        record = self._record
        if record.reasons:
            raise Refused(record.reasons[0])
        if self.protocol not in _PROTOCOLS:
            raise Refused(f"the protocol {self.protocol!r}")
        one_sided = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
        if self.protocol is one_sided:
            raise Refused("a context for the other side")
        if others := self.options & ~_HONOURED_OPTIONS:
            raise Refused(f"options {ssl.Options(others)!r}")
        if self.sni_callback is not record.own_sni_callback:
            raise Refused("an sni_callback")
        if self.post_handshake_auth:
            raise Refused("authentication after the handshake")
        if self.security_level > 2:
            raise Refused(f"security level {self.security_level}")
        if getattr(self, "_msg_callback", None) is not None:
            raise Refused("a message callback")
        if type(self).wrap_bio is not ssl.SSLContext.wrap_bio:
            raise Refused("a wrap_bio() of its own")
        if self.sslobject_class is not ssl.SSLObject:
            raise Refused("an SSLObject class of its own")

    def _versions(self) -> set[ssl.TLSVersion]:
        lowest, highest = self.minimum_version, self.maximum_version
        if lowest is ssl.TLSVersion.MAXIMUM_SUPPORTED:
            lowest = ssl.TLSVersion.TLSv1_3
        if highest is ssl.TLSVersion.MAXIMUM_SUPPORTED:
            highest = ssl.TLSVersion.TLSv1_3
        versions = {
            version
            for version, switched_off in _VERSION_OPTIONS.items()
            if lowest <= version <= highest and not self.options & switched_off
        }
        if old := versions - {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3}:
            raise Refused(f"{min(old).name} is enabled")
        return versions


def _content(path: "StrOrBytesPath") -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _certificates_in(folder: str) -> list[bytes]:
    """What OpenSSL would find in a directory of trusted certificates."""
    try:
        names = sorted(filter(_HASHED_NAME.fullmatch, os.listdir(folder)))
    except OSError:
        return []
    return [_content(path) for name in names if os.path.isfile(path := os.path.join(folder, name))]


_original_new = ssl.SSLContext.__new__


def _marking_method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Context, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        self._tell_others(lambda other: original(other, *args, **kwargs))
        self._unsupported(f"{name}()")
        return result

    method.__name__ = name
    method.__doc__ = f"See :meth:`ssl.SSLContext.{name}`."
    return method


def _marking_property(name: str, original: Any) -> property:
    def change(self: Context, value: object) -> None:
        original.__set__(self, value)
        self._unsupported(name)

    return property(original.__get__, change)


def _mark_the_rest(known: Mapping[str, Any]) -> None:
    """Notice the use of every setting that this module does not know."""
    for name, attribute in known.items():
        if name.startswith("_") or name in _KNOWN_NAMES:
            continue
        if callable(attribute):
            setattr(Context, name, _marking_method(name, attribute))
        elif hasattr(attribute, "__set__"):
            setattr(Context, name, _marking_property(name, attribute))


_mark_the_rest({name: getattr(ssl.SSLContext, name) for name in dir(ssl.SSLContext)})
