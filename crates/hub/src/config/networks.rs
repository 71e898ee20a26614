//! Networks of an operator's: addresses, alone or with the length of a prefix.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A list of networks.
///
/// ```
/// use bellwire_hub::config::Networks;
///
/// let networks: Networks = "10.0.0.0/8, 2001:db8::1".parse()?;
/// assert!(networks.contains("10.2.3.4".parse().unwrap()));
/// assert!(!networks.contains("2001:db8::2".parse().unwrap()));
/// # Ok::<(), bellwire_hub::config::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// A text that is neither an IP address nor a network as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or a network, as in 10.0.0.7 or 10.0.0.0/8")]
pub struct InvalidNetwork;

impl Networks {
    /// None.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in one of them. An IPv4 address in its IPv6 form (RFC 4291, section 2.5.5.2) is that address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Each as text that parses.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|network| match network.prefix_len() == network.max_prefix_len() {
            true => network.addr().to_string(),
            false => network.to_string(),
        })
    }
}

/// With commas between.
impl FromStr for Networks {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let one = |text: &str| match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address.to_canonical())),
            Err(_) => text.parse().map_err(|_| InvalidNetwork),
        };
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        texts.map(one).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_in_either_family_s_form() {
        let networks: Networks = "10.0.0.0/8,::1, 192.0.2.7".parse().unwrap();
        for (address, inside) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("::1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::2", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        let texts: Vec<_> = networks.texts().collect();
        assert_eq!(texts, ["10.0.0.0/8", "::1", "192.0.2.7"]);
        for text in ["10.0.0.0/33", "localhost", "10.0.0/8"] {
            assert_eq!(text.parse::<Networks>(), Err(InvalidNetwork), "{text}");
        }
    }
}
