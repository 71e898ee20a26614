//! Every setting: its key, what is allowed, how its text is parsed and shown.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bellwire_proto::{RoleName, Seconds, limits};
use bellwire_sse::EventName;

use super::{AcmeConfig, Config, JwtConfig, ListenerConfig, TlsFiles};

/// One setting.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) allowed: &'static str,
    /// Parses a text; `None` when it is not allowed.
    pub(super) parse: fn(&mut Draft, &str) -> Option<()>,
    /// The text that parses as the present value; `None` when there is none.
    pub(super) show: fn(&Config) -> Option<String>,
    pub(super) shape: Shape,
}

/// What a value is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A number, true or false: as it stands.
    Bare,
    Text,
    /// Texts, with commas between where they are one text.
    List,
}

/// A configuration that is being read.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) jwt: JwtConfig,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    /// Those of `[[listener]]`.
    pub(super) listeners: Vec<ListenerConfig>,
    /// Those of `[[certificate]]`.
    pub(super) certificates: Vec<TlsFiles>,
    /// That of `[acme]`.
    pub(super) acme: Option<AcmeConfig>,
}

macro_rules! flag {
    ($member:ident) => {
        Setting {
            key: stringify!($member),
            allowed: "true or false",
            parse: |draft, text| text.parse().ok().map(|yes| draft.config.$member = yes),
            show: |config| Some(config.$member.to_string()),
            shape: Shape::Bare,
        }
    };
}

macro_rules! number {
    ($member:ident, $range:expr, $allowed:literal) => {
        Setting {
            key: stringify!($member),
            allowed: $allowed,
            parse: |draft, text| number(text, $range).map(|n| draft.config.$member = n),
            show: |config| Some(config.$member.to_string()),
            shape: Shape::Bare,
        }
    };
}

macro_rules! count {
    ($member:ident, $range:expr, $allowed:literal) => {
        Setting {
            key: stringify!($member),
            allowed: $allowed,
            parse: |draft, text| count(text, $range).map(|n| draft.config.$member = n),
            show: |config| Some(config.$member.to_string()),
            shape: Shape::Bare,
        }
    };
}

macro_rules! quota {
    ($member:ident, $range:expr, $allowed:literal) => {
        Setting {
            key: stringify!($member),
            allowed: $allowed,
            parse: |draft, text| count(text, $range).map(|n| draft.config.quotas.$member = n),
            show: |config| Some(config.quotas.$member.to_string()),
            shape: Shape::Bare,
        }
    };
}

macro_rules! jwt {
    ($key:ident, $member:ident, $allowed:literal) => {
        Setting {
            key: stringify!($key),
            allowed: $allowed,
            parse: |draft, text| (!text.is_empty()).then(|| draft.jwt.$member = text.to_owned()),
            show: |config| config.jwt.as_ref().map(|jwt| jwt.$member.clone()),
            shape: Shape::Text,
        }
    };
}

macro_rules! span {
    ($member:ident, $range_s:expr, $allowed:literal) => {
        Setting {
            key: stringify!($member),
            allowed: $allowed,
            parse: |draft, text| span(text, $range_s).map(|span| draft.config.$member = span),
            show: |config| Some(Seconds::new(config.$member.as_secs()).compact()),
            shape: Shape::Text,
        }
    };
}

/// In the order of [`Config`]'s members.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        allowed: "one or more of [http://|https://]address:port, as in 127.0.0.1:8888, http://[::] (port 80) or \
                  https://0.0.0.0 (port 443)",
        parse: |draft, text| {
            let listen: Result<Vec<_>, _> = text.split(',').map(|one| one.trim().parse()).collect();
            listen.ok().map(|listen| draft.config.listen = listen)
        },
        show: |config| {
            let short = config.listen.iter().filter(|listener| listener.is_short());
            list(short.map(ToString::to_string))
        },
        shape: Shape::List,
    },
    Setting {
        key: "data_dir",
        allowed: "a folder",
        parse: |draft, text| path(text).map(|path| draft.config.data_dir = path),
        show: |config| Some(config.data_dir.display().to_string()),
        shape: Shape::Text,
    },
    flag!(open),
    flag!(classic),
    Setting {
        key: "classic_actions",
        allowed: "names of actions, as in reboot",
        parse: |draft, text| {
            let actions: Option<_> = texts(text).map(classic_action).collect();
            actions.map(|actions| draft.config.classic_actions = actions)
        },
        show: |config| list(config.classic_actions.iter().cloned()),
        shape: Shape::List,
    },
    Setting {
        key: "cors_origins",
        allowed: "origins of web pages, scheme://host[:port] each, as in https://ops.example.com",
        parse: |draft, text| {
            let origins: Result<_, _> = texts(text).map(str::parse).collect();
            origins.ok().map(|origins| draft.config.cors_origins = origins)
        },
        show: |config| list(config.cors_origins.iter().map(ToString::to_string)),
        shape: Shape::List,
    },
    Setting {
        key: "allowed_hosts",
        allowed: "host names without ports, as in hub.example.com",
        parse: |draft, text| {
            let hosts: Option<_> = texts(text).map(host_name).collect();
            hosts.map(|hosts| draft.config.allowed_hosts = hosts)
        },
        show: |config| list(config.allowed_hosts.iter().cloned()),
        shape: Shape::List,
    },
    span!(lease, 1..=limits::LEASE_CEILING_S, "from 1s to 1h"),
    number!(queue_max, 1..=limits::QUEUE_CEILING, "a whole number from 1 to 100000"),
    number!(max_in_flight, 1..=limits::IN_FLIGHT_CEILING, "a whole number from 1 to 100"),
    number!(data_bytes_max, 1..=limits::DATA_BYTES_CEILING, "a number of bytes from 1 to 1048576"),
    span!(history, within(limits::HISTORY_S), "from 1d to 3650d"),
    span!(audit_keep, within(limits::AUDIT_KEEP_S), "from 1d to 3650d"),
    count!(audit_bytes_max, limits::AUDIT_BYTES, "a number of bytes from 1048576 to 1099511627776"),
    span!(heartbeat, within(limits::HEARTBEAT_S), "from 5s to 10m"),
    Setting {
        key: "stream_max",
        allowed: "0s (never) or from 10s to 7d",
        parse: |draft, text| {
            let never = span(text, 0..=0).is_some();
            let stream_max = if never {
                None
            } else {
                Some(span(text, limits::STREAM_MAX_S.0..=limits::STREAM_MAX_S.1)?)
            };
            draft.config.stream_max = stream_max;
            Some(())
        },
        show: |config| {
            let stream_max = config.stream_max.unwrap_or_default();
            Some(Seconds::new(stream_max.as_secs()).compact())
        },
        shape: Shape::Text,
    },
    number!(
        connections_max,
        within_count(limits::CONNECTIONS),
        "a whole number from 1 to 10000000"
    ),
    quota!(requests_per_address, limits::REQUESTS_PER_ADDRESS, "0 (no limit) to 1000000"),
    quota!(requests_per_device, limits::REQUESTS_PER_DEVICE, "0 (no limit) to 1000000"),
    quota!(requests_per_token, limits::REQUESTS, "0 (no limit) to 1000000"),
    quota!(requests_max, limits::REQUESTS, "0 (no limit) to 1000000"),
    quota!(connections_per_address, limits::CONNECTIONS_PER_ADDRESS, "0 (no limit) to 10000000"),
    quota!(watchers_per_token, limits::WATCHERS_PER_TOKEN, "0 (no limit) to 1000"),
    quota!(streams_per_token, limits::STREAMS_PER_TOKEN, "0 (no limit) to 10000000"),
    quota!(
        unsent_bytes_max,
        limits::UNSENT_BYTES_IN_ALL,
        "a number of bytes, 0 (no limit) to 1099511627776"
    ),
    quota!(
        store_bytes_max,
        limits::STORE_BYTES,
        "a number of bytes, 0 (no limit) to 1125899906842624"
    ),
    quota!(
        store_bytes_per_token,
        limits::STORE_BYTES_PER_TOKEN,
        "a number of bytes, 0 (no limit) to 1125899906842624"
    ),
    quota!(store_free_min, limits::STORE_FREE, "a number of bytes, 0 (none) to 1125899906842624"),
    quota!(
        body_bytes_per_address,
        limits::BODY_BYTES,
        "a number of bytes, 0 (no limit) to 1099511627776"
    ),
    quota!(
        body_bytes_per_token,
        limits::BODY_BYTES,
        "a number of bytes, 0 (no limit) to 1099511627776"
    ),
    quota!(
        body_bytes_max,
        limits::BODY_BYTES_IN_ALL,
        "a number of bytes, 0 (no limit) to 1099511627776"
    ),
    Setting {
        key: "limit_loopback",
        allowed: "true or false",
        parse: |draft, text| text.parse().ok().map(|yes| draft.config.quotas.limit_loopback = yes),
        show: |config| Some(config.quotas.limit_loopback.to_string()),
        shape: Shape::Bare,
    },
    span!(header_timeout, within(limits::HEADER_TIMEOUT_S), "from 1s to 5m"),
    span!(body_timeout, within(limits::BODY_TIMEOUT_S), "from 1s to 1h"),
    span!(drain, within(limits::DRAIN_S), "from 0s to 8s"),
    number!(shards, within_count(limits::SHARDS), "a whole number from 0 (one per core) to 256"),
    Setting {
        key: "jwt_keys",
        allowed: "a file with a JWK Set, or with a public key as PEM",
        parse: |draft, text| path(text).map(|path| draft.jwt.keys = path),
        show: |config| {
            let keys = &config.jwt.as_ref()?.keys;
            (!keys.as_os_str().is_empty()).then(|| keys.display().to_string())
        },
        shape: Shape::Text,
    },
    Setting {
        key: "jwt_keys_url",
        allowed: "the https:// URL of a JWK Set, as in https://id.example.com/jwks, without a user or password",
        parse: |draft, text| text.parse().ok().map(|url| draft.jwt.keys_url = Some(url)),
        show: |config| Some(config.jwt.as_ref()?.keys_url.as_ref()?.to_string()),
        shape: Shape::Text,
    },
    Setting {
        key: "jwt_keys_ca",
        allowed: "a PEM file with authorities",
        parse: |draft, text| path(text).map(|path| draft.jwt.keys_ca = Some(path)),
        show: |config| Some(config.jwt.as_ref()?.keys_ca.as_ref()?.display().to_string()),
        shape: Shape::Text,
    },
    Setting {
        key: "jwt_keys_plain",
        allowed: "true or false",
        parse: |draft, text| text.parse().ok().map(|yes| draft.jwt.keys_plain = yes),
        show: |config| config.jwt.as_ref().map(|jwt| jwt.keys_plain.to_string()),
        shape: Shape::Bare,
    },
    jwt!(jwt_issuer, issuer, "the iss of the tokens, as in https://id.example.com/"),
    jwt!(jwt_audience, audience, "what is in the aud of the tokens that are for this hub"),
    jwt!(jwt_role_claim, role_claim, "the name of a claim"),
    Setting {
        key: "jwt_roles",
        allowed: "VALUE=ROLE, as in fleet-admins=admin, for the roles admin, operator, device and metrics",
        parse: |draft, text| {
            let roles: Option<_> = texts(text).map(jwt_role).collect();
            roles.map(|roles| draft.jwt.roles = roles)
        },
        show: |config| {
            let roles = &config.jwt.as_ref()?.roles;
            list(roles.iter().map(|(value, role)| format!("{value}={}", role.as_str())))
        },
        shape: Shape::List,
    },
    jwt!(jwt_device_claim, device_claim, "the name of a claim"),
    jwt!(jwt_select_claim, select_claim, "the name of a claim"),
    jwt!(jwt_actions_claim, actions_claim, "the name of a claim"),
    Setting {
        key: "tls_cert",
        allowed: "a PEM file with the certificate chain",
        parse: |draft, text| path(text).map(|path| draft.tls_cert = Some(path)),
        show: |config| file(config, |tls| &tls.cert),
        shape: Shape::Text,
    },
    Setting {
        key: "tls_key",
        allowed: "a PEM file with the certificate's key",
        parse: |draft, text| path(text).map(|path| draft.tls_key = Some(path)),
        show: |config| file(config, |tls| &tls.key),
        shape: Shape::Text,
    },
];

/// The setting of this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn within(range: limits::Range) -> RangeInclusive<u64> {
    range.min..=range.max
}

fn within_count(range: limits::Range) -> RangeInclusive<usize> {
    range.min as usize..=range.max as usize
}

fn span(text: &str, allowed_s: RangeInclusive<u64>) -> Option<Duration> {
    let seconds = Seconds::from_str(text).ok()?;
    allowed_s.contains(&seconds.get()).then(|| seconds.duration())
}

fn number(text: &str, allowed: RangeInclusive<usize>) -> Option<usize> {
    text.parse().ok().filter(|number| allowed.contains(number))
}

fn count(text: &str, allowed: limits::Range) -> Option<u64> {
    text.parse().ok().filter(|number| within(allowed).contains(number))
}

/// The parts of a list that is one text.
fn texts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty())
}

fn list(texts: impl Iterator<Item = String>) -> Option<String> {
    let texts: Vec<_> = texts.collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// A value of the role's claim, and the role that it is. No device enrols by a JWT.
fn jwt_role(text: &str) -> Option<(String, RoleName)> {
    let (value, role) = text.rsplit_once('=')?;
    let role = RoleName::ALL.into_iter().find(|known| known.as_str() == role)?;
    (role != RoleName::Join && !value.is_empty()).then(|| (value.to_owned(), role))
}

/// A host name in lower case, without the final dot.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!name.is_empty() && name.chars().all(of_name)).then(|| name.to_ascii_lowercase())
}

/// What can be the name of an event.
fn classic_action(text: &str) -> Option<String> {
    EventName::new(text).ok().map(|name| name.as_str().to_owned())
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn file(config: &Config, which: impl FnOnce(&TlsFiles) -> &Path) -> Option<String> {
    config.tls.as_ref().map(|tls| which(tls).display().to_string())
}
