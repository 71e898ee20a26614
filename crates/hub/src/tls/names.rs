//! Which of several certificates a client is shown: the one for the name that it asks for (SNI, RFC 6066, section 3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::Pair;

/// The certificates of a hub, by their names.
#[derive(Debug, Default)]
pub(super) struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For a client that asks for no name, or for one that no certificate has.
    first: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// Of two certificates with one name the earlier counts.
    pub(super) fn new(pairs: Vec<Pair>) -> Self {
        let mut by_name = Self::default();
        for Pair { key, names, .. } in pairs {
            for name in names {
                by_name.names.entry(name).or_insert_with(|| key.clone());
            }
            by_name.first.get_or_insert(key);
        }
        by_name
    }

    /// The certificate for a name in lower case: of exactly that name, or of its wildcard (RFC 6125, section 6.4.3).
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase()));
        named.or(self.first.as_ref()).cloned()
    }
}
