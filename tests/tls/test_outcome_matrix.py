"""Every combination of what decides who is accepted: the fast engine against OpenSSL.

``test_outcomes.py`` has each decision by itself, with the expected outcome spelled out. Here they
meet, and all that is said is that both engines agree on both sides of the connection, and on the
alerts, which TokioLoop sends and asyncio does not.
``test_outcomes_on_shards.py`` has the same connections on several threads.
"""

import ssl

import pytest

from support.certificates import Certificates
from support.fast_tls import as_openssl, over_bios
from support.outcome_matrix import QUALITIES, VERSIONS, Case, client_cases, server_cases
from support.tls_outcomes import Outcome, outcome_of

pytestmark = [pytest.mark.only_on("rloop"), pytest.mark.slow]

each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
each_quality = pytest.mark.parametrize("quality", QUALITIES)


async def compare(case: Case) -> Outcome:
    """Make the connection with the tested side by either engine; return the outcome."""
    client, server = case.client(), case.server()
    if case.tested == "client":
        fast = await outcome_of(over_bios(client), as_openssl(server), case.name)
    else:
        fast = await outcome_of(as_openssl(client), over_bios(server), case.name)
    client, server = as_openssl(case.client()), as_openssl(case.server())
    assert fast == await outcome_of(client, server, case.name), case.label
    return fast


@each_version
@each_quality
async def test_clients_agree(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> None:
    outcomes = [await compare(case) for case in client_cases(certificates, quality, version)]
    # With none or a good certificate of its own: whatever it checks, or only if it checks nothing.
    good = quality in {"good", "address", "wildcard", "international"}
    if quality != "wrong key usage":
        assert sum(outcome.is_accepted for outcome in outcomes) == (3 if good else 1) * 3 * 2


@each_version
@each_quality
async def test_servers_agree(
    certificates: Certificates, quality: str, version: ssl.TLSVersion
) -> None:
    for case in server_cases(certificates, quality, version):
        outcome = await compare(case)
        if case.own == "good":
            assert outcome.is_accepted
        elif case.own == "none":
            assert outcome.is_accepted == (case.mode != "required")
