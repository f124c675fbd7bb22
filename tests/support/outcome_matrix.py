"""Every combination of what decides who is accepted, for tests that compare two engines.

A :class:`Case` makes the contexts of one connection, new ones each time, of either engine as
:mod:`rloop.tls` makes them.
"""

import itertools
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rloop import tls
from support.certificates import HOST, Certificates, Issued

VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
MODES: dict[Any, ssl.VerifyMode] = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
QUALITIES = (
    "good",
    "self-signed",
    "unknown authority",
    "another host",
    "expired",
    "not yet valid",
    "revoked",
    "for clients only",
    "wrong key usage",
    "address",
    "wildcard",
    "international",
)
PROTOCOLS: dict[str, tuple[list[str] | None, list[str] | None]] = {
    "match": (["h2"], ["h2"]),
    "no overlap": (["h2"], ["http/1.1"]),
    "none": (None, None),
}

Side = Literal["client", "server"]


def limited(version: ssl.TLSVersion) -> Any:
    """Return the arguments that leave a context one version."""
    return {"minimum_version": version, "maximum_version": version}


@dataclass(frozen=True)
class Case:
    """One connection, and which side's engine is in question."""

    label: str
    tested: Side
    client: Callable[[], tls.Context]
    server: Callable[[], tls.Context]
    name: str
    own: Literal["none", "good", "bad"]
    """What the client presents of itself."""
    mode: str
    """How the tested side checks the other."""


class _Given:
    """Certificates, and the trusted authority with a list of what it revoked."""

    def __init__(self, certificates: Certificates, quality: str) -> None:
        revoked = certificates.made("revoked", lambda: certificates.trusted.issue(HOST))
        self.trusted: Path = certificates.trusted.revoke(revoked)
        self.good: Issued = certificates["good"][0]
        self.unknown: Issued = certificates["unknown authority"][0]
        self.issued, self.name = (revoked, HOST) if quality == "revoked" else certificates[quality]

    def client(
        self, mode: ssl.VerifyMode, certificate: Issued | None, **wishes: Any
    ) -> tls.Context:
        """Make a context that looks into the list."""
        file = None if certificate is None else certificate.file
        context = tls.client_context(self.trusted, certfile=file, check_hostname=False, **wishes)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.verify_mode = mode
        context.check_hostname = mode is not ssl.CERT_NONE
        return context

    def server(self, mode: Any, certificate: Issued, **wishes: Any) -> tls.Context:
        """Make a context that looks into the list."""
        context = tls.server_context(
            certificate.file, client_ca=self.trusted, verify=mode, **wishes
        )
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


def client_cases(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> Iterator[Case]:
    """Name the connections in which a client meets a server's certificate of that quality."""
    given, limits = _Given(certificates, quality), limited(version)
    own_ones = {"none": None, "good": given.good, "bad": given.unknown}
    for mode, protocols, own in itertools.product(MODES, PROTOCOLS, own_ones):
        offered, supported = PROTOCOLS[protocols]
        yield Case(
            f"a client that checks: {mode}, protocols: {protocols}, certificate of its own: {own}",
            "client",
            partial(given.client, MODES[mode], own_ones[own], alpn=offered, **limits),
            partial(given.server, "optional", given.issued, alpn=supported),
            given.name,
            own,  # type: ignore[arg-type]
            mode,
        )


def server_cases(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> Iterator[Case]:
    """Name the connections in which a server meets a client's certificate of that quality."""
    given, limits = _Given(certificates, quality), limited(version)
    own_ones = {"none": None, "good": given.good, "bad": given.issued}
    for mode, protocols, own in itertools.product(MODES, PROTOCOLS, own_ones):
        offered, supported = PROTOCOLS[protocols]
        yield Case(
            f"a server that checks: {mode}, protocols: {protocols}, client's certificate: {own}",
            "server",
            partial(given.client, ssl.CERT_REQUIRED, own_ones[own], alpn=offered, **limits),
            partial(given.server, mode, given.good, alpn=supported),
            HOST,
            own,  # type: ignore[arg-type]
            mode,
        )
