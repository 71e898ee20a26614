//! What this machine's network is like: the addresses of its interfaces, its default routes, and the files that name proxies.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bellwire_proto::limits::PAC_BYTES_MAX;

use super::WakeReason;

/// Addresses that are compared at most.
const ADDRESSES_MAX: usize = 1024;
/// Bytes of the kernel's list of routes that are read: default routes are at its beginning.
const ROUTES_BYTES_MAX: u64 = 1 << 20;
/// Flags of a route (`linux/route.h`): usable; to nowhere.
const RTF_UP: u32 = 1;
const RTF_REJECT: u32 = 0x200;

/// The state at one moment. What cannot be read is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) addresses: BTreeSet<(String, IpAddr)>,
    pub(super) routes: BTreeSet<DefaultRoute>,
    /// A digest of each file's content; `None` if it cannot be read.
    pub(super) files: Vec<Option<u64>>,
}

/// A route for every address, or for half of them as VPNs set it beside the one that they replace. In the order of preference
/// within a family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DefaultRoute {
    pub(super) ipv6: bool,
    /// Of two routes for the same addresses the lower one is taken.
    pub(super) metric: u32,
    pub(super) interface: String,
    /// As the kernel writes it.
    pub(super) gateway: String,
    pub(super) destination: String,
}

impl Snapshot {
    /// The state now. Blocks as long as reading the files does.
    pub(super) fn take(files: &[PathBuf]) -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
        let up = interfaces.filter(if_addrs::Interface::is_oper_up);
        let routes = routes_of(&read("/proc/net/route"), ipv4_route);
        let ipv6 = routes_of(&read("/proc/net/ipv6_route"), ipv6_route);
        Self {
            addresses: up
                .map(|interface| (interface.name.clone(), interface.ip()))
                .filter(|(_, address)| leads_elsewhere(address))
                .take(ADDRESSES_MAX)
                .collect(),
            routes: routes.into_iter().chain(ipv6).collect(),
            files: files.iter().map(|path| digest(path)).collect(),
        }
    }

    /// What is new here, if anything is, in comparison with the state before.
    pub(super) fn news_since(&self, before: &Self) -> Option<WakeReason> {
        if self.files != before.files {
            return Some(WakeReason::Proxy);
        }
        if !self.routes.is_subset(&before.routes)
            || [false, true].iter().any(|ipv6| {
                let preferred = self.preferred(*ipv6);
                preferred.is_some() && preferred != before.preferred(*ipv6)
            })
        {
            return Some(WakeReason::Route);
        }
        (!self.addresses.is_subset(&before.addresses)).then_some(WakeReason::Address)
    }

    fn preferred(&self, ipv6: bool) -> Option<&DefaultRoute> {
        self.routes.iter().find(|route| route.ipv6 == ipv6)
    }
}

/// Which network this is: the gateways of the default routes, as the kernel writes them. Those of IPv4 if there are any, for those
/// of IPv6 may be announced later than a machine has booted. Empty if there are none.
pub(crate) fn default_gateways() -> String {
    gateways_of(&read("/proc/net/route"), || read("/proc/net/ipv6_route"))
}

fn gateways_of(ipv4: &str, ipv6: impl FnOnce() -> String) -> String {
    let mut routes = routes_of(ipv4, ipv4_route);
    if routes.is_empty() {
        routes = routes_of(&ipv6(), ipv6_route);
    }
    let gateways: BTreeSet<String> = routes.into_iter().map(|route| route.gateway).collect();
    gateways.into_iter().collect::<Vec<_>>().join(" ")
}

/// Whether other machines can be reached from it.
fn leads_elsewhere(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

fn routes_of(list: &str, parse: fn(&[&str]) -> Option<DefaultRoute>) -> Vec<DefaultRoute> {
    let fields = |line: &str| parse(&line.split_ascii_whitespace().collect::<Vec<_>>());
    list.lines().filter_map(fields).collect()
}

/// A line of `/proc/net/route`, if it is of a default route.
fn ipv4_route(fields: &[&str]) -> Option<DefaultRoute> {
    let [interface, destination, gateway, flags, _, _, metric, mask, ..] = fields else {
        return None;
    };
    let prefix_length = u32::from_str_radix(mask, 16).ok()?.count_ones();
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (prefix_length <= 1 && is_usable(flags, interface)).then_some(())?;
    Some(DefaultRoute {
        ipv6: false,
        metric: metric.parse().ok()?,
        interface: (*interface).to_owned(),
        gateway: (*gateway).to_owned(),
        destination: (*destination).to_owned(),
    })
}

/// A line of `/proc/net/ipv6_route`, if it is of a default route. The addresses in use are `2000::/3` (RFC 4291, section 2.4):
/// a route for them, or for half of them, is one for everything.
fn ipv6_route(fields: &[&str]) -> Option<DefaultRoute> {
    let [destination, prefix_length, _, _, gateway, metric, _, _, flags, interface] = fields else {
        return None;
    };
    let prefix_length = u32::from_str_radix(prefix_length, 16).ok()?;
    let is_default = prefix_length <= 1
        || (prefix_length <= 4 && (destination.starts_with('2') || destination.starts_with('3')));
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (is_default && is_usable(flags, interface)).then_some(())?;
    Some(DefaultRoute {
        ipv6: true,
        metric: u32::from_str_radix(metric, 16).ok()?,
        interface: (*interface).to_owned(),
        gateway: (*gateway).to_owned(),
        destination: (*destination).to_owned(),
    })
}

fn is_usable(flags: u32, interface: &str) -> bool {
    flags & RTF_UP != 0 && flags & RTF_REJECT == 0 && interface != "lo"
}

/// The beginning of a file of the kernel; empty if there is none.
fn read(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // What was read before an error is of use.
        file.take(ROUTES_BYTES_MAX).read_to_string(&mut text).ok();
    }
    text
}

fn digest(path: &Path) -> Option<u64> {
    let mut content = Vec::new();
    let bytes_max = u64::try_from(PAC_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).ok()?.take(bytes_max).read_to_end(&mut content).ok()?;
    let mut digest = DefaultHasher::new();
    content.hash(&mut digest);
    Some(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t00000000\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0
lte0\t00000000\t010200C1\t0002\t0\t0\t100\t00000000\t0\t0\t0
";
    const IPV6: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
20000000000000000000000000000000 03 00000000000000000000000000000000 00 fd000000000000000000000000000009 00000400 00000002 00000000 00000003     tun0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    fn shown(routes: &[DefaultRoute]) -> Vec<String> {
        let show = |route: &DefaultRoute| format!("{} {}", route.interface, route.metric);
        routes.iter().map(show).collect()
    }

    #[test]
    fn default_routes_are_those_for_everything_and_those_of_vpns_and_none_that_lead_nowhere() {
        assert_eq!(shown(&routes_of(IPV4, ipv4_route)), ["eth0 100", "tun0 0"]);
        assert_eq!(shown(&routes_of(IPV6, ipv6_route)), ["eth0 1024", "tun0 1024"]);
        assert_eq!(routes_of("eth0\t00000000\n\nx y\n", ipv4_route), []);
        assert_eq!(routes_of("zz zz zz", ipv6_route), []);
    }

    #[test]
    fn a_network_is_known_by_its_ipv4_gateways_and_without_them_by_those_of_ipv6() {
        let ipv6 = || IPV6.to_owned();
        assert_eq!(gateways_of(IPV4, ipv6), "0100080A 010200C0", "usable default routes alone");
        let (first, second) =
            ("fd000000000000000000000000000001", "fd000000000000000000000000000009");
        assert_eq!(gateways_of("", ipv6), format!("{first} {second}"));
        assert_eq!(gateways_of("", String::new), "");
    }

    #[test]
    fn only_what_is_new_is_news() {
        let address = |text: &str| ("eth0".to_owned(), text.parse().unwrap());
        let route = |metric: u32, gateway: &str| DefaultRoute {
            ipv6: false,
            metric,
            interface: "eth0".to_owned(),
            gateway: gateway.to_owned(),
            destination: "00000000".to_owned(),
        };
        let before = Snapshot {
            addresses: [address("10.0.0.7"), address("10.0.0.8")].into(),
            routes: [route(100, "a"), route(200, "b")].into(),
            files: vec![Some(1)],
        };
        let after = |change: fn(&mut Snapshot)| {
            let mut after = before.clone();
            change(&mut after);
            after.news_since(&before)
        };
        assert_eq!(after(|_| {}), None);
        assert_eq!(after(|state| drop(state.addresses.pop_first())), None, "an address less");
        assert_eq!(after(|state| state.routes.clear()), None, "no route is no way to try");
        assert_eq!(after(|state| drop(state.routes.pop_last())), None, "the preferred one remains");
        assert_eq!(after(|state| drop(state.routes.pop_first())), Some(WakeReason::Route));
        assert_eq!(
            after(|state| state.addresses.extend([("lte0".to_owned(), [10, 0, 0, 7].into())])),
            Some(WakeReason::Address)
        );
        assert_eq!(after(|state| state.files = vec![None]), Some(WakeReason::Proxy));
    }
}
