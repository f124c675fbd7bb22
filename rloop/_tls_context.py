"""``Context``: an ``ssl.SSLContext`` that remembers what was asked of it.

The contexts are made by :mod:`rloop.tls`. A plain context cannot be read back: its keys, chains and
protocols are OpenSSL's. This one is configured for OpenSSL in the same way and keeps copies of
them, so that TokioLoop can serve it with rustls.

The rule: never weaker than the ``ssl`` module shows. A setting that rustls cannot honour is a
reason to stay with OpenSSL. Programs also set attributes by the descriptors of ``ssl.SSLContext``,
and call its methods past those of this class. So every setting that OpenSSL can be asked for is
read for each connection (:func:`_read_live`), and a configuration of rustls is used only while they
stay the same. OpenSSL cannot be asked for the chain, the key, the groups and the directories of
certificates and revocation lists: a call that sets these past this class is not seen.
"""

import contextlib
import functools
import logging
import os
import ssl
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
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

_IGNORE_TRUNCATION = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)

# Options that rustls follows, or that switch off features it does not have.
_HONOURED_OPTIONS = int(
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
    | _IGNORE_TRUNCATION
)

# X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS and X509_CHECK_FLAG_NEVER_CHECK_SUBJECT: rustls does neither.
_HONOURED_HOST_FLAGS = 0x4 | 0x20

_CRL_FLAGS = int(ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_CRL_CHECK_LEAF)

# How often a configuration is made anew for one connection, because the settings have changed
# meanwhile.
_MOST_BUILDS = 8

# OpenSSL prefers the hybrid with ML-KEM from this version on.
_PREFERS_POST_QUANTUM = ssl.OPENSSL_VERSION_INFO >= (3, 5)

# Attributes and methods that need no copy, because OpenSSL can be asked, or because they are no
# settings, or because Context overrides them. The use of any other one is a reason for OpenSSL.
_KNOWN_NAMES = frozenset(
    {
        "cert_store_stats",
        "check_hostname",
        "get_ca_certs",
        "get_ciphers",
        "get_groups",
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
        "set_ciphersuites",
        "set_default_verify_paths",
        "set_ecdh_curve",
        "set_groups",
        "set_servername_callback",
    }
)


# Attributes that are not passed on to the contexts of other certificates.
_OWN_SETTINGS = frozenset({"sni_callback", "_record", "wrap_bio", "wrap_socket"})

# The descriptors of OpenSSL's own class: subclasses may define attributes of the same names.
_openssl: Any = super(ssl.SSLContext, ssl.SSLContext)

_live_getters = [
    getattr(_openssl, name).__get__
    for name in (
        "verify_mode",
        "verify_flags",
        "check_hostname",
        "options",
        "minimum_version",
        "maximum_version",
        "keylog_filename",
        "num_tickets",
        "post_handshake_auth",
        "security_level",
        "_host_flags",
    )
]

_get_sni_callback = _openssl.sni_callback.__get__
_get_message_callback = _openssl._msg_callback.__get__

# Before Python 3.15 no call changes the ciphers of TLS 1.3.
_CAN_CHOOSE_TLS13_CIPHERS = hasattr(_openssl, "set_ciphersuites")

# OpenSSL makes connections by these. A context that overrides one is served by it.
_connecting_methods = {
    name: getattr(ssl.SSLContext, name) for name in ("wrap_bio", "_wrap_bio", "_encode_hostname")
}


class Refused(Exception):
    """Rustls cannot honour the settings; the message is the reason."""


class Identity(NamedTuple):
    """A certificate chain and its private key, both in PEM."""

    chain: bytes
    key: bytes


class _Live(NamedTuple):
    """The settings by which OpenSSL would make a connection now, in the order of its getters."""

    verify_mode: int
    verify_flags: int
    check_hostname: bool
    options: int
    minimum_version: int
    maximum_version: int
    keylog_filename: str | None
    num_tickets: int
    post_handshake_auth: bool
    security_level: int
    host_flags: int
    ciphers: tuple[str, ...] | None
    """OpenSSL's names. None if they cannot have changed since the context was made."""
    store: tuple[int, int] | None
    """The numbers of certificates and revocation lists. None if nothing is verified."""
    hook: str | None
    """The first part of the program that OpenSSL would call."""


def _read_live(context: "Context") -> _Live:
    """Read every setting that OpenSSL can be asked for.

    This takes 2 µs, and about 2.5 µs more for each cipher and 6 µs more for 144 trusted
    certificates. The ciphers are left out where they cannot have changed.
    """
    values: list[Any] = [get(context) for get in _live_getters]
    options, lowest = values[3], values[4]
    ciphers = store = None
    is_tls13 = lowest == ssl.TLSVersion.TLSv1_3 or options & ssl.OP_NO_TLSv1_2
    if _CAN_CHOOSE_TLS13_CIPHERS or not is_tls13:
        ciphers = _names_of_ciphers(context)
    if values[0] != ssl.CERT_NONE:
        counts = _openssl.cert_store_stats(context)
        store = (counts["x509"], counts["crl"])
    return _Live._make([*values, ciphers, store, context._hook()])


def _names_of_ciphers(context: ssl.SSLContext) -> tuple[str, ...]:
    return tuple([cipher["name"] for cipher in _openssl.get_ciphers(context)])


class _Built(NamedTuple):
    """A configuration of rustls for one side, or the reason why there is none."""

    generation: object
    live: _Live
    setup: _rloop.RustlsSetup | None
    reason: str | None


@dataclass
class _Record:
    """Settings of a context that OpenSSL cannot be asked for."""

    generation: object = field(default_factory=object)
    """Replaced after each change. A configuration counts for the generation that was read before
    its settings were."""
    unfinished: dict[object, str] = field(default_factory=dict)
    """The changes that have begun, and those that an exception ended halfway."""
    identities: list[Identity] = field(default_factory=list)
    alpn: list[bytes] = field(default_factory=list)
    trusted: list[bytes] = field(default_factory=list)
    trusted_folders: list[str] = field(default_factory=list)
    groups: list[str] | None = None
    reasons: list[str] = field(default_factory=list)
    """Why rustls cannot serve the context any more."""
    named: list[tuple[str, list[Identity]]] = field(default_factory=list)
    own_sni_callback: Callable[..., object] | None = None
    others: "list[Context]" = field(default_factory=list)
    """The contexts that OpenSSL moves connections for `named` to. It takes ciphers, protocols and
    trusted certificates from there, so every setting but the certificate is passed on to them."""
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
        """Whether a setting that rustls cannot honour raises ValueError.

        A connection of a strict context that ends without a close notification is lost with
        :class:`ssl.SSLEOFError`, unless ``ssl.OP_IGNORE_UNEXPECTED_EOF`` is set.
        """
        return self._record.strict

    def load_cert_chain(
        self,
        certfile: "StrOrBytesPath",
        keyfile: "StrOrBytesPath | None" = None,
        password: Any = None,
    ) -> None:
        """See :meth:`ssl.SSLContext.load_cert_chain`."""
        record = self._record
        with self._changing("load_cert_chain()") as finish:
            try:
                super().load_cert_chain(certfile, keyfile, password)
            except OSError:
                # OpenSSL may have taken the chain and have dropped the key of an earlier one.
                if not record.identities:
                    finish()
                raise
            chain = _content(certfile)
            key = chain if keyfile is None else _content(keyfile)
            record.identities.append(Identity(chain, key))
            finish()
        self._changed()

    def load_verify_locations(
        self,
        cafile: "StrOrBytesPath | None" = None,
        capath: "StrOrBytesPath | None" = None,
        cadata: Any = None,
    ) -> None:
        """See :meth:`ssl.SSLContext.load_verify_locations`."""
        record = self._record
        with self._changing("load_verify_locations()") as finish:
            try:
                super().load_verify_locations(cafile, capath, cadata)
            except Exception:
                # OpenSSL takes the directory last. What it has taken before shows in its numbers.
                finish()
                raise
            self._tell_others(lambda other: other.load_verify_locations(cafile, capath, cadata))
            if cafile is not None:
                record.trusted.append(_content(cafile))
            if capath is not None:
                record.trusted_folders += _split_paths(os.fsdecode(capath))
            if cadata is not None:
                record.trusted.append(
                    cadata.encode("ascii") if isinstance(cadata, str) else bytes(cadata)
                )
            finish()
        self._changed()

    def set_default_verify_paths(self) -> None:
        """See :meth:`ssl.SSLContext.set_default_verify_paths`."""
        record = self._record
        with self._changing("set_default_verify_paths()") as finish:
            super().set_default_verify_paths()
            self._tell_others(lambda other: other.set_default_verify_paths())
            paths = ssl.get_default_verify_paths()
            cafile = os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
            if os.path.isfile(cafile):
                record.trusted.append(_content(cafile))
            folders = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
            record.trusted_folders += _split_paths(folders)
            finish()
        self._changed()

    def _set_alpn_protocols(self, protocols: bytes, /) -> None:
        """Take protocols as ``ssl.SSLContext.set_alpn_protocols()`` has encoded them."""
        with self._changing("set_alpn_protocols()") as finish:
            _openssl._set_alpn_protocols(self, protocols)
            self._tell_others(lambda other: other._set_alpn_protocols(protocols))
            self._record.alpn = _split_protocols(protocols)
            finish()
        self._changed()

    def set_ciphers(self, cipherlist: str, /) -> None:
        """See :meth:`ssl.SSLContext.set_ciphers`."""
        super().set_ciphers(cipherlist)
        self._tell_others(lambda other: other.set_ciphers(cipherlist))
        self._changed()

    def set_ecdh_curve(self, name: Any, /) -> None:
        """See :meth:`ssl.SSLContext.set_ecdh_curve`."""
        with self._changing("set_ecdh_curve()") as finish:
            try:
                super().set_ecdh_curve(name)
            except ValueError:
                # OpenSSL does not know the name, and keeps its groups.
                finish()
                raise
            self._tell_others(lambda other: other.set_ecdh_curve(name))
            self._record.groups = [os.fsdecode(name)]
            finish()
        self._changed()

    if hasattr(_openssl, "set_groups"):
        # From Python 3.15 on.

        def set_groups(self, grouplist: str, /) -> None:
            """See :meth:`ssl.SSLContext.set_groups`."""
            with self._changing("set_groups()") as finish:
                try:
                    _openssl.set_groups(self, grouplist)
                except (ssl.SSLError, TypeError):
                    # OpenSSL does not know a name, and keeps its groups.
                    finish()
                    raise
                self._tell_others(lambda other: other.set_groups(grouplist))
                # Names with a prefix, and tuples of names, are none that rustls has: the context is
                # OpenSSL's then.
                self._record.groups = grouplist.split(":")
                finish()
            self._changed()

        def set_ciphersuites(self, ciphersuites: str, /) -> None:
            """See :meth:`ssl.SSLContext.set_ciphersuites`."""
            _openssl.set_ciphersuites(self, ciphersuites)
            self._tell_others(lambda other: other.set_ciphersuites(ciphersuites))
            self._changed()

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[Callable[[], None]]:
        """Leave the context to OpenSSL from here until the function that this gives is called.

        If an exception comes first, OpenSSL may have a setting that is not recorded.
        """
        record = self._record
        change = object()

        def finish() -> None:
            del record.unfinished[change]
            record.generation = object()

        record.unfinished[change] = what
        record.generation = object()
        yield finish

    def _changed(self) -> None:
        record: _Record | None = self.__dict__.get("_record")
        if record is None:
            return
        record.generation = object()
        if record.strict:
            self._check()

    def _hook(self) -> str | None:
        """Name a part of the program that takes part in connections that OpenSSL makes."""
        if _get_sni_callback(self) is not self._record.own_sni_callback:
            return "an sni_callback"
        if _get_message_callback(self) is not None:
            return "a message callback"
        if self.sslobject_class is not ssl.SSLObject:
            return "an SSLObject class of its own"
        for name, original in _connecting_methods.items():
            if name in vars(self) or getattr(type(self), name) is not original:
                return f"a {name}() of its own"
        return None

    def _passes_on_to(self, other: "Context") -> bool:
        """Pass ciphers that were set past :meth:`set_ciphers` on to the context of a name.

        Returns:
            Whether OpenSSL would verify peers by `other` as by this context.
        """
        ciphers, level = _names_of_ciphers(self), self.security_level
        if ciphers != _names_of_ciphers(other) or level != other.security_level:
            # Those of TLS 1.3 have names that set_ciphers() passes over.
            _openssl.set_ciphers(other, f"{':'.join(ciphers)}:@SECLEVEL={level}")
        # OpenSSL adds certificates that it finds in a directory, to one of the two.
        has_same_store = bool(self._record.trusted_folders) or (
            _openssl.cert_store_stats(self) == _openssl.cert_store_stats(other)
        )
        return has_same_store and ciphers == _names_of_ciphers(other)

    def _check(self) -> None:
        """Raise ValueError if rustls cannot do what was asked so far."""
        if reason := self.engine_reason:
            raise ValueError(f"rustls cannot honour this context: {reason}")

    def _unsupported(self, reason: str) -> None:
        """Leave the context to OpenSSL."""
        self._record.reasons.append(reason)
        self._changed()

    def _make_rustls(
        self, *, server_side: bool, server_hostname: str | None
    ) -> _rloop.RustlsObject | None:
        """Make a connection, or return None if it has to be OpenSSL's.

        Raises:
            ValueError: if it would have to be OpenSSL's and the context is strict.
        """
        if server_side and server_hostname:
            return None
        record = self._record
        _, live, setup, reason = self._built(server_side)
        if not server_side and live.check_hostname and not server_hostname:
            # OpenSSL says what is wrong with it.
            return None
        if setup is not None:
            name = None if server_hostname is None else self._encode_hostname(server_hostname)
            try:
                refuses_truncation = record.strict and not live.options & _IGNORE_TRUNCATION
                return _rloop.RustlsObject(setup, name, self, refuses_truncation)
            except ValueError as refused:
                reason = str(refused)
        if record.strict:
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
        """Return the configuration for the settings as they are now."""
        record = self._record
        for _ in range(_MOST_BUILDS):
            generation, live = record.generation, _read_live(self)
            built = record.built.get(server_side)
            if built is None or built.generation is not generation or built.live != live:
                built = self._build(server_side, generation, live)
                if record.generation is not generation or _read_live(self) != live:
                    continue
                record.built[server_side] = built
            return built
        return _Built(generation, live, None, "settings that change all the time")

    def _build(self, server_side: bool, generation: object, live: _Live) -> _Built:
        try:
            setup = _rloop.RustlsSetup(server_side, self._settings(server_side, live))
        except (Refused, ValueError) as refused:
            return _Built(generation, live, None, str(refused))
        return _Built(generation, live, setup, None)

    def _settings(self, server_side: bool, live: _Live) -> "_rloop._RustlsSettings":
        """Return what rustls has to do.

        Raises:
            Refused: if it is clear already that it cannot.
        """
        record = self._record
        self._check_settings(server_side, live)
        versions = _versions(live)
        trusted: list[bytes] = []
        folders: list[str] = []
        if live.store is not None:
            trusted, folders = list(record.trusted), list(record.trusted_folders)
            if folders and live.verify_flags & _CRL_FLAGS:
                raise Refused("revocation lists in a directory, which may be added at any time")
        return {
            "tls12": ssl.TLSVersion.TLSv1_2 in versions,
            "tls13": ssl.TLSVersion.TLSv1_3 in versions,
            "ciphers": _names_of_ciphers(self) if live.ciphers is None else live.ciphers,
            "groups": record.groups,
            "prefer_post_quantum": _PREFERS_POST_QUANTUM,
            "alpn": record.alpn,
            "identities": list(record.identities),
            "trusted": trusted,
            "folders": folders,
            "stored": live.store,
            "stored_authorities": _openssl.get_ca_certs(self, True) if folders else [],
            "verify_mode": live.verify_mode,
            "verify_flags": live.verify_flags,
            "key_log": live.keylog_filename,
            "check_hostname": live.check_hostname,
            "resume": record.resume,
            "prefer_own_ciphers": bool(live.options & ssl.OP_CIPHER_SERVER_PREFERENCE),
            "tickets": not live.options & ssl.OP_NO_TICKET,
            "ticket_count": live.num_tickets,
            "named": record.named,
        }

    def _check_settings(self, server_side: bool, live: _Live) -> None:
        record = self._record
        if record.reasons:
            raise Refused(record.reasons[0])
        for unfinished in list(record.unfinished.values()):
            raise Refused(f"{unfinished} that did not come to its end")
        if self.protocol not in _PROTOCOLS:
            raise Refused(f"the protocol {self.protocol!r}")
        one_sided = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
        if self.protocol is one_sided:
            raise Refused("a context for the other side")
        if others := live.options & ~_HONOURED_OPTIONS:
            raise Refused(f"options {ssl.Options(others)!r}")
        if live.hook is not None:
            raise Refused(live.hook)
        if live.post_handshake_auth:
            raise Refused("authentication after the handshake")
        if live.security_level > 2:
            raise Refused(f"security level {live.security_level}")
        if others := live.host_flags & ~_HONOURED_HOST_FLAGS:
            raise Refused(f"flags {others:#x} for host names")


def _versions(live: _Live) -> set[ssl.TLSVersion]:
    lowest = ssl.TLSVersion(live.minimum_version)
    highest = ssl.TLSVersion(live.maximum_version)
    if lowest is ssl.TLSVersion.MAXIMUM_SUPPORTED:
        lowest = ssl.TLSVersion.TLSv1_3
    if highest is ssl.TLSVersion.MAXIMUM_SUPPORTED:
        highest = ssl.TLSVersion.TLSv1_3
    versions = {
        version
        for version, switched_off in _VERSION_OPTIONS.items()
        if lowest <= version <= highest and not live.options & switched_off
    }
    old = versions - {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3}
    if old and not _switches_off_old_versions(live.security_level):
        raise Refused(f"{min(old).name} is enabled")
    return versions - old


@functools.cache
def _switches_off_old_versions(security_level: int) -> bool:
    """Return whether OpenSSL takes no part in TLS before 1.2 at a security level.

    A Python that leaves its defaults to OpenSSL (``--with-ssl-default-suites=openssl``, as Debian's
    does) reports the minimum_version of each new context as TLSVersion.MINIMUM_SUPPORTED. Whether a
    security level above 0 then switches the old versions off depends on OpenSSL's build.
    """
    context = _original_new(ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_ciphers(f"ALL:@SECLEVEL={security_level}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()).do_handshake()
    except ssl.SSLWantReadError:
        # OpenSSL has sent a hello.
        return False
    except ssl.SSLError as error:
        return error.reason == "NO_PROTOCOLS_AVAILABLE"
    return False


def _split_protocols(encoded: bytes) -> list[bytes]:
    """Split a list of protocols in the form of RFC 7301, each behind its length."""
    protocols = []
    while encoded:
        end = 1 + encoded[0]
        protocols.append(encoded[1:end])
        encoded = encoded[end:]
    return protocols


def _content(path: "StrOrBytesPath") -> bytes:
    """Read a file that OpenSSL has read. A pipe is empty by then, and opening it may block."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    with open(path, "rb") as file:
        return file.read()


def _split_paths(paths: str) -> list[str]:
    return [path for path in paths.split(os.pathsep) if path]


_original_new = ssl.SSLContext.__new__


def _marking_method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Context, *args: Any, **kwargs: Any) -> Any:
        self._record.reasons.append(f"{name}()")
        self._record.generation = object()
        result = original(self, *args, **kwargs)
        self._tell_others(lambda other: original(other, *args, **kwargs))
        self._changed()
        return result

    method.__name__ = name
    method.__doc__ = f"See :meth:`ssl.SSLContext.{name}`."
    return method


def _marking_property(name: str, original: Any) -> property:
    def change(self: Context, value: object) -> None:
        self._record.reasons.append(name)
        original.__set__(self, value)
        self._changed()

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
