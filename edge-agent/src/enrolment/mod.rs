//! Beside the line: how this controller comes by its certificate and keys, and by the next ones. `client.rs` speaks to the
//! cloud over `https.rs`, `bundle.rs` looks at what it gave, `folder.rs` keeps it. When to renew is decided in
//! [`crate::renewal`]; who connects with what in [`crate::credentials`].

pub mod bundle;
pub mod client;
pub mod folder;
pub mod https;

#[cfg(test)]
pub(crate) mod sample {
    //! What a cloud might give, for tests.

    use data_encoding::HEXLOWER;
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PublicKeyData, SignatureAlgorithm};
    use tap_protocol::enrolment::{Bundle, TokenKeyEntry};

    use super::bundle::{Checked, certificates, check};

    pub const CONTROLLER: &str = "hq-door-1";

    struct Point<'a>(&'a [u8]);

    impl PublicKeyData for Point<'_> {
        fn der_bytes(&self) -> &[u8] {
            self.0
        }

        fn algorithm(&self) -> &'static SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }

    pub fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Tapline");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2027, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 31);
        params
    }

    pub fn bundle(tls_point: &[u8]) -> Bundle {
        let key = KeyPair::generate().unwrap();
        let root = params("root").self_signed(&key).unwrap().pem();
        let certificate = params(CONTROLLER).signed_by(&Point(tls_point), &Issuer::new(params("root"), key));
        Bundle {
            controller: CONTROLLER.parse().unwrap(),
            label: "Main entrance".into(),
            site: "hq".into(),
            certificate: certificate.unwrap().pem(),
            not_after_utc_ms: 1_801_353_600_000,
            roots: root,
            broker_url: "mqtts://broker.example.com".into(),
            enrolment_url: "https://cloud.example.com:8443".into(),
            token_keys: vec![
                TokenKeyEntry { id: 1, key: "11".repeat(32) },
                TokenKeyEntry { id: 2, key: "22".repeat(32) },
            ],
            token_key_id: 2,
            receipt_keys: vec!["33".repeat(32)],
            control_keys: Vec::new(),
            cloud_utc_ms: 1_799_000_000_000,
        }
    }

    pub fn checked(tls_point: &[u8]) -> Checked {
        check(bundle(tls_point)).unwrap()
    }

    /// Whether the certificate in it is for this key: its point stands in it.
    pub fn is_for(checked: &Checked, tls_point: &[u8]) -> bool {
        let leaf = certificates(&checked.bundle.certificate).unwrap().remove(0);
        HEXLOWER.encode(&leaf).contains(&HEXLOWER.encode(tls_point))
    }
}
