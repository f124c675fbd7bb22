"""What ``getpeercert()`` says of unusual certificates: the same as OpenSSL's."""

import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from rloop import tls
from support.certificates import HOST, Certificates
from support.fast_tls import as_openssl, over_bios
from support.tls_outcomes import Success, outcome_of

Attribute = x509.NameAttribute
DIRECTORY = x509.Name([Attribute(NameOID.LOCALITY_NAME, "Ort"), Attribute(NameOID.SURNAME, "X")])


def uri(address: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(address)


ALTERNATIVE_NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName(HOST),
        x509.DNSName("*.wild.example"),
        x509.RFC822Name("somebody@example.org"),
        uri("https://example.org/path?query"),
        x509.DirectoryName(DIRECTORY),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4.5555")),
    ]
)
AUTHORITY_INFORMATION = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/1")),
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/2")),
        x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://ca.example")),
        x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.DNSName("not.an.address")
        ),
    ]
)
CRL_POINTS = x509.CRLDistributionPoints(
    [
        x509.DistributionPoint([uri("http://crl.example/1"), uri("ldap://crl")], None, None, None),
        x509.DistributionPoint([x509.DNSName("no.uri")], None, None, None),
        x509.DistributionPoint(None, None, None, [x509.DirectoryName(DIRECTORY)]),
    ]
)
ONLY_OTHER_POINTS = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.DNSName("no.uri")], None, None, None)]
)
MANY_ATTRIBUTES = x509.Name(
    [
        Attribute(NameOID.COUNTRY_NAME, "DE"),
        Attribute(NameOID.STATE_OR_PROVINCE_NAME, "Thüringen"),
        Attribute(NameOID.STREET_ADDRESS, "日本語 1"),
        Attribute(NameOID.EMAIL_ADDRESS, "somebody@example.org"),
        Attribute(NameOID.DOMAIN_COMPONENT, "example"),
        Attribute(NameOID.USER_ID, "uid"),
        Attribute(NameOID.SERIAL_NUMBER, "0042"),
        Attribute(NameOID.ORGANIZATION_IDENTIFIER, "id"),
        Attribute(NameOID.JURISDICTION_COUNTRY_NAME, "DE"),
        Attribute(x509.ObjectIdentifier("1.2.3.4.5.6.7"), "unknown to all"),
        Attribute(NameOID.COMMON_NAME, "first"),
        Attribute(NameOID.COMMON_NAME, "second"),
    ]
)
SETS = x509.Name(
    [
        x509.RelativeDistinguishedName(
            [Attribute(NameOID.COMMON_NAME, "a"), Attribute(NameOID.SURNAME, "b")]
        ),
        x509.RelativeDistinguishedName([Attribute(NameOID.GIVEN_NAME, "c")]),
    ]
)
OTHER_STRINGS = x509.Name(
    [
        Attribute(NameOID.COMMON_NAME, "Größe", _type=x509.name._ASN1Type.BMPString),
        Attribute(NameOID.SURNAME, "Maße", _type=x509.name._ASN1Type.UniversalString),
        Attribute(NameOID.TITLE, "plain", _type=x509.name._ASN1Type.PrintableString),
        Attribute(NameOID.EMAIL_ADDRESS, "a@b", _type=x509.name._ASN1Type.IA5String),
        Attribute(NameOID.PSEUDONYM, "Größe", _type=x509.name._ASN1Type.T61String),
    ]
)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ((HOST, "127.0.0.1", "2001:db8::1:0"), {}),
        ((), {"extensions": [(ALTERNATIVE_NAMES, False)]}),
        ((HOST,), {"extensions": [(AUTHORITY_INFORMATION, False), (CRL_POINTS, False)]}),
        ((HOST,), {"extensions": [(ONLY_OTHER_POINTS, False)]}),
        ((HOST,), {"subject": MANY_ATTRIBUTES}),
        ((HOST,), {"subject": SETS}),
        ((HOST,), {"subject": OTHER_STRINGS}),
        ((HOST,), {"subject": x509.Name([])}),
        ((HOST,), {"valid": (-20_000, 20_000)}),
        ((HOST,), {"serial_number": 1}),
        ((HOST,), {"serial_number": 0x80}),
        ((HOST,), {"serial_number": (1 << 159) - 1}),
    ],
    ids=[
        "names and addresses",
        "every kind of name",
        "addresses of the authority",
        "no addresses",
        "many attributes",
        "sets of attributes",
        "kinds of strings",
        "empty subject",
        "another century",
        "serial number 1",
        "serial number with the highest bit",
        "long serial number",
    ],
)
async def test_descriptions_are_equal(
    certificates: Certificates, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    issued = certificates.trusted.issue(*names, **options)

    def client() -> tls.Context:
        context = tls.client_context(certificates.trusted.file, check_hostname=False)
        # An empty subject is not what is tested.
        context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
        return context

    server = tls.server_context(issued.file)
    as_openssl(server)
    fast = await outcome_of(over_bios(client()), server, HOST)
    assert isinstance(fast.client, Success)
    assert fast == await outcome_of(as_openssl(client()), server, HOST)
