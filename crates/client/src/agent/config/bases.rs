//! `hub` and `proxy`: each a value or a list in order, and the transport that they make.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::fault::{Section, text};
use super::{AgentConfig, transport};
use crate::address::Address;
use crate::agent::network_finding::NetworkFinding;
#[cfg(feature = "pac")]
use crate::path::pac::PacLocation;
use crate::transport::{
    Base, BaseTransport, HttpTransport, HttpTransportBuilder, InvalidSetting, Transport,
    proxy_problem,
};

#[cfg(feature = "pac")]
mod pac;

#[cfg(feature = "pac")]
pub(super) use pac::problem as pac_problem;

/// How long connecting may take where there is another base: its ping may take no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const HUB: &str = "an http or https URL, as in \"https://hub.example.com\", or a list of them";
const PROXY: &str = "a URL, as in \"http://proxy.example.com:3128\", \"environment\", \"none\", a PAC file, as in \"pac+http://proxy.example.com/proxy.pac\", or a list of these";
#[cfg(not(feature = "pac"))]
const NO_PAC: &str = "names a PAC file, which this program cannot evaluate: it was built without the cargo feature pac; set the proxies \
                      that the file names, or use the full program";

/// A proxy to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxySetting {
    /// The proxy at this URL.
    Url(Address),
    /// That of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
    Environment,
    /// No proxy: the hub is connected to directly.
    Direct,
    /// Those that a PAC file lists for the hub.
    #[cfg(feature = "pac")]
    Pac(PacLocation),
}

impl ProxySetting {
    /// A file on this machine that names the proxies: to be watched for changes.
    pub(in crate::agent) fn file(&self) -> Option<PathBuf> {
        match self {
            #[cfg(feature = "pac")]
            Self::Pac(location) => location.file().map(PathBuf::from),
            Self::Url(_) | Self::Environment | Self::Direct => None,
        }
    }
}

impl fmt::Display for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Environment => f.write_str("environment"),
            Self::Direct => f.write_str("none"),
            #[cfg(feature = "pac")]
            Self::Pac(location) => write!(f, "the PAC file {location}"),
        }
    }
}

/// One text or several.
fn texts(section: &mut Section<'_>, key: &str, allowed: &str) -> Vec<String> {
    let read = section.take(key, allowed, |value| match value {
        toml::Value::Array(values) if !values.is_empty() => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    });
    read.unwrap_or_default()
}

/// The URLs of the hub. At least one, unless there is a fault.
pub(super) fn hubs(section: &mut Section<'_>) -> Vec<Address> {
    if !section.has("hub") {
        section.fault_of("hub", format!("is missing: {HUB}"));
    }
    let mut hubs = Vec::new();
    for text in texts(section, "hub", HUB) {
        match text.parse::<Address>() {
            Ok(hub) if hub.url.query().is_some() => section.fault_of(
                "hub",
                format!(
                    "is \"{hub}\", but the URL of a hub has no query: remove what begins with ?"
                ),
            ),
            Ok(hub) => hubs.push(hub),
            Err(invalid) => {
                section.fault_of("hub", format!("is {:?}, but it is {HUB}", invalid.redacted()))
            }
        }
    }
    hubs
}

/// The proxies; empty if it is not set.
pub(super) fn proxies(section: &mut Section<'_>) -> Vec<ProxySetting> {
    let mut proxies = Vec::new();
    for text in texts(section, "proxy", PROXY) {
        match text.as_str() {
            "environment" => proxies.push(ProxySetting::Environment),
            "none" => proxies.push(ProxySetting::Direct),
            pac if is_pac(pac) => match of_pac(pac) {
                Ok(proxy) => proxies.push(proxy),
                Err(problem) => section.fault_of("proxy", problem),
            },
            url => match url.parse::<Address>() {
                Ok(url) => match proxy_problem(url.with_credentials()) {
                    Some(problem) => section.fault_of("proxy", problem),
                    None => proxies.push(ProxySetting::Url(url)),
                },
                Err(invalid) => section
                    .fault_of("proxy", format!("is {:?}, but it is {PROXY}", invalid.redacted())),
            },
        }
    }
    proxies
}

fn is_pac(text: &str) -> bool {
    text.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("pac+"))
}

#[cfg(feature = "pac")]
fn of_pac(text: &str) -> Result<ProxySetting, String> {
    text.parse().map(ProxySetting::Pac).map_err(|invalid| format!("is invalid: {invalid}"))
}

#[cfg(not(feature = "pac"))]
fn of_pac(_text: &str) -> Result<ProxySetting, String> {
    Err(NO_PAC.to_owned())
}

impl AgentConfig {
    /// The transport to the hub; `None` for the default one. `finding` names the base that worked last.
    ///
    /// # Errors
    /// When `ca_file` or a proxy cannot be used.
    pub(in crate::agent) fn transport(
        &self,
        finding: Option<&NetworkFinding>,
    ) -> Result<Option<Arc<dyn Transport>>, InvalidSetting> {
        let is_default = self.ca_file.is_none() && self.pin_sha256.is_empty();
        if is_default && self.proxies.is_empty() && self.other_hubs.is_empty() {
            return Ok(None);
        }
        let environment = [ProxySetting::Environment];
        let proxies = if self.proxies.is_empty() { &environment[..] } else { &self.proxies };
        let mut template = self.template();
        if proxies.len() > 1 || !self.other_hubs.is_empty() {
            template = template.connect_timeout(CONNECT_TIMEOUT);
        }
        // Hubs are the outer loop: https through any proxy is better than plain http.
        let hubs = std::iter::once(&self.hub).chain(&self.other_hubs);
        #[cfg(feature = "pac")]
        if proxies.iter().any(|proxy| matches!(proxy, ProxySetting::Pac(_))) {
            let template = template.connect_timeout(CONNECT_TIMEOUT);
            let source = pac::PacBases::new(hubs.cloned().collect(), proxies, template)?;
            return Ok(Some(Arc::new(BaseTransport::of_source(self.hub.clone(), source))));
        }
        let through = proxies.iter().map(|proxy| Through::new(&template, proxy));
        let through: Vec<Through> = through.collect::<Result<_, _>>()?;
        let bases = hubs.flat_map(|hub| through.iter().map(|through| through.base(hub)));
        let bases: Vec<Base> = bases.collect();
        // By its names, for the list may be another one since then.
        let is_same = |finding: &NetworkFinding, base: &Base| {
            base.proxy == finding.proxy && base.hub.to_string() == finding.hub
        };
        let hint = finding.and_then(|finding| bases.iter().position(|base| is_same(finding, base)));
        let mut bases = bases.into_iter();
        let Some(preferred) = bases.next() else { return Ok(None) };
        Ok(Some(Arc::new(BaseTransport::new(preferred, bases.collect(), hint))))
    }

    /// A transport's settings, all but the proxy.
    pub(super) fn template(&self) -> HttpTransportBuilder {
        let mut template = transport();
        for pin in &self.pin_sha256 {
            template = template.pin_sha256(pin);
        }
        match &self.ca_file {
            Some(path) => template.ca_file(path),
            None => template,
        }
    }
}

/// The default transport to a hub, by the proxy of the environment.
///
/// # Errors
/// When TLS cannot be set up.
pub(in crate::agent) fn default_transport(
    hub: &Address,
) -> Result<Arc<dyn Transport>, InvalidSetting> {
    let base = Through::new(&transport(), &ProxySetting::Environment)?.base(hub);
    Ok(Arc::new(BaseTransport::new(base, Vec::new(), None)))
}

/// What the requests through a proxy of the setting go through.
struct Through {
    proxy: ProxySetting,
    transport: HttpTransport,
}

impl Through {
    fn new(template: &HttpTransportBuilder, proxy: &ProxySetting) -> Result<Self, InvalidSetting> {
        let template = template.clone();
        let template = match proxy {
            ProxySetting::Url(url) => template.proxy(url.with_credentials()),
            ProxySetting::Environment => template,
            ProxySetting::Direct => template.no_proxy(),
            // What it lists is made when it is known.
            #[cfg(feature = "pac")]
            ProxySetting::Pac(_) => template.no_proxy(),
        };
        Ok(Self { proxy: proxy.clone(), transport: template.build()? })
    }

    fn base(&self, hub: &Address) -> Base {
        Base {
            hub: hub.clone(),
            proxy: self.name(hub),
            transport: Arc::new(self.transport.clone()),
        }
    }

    /// Without credentials. What the environment sets is named by its own URL: in the next run it may be another one, and what was
    /// found out with this one counts no more.
    fn name(&self, hub: &Address) -> String {
        let uri = hub.url.as_str().parse::<Uri>().ok();
        match (&self.proxy, uri) {
            (ProxySetting::Environment, Some(uri)) => {
                let proxy = self.transport.route(&uri).proxy;
                proxy.unwrap_or_else(|| ProxySetting::Direct.to_string())
            }
            (proxy, _) => proxy.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{PathHint, StreamMode};

    fn config(rest: &str) -> Result<AgentConfig, super::super::ConfigFaults> {
        AgentConfig::read(&format!("device = 'd'\n{rest}\n[actions.a]\nrun = ['/bin/true']\n"))
    }

    #[test]
    fn hub_and_proxy_are_a_value_or_a_list_in_order() {
        let one = config("hub = 'https://a.test'").unwrap();
        assert_eq!((one.other_hubs.len(), one.proxies.len()), (0, 0));
        assert!(one.transport(None).unwrap().is_none(), "the default one");
        let several = config(
            "hub = ['https://a.test', 'http://a.test']\nproxy = ['http://p:1', 'environment', 'none']",
        )
        .unwrap();
        assert!(several.transport(None).unwrap().unwrap().base().is_none(), "to be proven");
        assert_eq!(several.other_hubs.len(), 1);
        let proxies: Vec<_> = several.proxies.iter().map(ToString::to_string).collect();
        assert_eq!(proxies, ["http://p:1/", "environment", "none"]);
    }

    /// It was found by its position once, which is that of another one in a list that was changed.
    #[test]
    fn the_base_that_worked_last_is_found_by_its_names_in_a_changed_list() {
        let hint = PathHint { mode: StreamMode::Plain, hold_s: 25, heartbeat_s: None, why: None };
        let (hub, proxy) = ("https://a.test/".to_owned(), "http://q:1/".to_owned());
        let finding = NetworkFinding { hub, proxy, hint };
        for (proxies, index) in [
            ("'http://p:1', 'http://u:s3cret@q:1', 'none'", Some(1)),
            ("'none', 'http://p:1', 'http://q:1'", Some(2)),
            ("'http://q:1', 'none'", Some(0)),
            ("'none', 'http://p:1'", None),
            ("'http://p:1'", Some(0)),
        ] {
            let config = config(&format!("hub = 'https://a.test'\nproxy = [{proxies}]")).unwrap();
            let transport = config.transport(Some(&finding)).unwrap().unwrap();
            assert_eq!(transport.base().map(|base| base.index), index, "{proxies}");
            let counts = proxies.contains("q:1");
            assert_eq!(finding.matches_base("https://a.test/", &*transport), counts, "{proxies}");
        }
    }

    #[test]
    fn a_fault_in_a_list_names_its_value_and_no_password() {
        let faults =
            config("hub = ['https://a.test', 'https://a.test?x']\nproxy = ['http//u:s3cret@p']");
        let text = faults.unwrap_err().to_string();
        assert!(text.contains("has no query") && text.contains("\"p\""), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(config("hub = []").is_err());
    }
}
