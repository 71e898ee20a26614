//! Whom TLS trusts, and why it did not trust a server: dates with this machine's clock, names, the issuer.
//!
//! The platform's verifier decides; [`Explained`] adds to its refusals what only the certificate can say. [`CertificateFault`]
//! is that reason, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_platform_verifier::Verifier;

use super::pin::KeyPin;
use super::settings::Cause;

/// Before this program was written: 2026-01-01.
const CLOCK_MIN: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600));
/// Names of a certificate that are shown.
const NAMES_MAX: usize = 8;

/// The name of a certificate's issuer, if it has one.
pub(super) fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    name_in(webpki::EndEntityCert::try_from(certificate).ok()?.issuer())
}

/// Whom to trust.
pub(super) struct Trust {
    /// Beside the platform's. A machine may have none of its own, a small appliance for example: then it trusts these alone.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// One of these keys must be the server's, unless there are none.
    pub(super) pins: Vec<KeyPin>,
    /// Whether any certificate is accepted.
    pub(super) accept_any: bool,
}

/// TLS with those whom `trust` trusts.
pub(super) fn config(trust: &Trust, protocols: &[&str]) -> Result<ClientConfig, Cause> {
    let provider = CryptoProvider::get_default().ok_or("no provider of cryptography")?.clone();
    let authorities = &trust.authorities;
    let platform = || Verifier::new_with_extra_roots(authorities.clone(), Arc::clone(&provider));
    let trusted = match trust.accept_any {
        true => Trusted::Any,
        false => match platform() {
            Ok(platform) => Trusted::By(Arc::new(platform)),
            Err(_) if authorities.is_empty() => Trusted::None,
            Err(_) => Trusted::By(only(authorities.clone(), Arc::clone(&provider))?),
        },
    };
    let pins = trust.pins.clone();
    let verifier = Explained { trusted, pins, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Whether all of these can be authorities.
pub(super) fn check(authorities: &[CertificateDer<'static>]) -> Result<(), Cause> {
    for (n, authority) in authorities.iter().enumerate() {
        webpki::anchor_from_trusted_cert(authority)
            .map_err(|source| BrokenAuthority { number: n + 1, source })?;
    }
    Ok(())
}

/// A certificate of `ca_file` that cannot be that of an authority.
#[derive(Debug, thiserror::Error)]
#[error("certificate {number} in it is broken, or not X.509")]
struct BrokenAuthority {
    /// Its position in the file, from 1.
    number: usize,
    source: webpki::Error,
}

fn only(
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Cause> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(authorities);
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
    Ok(verifier.build()?)
}

/// A verifier whose refusals say why.
#[derive(Debug)]
struct Explained {
    trusted: Trusted,
    pins: Vec<KeyPin>,
    provider: Arc<CryptoProvider>,
}

/// Which servers are trusted.
#[derive(Debug)]
enum Trusted {
    None,
    Any,
    By(Arc<dyn ServerCertVerifier>),
}

impl ServerCertVerifier for Explained {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.trusted {
            Trusted::None => Err(CertificateError::UnknownIssuer.into()),
            Trusted::Any => Ok(ServerCertVerified::assertion()),
            Trusted::By(verifier) => verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        };
        let refused = |fault: CertificateFault| {
            rustls::Error::from(CertificateError::Other(OtherError(Arc::new(fault))))
        };
        let verified = verified.map_err(|error| match &error {
            rustls::Error::InvalidCertificate(reason) => {
                refused(CertificateFault::of(reason, end_entity, now))
            }
            _ => error,
        })?;
        if self.pins.is_empty() {
            return Ok(verified);
        }
        let found = KeyPin::of(end_entity);
        match found {
            Some(found) if self.pins.contains(&found) => Ok(verified),
            _ => {
                let found = found.map(|found| found.to_string()).unwrap_or_default();
                Err(refused(CertificateFault::OtherKey { found }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a server's certificate is not trusted. Its text is what was found; [`CertificateFault::advice`] is what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFault {
    /// It is no longer valid, by this machine's clock.
    Expired {
        /// Its last moment.
        not_after: Timestamp,
        /// This machine's clock.
        now: Timestamp,
    },
    /// It is not valid yet, by this machine's clock.
    NotYetValid {
        /// Its first moment.
        not_before: Timestamp,
        /// This machine's clock.
        now: Timestamp,
    },
    /// It is for other names.
    OtherName {
        /// The name in the URL.
        expected: String,
        /// The certificate's names: the first ones.
        names: Vec<String>,
    },
    /// No authority that is trusted here has issued it.
    UnknownIssuer {
        /// Its issuer, as far as that has a name.
        issuer: Option<String>,
        /// Whether it is its own issuer.
        self_signed: bool,
    },
    /// It is the certificate of an authority, which no server may use, as `openssl req -x509` makes one.
    AuthorityAsServer {
        /// Its name.
        subject: Option<String>,
    },
    /// It may be used by clients alone (RFC 5280, section 4.2.1.12).
    ForClients,
    /// It is trusted, and its key is none of those that are pinned.
    OtherKey {
        /// The SHA-256 of its key, as a pin is written.
        found: String,
    },
    /// Another reason.
    Other {
        /// The reason of the TLS library.
        reason: String,
    },
}

impl CertificateFault {
    fn of(reason: &CertificateError, certificate: &CertificateDer<'_>, now: UnixTime) -> Self {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok();
        match reason {
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { not_after: stamp(*not_after), now: stamp(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { not_before: stamp(*not_before), now: stamp(*time) }
            }
            CertificateError::NotValidForNameContext { expected, presented } => Self::OtherName {
                expected: expected.to_str().into_owned(),
                names: presented.iter().take(NAMES_MAX).map(|name| plain(bare(name))).collect(),
            },
            CertificateError::UnknownIssuer => Self::UnknownIssuer {
                issuer: parsed.as_ref().and_then(|parsed| name_in(parsed.issuer())),
                self_signed: parsed.as_ref().is_some_and(|p| p.issuer() == p.subject()),
            },
            CertificateError::Other(other) if is_authority(other) => Self::AuthorityAsServer {
                subject: parsed.as_ref().and_then(|parsed| name_in(parsed.subject())),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::ForClients
            }
            CertificateError::Other(other) if is_of_purpose(other) => Self::ForClients,
            // Before 1970 there is no certificate: the clock is what is wrong.
            _ if now < CLOCK_MIN => {
                Self::NotYetValid { not_before: stamp(CLOCK_MIN), now: stamp(now) }
            }
            other => Self::Other { reason: other.to_string() },
        }
    }

    /// The reason in an error's chain.
    pub(super) fn in_chain<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        // An I/O error returns what it contains by `get_ref` and not by `source`.
        if let Some(io) = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
            return Self::in_chain(io);
        }
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(fault)))) =
            error.downcast_ref()
        {
            return fault.downcast_ref();
        }
        Self::in_chain(error.source()?)
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        const PORTAL: &str = "a middlebox answers in place of the server, such as the sign-in page of a guest network";
        match self {
            Self::Expired { now, .. } | Self::NotYetValid { now, .. } if *now < stamp(CLOCK_MIN) => {
                "this machine's clock is wrong: set it (date, or a time service such as chrony)".to_owned()
            }
            Self::Expired { .. } => {
                "if this machine's clock is right, renew the server's certificate; else set the clock".to_owned()
            }
            Self::NotYetValid { .. } => {
                "if the server's certificate is right, set this machine's clock".to_owned()
            }
            Self::OtherName { expected, names } if names.is_empty() => format!(
                "give the server a certificate with subjectAltName {expected} (a common name does not count); if it is \
                 not the server's, {PORTAL}"
            ),
            Self::ForClients => {
                "give the server a certificate whose extendedKeyUsage has serverAuth, or has no such list".to_owned()
            }
            Self::OtherName { expected, .. } => format!(
                "use one of its names in the URL, or a certificate with subjectAltName {expected}; if it is not the server's, {PORTAL}"
            ),
            Self::UnknownIssuer { self_signed: true, .. } => format!(
                "if it is the server's own, set ca_file to a file with it (PEM); if not, {PORTAL}"
            ),
            Self::UnknownIssuer { .. } => format!(
                "if that authority is yours, set ca_file to a file with its certificate (PEM); if not, {PORTAL}"
            ),
            Self::AuthorityAsServer { .. } => {
                "give the server a certificate of its own that this authority has issued, or one made by \
                 openssl req -x509 … -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:NAME"
                    .to_owned()
            }
            Self::OtherKey { .. } => format!(
                "if the server has a new key, set pin_sha256 to that; if not, {PORTAL}, or one that decrypts what passes"
            ),
            Self::Other { .. } => format!("give the server another certificate; if it is not the server's, {PORTAL}"),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &Option<String>| match name {
            Some(name) => format!("{name:?}"),
            None => "an authority without a name".to_owned(),
        };
        match self {
            Self::Expired { not_after, now } => {
                write!(
                    f,
                    "the certificate expired at {not_after}, and this machine's clock says {now}"
                )
            }
            Self::NotYetValid { not_before, now } => write!(
                f,
                "the certificate is valid from {not_before} on, and this machine's clock says {now}"
            ),
            Self::OtherName { expected, names } if names.is_empty() => {
                write!(f, "the certificate has no names, and the URL has {expected}")
            }
            Self::OtherName { expected, names } => {
                write!(f, "the certificate is for {}, and not for {expected}", names.join(", "))
            }
            Self::UnknownIssuer { issuer, self_signed: true } => {
                write!(f, "the certificate is self-signed, by {}", named(issuer))
            }
            Self::UnknownIssuer { issuer, .. } => write!(
                f,
                "the certificate was issued by {}, an authority that is not trusted here",
                named(issuer)
            ),
            Self::AuthorityAsServer { subject } => write!(
                f,
                "the certificate is that of the authority {} (CA:TRUE), which no server may use",
                named(subject)
            ),
            Self::ForClients => f.write_str(
                "the certificate is for clients only (its extendedKeyUsage lacks serverAuth), and no server may use it",
            ),
            Self::OtherKey { found } => {
                write!(f, "the certificate is trusted, but its key {found} is not pinned")
            }
            Self::Other { reason } => write!(f, "the certificate is not accepted: {reason}"),
        }
    }
}

impl StdError for CertificateFault {}

/// Whether it is the platform verifier's own error for a purpose, a type that only its name shows.
fn is_of_purpose(error: &OtherError) -> bool {
    format!("{:?}", error.0) == "EkuError"
}

fn is_authority(error: &OtherError) -> bool {
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn stamp(time: UnixTime) -> Timestamp {
    Timestamp::from_unix_ms(time.as_secs().saturating_mul(1000))
}

/// A name as the TLS library presents it, `DnsName("hub.example.com")`, without its kind.
fn bare(presented: &str) -> &str {
    let name = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    name.unwrap_or(presented).trim_matches('"')
}

/// Foreign text for one line of a message.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// The common name in a distinguished name (RFC 5280, section 4.1.2.4), or else its last value that is text.
fn name_in(name: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];
    // webpki gives it without the outermost SEQUENCE.
    let mut found = None;
    for set in Elements(name).take(32) {
        for attribute in Elements(set.1).take(8) {
            let mut parts = Elements(attribute.1);
            let (Some((_, kind)), Some((tag, value))) = (parts.next(), parts.next()) else {
                continue;
            };
            let Some(text) = std::str::from_utf8(value).ok().filter(|_| TEXTS.contains(&tag))
            else {
                continue;
            };
            found = Some(plain(text));
            if kind == COMMON_NAME {
                return found;
            }
        }
    }
    found
}

/// The DER elements in these bytes, tag and content, up to the first that is none.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => {
                let (&bytes, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(bytes)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_and_broken_bytes_are_no_name() {
        // SET { SEQUENCE { OID 2.5.4.10, UTF8String "Ltd" } }, SET { SEQUENCE { OID 2.5.4.3, PrintableString "hub" } }
        let name = b"\x31\x0c\x30\x0a\x06\x03\x55\x04\x0a\x0c\x03Ltd\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x13\x03hub";
        assert_eq!(name_in(name).as_deref(), Some("hub"));
        assert_eq!(name_in(&name[..14]).as_deref(), Some("Ltd"), "without a common name");
        for length in 0..14 {
            assert_eq!(name_in(&name[..length]), None);
        }
        assert_eq!(name_in(b"\x31\x84\xff\xff\xff\xff\x30"), None);
    }

    #[test]
    fn names_are_shown_without_the_words_of_the_library() {
        assert_eq!(bare("DnsName(\"hub.example.com\")"), "hub.example.com");
        assert_eq!(bare("IpAddress(192.0.2.1)"), "192.0.2.1");
        assert_eq!(bare("hub"), "hub");
    }

    #[test]
    fn a_clock_of_1970_is_what_is_wrong_whatever_the_certificate_says() {
        let fault = CertificateFault::NotYetValid {
            not_before: stamp(CLOCK_MIN),
            now: stamp(UnixTime::since_unix_epoch(Duration::from_secs(5))),
        };
        assert!(fault.to_string().contains("1970-01-01T00:00:05"), "{fault}");
        assert!(fault.advice().contains("this machine's clock is wrong"), "{}", fault.advice());
    }
}
