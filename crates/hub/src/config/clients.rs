//! Whom the certificate of a client makes: a device or an operator.
//!
//! A rule has the kind of a name and a pattern with at most one `*`, and what a certificate with such a name is. The first rule
//! that fits counts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bellwire_proto::role::Scope;
use bellwire_proto::{DeviceId, Role};

/// The certificates that a listener accepts of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// A PEM file with the authorities that sign them.
    pub authorities: PathBuf,
    /// Whether a client without one is refused. Default false.
    pub required: bool,
    /// PEM files with lists of those that are revoked: one of each authority. Default none.
    pub revocations: Vec<PathBuf>,
    /// The roles that they give. With none they give no role, and a token is needed beside.
    pub rules: Vec<ClientRule>,
}

/// Whom a certificate with such a name makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule {
    /// The name.
    pub name: NamePattern,
    /// Whom it makes.
    pub identity: IdentityRule,
}

/// The kind of a name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// A URI of the subject's alternative names.
    Uri,
    /// A DNS name of them.
    Dns,
    /// The subject's common name.
    Cn,
}

/// A name, one part of which may be anything: `uri:urn:example:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    kind: NameKind,
    before: String,
    /// What is after the `*`; `None` without one.
    after: Option<String>,
}

/// Whom a certificate makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityRule {
    /// The device of this name, where `*` is what that of the pattern stood for.
    Device(String),
    /// An operator of this scope.
    Operator(Scope),
}

/// A text that is no name pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not uri:, dns: or cn: with a name in which * is one part at most")]
pub struct InvalidPattern;

impl NameKind {
    const ALL: [Self; 3] = [Self::Uri, Self::Dns, Self::Cn];

    /// As in a pattern.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uri => "uri",
            Self::Dns => "dns",
            Self::Cn => "cn",
        }
    }
}

impl NamePattern {
    /// What `*` stands for in a name, if that fits; the whole name for a pattern without one.
    fn part<'a>(&self, kind: NameKind, name: &'a str) -> Option<&'a str> {
        if kind != self.kind {
            return None;
        }
        let Some(after) = &self.after else { return (name == self.before).then_some(name) };
        let part = name.strip_prefix(self.before.as_str())?.strip_suffix(after.as_str())?;
        (!part.is_empty()).then_some(part)
    }
}

impl ClientRule {
    /// The role of a certificate with these names, if it has the one of this rule.
    pub(crate) fn role(&self, names: &[(NameKind, String)]) -> Option<Role> {
        names.iter().find_map(|(kind, name)| {
            let part = self.name.part(*kind, name)?;
            match &self.identity {
                IdentityRule::Operator(scope) => Some(Role::Operator(Box::new(scope.clone()))),
                IdentityRule::Device(device) => {
                    device.replacen('*', part, 1).parse::<DeviceId>().ok().map(Role::Device)
                }
            }
        })
    }
}

impl FromStr for NamePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (kind, name) = text.split_once(':').ok_or(InvalidPattern)?;
        let kind = NameKind::ALL.into_iter().find(|known| known.name() == kind);
        let kind = kind.ok_or(InvalidPattern)?;
        let name = if kind == NameKind::Dns { name.to_ascii_lowercase() } else { name.to_owned() };
        let (before, after) = match name.split_once('*') {
            Some((before, after)) => (before.to_owned(), Some(after.to_owned())),
            None => (name, None),
        };
        let is_one = after.as_ref().is_none_or(|after| !after.contains('*'));
        let is_empty = before.is_empty() && after.is_none();
        if !is_one || is_empty {
            return Err(InvalidPattern);
        }
        Ok(Self { kind, before, after })
    }
}

/// The text that it was parsed from.
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.before)?;
        self.after.as_ref().map_or(Ok(()), |after| write!(f, "*{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_gives_what_its_star_stands_for() {
        let part = |pattern: &str, kind, name: &'static str| {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            pattern.part(kind, name)
        };
        use NameKind::{Cn, Dns, Uri};
        assert_eq!(part("uri:urn:x:device:*", Uri, "urn:x:device:a"), Some("a"));
        assert_eq!(part("uri:urn:x:device:*", Uri, "urn:x:device:"), None);
        assert_eq!(part("uri:urn:x:device:*", Cn, "urn:x:device:a"), None, "another kind");
        assert_eq!(part("dns:*.Example.com", Dns, "a.example.com"), Some("a"));
        assert_eq!(part("dns:*.example.com", Dns, "a.example.com.evil"), None);
        assert_eq!(part("cn:ops", Cn, "ops"), Some("ops"));
        assert_eq!(part("cn:ops", Cn, "ops2"), None);
        for text in ["ops", "cn:", "email:a", "cn:*-*"] {
            assert_eq!(text.parse::<NamePattern>(), Err(InvalidPattern), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_device_makes_none() {
        let rule = ClientRule {
            name: "cn:*".parse().unwrap(),
            identity: IdentityRule::Device("site-*".to_owned()),
        };
        let role = |name: &str| rule.role(&[(NameKind::Cn, name.to_owned())]);
        assert_eq!(role("a"), Some(Role::Device("site-a".parse().unwrap())));
        assert_eq!(role("a/b"), None);
    }
}
