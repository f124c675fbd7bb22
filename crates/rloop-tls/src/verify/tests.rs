//! Trust, with certificates made for each test. tests/tls compares the same with OpenSSL.

use super::chain::{Trust, check_name};
use super::folder::Folders;
use super::rules::Purpose;
use super::{RevocationCheck, TrustOptions, VerifyFailure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use std::slice::from_ref;
use std::time::Duration;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Somewhere in 2030.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root(params: CertificateParams) -> Issuer {
    Issuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(params: &CertificateParams, issuer: &Issuer) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn trust(
    certificates: &[&CertificateDer<'static>],
    crls: &[CertificateRevocationListDer<'_>],
    options: TrustOptions,
) -> Trust {
    let algorithms = default_provider().signature_verification_algorithms;
    let certificates = certificates.iter().copied().cloned();
    Trust::new(certificates, Folders::default(), crls, options, algorithms).unwrap()
}

fn check(trust: &Trust, leaf: &CertificateDer<'_>) -> Result<(), VerifyFailure> {
    trust.check(leaf, &[], Purpose::Server, NOW).map(|_path| ())
}

#[test]
fn a_certificate_of_a_trusted_authority_is_trusted_for_its_names() {
    let root = root(authority_params("root"));
    let leaf = issue(&params("example.org"), &root);
    let trust = trust(&[root.der()], &[], TrustOptions::default());
    assert_eq!(check(&trust, &leaf), Ok(()));
    let name = |text: &'static str| ServerName::try_from(text).unwrap();
    assert_eq!(check_name(&leaf, &name("example.org")), Ok(()));
    let mismatch = Err(VerifyFailure::HOSTNAME_MISMATCH);
    assert_eq!(check_name(&leaf, &name("example.com")), mismatch);
    let mismatch = Err(VerifyFailure::IP_ADDRESS_MISMATCH);
    assert_eq!(check_name(&leaf, &name("127.0.0.1")), mismatch);
}

#[test]
fn wildcards_do_not_match_underscores() {
    let root = root(authority_params("root"));
    for (certified, name, is_for) in [
        ("*.example.org", "www.example.org", true),
        ("*.example.org", "a_b.example.org", false),
        ("*.a_b.example.org", "www.a_b.example.org", false),
        ("a_b.example.org", "A_b.example.org", true),
    ] {
        let leaf = issue(&params(certified), &root);
        let name = ServerName::try_from(name).unwrap();
        assert_eq!(check_name(&leaf, &name).is_ok(), is_for, "{certified} for {name:?}");
    }
}

#[test]
fn an_authority_that_is_not_trusted_is_told_from_one_that_is_missing() {
    let (known, unknown) = (root(authority_params("known")), root(authority_params("unknown")));
    let leaf = issue(&params("example.org"), &unknown);
    let trust = trust(&[known.der()], &[], TrustOptions::default());
    let missing = Err(VerifyFailure::UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
    assert_eq!(check(&trust, &leaf), missing);
    let sent = [unknown.der().clone()];
    let in_chain = Err(VerifyFailure::SELF_SIGNED_CERT_IN_CHAIN);
    assert_eq!(trust.check(&leaf, &sent, Purpose::Server, NOW), in_chain);
    let lonely = root(params("lonely")).der().clone();
    assert_eq!(check(&trust, &lonely), Err(VerifyFailure::DEPTH_ZERO_SELF_SIGNED_CERT));
}

#[test]
fn a_trusted_certificate_may_be_presented_itself() {
    let mut of_authority = authority_params("localhost");
    of_authority.key_usages.push(KeyUsagePurpose::DigitalSignature);
    for params in [params("localhost"), of_authority] {
        let own = root(params).der().clone();
        let trust = trust(&[&own], &[], TrustOptions::default());
        assert_eq!(check(&trust, &own), Ok(()));
    }
}

#[test]
fn the_path_leads_from_the_certificate_to_the_trusted_one_and_over_no_other() {
    let top = root(authority_params("root"));
    let middle =
        CertifiedIssuer::signed_by(authority_params("middle"), KeyPair::generate().unwrap(), &top)
            .unwrap();
    let stranger = root(authority_params("stranger"));
    let leaf = issue(&params("example.org"), &middle);
    let trust = trust(&[stranger.der(), top.der()], &[], TrustOptions::default());
    let sent = [stranger.der().clone(), middle.der().clone()];
    let path = vec![leaf.clone(), middle.der().clone(), top.der().clone()];
    assert_eq!(trust.check(&leaf, &sent, Purpose::Server, NOW), Ok(path));
}

#[test]
fn a_trusted_authority_is_held_to_its_own_limits() {
    let mut expired = authority_params("root");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut no_signing = authority_params("root");
    no_signing.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mut no_authority = params("root");
    no_authority.use_authority_key_identifier_extension = false;
    let mut for_clients = authority_params("root");
    for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (params, failure) in [
        (expired, VerifyFailure::CERT_HAS_EXPIRED),
        (no_signing, VerifyFailure::INVALID_CA),
        (no_authority, VerifyFailure::INVALID_CA),
        (for_clients, VerifyFailure::INVALID_PURPOSE),
    ] {
        let root = root(params);
        let leaf = issue(&self::params("example.org"), &root);
        let trust = trust(&[root.der()], &[], TrustOptions::default());
        assert_eq!(check(&trust, &leaf), Err(failure));
    }
}

#[test]
fn a_trusted_intermediate_ends_a_path_only_if_asked() {
    let root = root(authority_params("root"));
    let intermediate =
        Issuer::signed_by(authority_params("intermediate"), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let leaf = issue(&params("example.org"), &intermediate);
    let whole = TrustOptions::default();
    let partial = TrustOptions { partial_chain: true, ..whole };
    assert!(check(&trust(&[intermediate.der()], &[], whole), &leaf).is_err());
    assert_eq!(check(&trust(&[intermediate.der()], &[], partial), &leaf), Ok(()));
    // It helps to build a path to the root in any case.
    assert_eq!(check(&trust(&[intermediate.der(), root.der()], &[], whole), &leaf), Ok(()));
}

#[test]
fn a_key_must_be_for_the_purpose() {
    let root = root(authority_params("root"));
    let trust = trust(&[root.der()], &[], TrustOptions::default());
    let mut only_signs_lists = params("example.org");
    only_signs_lists.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mut of_client = params("example.org");
    of_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for params in [only_signs_lists, of_client] {
        let leaf = issue(&params, &root);
        assert_eq!(check(&trust, &leaf), Err(VerifyFailure::INVALID_PURPOSE));
    }
}

#[test]
fn strictness_wants_key_identifiers() {
    let root = root(authority_params("root"));
    let strict = TrustOptions { strict: true, ..TrustOptions::default() };
    let trust = trust(&[root.der()], &[], strict);
    let mut with_identifier = params("example.org");
    with_identifier.use_authority_key_identifier_extension = true;
    assert_eq!(check(&trust, &issue(&with_identifier, &root)), Ok(()));
    let missing = Err(VerifyFailure::MISSING_AUTHORITY_KEY_IDENTIFIER);
    assert_eq!(check(&trust, &issue(&params("example.org"), &root)), missing);
}

fn crl_of(root: &Issuer, serial: u64, this_year: i32) -> CertificateRevocationListDer<'static> {
    CertificateRevocationListParams {
        this_update: date_time_ymd(this_year, 1, 1),
        next_update: date_time_ymd(2040, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(root)
    .unwrap()
    .der()
    .clone()
}

#[test]
fn revocation_lists_count_if_asked() {
    let root = root(authority_params("root"));
    let mut numbered = params("example.org");
    numbered.serial_number = Some(SerialNumber::from(7));
    let leaf = issue(&numbered, &root);
    let options = |revocation| TrustOptions { revocation, ..TrustOptions::default() };
    let outcome =
        |crls: &[_], revocation| check(&trust(&[root.der()], crls, options(revocation)), &leaf);
    let (revoked, other, future) =
        (crl_of(&root, 7, 2021), crl_of(&root, 8, 2021), crl_of(&root, 8, 2035));
    assert_eq!(outcome(from_ref(&revoked), RevocationCheck::Off), Ok(()));
    for check in [RevocationCheck::Leaf, RevocationCheck::Chain] {
        assert_eq!(outcome(from_ref(&revoked), check), Err(VerifyFailure::CERT_REVOKED));
        assert_eq!(outcome(from_ref(&other), check), Ok(()));
        assert_eq!(outcome(&[], check), Err(VerifyFailure::UNABLE_TO_GET_CRL));
        assert_eq!(outcome(from_ref(&future), check), Err(VerifyFailure::UNABLE_TO_GET_CRL));
    }
}
