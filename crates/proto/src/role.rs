//! What a token may do, the token object of the API, and the body that makes one. Contract, section 6, "Tokens".

use serde::{Deserialize, Serialize};

use crate::id::{Action, DeviceId};
use crate::labels::{Labels, take_labels};
use crate::limits::{NOTE_CHARS_MAX, TOKEN_ACTIONS_MAX, TOKEN_LIFE_S, TOKEN_USES};
use crate::members::Members;
use crate::problem::Problem;
use crate::selector::Selector;
use crate::time::Timestamp;
use crate::token::{Credential, TokenId};

/// What a token may do. Each role carries what it alone has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Commands and devices, within its scope.
    Operator(Box<Scope>),
    /// One device's own stream, polls, reports and facts.
    Device(DeviceId),
    /// Enrolment of devices.
    Join(Box<Join>),
    /// The hub's metrics.
    Metrics,
}

/// The part of the fleet that an operator sees, and what it may have done there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// The devices that exist for it; `None`: all.
    pub select: Option<Selector>,
    /// The actions that it may send; `None`: all.
    pub actions: Option<Vec<Action>>,
}

/// What a join token gives to the devices that enrol with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Join {
    /// The labels of its devices.
    pub labels: Labels,
    /// How many more devices may enrol; `None`: any number.
    pub uses_left: Option<u64>,
    /// Whether a name that is taken may be taken over.
    pub replace: bool,
    /// Whether an operator must approve each device.
    pub approve: bool,
}

/// The name of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// [`Role::Admin`].
    Admin,
    /// [`Role::Operator`].
    Operator,
    /// [`Role::Device`].
    Device,
    /// [`Role::Join`].
    Join,
    /// [`Role::Metrics`].
    Metrics,
}

impl RoleName {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Admin, Self::Operator, Self::Device, Self::Join, Self::Metrics];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Device => "device",
            Self::Join => "join",
            Self::Metrics => "metrics",
        }
    }
}

impl Role {
    /// Its name.
    pub fn name(&self) -> RoleName {
        match self {
            Self::Admin => RoleName::Admin,
            Self::Operator(_) => RoleName::Operator,
            Self::Device(_) => RoleName::Device,
            Self::Join(_) => RoleName::Join,
            Self::Metrics => RoleName::Metrics,
        }
    }

    /// The device whose token it is.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Device(device) => Some(device),
            _ => None,
        }
    }

    /// What it gives to devices that enrol.
    pub fn join(&self) -> Option<&Join> {
        match self {
            Self::Join(join) => Some(join),
            _ => None,
        }
    }
}

impl Scope {
    /// Whether a device with these labels exists for it.
    pub fn sees(&self, labels: &Labels) -> bool {
        self.select.as_ref().is_none_or(|select| select.matches(labels))
    }

    /// Whether it may send this action.
    pub fn allows(&self, action: &Action) -> bool {
        self.actions.as_ref().is_none_or(|actions| actions.contains(action))
    }

    /// Reads the selector of a scope, wherever that is written: a token, a claim, a rule for certificates.
    ///
    /// ```
    /// use bellwire_proto::Scope;
    /// assert!(Scope::parse_select("site=lyon").is_ok());
    /// assert!(Scope::parse_select("facts.os=linux").is_err());
    /// ```
    ///
    /// # Errors
    /// It is empty, no selector, or asks for facts: a device states those itself.
    pub fn parse_select(text: &str) -> Result<Selector, Problem> {
        if text.trim().is_empty() {
            let detail = "select is a label selector; leave the member out to select every device";
            return Err(Problem::bad_request(detail));
        }
        let select: Selector =
            text.parse().map_err(|e| Problem::bad_request(format!("member select: {e}")))?;
        if select.sees_facts() {
            let detail = "the select of a token is of labels alone: a device states its facts itself, and could \
                          make itself seen by anyone";
            return Err(Problem::bad_request(detail));
        }
        Ok(select)
    }
}

/// The token object of the API: everything but the secret. All members are always written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TokenWire", try_from = "TokenWire")]
pub struct Token {
    /// Its public name; `None` for a caller without one on an open hub.
    pub id: Option<TokenId>,
    /// What it may do.
    pub role: Role,
    /// Until when it works.
    pub expires_at: Option<Timestamp>,
    /// What it is for, in its maker's words.
    pub note: Option<String>,
    /// When it was made; `None` where there is no token.
    pub created_at: Option<Timestamp>,
    /// The id of the token that made it.
    pub created_by: Option<String>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A token that was just made: the one time that its text is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The token object.
    #[serde(flatten)]
    pub info: Token,
    /// The text that its holder sends.
    pub token: SecretText,
}

/// The text of a token in an answer. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub Credential);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.expose())
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// The members of a token in the order of the contract.
#[derive(Serialize, Deserialize)]
struct TokenWire {
    id: Option<TokenId>,
    role: RoleName,
    device: Option<DeviceId>,
    select: Option<String>,
    actions: Option<Vec<Action>>,
    labels: Option<Labels>,
    uses_left: Option<u64>,
    expires_at: Option<Timestamp>,
    note: Option<String>,
    created_at: Option<Timestamp>,
    created_by: Option<String>,
    last_used_at: Option<Timestamp>,
    /// Join tokens alone have these two: they say what an enrolment will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approve: Option<bool>,
}

impl From<Token> for TokenWire {
    fn from(token: Token) -> Self {
        let mut wire = Self {
            id: token.id,
            role: token.role.name(),
            device: None,
            select: None,
            actions: None,
            labels: None,
            uses_left: None,
            expires_at: token.expires_at,
            note: token.note,
            created_at: token.created_at,
            created_by: token.created_by,
            last_used_at: token.last_used_at,
            replace: None,
            approve: None,
        };
        match token.role {
            Role::Admin | Role::Metrics => {}
            Role::Operator(scope) => {
                wire.select = scope.select.map(|select| select.to_string());
                wire.actions = scope.actions;
            }
            Role::Device(device) => wire.device = Some(device),
            Role::Join(join) => {
                wire.labels = Some(join.labels);
                wire.uses_left = join.uses_left;
                (wire.replace, wire.approve) = (Some(join.replace), Some(join.approve));
            }
        }
        wire
    }
}

impl TryFrom<TokenWire> for Token {
    type Error = String;

    fn try_from(wire: TokenWire) -> Result<Self, String> {
        let role = match wire.role {
            RoleName::Admin => Role::Admin,
            RoleName::Metrics => Role::Metrics,
            RoleName::Operator => {
                let select = wire.select.map(|text| text.parse().map_err(|e| format!("{e}")));
                let select = select.transpose()?;
                Role::Operator(Box::new(Scope { select, actions: wire.actions }))
            }
            RoleName::Device => Role::Device(wire.device.ok_or("a device token without device")?),
            RoleName::Join => Role::Join(Box::new(Join {
                labels: wire.labels.unwrap_or_default(),
                uses_left: wire.uses_left,
                replace: wire.replace.unwrap_or_default(),
                approve: wire.approve.unwrap_or_default(),
            })),
        };
        Ok(Self {
            id: wire.id,
            role,
            expires_at: wire.expires_at,
            note: wire.note,
            created_at: wire.created_at,
            created_by: wire.created_by,
            last_used_at: wire.last_used_at,
        })
    }
}

/// A token to be made: the body of `POST /v1/tokens`.
///
/// ```
/// use bellwire_proto::{NewToken, Role};
/// let new = NewToken::parse(br#"{"role":"operator","select":"site=lyon","note":"night shift"}"#)?;
/// assert!(matches!(new.role, Role::Operator(scope) if scope.actions.is_none()));
/// // A member that the role does not have.
/// assert!(NewToken::parse(br#"{"role":"admin","select":"site=lyon"}"#).is_err());
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What it may do.
    pub role: Role,
    /// For how long it works, in seconds; `None`: until it is revoked.
    pub expires_in_s: Option<u64>,
    /// What it is for.
    pub note: Option<String>,
}

impl NewToken {
    /// Reads the body.
    ///
    /// # Errors
    /// `bad_request` for a member that the role does not have or that is out of range, `unknown_field`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::parse(body)?;
        let name: RoleName = members.require("role")?;
        let role = take_role(name, &mut members)?;
        let expires_in_s = members.take("expires_in_s")?;
        if expires_in_s.is_some_and(|s| !TOKEN_LIFE_S.contains(s)) {
            return Err(Problem::bad_request("expires_in_s is from 1 to 315360000 (10 years)"));
        }
        let note: Option<String> = members.take("note")?;
        if note.as_deref().is_some_and(|note| !is_note(note)) {
            let detail = format!("note is at most {NOTE_CHARS_MAX} characters on one line");
            return Err(Problem::bad_request(detail));
        }
        not_of_the_role(name, &mut members)?;
        members.finish()?;
        Ok(Self { role, expires_in_s, note })
    }
}

/// As [`NewToken::parse`] reads it.
impl Serialize for NewToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize, Default)]
        struct Wire<'a> {
            role: Option<RoleName>,
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<&'a DeviceId>,
            #[serde(skip_serializing_if = "Option::is_none")]
            select: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            actions: Option<&'a [Action]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            labels: Option<&'a Labels>,
            #[serde(skip_serializing_if = "Option::is_none")]
            uses: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            replace: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            approve: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_in_s: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            note: Option<&'a str>,
        }
        let mut wire = Wire {
            role: Some(self.role.name()),
            expires_in_s: self.expires_in_s,
            note: self.note.as_deref(),
            ..Wire::default()
        };
        match &self.role {
            Role::Admin | Role::Metrics => {}
            Role::Operator(scope) => {
                wire.select = scope.select.as_ref().map(ToString::to_string);
                wire.actions = scope.actions.as_deref();
            }
            Role::Device(device) => wire.device = Some(device),
            Role::Join(join) => {
                wire.labels = Some(&join.labels);
                wire.uses = join.uses_left;
                (wire.replace, wire.approve) = (Some(join.replace), Some(join.approve));
            }
        }
        wire.serialize(serializer)
    }
}

fn take_role(name: RoleName, members: &mut Members<'_>) -> Result<Role, Problem> {
    Ok(match name {
        RoleName::Admin => Role::Admin,
        RoleName::Metrics => Role::Metrics,
        RoleName::Operator => {
            let select: Option<String> = members.take("select")?;
            let select = select.as_deref().map(Scope::parse_select).transpose()?;
            let actions: Option<Vec<Action>> = members.take("actions")?;
            if actions.as_ref().is_some_and(|a| !(1..=TOKEN_ACTIONS_MAX).contains(&a.len())) {
                return Err(Problem::bad_request(
                    "actions are 1 to 100 names; leave the member out to allow every action",
                ));
            }
            Role::Operator(Box::new(Scope { select, actions }))
        }
        RoleName::Device => Role::Device(members.require("device")?),
        RoleName::Join => {
            let labels = take_labels(members)?;
            let uses_left = members.take("uses")?;
            if uses_left.is_some_and(|uses| !TOKEN_USES.contains(uses)) {
                return Err(Problem::bad_request("uses is from 1 to 1000000"));
            }
            let replace = members.take("replace")?.unwrap_or_default();
            let approve = members.take("approve")?.unwrap_or_default();
            Role::Join(Box::new(Join { labels, uses_left, replace, approve }))
        }
    })
}

fn is_note(note: &str) -> bool {
    note.chars().count() <= NOTE_CHARS_MAX && !note.chars().any(char::is_control)
}

/// Refuses what another role has, with a message that says so.
fn not_of_the_role(name: RoleName, members: &mut Members<'_>) -> Result<(), Problem> {
    for other in ["device", "select", "actions", "labels", "uses", "replace", "approve"] {
        if members.take_raw(other).is_some_and(|text| text != "null") {
            let detail = format!("a token of role {} has no {other}", name.as_str());
            return Err(Problem::bad_request(detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn a_token_that_is_not_of_the_contract_is_refused_with_its_code() {
        let long = "x".repeat(NOTE_CHARS_MAX + 1);
        for (body, code) in [
            ("{}".to_owned(), Code::BadRequest),
            (r#"{"role":"root"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"admin","device":"d"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"admin","select":"a"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"metrics","uses":1}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"operator","select":""}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"operator","select":"a in"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"operator","actions":[]}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"operator","actions":["a/b"]}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"operator","labels":{}}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"device"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"device","device":"a b"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"device","device":"d","actions":["a"]}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"join","uses":0}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"join","uses":1000001}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"join","labels":{"-":"x"}}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"join","device":"d"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"admin","expires_in_s":0}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"admin","expires_in_s":315360001}"#.to_owned(), Code::BadRequest),
            (format!(r#"{{"role":"admin","note":"{long}"}}"#), Code::BadRequest),
            (r#"{"role":"admin","note":"a\nb"}"#.to_owned(), Code::BadRequest),
            (r#"{"role":"admin","rule":1}"#.to_owned(), Code::UnknownField),
            (r#"{"role":"admin","role":"join"}"#.to_owned(), Code::BadRequest),
        ] {
            let short: String = body.chars().take(60).collect();
            assert_eq!(NewToken::parse(body.as_bytes()).unwrap_err().code, code, "{short}");
        }
    }

    #[test]
    fn a_member_of_another_role_that_is_null_is_absent() {
        assert!(NewToken::parse(br#"{"role":"admin","device":null,"uses":null}"#).is_ok());
    }

    #[test]
    fn a_new_token_is_read_as_it_was_written() {
        for body in [
            r#"{"role":"admin","expires_in_s":60,"note":"n"}"#,
            r#"{"role":"operator","select":"site=lyon","actions":["ping"]}"#,
            r#"{"role":"operator"}"#,
            r#"{"role":"device","device":"kiosk-7"}"#,
            r#"{"role":"join","labels":{"site":"lyon"},"uses":10,"replace":true,"approve":false}"#,
            r#"{"role":"metrics"}"#,
        ] {
            let new = NewToken::parse(body.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&new).unwrap(), body);
        }
    }
}
