//! PEM (RFC 7468), so that operators can look at our files with the tools that they have.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::Error;

/// Most certificates in one of our files; a chain has two, the roots of a cluster are one or two.
const CERTIFICATES_MAX: usize = 16;

fn section(text: &mut String, label: &str, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
}

/// Certificates, one after the other.
pub(crate) fn write_certificates(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        section(&mut text, "CERTIFICATE", certificate);
    }
    text
}

/// A private key in PKCS #8.
pub(crate) fn write_key(pkcs8: &[u8]) -> Zeroizing<String> {
    // Enough for a P-256 key, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    section(&mut text, "PRIVATE KEY", pkcs8);
    text
}

/// Reads 1 to [`CERTIFICATES_MAX`] certificates; other sections are skipped.
pub(crate) fn read_certificates(what: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .take(CERTIFICATES_MAX)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::damaged(what, error))?;
    if found.is_empty() { Err(Error::damaged(what, "it has no certificate")) } else { Ok(found) }
}

/// Reads the private key; other sections are skipped.
pub(crate) fn read_key(what: &str, text: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, Error> {
    PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|error| Error::damaged(what, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(one: Vec<u8>, two: Vec<u8>) {
            let certificates = [CertificateDer::from(one), CertificateDer::from(two)];
            let text = write_certificates(&certificates);
            prop_assert_eq!(read_certificates("test", text.as_bytes()).expect("read"), certificates);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(read_certificates("test", &bytes).is_err());
            prop_assert!(read_key("test", &bytes).is_err());
        }
    }
}
