//! Certificates that servers sent lately, parsed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use openssl::x509::X509;

/// How many are kept. Many targets often have one certificate between them, or one authority.
const KEPT_MAX: usize = 64;

/// Parsing takes OpenSSL 3 longer than all the rest of a verification: what comes again is parsed once.
#[derive(Default)]
pub(super) struct Certificates {
    /// As sent, and parsed; the one that was asked for last is the last.
    kept: Mutex<VecDeque<(Box<[u8]>, X509)>>,
}

impl Certificates {
    /// The certificate that a server sent as `der`; none where it is none, or more than that, which
    /// OpenSSL's handshakes refuse as well.
    pub(super) fn parsed(&self, der: &[u8]) -> Option<X509> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|(sent, _)| **sent == *der);
        let entry = match found.and_then(|at| kept.remove(at)) {
            Some(entry) => entry,
            None => {
                let whole = X509::from_der(der).ok()?;
                (whole.to_der().ok()? == der).then(|| (der.into(), whole))?
            }
        };
        let certificate = entry.1.clone();
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(entry);
        Some(certificate)
    }
}

#[cfg(test)]
mod tests {
    use foreign_types::ForeignType;
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;

    use super::*;

    fn certificate(ends_in_days: u32) -> Vec<u8> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        builder.set_not_before(&at(0)).unwrap();
        builder.set_not_after(&at(ends_in_days)).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build().to_der().unwrap()
    }

    #[test]
    fn what_comes_again_is_parsed_once_and_few_are_kept() {
        let certificates = Certificates::default();
        let sent: Vec<_> = (1..=70).map(certificate).collect();
        let first = certificates.parsed(&sent[0]).unwrap();
        assert_eq!(first.to_der().unwrap(), sent[0]);
        // It is asked for between all others, so that it stays.
        for other in &sent[1..] {
            assert_eq!(
                certificates.parsed(other).unwrap().to_der().unwrap(),
                *other
            );
            let again = certificates.parsed(&sent[0]).unwrap();
            assert_eq!(again.as_ptr(), first.as_ptr());
        }
        let kept = certificates.kept.lock().unwrap();
        assert_eq!(kept.len(), KEPT_MAX);
        assert!(!kept.iter().any(|(der, _)| **der == *sent[1]));
        drop(kept);

        let longer = [&sent[0][..], b"\0"].concat();
        for bad in [&sent[0][1..], &longer, b""] {
            assert!(certificates.parsed(bad).is_none());
        }
        assert_eq!(certificates.kept.lock().unwrap().len(), KEPT_MAX);
    }
}
