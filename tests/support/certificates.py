"""Certificates of every quality, made for the run by ``cryptography``.

:class:`Workshop` is an authority that also makes what must be refused. Nothing secret is kept: its
files live in the folder it is given.
"""

import datetime as dt
import functools
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "www.example.org"
IDN_HOST = "www.bücher.example"

_DAY = dt.timedelta(days=1)
_NOW = dt.datetime.now(dt.UTC)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, and the file that holds both with the chain."""

    certificate: x509.Certificate
    key: Key
    file: Path


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Workshop"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def key_usage(*names: str) -> x509.KeyUsage:
    """Return a key usage with just these bits, by their names in ``x509.KeyUsage``."""
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in names for name in every})


def _alternative_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name.encode("idna").decode("ascii")))
    return x509.SubjectAlternativeName(found)


class Workshop:
    """An authority. ``file`` holds its certificate, ``folder`` everything it makes."""

    def __init__(
        self, folder: Path, common_name: str = "root", name: x509.Name | None = None
    ) -> None:
        self.folder = folder
        self._count = 0
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.name = name or _name(common_name)
        self.certificate = self._build_authority()
        self.file = folder / f"{common_name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _build_authority(self) -> x509.Certificate:
        public = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW - 30 * _DAY)
            .not_valid_after(_NOW + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self,
        *names: str,
        valid: tuple[int, int] = (-10, 10),
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
        self_signed: bool = False,
        key: Key | None = None,
        subject: x509.Name | None = None,
        serial_number: int | None = None,
    ) -> Issued:
        """Issue a certificate for names and addresses; ``valid`` is a range of days from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        if subject is None:
            subject = _name(names[0] if names else "nobody")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self.name)
            .public_key(key.public_key())
            .serial_number(serial_number or x509.random_serial_number())
            .not_valid_before(_NOW + valid[0] * _DAY)
            .not_valid_after(_NOW + valid[1] * _DAY)
        )
        if names:
            builder = builder.add_extension(_alternative_names(names), critical=False)
        if not self_signed:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(key if self_signed else self.key, hashes.SHA256())
        return Issued(certificate, key, self._write(certificate, key))

    def _write(self, certificate: x509.Certificate, key: Key) -> Path:
        self._count += 1
        path = self.folder / f"{self.name.rfc4514_string()[3:7]}{id(self)}-{self._count}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def revoke(self, *revoked: Issued, days_ago: int = 1) -> Path:
        """Write the list of revoked certificates to a file, behind the authority's certificate."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(_NOW - days_ago * _DAY)
            .next_update(_NOW + _DAY)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        for issued in revoked:
            entry = x509.RevokedCertificateBuilder(
                issued.certificate.serial_number, _NOW - _DAY
            ).build()
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self.key, hashes.SHA256())
        self._count += 1
        path = self.folder / f"crl{id(self)}-{self._count}.pem"
        path.write_bytes(self.file.read_bytes() + crl.public_bytes(serialization.Encoding.PEM))
        return path


def qualities(trusted: Workshop, unknown: Workshop) -> dict[str, tuple[Callable[[], Issued], str]]:
    """Name the ways a server's certificate can be good or bad, and what is connected to."""
    issue = trusted.issue
    only_for_clients = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]
    only_for_lists = [(key_usage("crl_sign"), True)]
    return {
        "good": (functools.partial(issue, HOST), HOST),
        "self-signed": (functools.partial(issue, HOST, self_signed=True), HOST),
        "unknown authority": (functools.partial(unknown.issue, HOST), HOST),
        "another host": (functools.partial(issue, "other.example.org"), HOST),
        "expired": (functools.partial(issue, HOST, valid=(-20, -10)), HOST),
        "not yet valid": (functools.partial(issue, HOST, valid=(10, 20)), HOST),
        "for clients only": (functools.partial(issue, HOST, extensions=only_for_clients), HOST),
        "wrong key usage": (functools.partial(issue, HOST, extensions=only_for_lists), HOST),
        "address": (functools.partial(issue, "127.0.0.1", "::1"), "127.0.0.1"),
        "address 6": (functools.partial(issue, "127.0.0.1", "::1"), "::1"),
        "another address": (functools.partial(issue, "127.0.0.2"), "127.0.0.1"),
        "name for address": (functools.partial(issue, HOST), "127.0.0.1"),
        "wildcard": (functools.partial(issue, "*.example.org"), HOST),
        "wildcard too high": (functools.partial(issue, "*.org"), HOST),
        "wildcard too deep": (functools.partial(issue, "*.example.org"), "a.b.example.org"),
        "wildcard for an underscore": (
            functools.partial(issue, "*.example.org"),
            "a_b.example.org",
        ),
        "wildcard below an underscore": (
            functools.partial(issue, "*.a_b.example"),
            "www.a_b.example",
        ),
        "underscore": (functools.partial(issue, "a_b.example.org"), "A_B.example.org"),
        "international": (functools.partial(issue, IDN_HOST), IDN_HOST),
    }


class Certificates:
    """Two authorities, one of which is trusted, and what they issued, made when first used."""

    def __init__(self, folder: Path) -> None:
        self.trusted = Workshop(folder, "trusted")
        self.unknown = Workshop(folder, "unknown")
        self._qualities = qualities(self.trusted, self.unknown)
        self._made: dict[str, Issued] = {}

    def __getitem__(self, quality: str) -> tuple[Issued, str]:
        """Return a certificate of that quality and the name that is connected to."""
        make, host = self._qualities[quality]
        return self.made(quality, make), host

    def made(self, name: str, make: Callable[[], Issued]) -> Issued:
        """Return what was made under that name, or make it."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]
