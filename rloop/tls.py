"""TLS by rustls, for contexts that ask for nothing it cannot do.

:func:`server_context` and :func:`client_context` make contexts that every program takes for what
they are, an :class:`ssl.SSLContext`; TokioLoop makes their connections with rustls. Whatever is
changed on such a context later is remembered too. A setting that rustls cannot honour moves the
context to OpenSSL, which is logged once at level DEBUG by the logger ``rloop.tls``, or, of a strict
context, raises.

``docs/tls.md`` lists what is honoured, and where rustls is stricter than OpenSSL.
"""

import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rloop import _tls_context
from rloop._tls_context import Context, Identity

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

__all__ = ["Context", "client_context", "install", "server_context", "uninstall"]

CertificateFiles: TypeAlias = "StrOrBytesPath | tuple[StrOrBytesPath, StrOrBytesPath | None]"
"""A file with a chain and a key, or one with a chain and one with a key."""

_VERIFY_MODES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def server_context(
    certfile: "StrOrBytesPath",
    keyfile: "StrOrBytesPath | None" = None,
    password: Any = None,
    *,
    alpn: Iterable[str] | None = None,
    client_ca: "StrOrBytesPath | None" = None,
    verify: Literal["none", "optional", "required"] = "none",
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ciphers: str | None = None,
    sni: "Mapping[str, CertificateFiles] | None" = None,
    ticketer: bool = True,
    strict: bool = False,
) -> Context:
    """Make a context for servers.

    Args:
        certfile: a file in PEM with the certificate, and those that lead to a root.
        keyfile: a file in PEM with the private key; by default it is in `certfile`.
        password: decrypts the key, as in :meth:`ssl.SSLContext.load_cert_chain`. An encrypted key
            is OpenSSL's.
        alpn: the application protocols, best first.
        client_ca: a file in PEM with certificates that clients' certificates are checked against.
        verify: whether clients are asked for a certificate, and whether they need one.
        minimum_version: the oldest version of TLS; older ones than 1.2 are OpenSSL's.
        maximum_version: the newest version of TLS.
        ciphers: the permitted ciphers of TLS 1.2, as :meth:`ssl.SSLContext.set_ciphers` takes them.
        sni: other certificates, by the names that clients ask for; ``*.example.org`` stands for one
            label. The first match counts. The values are a file, or a pair of files as above.
        ticketer: whether sessions are kept by clients, as tickets that only this context can read.
        strict: whether settings that rustls cannot honour raise, and connections that end without
            a close notification are lost with :class:`ssl.SSLEOFError`.

    Raises:
        OSError: if a file cannot be read.
        ssl.SSLError: if a certificate or key cannot be used.
        ValueError: if the context is strict and cannot be rustls'.
    """
    context = Context(ssl.PROTOCOL_TLS_SERVER)
    if sni is not None:
        # Before anything is asked of the context, which its other certificates have to be told.
        _serve_by_name(context, sni)
    _set_defaults(context, minimum_version, maximum_version)
    context.load_cert_chain(certfile, keyfile, password)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
    context.verify_mode = _VERIFY_MODES[verify]
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if not ticketer:
        context.options |= ssl.OP_NO_TICKET
    return _finished(context, strict)


def client_context(
    cafile: "StrOrBytesPath | None" = None,
    capath: "StrOrBytesPath | None" = None,
    cadata: str | bytes | None = None,
    *,
    certfile: "StrOrBytesPath | None" = None,
    keyfile: "StrOrBytesPath | None" = None,
    password: Any = None,
    alpn: Iterable[str] | None = None,
    check_hostname: bool = True,
    verify: bool = True,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ciphers: str | None = None,
    resume: bool = False,
    strict: bool = False,
) -> Context:
    """Make a context for clients, with the defaults of :func:`ssl.create_default_context`.

    Args:
        cafile: a file with trusted certificates in PEM.
        capath: a directory with trusted certificates under OpenSSL's hashed names.
        cadata: trusted certificates, in PEM or DER. If none of the three is given, the system's are
            trusted.
        certfile: a file in PEM with a certificate for servers that ask for one.
        keyfile: a file in PEM with its private key; by default it is in `certfile`.
        password: decrypts the key. An encrypted key is OpenSSL's.
        alpn: the application protocols, best first.
        check_hostname: whether the certificate must be for the server's name.
        verify: whether the certificate is checked at all. Without that, its name is not either.
        minimum_version: the oldest version of TLS; older ones than 1.2 are OpenSSL's.
        maximum_version: the newest version of TLS.
        ciphers: the permitted ciphers of TLS 1.2, as :meth:`ssl.SSLContext.set_ciphers` takes them.
        resume: whether sessions are taken up again, which spares the handshake its costly part. The
            certificate is not checked again then.
        strict: whether settings that rustls cannot honour raise, and connections that end without
            a close notification are lost with :class:`ssl.SSLEOFError`.

    Raises:
        OSError: if a file cannot be read.
        ssl.SSLError: if a certificate or key cannot be used.
        ValueError: if the context is strict and cannot be rustls'.
    """
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    _set_defaults(context, minimum_version, maximum_version)
    context.check_hostname = check_hostname and verify
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if cafile is not None or capath is not None or cadata is not None:
        context.load_verify_locations(cafile, capath, cadata)
    elif verify:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certfile is not None:
        context.load_cert_chain(certfile, keyfile, password)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    context._record.resume = resume
    return _finished(context, strict)


def install() -> None:
    """Make every new :class:`ssl.SSLContext` one of this kind, and so what uses the class.

    :func:`ssl.create_default_context` does, for one. Contexts that exist, and subclasses, stay what
    they are. :func:`uninstall` undoes it.
    """
    ssl.SSLContext.__new__ = staticmethod(_new_context)  # type: ignore[assignment]


def uninstall() -> None:
    """Undo :func:`install`; contexts that were made meanwhile stay what they are."""
    ssl.SSLContext.__new__ = _tls_context._original_new  # type: ignore[method-assign]


def _new_context(cls: type[ssl.SSLContext], *args: Any, **kwargs: Any) -> ssl.SSLContext:
    if cls is ssl.SSLContext:
        return Context(*args, **kwargs)
    return _tls_context._original_new(cls, *args, **kwargs)


def _set_defaults(
    context: Context, minimum_version: ssl.TLSVersion, maximum_version: ssl.TLSVersion
) -> None:
    """Do what ssl.create_default_context() of this version of Python does."""
    default = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_flags = default.verify_flags
    if default.keylog_filename is not None:
        context.keylog_filename = default.keylog_filename
    context.minimum_version = minimum_version
    context.maximum_version = maximum_version


def _finished(context: Context, strict: bool) -> Context:
    context._record.strict = strict
    if strict:
        context._check()
    return context


def _serve_by_name(context: Context, sni: "Mapping[str, CertificateFiles]") -> None:
    others: list[tuple[str, Context]] = []
    named: list[tuple[str, list[Identity]]] = []
    for pattern, files in sni.items():
        certfile, keyfile = files if isinstance(files, tuple) else (files, None)
        other = Context(ssl.PROTOCOL_TLS_SERVER)
        other.load_cert_chain(certfile, keyfile)
        others.append((pattern.lower(), other))
        named.append((pattern, other._record.identities))

    def choose(ssl_object: Any, name: str | None, context: Context) -> int | None:
        """Choose the certificate where OpenSSL makes the connection; return an alert or None."""
        for pattern, other in others:
            if name is not None and _matches(pattern, name.lower()):
                if not context._passes_on_to(other):
                    return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
                ssl_object.context = other
                return None
        return None

    context.sni_callback = choose  # type: ignore[assignment]
    context._record.named = named
    context._record.own_sni_callback = choose
    context._record.others = [other for _, other in others]
    context._changed()


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        label, _, domain = name.partition(".")
        return bool(label) and domain == pattern[2:]
    return pattern == name
