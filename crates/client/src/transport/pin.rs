//! A pinned key: the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469, section 2.4), in curl's form `sha256//…`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::pki_types::CertificateDer;

/// The hash of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPin([u8; SHA256_OUTPUT_LEN]);

/// The text is not the base64 of a SHA-256, with or without `sha256//` before it.
#[derive(Debug)]
pub(crate) struct InvalidPin;

impl KeyPin {
    /// That of a certificate; `None` if it cannot be read.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let key = webpki::EndEntityCert::try_from(certificate).ok()?.subject_public_key_info();
        digest(&SHA256, key.as_ref()).as_ref().try_into().ok().map(Self)
    }
}

impl FromStr for KeyPin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let encoded = ["sha256//", "sha256/"].iter().find_map(|prefix| text.strip_prefix(prefix));
        let bytes = BASE64.decode(encoded.unwrap_or(text)).map_err(|_| InvalidPin)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPin)
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256//{}", BASE64.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_in_the_forms_of_curl_and_of_hpkp_and_written_in_that_of_curl() {
        let bare = BASE64.encode([7; 32]);
        for text in [bare.clone(), format!("sha256/{bare}"), format!("sha256//{bare}")] {
            assert_eq!(text.parse::<KeyPin>().unwrap().to_string(), format!("sha256//{bare}"));
        }
        for bad in ["", "sha256//", "sha1//abc", &BASE64.encode([7; 20]), "sha256//not base64"] {
            assert!(bad.parse::<KeyPin>().is_err(), "{bad}");
        }
    }
}
