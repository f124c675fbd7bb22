//! A certificate on its authority's revocation list is refused, whatever other lists there are; and
//! where no list is valid, every certificate is.
//!
//! The first byte chooses what is looked up; the rest are further lists, each behind two bytes with its
//! length.
#![no_main]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rloop_tls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rloop_tls::verify::{RevocationCheck, TrustOptions, accepts};
use std::sync::LazyLock;

struct Issued {
    authority: CertificateDer<'static>,
    revoked: CertificateDer<'static>,
    list: CertificateRevocationListDer<'static>,
}

static ISSUED: LazyLock<Issued> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority can be made");
    let mut params = CertificateParams::new(["fuzz.example".to_owned()]).expect("the name is good");
    params.serial_number = Some(SerialNumber::from(7_u64));
    let key = KeyPair::generate().expect("a key can be made");
    let revoked = params.signed_by(&key, &authority).expect("a certificate can be made");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2021, 1, 1),
        next_update: date_time_ymd(2400, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(&authority)
    .expect("a list can be made");
    Issued {
        authority: authority.der().clone(),
        revoked: revoked.der().clone(),
        list: list.der().clone(),
    }
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, rest @ ..] = input else { return };
    let issued = &*ISSUED;
    let trusted = [issued.authority.clone()];
    let options = |revocation| TrustOptions { revocation, ..TrustOptions::default() };
    assert!(accepts(&trusted, &[], options(RevocationCheck::Off), &issued.revoked));
    let check = if choice & 1 == 0 { RevocationCheck::Leaf } else { RevocationCheck::Chain };
    assert!(!accepts(&trusted, &[], options(check), &issued.revoked));
    let mut lists = Vec::new();
    let mut rest = rest;
    while let [high, low, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (list, after) = after.split_at(len);
        lists.push(CertificateRevocationListDer::from(list));
        rest = after;
    }
    let place = usize::from(choice >> 1) % (lists.len() + 1);
    lists.insert(place, issued.list.clone());
    assert!(!accepts(&trusted, &lists, options(check), &issued.revoked));
});
