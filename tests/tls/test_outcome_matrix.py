"""Every combination of what decides who is accepted: the fast engine against OpenSSL.

``test_outcomes.py`` has each decision by itself, with the expected outcome spelled out. Here they
meet, and all that is said is that both engines agree on both sides of the connection.
"""

import itertools
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rloop import tls
from support.certificates import HOST, Certificates, Issued
from support.fast_tls import over_bios
from support.tls_outcomes import Outcome, outcome_of

pytestmark = [pytest.mark.only_on("asyncio"), pytest.mark.slow]

VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
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

each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
each_quality = pytest.mark.parametrize("quality", QUALITIES)


class Given:
    """Certificates, and the trusted authority with a list of what it revoked."""

    def __init__(self, certificates: Certificates, quality: str) -> None:
        revoked = certificates.made("revoked", lambda: certificates.trusted.issue(HOST))
        self.trusted: Path = certificates.trusted.revoke(revoked)
        self.good: Issued = certificates["good"][0]
        self.bad: Issued = certificates["unknown authority"][0]
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


async def compare(
    client: Callable[[], tls.Context],
    server: Callable[[], tls.Context],
    name: str,
    fast_side: str,
) -> Outcome:
    """Make the connection with one side by either engine; return the outcome, which is one."""
    if fast_side == "client":
        fast = await outcome_of(over_bios(client()), server(), name)
    else:
        fast = await outcome_of(client(), over_bios(server()), name)
    assert fast == await outcome_of(client(), server(), name)
    return fast


@each_version
@each_quality
async def test_clients_agree(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> None:
    given = Given(certificates, quality)
    accepted = 0
    for mode, (offered, supported), own in itertools.product(
        MODES.values(), PROTOCOLS.values(), (None, given.good, given.bad)
    ):
        outcome = await compare(
            lambda: given.client(
                mode,  # noqa: B023
                own,  # noqa: B023
                alpn=offered,  # noqa: B023
                minimum_version=version,
                maximum_version=version,
            ),
            lambda: given.server("optional", given.issued, alpn=supported),  # noqa: B023
            given.name,
            "client",
        )
        accepted += outcome.is_accepted
    # With none or a good certificate of its own: whatever it checks, or only if it checks nothing.
    good = quality in {"good", "address", "wildcard", "international"}
    if quality != "wrong key usage":
        assert accepted == (3 if good else 1) * 3 * 2


@each_version
@each_quality
async def test_servers_agree(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> None:
    given = Given(certificates, quality)
    for mode, (offered, supported), own in itertools.product(
        MODES, PROTOCOLS.values(), (None, given.good, given.issued)
    ):
        outcome = await compare(
            lambda: given.client(
                ssl.CERT_REQUIRED,
                own,  # noqa: B023
                alpn=offered,  # noqa: B023
                minimum_version=version,
                maximum_version=version,
            ),
            lambda: given.server(mode, given.good, alpn=supported),  # noqa: B023
            HOST,
            "server",
        )
        if own is given.good:
            assert outcome.is_accepted
        elif own is None:
            assert outcome.is_accepted == (mode != "required")
