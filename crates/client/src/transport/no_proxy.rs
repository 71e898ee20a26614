//! `NO_PROXY`: the hosts that are reached without a proxy.
//!
//! There is no standard. This is what curl, Go and Python have in common, and where they differ the wider reading: entries are
//! separated by commas or blanks; `example.com`, `.example.com` and `*.example.com` are a domain with all below it;
//! `192.0.2.7`, `10.0.0.0/8` and `2001:db8::/32` are addresses, never looked up in the DNS; `:port` at the end of an entry limits it to that port;
//! `*` is everything.

use std::net::IpAddr;

use ipnet::IpNet;

/// The entries, as written and as read.
#[derive(Debug, Clone, Default)]
pub(super) struct NoProxy(Vec<(String, Entry)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// Lower case, without dots around it.
    Domain(String),
}

impl NoProxy {
    pub(super) fn parse(text: &str) -> Self {
        let entries = text.split([',', ' ', '\t', '\n']).filter(|entry| !entry.is_empty());
        Self(entries.filter_map(|entry| Some((entry.to_owned(), Entry::parse(entry)?))).collect())
    }

    /// The entry, as written, that excepts this host and port. An IPv6 address may have brackets.
    pub(super) fn excepts(&self, host: &str, port: u16) -> Option<&str> {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let host = host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let address = address.map(|address| address.to_canonical());
        let found = self.0.iter().find(|(_, entry)| entry.has(&host, address, port));
        found.map(|(text, _)| text.as_str())
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(hosts) = network(text) {
            return Some(Self { hosts, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Some(hosts) = network(bare) {
            return Some(Self { hosts, port });
        }
        if host == "*" {
            return Some(Self { hosts: Hosts::All, port });
        }
        let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
        (!domain.is_empty()).then_some(Self { hosts: Hosts::Domain(domain), port })
    }

    fn has(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match (&self.hosts, address) {
            (Hosts::All, _) => true,
            (Hosts::Network(network), Some(address)) => network.contains(&address),
            (Hosts::Domain(domain), None) => {
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Hosts::Network(_), None) | (Hosts::Domain(_), Some(_)) => false,
        }
    }
}

fn network(text: &str) -> Option<Hosts> {
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = || text.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical()));
    text.parse().ok().or_else(address).map(Hosts::Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_entries_and_the_hosts_that_they_except() {
        for (entries, host, port, excepted) in [
            ("", "hub.test", 80, false),
            ("*", "hub.test", 80, true),
            ("other.test, *", "192.0.2.1", 443, true),
            ("*:8080", "hub.test", 80, false),
            ("*:8080", "hub.test", 8080, true),
            // Domains.
            ("hub.test", "hub.test", 80, true),
            ("hub.test", "HUB.Test.", 80, true),
            ("Hub.Test", "hub.test", 80, true),
            ("hub.test", "a.hub.test", 80, true),
            ("hub.test", "nothub.test", 80, false),
            ("hub.test", "hub.test.example", 80, false),
            (".hub.test", "a.b.hub.test", 80, true),
            (".hub.test", "hub.test", 80, true),
            ("*.hub.test", "a.hub.test", 80, true),
            ("*.hub.test", "nothub.test", 80, false),
            ("a.test b.test,c.test", "b.test", 80, true),
            ("a.test,,  ,c.test", "c.test", 80, true),
            ("localhost", "localhost", 80, true),
            ("localhost", "127.0.0.1", 80, false),
            // Ports.
            ("hub.test:443", "hub.test", 443, true),
            ("hub.test:443", "hub.test", 80, false),
            ("hub.test:http", "hub.test", 80, false),
            ("192.0.2.1:81", "192.0.2.1", 81, true),
            ("192.0.2.1:81", "192.0.2.1", 80, false),
            ("[2001:db8::1]:81", "[2001:db8::1]", 81, true),
            ("[2001:db8::1]:81", "[2001:db8::1]", 80, false),
            ("10.0.0.0/8:81", "10.1.2.3", 81, true),
            // Addresses.
            ("192.0.2.1", "192.0.2.1", 80, true),
            ("192.0.2.1", "192.0.2.10", 80, false),
            ("10.0.0.0/8", "10.255.0.1", 80, true),
            ("10.0.0.0/8", "11.0.0.1", 80, false),
            ("10.1.2.3/8", "10.255.0.1", 80, true),
            ("10.0.0.0/8", "10.example", 80, false),
            ("0.0.0.0/0", "192.0.2.1", 80, true),
            ("0.0.0.0/0", "hub.test", 80, false),
            ("10.0.0.0/33", "10.0.0.1", 80, false),
            ("2001:db8::/32", "[2001:db8:1::2]", 80, true),
            ("2001:db8::/32", "[2001:db9::2]", 80, false),
            ("::1", "[::1]", 80, true),
            ("[::1]", "[::1]", 80, true),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]", 80, true),
            ("::ffff:10.1.2.3", "10.1.2.3", 80, true),
            // A name that looks like the end of an address.
            ("2.1", "192.0.2.1", 80, false),
        ] {
            let found = NoProxy::parse(entries).excepts(host, port).is_some();
            assert_eq!(found, excepted, "{entries:?} and {host}:{port}");
        }
        let named = NoProxy::parse("a.test, .B.test:80");
        assert_eq!(named.excepts("x.b.test", 80), Some(".B.test:80"));
    }
}
