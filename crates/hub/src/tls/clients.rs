//! Certificates of clients: which are accepted, whom they make, and which are revoked.
//!
//! A revoked certificate is refused in the handshake; [`ClientFiles::revoked`] lists them for what was open before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellwire_proto::{Role, Timestamp, TokenId};
use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{TlsError, pair};
use crate::config::{ClientCertificates, ClientRule, NameKind};

/// Whom a client's certificate makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// In place of a token's: of the certificate's issuer and number, so that a renewed one is another.
    pub(crate) id: TokenId,
    /// Of its issuer alone.
    pub(crate) authority: TokenId,
    /// The name by which it was recognized.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) expires_at: Timestamp,
}

/// What the files of a listener's clients held, each when it was of use last.
#[derive(Debug, Default)]
pub(super) struct ClientFiles {
    authorities: Vec<CertificateDer<'static>>,
    /// By their paths.
    lists: HashMap<PathBuf, Vec<RevocationList>>,
    /// Made of these.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// A list of revoked certificates.
#[derive(Debug)]
struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    revoked: Vec<TokenId>,
    /// When its authority meant to have made the next one.
    next_at: Option<Timestamp>,
}

impl ClientFiles {
    /// Reads all of them. A file that is of no use changes nothing of what it held before, and keeps no other from being used.
    pub(super) fn read(
        &mut self,
        settings: &ClientCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Vec<TlsError> {
        let mut faults = Vec::new();
        match read_authorities(&settings.authorities) {
            Ok(authorities) => self.authorities = authorities,
            Err(fault) => faults.push(fault),
        }
        for path in &settings.revocations {
            match read_lists(path, &self.authorities) {
                Ok(lists) => drop(self.lists.insert(path.clone(), lists)),
                Err(fault) => faults.push(fault),
            }
        }
        // Without either, a certificate that is revoked would pass.
        let complete = settings.revocations.iter().all(|path| self.lists.contains_key(path));
        if complete && !self.authorities.is_empty() {
            match self.make_verifier(settings, provider.clone()) {
                Ok(verifier) => self.verifier = Some(verifier),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// What checks the certificates of the listener's clients; none until all files were read once.
    pub(super) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.clone()
    }

    /// Of lists that should have been renewed by now, which are used all the same.
    pub(super) fn warnings(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let lists =
            self.lists.iter().flat_map(|(path, lists)| lists.iter().map(move |l| (path, l)));
        lists.filter_map(move |(path, list)| {
            let next_at = list.next_at.filter(|at| *at <= now)?;
            Some(format!(
                "the list of revoked certificates {} should have been renewed by {next_at}, and whatever was revoked since is \
                 accepted: put a new one there (openssl ca -gencrl)",
                path.display()
            ))
        })
    }

    /// The certificates that the lists revoke.
    pub(super) fn revoked(&self) -> impl Iterator<Item = TokenId> {
        self.lists.values().flatten().flat_map(|list| &list.revoked).copied()
    }

    fn make_verifier(
        &self,
        settings: &ClientCertificates,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let path = &settings.authorities;
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|error| refused(path, error.to_string()))?;
        }
        let lists = self.lists.values().flatten().map(|list| list.der.clone());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(lists)
            .only_check_end_entity_revocation();
        let builder = if settings.required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| refused(path, error.to_string()))
    }
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let authorities = pair::chain(path)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|error| refused(path, error.to_string()))?;
    }
    Ok(authorities)
}

fn read_lists(
    path: &Path,
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<RevocationList>, TlsError> {
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| super::file(path, source))?;
    if lists.is_empty() {
        let reason = "it holds no list of revoked certificates (openssl ca -gencrl makes one)";
        return Err(refused(path, reason.to_owned()));
    }
    lists.into_iter().map(|der| read_list(path, der, authorities)).collect()
}

fn read_list(
    path: &Path,
    der: CertificateRevocationListDer<'static>,
    authorities: &[CertificateDer<'_>],
) -> Result<RevocationList, TlsError> {
    let Ok((_, list)) = CertificateRevocationList::from_der(&der) else {
        return Err(refused(path, "it is not a list of revoked certificates".to_owned()));
    };
    // As the handshakes read it.
    if let Err(error) = webpki::BorrowedCertRevocationList::from_der(&der) {
        let reason = format!(
            "a list of revoked certificates has to be of version 2, with extensions, and this one is not ({error:?}): with \
             openssl ca, set crlnumber, and crl_extensions with authorityKeyIdentifier = keyid, and make it anew"
        );
        return Err(refused(path, reason));
    }
    if !may_be_signed_by_its_issuer(&list, authorities) {
        let reason = format!(
            "the list of revoked certificates of {} is signed by another key than that authority's in client_ca, so that all \
             its certificates would be refused: make the list with that authority's key (openssl ca -gencrl), or put \
             the certificate of the key that signed it into client_ca",
            list.issuer()
        );
        return Err(refused(path, reason));
    }
    let issuer = list.issuer().as_raw();
    let revoked = list.iter_revoked_certificates();
    let revoked = revoked.map(|revoked| identity_id(issuer, revoked.raw_serial())).collect();
    let next_at = list.next_update().map(|at| pair::timestamp(at.timestamp()));
    Ok(RevocationList { der, revoked, next_at })
}

/// Whether one of the authorities that have the name of a list's issuer signed it. Also where none has, as with the list of an
/// authority in between, whose certificate clients send; and where the algorithm is not known here.
fn may_be_signed_by_its_issuer(
    list: &CertificateRevocationList<'_>,
    authorities: &[CertificateDer<'_>],
) -> bool {
    let parsed = authorities.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let mut of_issuer = parsed
        .map(|(_, authority)| authority)
        .filter(|authority| authority.subject().as_raw() == list.issuer().as_raw())
        .peekable();
    of_issuer.peek().is_none()
        || of_issuer.any(|authority| {
            let verified = list.verify_signature(authority.public_key());
            !matches!(verified, Err(X509Error::SignatureVerificationError))
        })
}

fn refused(path: &Path, reason: String) -> TlsError {
    TlsError::Authorities { path: path.into(), reason }
}

/// Whom a verified certificate makes by these rules.
pub(crate) fn identity(certificate: &[u8], rules: &[ClientRule]) -> Option<ClientIdentity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = names(&certificate);
    let (rule, role) = rules.iter().find_map(|rule| Some((rule, rule.role(&names)?)))?;
    let name = match &role {
        Role::Device(device) => device.to_string(),
        _ => names.iter().find(|name| rule.role(std::slice::from_ref(name)).is_some())?.1.clone(),
    };
    let issuer = certificate.issuer().as_raw();
    Some(ClientIdentity {
        id: identity_id(issuer, certificate.raw_serial()),
        authority: identity_id(issuer, &[]),
        name,
        role,
        expires_at: pair::timestamp(certificate.validity().not_after.timestamp()),
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<(NameKind, String)> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.iter().flat_map(|names| &names.value.general_names);
    let alternative = alternative.filter_map(|name| match name {
        GeneralName::URI(uri) => Some((NameKind::Uri, (*uri).to_owned())),
        GeneralName::DNSName(name) => Some((NameKind::Dns, name.to_ascii_lowercase())),
        _ => None,
    });
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    alternative.chain(common.map(|name| (NameKind::Cn, name.to_owned()))).collect()
}

/// An authority gives a number to one certificate (RFC 5280, section 4.1.2.2).
fn identity_id(issuer: &[u8], serial: &[u8]) -> TokenId {
    let mut context = Context::new(&SHA256);
    context.update(&(issuer.len() as u64).to_be_bytes());
    context.update(issuer);
    // A leading zero is only for the sign.
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    context.update(serial.get(zeros..).unwrap_or_default());
    let mut id = [0; 10];
    let digest = context.finish();
    id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    TokenId::from_random(id)
}
