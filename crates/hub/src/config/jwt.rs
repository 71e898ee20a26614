//! How tokens of another issuer are read.

use std::path::PathBuf;

use bellwire_proto::RoleName;

use super::{Fault, KeysUrl};

/// The settings of JWTs. In a file they may be a table `[jwt]`, whose keys lack the `jwt_`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtConfig {
    /// The file with the keys: a JWK Set, or one public key as PEM. Empty if they come from a URL.
    pub keys: PathBuf,
    /// Where the keys are fetched instead: a JWK Set with public keys.
    pub keys_url: Option<KeysUrl>,
    /// A PEM file with the authorities that the certificate of that server is checked by. Default those of the system.
    pub keys_ca: Option<PathBuf>,
    /// Whether that may be `http` to another machine. Default false.
    pub keys_plain: bool,
    /// What `iss` must be.
    pub issuer: String,
    /// What must be in `aud`.
    pub audience: String,
    /// The claim that has the role. Default `role`.
    pub role_claim: String,
    /// Which of its values is which role, `VALUE=ROLE` each; none: the values are the names of roles.
    pub roles: Vec<(String, RoleName)>,
    /// The claim that has the device of a device. Default `device`.
    pub device_claim: String,
    /// The claim that has the selector of an operator. Default `select`.
    pub select_claim: String,
    /// The claim that has the actions of an operator. Default `actions`.
    pub actions_claim: String,
}

impl JwtConfig {
    /// The role for a value of the role's claim.
    pub(crate) fn role(&self, value: &str) -> Option<RoleName> {
        if self.roles.is_empty() {
            return RoleName::ALL.into_iter().find(|role| role.as_str() == value);
        }
        self.roles.iter().find(|(named, _)| named == value).map(|(_, role)| *role)
    }

    /// What does not go together.
    pub(crate) fn contradictions(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key, message: &str| {
            faults.push(Fault::Contradiction { key, message: message.to_owned() });
        };
        match &self.keys_url {
            Some(_) if !self.keys.as_os_str().is_empty() => {
                fault("jwt_keys_url", "jwt_keys and jwt_keys_url are both set; remove one of them");
            }
            Some(url) if !url.is_safe() && !self.keys_plain => fault(
                "jwt_keys_url",
                &format!(
                    "jwt_keys_url is {url}, where anybody on the way could put keys of their own in place: use https, or \
                     set jwt_keys_plain = true if that network is yours alone"
                ),
            ),
            None if self.keys_ca.is_some() || self.keys_plain => {
                let message =
                    "jwt_keys_ca and jwt_keys_plain are of jwt_keys_url, which is not set";
                fault(if self.keys_plain { "jwt_keys_plain" } else { "jwt_keys_ca" }, message);
            }
            _ => {}
        }
        faults
    }

    /// One for tests and fuzz targets.
    pub(crate) fn of_tests() -> Self {
        Self {
            keys: PathBuf::new(),
            issuer: "https://id.example".to_owned(),
            audience: "bellwire".to_owned(),
            ..Self::default()
        }
    }
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            keys: PathBuf::new(),
            keys_url: None,
            keys_ca: None,
            keys_plain: false,
            issuer: String::new(),
            audience: String::new(),
            role_claim: "role".to_owned(),
            roles: Vec::new(),
            device_claim: "device".to_owned(),
            select_claim: "select".to_owned(),
            actions_claim: "actions".to_owned(),
        }
    }
}
