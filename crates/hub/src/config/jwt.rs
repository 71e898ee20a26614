//! How tokens of another issuer are read.

use std::path::PathBuf;

use bellwire_proto::RoleName;

/// The settings of JWTs. In a file they may be a table `[jwt]`, whose keys lack the `jwt_`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtConfig {
    /// The file with the keys: a JWK Set, or one public key as PEM.
    pub keys: PathBuf,
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
