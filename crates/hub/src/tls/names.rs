//! Which of several certificates a client is shown: the one for the name that it asks for (SNI, RFC 6066, section 3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::acme::{ACME_TLS_ALPN, Acme};
use super::pair::Pair;

/// The certificates of a hub, by their names.
#[derive(Debug, Default)]
pub(super) struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For a client that asks for no name, or for one that no certificate has.
    first: Option<Arc<CertifiedKey>>,
    /// The one by ACME, behind those of the files.
    acme: Option<Arc<Acme>>,
}

impl ByName {
    /// Of two certificates with one name the earlier counts.
    pub(super) fn new(pairs: Vec<Pair>, acme: Option<Arc<Acme>>) -> Self {
        let mut by_name = Self { acme, ..Self::default() };
        for Pair { key, names, .. } in pairs {
            for name in names {
                by_name.names.entry(name).or_insert_with(|| key.clone());
            }
            by_name.first.get_or_insert(key);
        }
        by_name
    }

    /// Whether an authority may check names in its handshakes.
    pub(super) fn is_by_acme(&self) -> bool {
        self.acme.is_some()
    }

    /// The certificate for a name in lower case: of exactly that name, or of its wildcard (RFC 6125, section 6.4.3).
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let mut protocols = hello.alpn().into_iter().flatten();
        if let Some(acme) = &self.acme
            && protocols.any(|protocol| protocol == ACME_TLS_ALPN)
        {
            return acme.challenge(&name?);
        }
        let by_acme = |name| self.acme.as_ref().and_then(|acme| acme.certificate(name));
        let named = name
            .as_deref()
            .and_then(|name| self.find(name).cloned().or_else(|| by_acme(Some(name))));
        named.or_else(|| self.first.clone()).or_else(|| by_acme(None))
    }
}
