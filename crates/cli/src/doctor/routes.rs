//! The routes to examine: each URL of the hub through each proxy, in the order of preference.

use std::path::Path;

use bellwire_client::transport::{HttpTransport, HttpTransportBuilder, Route};
use bellwire_client::{Address, InvalidUrl};
use http::Uri;

use crate::connect;
use crate::exit::Usage;

/// A URL of the hub through one proxy.
pub(super) struct HubRoute {
    pub(super) hub: Address,
    pub(super) url: Uri,
    /// As in the agent's configuration: a URL without credentials, `environment` or `none`.
    pub(super) proxy: String,
    /// The proxy that requests take, and why.
    pub(super) choice: Route,
    pub(super) transport: HttpTransport,
    /// Why it cannot be examined: the PAC file failed.
    pub(super) fault: Option<String>,
    /// The PAC file that named it, as agent.toml takes it.
    pac: Option<String>,
    hub_has_user: bool,
    proxy_has_user: bool,
}

/// The hub as a message to the owner of a network names it.
#[derive(Debug, Clone)]
pub(super) struct HubEndpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
    /// Without credentials.
    pub(super) proxy: Option<String>,
}

impl HubRoute {
    pub(super) fn endpoint(&self) -> HubEndpoint {
        let is_tls = self.url.scheme_str() == Some("https");
        HubEndpoint {
            host: self.url.host().unwrap_or_default().to_owned(),
            port: self.url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
            proxy: self.choice.proxy.clone(),
        }
    }

    /// A resource of the hub.
    pub(super) fn resource(&self, path: &str) -> String {
        format!("{}{path}", self.hub.to_string().trim_end_matches('/'))
    }

    /// How requests go, for people.
    pub(super) fn through(&self) -> String {
        match (&self.fault, &self.choice.proxy) {
            (Some(_), _) => String::from("through an unknown proxy"),
            (None, Some(proxy)) => format!("through the proxy {proxy}"),
            (None, None) => String::from("directly"),
        }
    }

    /// `hub` and `proxy` for agent.toml. Credentials are placeholders.
    pub(super) fn settings(&self) -> (String, String) {
        let hub = self.hub.to_string();
        let hub = hub.trim_end_matches('/');
        if let Some(pac) = &self.pac {
            return (with_user(hub, self.hub_has_user), pac.clone());
        }
        (
            with_user(hub, self.hub_has_user),
            with_user(self.proxy.trim_end_matches('/'), self.proxy_has_user),
        )
    }
}

fn with_user(url: &str, has_user: bool) -> String {
    match has_user {
        true => url.replacen("://", "://USER:PASSWORD@", 1),
        false => url.to_owned(),
    }
}

/// All routes. PAC files are fetched and evaluated here.
///
/// # Errors
/// [`Usage`] names the option that cannot be used.
pub(super) async fn all(
    hubs: &str,
    proxies: &[String],
    ca_file: Option<&Path>,
) -> Result<Vec<HubRoute>, Usage> {
    let environment = [String::from("environment")];
    let proxies = if proxies.is_empty() { &environment[..] } else { proxies };
    let mut routes = Vec::new();
    for text in connect::urls(hubs)? {
        for proxy in proxies {
            if proxy.starts_with("pac+") {
                routes.extend(routes_of_pac(text, proxy, ca_file).await?);
            } else {
                routes.push(one(text, proxy, ca_file)?);
            }
        }
    }
    Ok(routes)
}

fn one(hub_text: &str, proxy: &str, ca_file: Option<&Path>) -> Result<HubRoute, Usage> {
    let hub: Address = hub_text.parse().map_err(|e: InvalidUrl| Usage(format!("--hub: {e}")))?;
    let url: Uri = hub
        .to_string()
        .parse()
        .map_err(|e| Usage(format!("--hub: {hub} cannot be requested: {e}")))?;
    let builder = builder(ca_file);
    let (builder, shown) = match proxy {
        "environment" => (builder, proxy.to_owned()),
        "none" => (builder.no_proxy(), proxy.to_owned()),
        proxy => (builder.proxy(proxy), without_user(proxy)),
    };
    let transport = builder.build().map_err(|e| Usage(e.to_string()))?;
    Ok(HubRoute {
        choice: transport.route(&url),
        hub_has_user: hub.authorization().is_some(),
        proxy_has_user: proxy.contains('@'),
        proxy: shown,
        hub,
        url,
        transport,
        fault: None,
        pac: None,
    })
}

/// As the agent's: one connection for each request in flight.
fn builder(ca_file: Option<&Path>) -> HttpTransportBuilder {
    let builder = HttpTransport::builder()
        .user_agent(concat!("bellwire-doctor/", env!("CARGO_PKG_VERSION")))
        .http1(true);
    match ca_file {
        Some(ca_file) => builder.ca_file(ca_file),
        None => builder,
    }
}

/// The URL of a proxy that was accepted, without what may be a password.
fn without_user(proxy: &str) -> String {
    let (scheme, rest) = proxy.split_once("://").unwrap_or(("http", proxy));
    format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default())
}

/// The routes that a PAC file names for this hub, or one with its fault.
#[cfg(feature = "pac")]
async fn routes_of_pac(
    hub: &str,
    setting: &str,
    ca_file: Option<&Path>,
) -> Result<Vec<HubRoute>, Usage> {
    use bellwire_client::path::pac::{InvalidPacLocation, Pac, PacLocation};
    let location: PacLocation =
        setting.parse().map_err(|e: InvalidPacLocation| Usage(format!("--proxy: {e}")))?;
    let fetcher = builder(ca_file).no_proxy().build().map_err(|e| Usage(e.to_string()))?;
    let direct = one(hub, "none", ca_file)?;
    let entries =
        async { Pac::fetch_by(&location, &fetcher).await?.proxies_for(&direct.hub).await };
    let entries = match entries.await {
        Ok(entries) => entries,
        Err(error) => {
            let proxy = pac_setting(setting, &location.to_string());
            // Which proxy it names is not known: nothing is sent, and this is no direct connection.
            let mut route = HubRoute { fault: Some(error.to_string()), proxy, ..direct };
            route.choice.reason = format!("the PAC file {location} cannot be used");
            return Ok(vec![route]);
        }
    };
    let named = entries.iter().map(|entry| entry.url().unwrap_or_else(|| String::from("none")));
    let mut routes = Vec::new();
    for proxy in named {
        let mut route = one(hub, &proxy, ca_file)?;
        route.choice.reason = format!("the PAC file {location}");
        route.pac = Some(pac_setting(setting, &location.to_string()));
        routes.push(route);
    }
    Ok(routes)
}

/// A PAC file as `proxy` in agent.toml: as it was given, or as it is shown where it may have a password.
#[cfg(feature = "pac")]
fn pac_setting(setting: &str, shown: &str) -> String {
    if setting.contains('@') { format!("pac+{shown}") } else { setting.to_owned() }
}

#[cfg(not(feature = "pac"))]
#[expect(clippy::unused_async, reason = "with PAC files it fetches them")]
async fn routes_of_pac(
    _hub: &str,
    _setting: &str,
    _ca_file: Option<&Path>,
) -> Result<Vec<HubRoute>, Usage> {
    let without = "--proxy: this program is built without PAC files; give the proxy's own URL";
    Err(Usage(String::from(without)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line for agent.toml had the proxy that the file named on that day.
    #[cfg(feature = "pac")]
    #[tokio::test]
    async fn what_a_pac_file_names_is_a_setting_with_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.pac");
        let script = "function FindProxyForURL(url, host) { return 'PROXY p.test:3128'; }";
        std::fs::write(&file, script).unwrap();
        let setting = format!("pac+file://{}", file.display());
        let routes = all("http://h.test", std::slice::from_ref(&setting), None).await.unwrap();
        assert_eq!(routes[0].settings(), ("http://h.test".to_owned(), setting));
        assert_eq!(routes[0].choice.proxy.as_deref(), Some("http://p.test:3128/"));
        let missing = format!("pac+file://{}.not", file.display());
        let routes = all("http://h.test", std::slice::from_ref(&missing), None).await.unwrap();
        assert_eq!((routes[0].proxy.as_str(), routes[0].fault.is_some()), (missing.as_str(), true));
    }

    #[tokio::test]
    async fn each_url_goes_through_each_proxy_and_no_password_is_shown() {
        let proxies = ["http://u:s3cret@p.test:3128".to_owned(), "none".to_owned()];
        let routes = all("https://a:s3cret@h.test, http://h.test", &proxies, None).await.unwrap();
        let settings: Vec<_> = routes.iter().map(HubRoute::settings).collect();
        let hubs = ["https://USER:PASSWORD@h.test", "http://h.test"];
        let expected = hubs.into_iter().flat_map(|hub| {
            ["http://USER:PASSWORD@p.test:3128", "none"].map(|p| (hub.to_owned(), p.to_owned()))
        });
        assert_eq!(settings, expected.collect::<Vec<_>>());
        assert!(
            routes
                .iter()
                .all(|route| !format!("{:?} {}", route.choice, route.proxy).contains("s3cret"))
        );
        let wrong = all("htps://a:s3cret@h.test", &proxies, None).await.err().unwrap().0;
        assert!(wrong.contains("h.test") && !wrong.contains("s3cret"), "{wrong}");
    }
}
