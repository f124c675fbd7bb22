"""Who is accepted and who is refused: the fast engine against OpenSSL in the same place.

Each test makes the same connection twice, with the side under test by either engine and the other
side by OpenSSL, under asyncio's own TLS protocol. Outcomes must be equal: accepted or refused, the
class of the exception, OpenSSL's reason and verify code, on both sides.
"""

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from rloop import tls
from support.certificates import HOST, Certificates, Issued, key_usage
from support.fast_tls import as_openssl, over_bios
from support.outcome_matrix import VERSIONS, limited
from support.tls_outcomes import Failure, Outcome, outcome_of

QUALITIES = (
    "good",
    "self-signed",
    "unknown authority",
    "another host",
    "expired",
    "not yet valid",
    "for clients only",
    "wrong key usage",
    "address",
    "address 6",
    "another address",
    "name for address",
    "wildcard",
    "wildcard too high",
    "wildcard too deep",
    "wildcard for an underscore",
    "wildcard below an underscore",
    "underscore",
    "international",
)

each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


async def same_outcome_of_clients(
    client: Callable[[], tls.Context], server: Callable[[], tls.Context], name: str | None
) -> Outcome:
    """Compare clients of both engines; return the outcome."""
    fast = await outcome_of(over_bios(client()), as_openssl(server()), name)
    assert fast == await outcome_of(as_openssl(client()), as_openssl(server()), name)
    return fast


async def same_outcome_of_servers(
    client: Callable[[], tls.Context], server: Callable[[], tls.Context], name: str | None
) -> Outcome:
    """Compare servers of both engines; return the outcome."""
    fast = await outcome_of(as_openssl(client()), over_bios(server()), name)
    assert fast == await outcome_of(as_openssl(client()), as_openssl(server()), name)
    return fast


@each_version
@pytest.mark.parametrize("verify", [True, False], ids=["required", "none"])
@pytest.mark.parametrize("quality", QUALITIES)
async def test_a_servers_certificate(
    certificates: Certificates, quality: str, verify: bool, version: ssl.TLSVersion
) -> None:
    issued, name = certificates[quality]
    outcome = await same_outcome_of_clients(
        lambda: tls.client_context(certificates.trusted.file, verify=verify, **limited(version)),
        lambda: tls.server_context(issued.file),
        name,
    )
    is_good = quality in {
        "good",
        "address",
        "address 6",
        "wildcard",
        "underscore",
        "international",
    }
    if verify or quality != "wrong key usage":
        # With TLS 1.2 OpenSSL's server refuses to use that key itself.
        assert outcome.is_accepted == (is_good or not verify)


@pytest.mark.parametrize("quality", ["another host", "expired", "good"])
async def test_a_name_that_is_not_to_be_checked(certificates: Certificates, quality: str) -> None:
    issued, name = certificates[quality]
    for hostname in (name, ""):
        outcome = await same_outcome_of_clients(
            lambda: tls.client_context(certificates.trusted.file, check_hostname=False),
            lambda: tls.server_context(issued.file),
            hostname,
        )
        assert outcome.is_accepted == (quality != "expired")


def client_certificates(certificates: Certificates) -> dict[str, Issued | None]:
    for_servers = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    issue = certificates.trusted.issue
    return {
        "none": None,
        "good": certificates["good"][0],
        "self-signed": certificates["self-signed"][0],
        "unknown authority": certificates["unknown authority"][0],
        "expired": certificates["expired"][0],
        "for servers only": certificates.made(
            "for servers only", lambda: issue("client", extensions=[(for_servers, False)])
        ),
        "key for encryption": certificates.made(
            "key for encryption",
            lambda: issue("client", extensions=[(key_usage("key_encipherment"), True)]),
        ),
    }


@each_version
@pytest.mark.parametrize("verify", ["none", "optional", "required"])
@pytest.mark.parametrize(
    "quality",
    [
        "none",
        "good",
        "self-signed",
        "unknown authority",
        "expired",
        "for servers only",
        "key for encryption",
    ],
)
async def test_a_clients_certificate(
    certificates: Certificates, quality: str, verify: Any, version: ssl.TLSVersion
) -> None:
    issued = client_certificates(certificates)[quality]
    server_file = certificates["good"][0].file
    trusted = certificates.trusted.file

    def client() -> tls.Context:
        file = None if issued is None else issued.file
        return tls.client_context(trusted, certfile=file, **limited(version))

    def server() -> tls.Context:
        return tls.server_context(server_file, client_ca=trusted, verify=verify)

    outcome = await same_outcome_of_servers(client, server, HOST)
    is_accepted = (
        verify == "none" or quality == "good" or (quality == "none" and verify == "optional")
    )
    assert outcome.is_accepted == is_accepted
    # The same from the other side.
    await same_outcome_of_clients(client, server, HOST)


@each_version
@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),
        (["h2"], ["http/1.1"], None),
        (["h2"], None, None),
        (None, ["h2"], None),
        (None, None, None),
    ],
    ids=["match", "no overlap", "client only", "server only", "none"],
)
async def test_application_protocols(
    certificates: Certificates,
    offered: list[str] | None,
    supported: list[str] | None,
    chosen: str | None,
    version: ssl.TLSVersion,
) -> None:
    issued, name = certificates["good"]
    for compare in (same_outcome_of_clients, same_outcome_of_servers):
        outcome = await compare(
            lambda: tls.client_context(certificates.trusted.file, alpn=offered, **limited(version)),
            lambda: tls.server_context(issued.file, alpn=supported),
            name,
        )
        assert not isinstance(outcome.client, Failure)
        assert outcome.client.alpn == chosen


@pytest.mark.parametrize("client_version", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("server_version", VERSIONS.values(), ids=VERSIONS)
async def test_versions(
    certificates: Certificates, client_version: ssl.TLSVersion, server_version: ssl.TLSVersion
) -> None:
    issued, name = certificates["good"]
    for compare in (same_outcome_of_clients, same_outcome_of_servers):
        outcome = await compare(
            lambda: tls.client_context(certificates.trusted.file, **limited(client_version)),
            lambda: tls.server_context(issued.file, **limited(server_version)),
            name,
        )
        assert outcome.is_accepted == (client_version == server_version)


async def test_ciphers_without_overlap(certificates: Certificates) -> None:
    issued, name = certificates["good"]
    for compare in (same_outcome_of_clients, same_outcome_of_servers):
        outcome = await compare(
            lambda: tls.client_context(
                certificates.trusted.file,
                ciphers="ECDHE-ECDSA-AES128-GCM-SHA256",
                **limited(ssl.TLSVersion.TLSv1_2),
            ),
            lambda: tls.server_context(issued.file, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"),
            name,
        )
        assert not outcome.is_accepted


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_peer_without_an_extended_master_secret_is_taken(
    certificates: Certificates, side: str
) -> None:
    """RFC 7627, which TLS 1.2 has as an option; `openssl s_client -no_ems` leaves it out."""
    no_extended_master_secret = 1
    issued, name = certificates["good"]

    def client() -> tls.Context:
        return tls.client_context(certificates.trusted.file, **limited(ssl.TLSVersion.TLSv1_2))

    def server() -> tls.Context:
        return tls.server_context(issued.file)

    def without(context: tls.Context) -> tls.Context:
        context.options |= no_extended_master_secret
        return context

    if side == "client":
        outcome = await same_outcome_of_servers(lambda: without(client()), server, name)
    else:
        outcome = await same_outcome_of_clients(client, lambda: without(server()), name)
    assert outcome.is_accepted


@pytest.mark.only_on("rloop")
@each_version
async def test_a_client_with_no_group_of_rustls_is_told_so(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """OpenSSL has P-521, of which `openssl s_client -groups P-521` offers nothing else."""
    issued, name = certificates["good"]
    client = as_openssl(tls.client_context(certificates.trusted.file, **limited(version)))
    client.set_ecdh_curve("secp521r1")
    outcome = await outcome_of(client, tls.server_context(issued.file), name)
    assert isinstance(outcome.client, Failure)
    assert outcome.client.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


@pytest.mark.parametrize("flag", ["off", "leaf", "chain"])
@pytest.mark.parametrize("listed", ["revoked", "not revoked", "no list"])
async def test_revocation_lists(certificates: Certificates, flag: str, listed: str) -> None:
    issued, name = certificates["good"]
    other = certificates["wildcard"][0]
    authority = certificates.trusted
    file = {
        "revoked": lambda: authority.revoke(other, issued),
        "not revoked": lambda: authority.revoke(other),
        "no list": lambda: authority.file,
    }[listed]()
    flags = {
        "off": 0,
        "leaf": ssl.VERIFY_CRL_CHECK_LEAF,
        "chain": ssl.VERIFY_CRL_CHECK_CHAIN,
    }[flag]

    def client() -> tls.Context:
        context = tls.client_context(file)
        context.verify_flags |= flags
        return context

    outcome = await same_outcome_of_clients(client, lambda: tls.server_context(issued.file), name)
    assert outcome.is_accepted == (flag == "off" or listed == "not revoked")

    def server() -> tls.Context:
        context = tls.server_context(issued.file, client_ca=file, verify="required")
        context.verify_flags |= flags
        return context

    await same_outcome_of_servers(
        lambda: tls.client_context(authority.file, certfile=issued.file), server, name
    )


@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("is_revoked", [False, True])
async def test_of_two_revocation_lists_the_newest_counts(
    certificates: Certificates, is_revoked: bool, is_newest_first: bool
) -> None:
    issued, name = certificates["good"]
    authority = certificates.trusted
    newest = authority.revoke(*[issued] * is_revoked, days_ago=1)
    oldest = authority.revoke(*[issued] * (not is_revoked), days_ago=2)
    files = (newest, oldest) if is_newest_first else (oldest, newest)

    def client() -> tls.Context:
        context = tls.client_context(authority.file)
        for file in files:
            context.load_verify_locations(file)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    outcome = await same_outcome_of_clients(client, lambda: tls.server_context(issued.file), name)
    assert outcome.is_accepted != is_revoked


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("quality", ["good", "self-signed"])
async def test_strictness(certificates: Certificates, quality: str, strict: bool) -> None:
    issued, name = certificates[quality]
    trusted = certificates.trusted.file if quality == "good" else issued.file

    def client() -> tls.Context:
        context = tls.client_context(trusted)
        if strict:
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        else:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    outcome = await same_outcome_of_clients(client, lambda: tls.server_context(issued.file), name)
    assert outcome.is_accepted


@pytest.mark.parametrize("partial", [False, True], ids=["whole", "partial"])
async def test_a_trusted_certificate_that_did_not_sign_itself(
    certificates: Certificates, partial: bool
) -> None:
    issued, name = certificates["good"]

    def client() -> tls.Context:
        context = tls.client_context(issued.file)
        if partial:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        else:
            context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    outcome = await same_outcome_of_clients(client, lambda: tls.server_context(issued.file), name)
    assert outcome.is_accepted == partial
