//! What a settings file has as tables: `[[listener]]`, `[[certificate]]` and `[acme]`.
//!
//! A table's faults name the table, its number and the member. What is read is printed by [`to_toml`] as a table that means
//! the same.

use std::path::PathBuf;

use bellwire_proto::role::Scope;
use bellwire_proto::{DeviceId, similar};
use toml::{Table, Value};

use super::clients::{ClientCertificates, ClientRule, IdentityRule, NamePattern};
use super::listener::{ForwardedHeader, ListenerConfig, Scheme};
use super::settings::Draft;
use super::settings::host_name;
use super::{AcmeConfig, Config, Fault, TlsFiles, text_of};

/// The keys of tables.
pub(super) const KEYS: [&str; 3] = ["listener", "certificate", "acme"];

/// Reads the value of a key into a draft.
type Reader = fn(&Value, &mut Draft, &mut Vec<Fault>);

/// What reads the value of this key, if tables have it.
pub(super) fn reader(key: &str) -> Option<Reader> {
    match key {
        "listener" => Some(|value, draft, faults| {
            draft.listeners = each(value, "listener", faults, listener);
        }),
        "certificate" => Some(|value, draft, faults| {
            draft.certificates = each(value, "certificate", faults, certificate);
        }),
        "acme" => Some(|value, draft, faults| {
            draft.acme = each(value, "acme", faults, acme).pop();
        }),
        _ => None,
    }
}

/// All tables of the settings, each after an empty line.
pub(super) fn to_toml(config: &Config) -> String {
    let listeners = config.listen.iter().filter(|listener| !listener.is_short());
    let certificates = config.certificates.iter().map(certificate_to_toml);
    let acme = config.acme.as_ref().map(acme_to_toml);
    acme.into_iter().chain(certificates).chain(listeners.map(listener_to_toml)).collect()
}

/// A table that is being read.
struct TableParser<'a> {
    table: &'static str,
    number: usize,
    members: Table,
    known: Vec<&'static str>,
    faults: &'a mut Vec<Fault>,
}

/// Reads an array of tables.
fn each<T>(
    value: &Value,
    table: &'static str,
    faults: &mut Vec<Fault>,
    read: fn(&mut TableParser<'_>) -> Option<T>,
) -> Vec<T> {
    let tables = match value {
        Value::Array(tables) => tables.clone(),
        // `[listener]` for the only one.
        Value::Table(_) => vec![value.clone()],
        _ => vec![Value::Boolean(false)],
    };
    let read = |(n, value)| {
        let (number, members) = match value {
            Value::Table(members) => (n + 1, members),
            _ => {
                let message = format!("it is not a table; write [[{table}]] and its members below");
                faults.push(Fault::Table { table, number: n + 1, key: None, message });
                return None;
            }
        };
        let mut reading = TableParser { table, number, members, known: Vec::new(), faults };
        let made = read(&mut reading);
        reading.refuse_others();
        made
    };
    tables.into_iter().enumerate().filter_map(read).collect()
}

impl TableParser<'_> {
    /// A member's value, if it is there and `parse` accepts its text.
    fn member<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.members.remove(key)?;
        let text = text_of(&value);
        let parsed = text.as_deref().and_then(parse);
        if parsed.is_none() {
            let text = text.unwrap_or_else(|| value.to_string());
            self.fault(Some(key), format!("{key} is {text:?}, but it is {allowed}"));
        }
        parsed
    }

    fn flag(&mut self, key: &'static str) -> bool {
        self.member(key, "true or false", |text| text.parse().ok()).unwrap_or_default()
    }

    fn fault(&mut self, key: Option<&str>, message: String) {
        let (table, number) = (self.table, self.number);
        self.faults.push(Fault::Table { table, number, key: key.map(str::to_owned), message });
    }

    /// Refuses the members that were not read.
    fn refuse_others(&mut self) {
        for (key, _) in std::mem::take(&mut self.members) {
            let meant = similar(&key, self.known.iter().copied());
            let hint = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
            self.fault(Some(&key), format!("{key} is not a setting of a {}{hint}", self.table));
        }
    }
}

fn listener(table: &mut TableParser<'_>) -> Option<ListenerConfig> {
    let faults = table.faults.len();
    let address =
        "an address with a port, as in 127.0.0.1:8888, http://0.0.0.0 or https://[::]:443";
    let listener = table.member("address", address, |text| text.parse::<ListenerConfig>().ok());
    let tls = table.member("tls", "true or false", |text| text.parse::<bool>().ok());
    let open = table.flag("open");
    let trusted_proxies = table.member(
        "trusted_proxies",
        "a list of addresses and networks, as in [\"10.0.0.7\", \"192.168.0.0/16\"]",
        |text| text.parse().ok(),
    );
    let proxy_protocol = table.flag("proxy_protocol");
    let forwarded = table.member("forwarded", "x-forwarded-for or forwarded", |text| {
        let known = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
        known.into_iter().find(|header| header.name().eq_ignore_ascii_case(text))
    });
    if listener.is_none() && table.faults.len() == faults {
        table.fault(None, "it has no address".to_owned());
    }
    let mut listener = listener?;
    let scheme = tls.map(|tls| if tls { Scheme::Https } else { Scheme::Http });
    if let (Some(tls), Some(scheme)) = (scheme, listener.scheme)
        && tls != scheme
    {
        table.fault(Some("tls"), format!("tls contradicts the address, which is {scheme}://"));
    }
    listener.scheme = listener.scheme.or(scheme);
    listener.open = open;
    listener.trusted_proxies = trusted_proxies.unwrap_or_default();
    listener.proxy_protocol = proxy_protocol;
    listener.forwarded = forwarded;
    listener.client_certificates = client_certificates(table);
    if listener.client_certificates.is_some() && listener.scheme == Some(Scheme::Http) {
        table.fault(
            Some("client_ca"),
            "client_ca is set on a plain listener; certificates need https://".to_owned(),
        );
    }
    for (key, set) in [("proxy_protocol", proxy_protocol), ("forwarded", forwarded.is_some())] {
        if set && listener.trusted_proxies.is_empty() {
            let message = format!("{key} is set without trusted_proxies, and no other is believed");
            table.fault(Some(key), message);
        }
    }
    Some(listener)
}

fn client_certificates(table: &mut TableParser<'_>) -> Option<ClientCertificates> {
    let file = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let authorities = table.member("client_ca", "a PEM file with authorities", file);
    let required = table.flag("client_ca_required");
    let files =
        |text: &str| text.split(',').map(|text| file(text.trim())).collect::<Option<Vec<_>>>();
    let revocations =
        table.member("client_crl", "PEM files with lists of revoked certificates", files);
    table.known.push("client");
    let rules = table
        .members
        .remove("client")
        .map(|value| each(&value, "client of a listener", table.faults, client_rule));
    if authorities.is_none() {
        let others = [
            ("client_ca_required", required),
            ("client_crl", revocations.is_some()),
            ("client", rules.is_some()),
        ];
        for (key, _) in others.into_iter().filter(|(_, set)| *set) {
            table.fault(
                Some(key),
                format!("{key} is set without client_ca, the authorities of clients"),
            );
        }
    }
    Some(ClientCertificates {
        authorities: authorities?,
        required,
        revocations: revocations.unwrap_or_default(),
        rules: rules.unwrap_or_default(),
    })
}

fn client_rule(table: &mut TableParser<'_>) -> Option<ClientRule> {
    let faults = table.faults.len();
    let names =
        "uri:, dns: or cn: with a name, in which one * may be, as in uri:urn:example:device:*";
    let name = table.member("name", names, |text| text.parse::<NamePattern>().ok());
    let whom = "device:NAME, where * is what that of the name stands for, or operator";
    let identity = table.member("is", whom, |text| match text.strip_prefix("device:") {
        Some(device) if device.replacen('*', "x", 1).parse::<DeviceId>().is_ok() => {
            Some(IdentityRule::Device(device.to_owned()))
        }
        None if text == "operator" => Some(IdentityRule::Operator(Scope::default())),
        _ => None,
    });
    let select = table.member("select", "a selector of labels alone, as in site=lyon", |text| {
        Scope::parse_select(text).ok()
    });
    let actions = table.member("actions", "names of actions", |text| {
        text.split(',').map(|action| action.trim().parse().ok()).collect::<Option<Vec<_>>>()
    });
    let scoped = select.is_some() || actions.is_some();
    for (key, missing) in [("name", name.is_none()), ("is", identity.is_none())] {
        if missing && table.faults.len() == faults {
            table
                .fault(None, format!("it has no {key}: a name, and what a certificate with it is"));
        }
    }
    let identity = match identity? {
        IdentityRule::Operator(_) => IdentityRule::Operator(Scope { select, actions }),
        device => {
            if scoped {
                table.fault(None, "select and actions are of operators".to_owned());
            }
            device
        }
    };
    Some(ClientRule { name: name?, identity })
}

fn client_rule_to_toml(rule: &ClientRule) -> String {
    let mut lines = vec![text_line("name", &rule.name.to_string())];
    match &rule.identity {
        IdentityRule::Device(device) => lines.push(text_line("is", &format!("device:{device}"))),
        IdentityRule::Operator(scope) => {
            lines.push(text_line("is", "operator"));
            lines.extend(
                scope.select.as_ref().map(|select| text_line("select", &select.to_string())),
            );
            let actions = scope.actions.iter();
            lines.extend(
                actions
                    .map(|actions| list_line("actions", actions.iter().map(ToString::to_string))),
            );
        }
    }
    format!("\n[[listener.client]]\n{}\n", lines.join("\n"))
}

fn listener_to_toml(listener: &ListenerConfig) -> String {
    let mut lines = vec![text_line("address", &listener.to_string())];
    if listener.open {
        lines.push("open = true".to_owned());
    }
    if !listener.trusted_proxies.is_empty() {
        lines.push(list_line("trusted_proxies", listener.trusted_proxies.texts()));
    }
    if listener.proxy_protocol {
        lines.push("proxy_protocol = true".to_owned());
    }
    lines.extend(listener.forwarded.map(|header| text_line("forwarded", header.name())));
    let mut rules = String::new();
    if let Some(clients) = &listener.client_certificates {
        lines.push(text_line("client_ca", &clients.authorities.display().to_string()));
        if clients.required {
            lines.push("client_ca_required = true".to_owned());
        }
        if !clients.revocations.is_empty() {
            let files = clients.revocations.iter().map(|file| file.display().to_string());
            lines.push(list_line("client_crl", files));
        }
        rules = clients.rules.iter().map(client_rule_to_toml).collect();
    }
    format!("\n[[listener]]\n{}\n{rules}", lines.join("\n"))
}

fn acme(table: &mut TableParser<'_>) -> Option<AcmeConfig> {
    if table.number > 1 {
        table.fault(None, "one is all that there can be: name all domains in it".to_owned());
    }
    let faults = table.faults.len();
    let names = "DNS names, as in hub.example.com; no wildcards, which neither http-01 nor tls-alpn-01 can prove";
    let domains = table.member("domains", names, |text| {
        let domains: Option<Vec<_>> = text.split(',').map(str::trim).map(host_name).collect();
        domains
            .filter(|domains| domains.iter().all(|name| name.parse::<std::net::IpAddr>().is_err()))
    });
    let email = table.member("email", "an address, as in ops@example.com", |text| {
        text.split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            .then(|| text.to_owned())
    });
    let directory =
        table.member("directory", "the https:// URL of an authority's directory", |text| {
            text.starts_with("https://").then(|| text.to_owned())
        });
    let file = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let directory_ca = table.member("directory_ca", "a PEM file with authorities", file);
    if domains.is_none() && table.faults.len() == faults {
        table.fault(None, "it has no domains, the names of the certificate".to_owned());
    }
    let directory = directory.unwrap_or_else(|| super::acme::DIRECTORY.to_owned());
    Some(AcmeConfig { domains: domains?, email, directory, directory_ca })
}

fn acme_to_toml(acme: &AcmeConfig) -> String {
    let mut lines = vec![list_line("domains", acme.domains.iter().cloned())];
    lines.extend(acme.email.as_ref().map(|email| text_line("email", email)));
    lines.push(text_line("directory", &acme.directory));
    let file = acme.directory_ca.as_ref();
    lines.extend(file.map(|file| text_line("directory_ca", &file.display().to_string())));
    format!("\n[acme]\n{}\n", lines.join("\n"))
}

fn certificate(table: &mut TableParser<'_>) -> Option<TlsFiles> {
    let file = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let faults = table.faults.len();
    let cert = table.member("cert", "a PEM file with the certificate chain", file);
    let key = table.member("key", "a PEM file with the certificate's key", file);
    if let (Some(cert), Some(key)) = (&cert, &key) {
        return Some(TlsFiles { cert: cert.clone(), key: key.clone() });
    }
    if table.faults.len() == faults {
        let missing = if cert.is_none() { "cert" } else { "key" };
        table.fault(
            None,
            format!("it has no {missing}: a certificate has a file cert and a file key"),
        );
    }
    None
}

fn certificate_to_toml(files: &TlsFiles) -> String {
    let line = |key, path: &PathBuf| text_line(key, &path.display().to_string());
    format!("\n[[certificate]]\n{}\n{}\n", line("cert", &files.cert), line("key", &files.key))
}

fn text_line(key: &str, text: &str) -> String {
    format!("{key} = {}", Value::String(text.to_owned()))
}

fn list_line(key: &str, texts: impl Iterator<Item = String>) -> String {
    format!("{key} = {}", Value::Array(texts.map(Value::String).collect()))
}
