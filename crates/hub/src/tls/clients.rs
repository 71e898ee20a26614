//! Certificates of clients: which are accepted, whom they make, and which are revoked.
//!
//! A revoked certificate is refused in the handshake; [`revoked`] lists them for what was open before.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bellwire_proto::{Role, Timestamp, TokenId};
use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{TlsError, pair};
use crate::config::{ClientCertificates, ClientRule, NameKind};

/// Whom a client's certificate makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// In place of a token's: of the certificate's issuer and number, so that a renewed one is another.
    pub(crate) id: TokenId,
    /// The name by which it was recognized.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) expires_at: Timestamp,
}

/// What checks the certificates of a listener's clients.
pub(super) fn verifier(
    settings: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let path = &settings.authorities;
    let refused = |reason: String| TlsError::Authorities { path: path.clone(), reason };
    let mut roots = RootCertStore::empty();
    for authority in pair::chain(path)? {
        roots.add(authority).map_err(|error| refused(error.to_string()))?;
    }
    let mut lists = Vec::new();
    for list in &settings.revocations {
        lists.extend(read_lists(list)?);
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        .only_check_end_entity_revocation();
    let builder = if settings.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| refused(error.to_string()))
}

/// The certificates that the lists of a listener revoke.
pub(super) fn revoked(settings: &ClientCertificates) -> Result<HashSet<TokenId>, TlsError> {
    let mut all = HashSet::new();
    for path in &settings.revocations {
        for list in read_lists(path)? {
            let Ok((_, list)) = CertificateRevocationList::from_der(&list) else {
                let reason = "it is not a list of revoked certificates".to_owned();
                return Err(TlsError::Authorities { path: path.clone(), reason });
            };
            let issuer = list.issuer().as_raw();
            let ids = list.iter_revoked_certificates();
            all.extend(ids.map(|revoked| identity_id(issuer, revoked.raw_serial())));
        }
    }
    Ok(all)
}

fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| super::file(path, source))?;
    if lists.is_empty() {
        let reason = "it holds no list of revoked certificates (openssl ca -gencrl makes one)";
        return Err(TlsError::Authorities { path: path.into(), reason: reason.to_owned() });
    }
    Ok(lists)
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
    Some(ClientIdentity {
        id: identity_id(certificate.issuer().as_raw(), certificate.raw_serial()),
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
