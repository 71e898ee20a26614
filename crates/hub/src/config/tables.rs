//! What a settings file has as tables: `[[listener]]` and `[[certificate]]`.
//!
//! A table's faults name the table, its number and the member. What is read is printed by [`to_toml`] as a table that means
//! the same.

use std::path::PathBuf;

use bellwire_proto::similar;
use toml::{Table, Value};

use super::listener::{ForwardedHeader, ListenerConfig, Scheme};
use super::settings::Draft;
use super::{Config, Fault, TlsFiles, text_of};

/// The keys of tables.
pub(super) const KEYS: [&str; 2] = ["listener", "certificate"];

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
        _ => None,
    }
}

/// All tables of the settings, each after an empty line.
pub(super) fn to_toml(config: &Config) -> String {
    let listeners = config.listen.iter().filter(|listener| !listener.is_short());
    let certificates = config.certificates.iter().map(certificate_to_toml);
    certificates.chain(listeners.map(listener_to_toml)).collect()
}

/// A table that is being read.
struct Reading<'a> {
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
    read: fn(&mut Reading<'_>) -> Option<T>,
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
        let mut reading = Reading { table, number, members, known: Vec::new(), faults };
        let made = read(&mut reading);
        reading.refuse_others();
        made
    };
    tables.into_iter().enumerate().filter_map(read).collect()
}

impl Reading<'_> {
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

fn listener(table: &mut Reading<'_>) -> Option<ListenerConfig> {
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
    for (key, set) in [("proxy_protocol", proxy_protocol), ("forwarded", forwarded.is_some())] {
        if set && listener.trusted_proxies.is_empty() {
            let message = format!("{key} is set without trusted_proxies, and no other is believed");
            table.fault(Some(key), message);
        }
    }
    Some(listener)
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
    format!("\n[[listener]]\n{}\n", lines.join("\n"))
}

fn certificate(table: &mut Reading<'_>) -> Option<TlsFiles> {
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
