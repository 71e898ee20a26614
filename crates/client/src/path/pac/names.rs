//! The functions of PAC files that only compare texts and addresses, as Netscape defined them ("Navigator Proxy Auto-Config File
//! Format", 1996), and for IPv6 too.

use std::net::IpAddr;

use ipnet::IpNet;

/// Bytes of what [`sh_exp_match`] compares, which takes time in proportion to the product of both at worst: longer than any
/// URL that a server takes, and than any expression that a person writes. Longer ones do not match.
const TEXT_BYTES_MAX: usize = 64 << 10;
const EXPRESSION_BYTES_MAX: usize = 4 << 10;

/// `isPlainHostName(host)`: a name without a domain. An IPv6 address is none.
pub(super) fn is_plain_host_name(host: &str) -> bool {
    !host.contains('.') && !host.contains(':')
}

/// `dnsDomainIs(host, domain)`: the name ends with the domain, which is written with its dot.
pub(super) fn dns_domain_is(host: &str, domain: &str) -> bool {
    let (host, domain) = (host.as_bytes(), domain.as_bytes());
    host.len()
        .checked_sub(domain.len())
        .and_then(|start| host.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(domain))
}

/// `localHostOrDomainIs(host, hostdom)`: the same name, or its first part without a domain.
pub(super) fn local_host_or_domain_is(host: &str, host_and_domain: &str) -> bool {
    let (host, known) = (host.to_ascii_lowercase(), host_and_domain.to_ascii_lowercase());
    host == known || known.strip_prefix(&host).is_some_and(|rest| rest.starts_with('.'))
}

/// `dnsDomainLevels(host)`: the number of dots.
pub(super) fn dns_domain_levels(host: &str) -> usize {
    host.matches('.').count()
}

/// `shExpMatch(text, pattern)`: `*` is any characters, `?` is one; every other character is itself.
pub(super) fn sh_exp_match(text: &str, pattern: &str) -> bool {
    if text.len() > TEXT_BYTES_MAX || pattern.len() > EXPRESSION_BYTES_MAX {
        return false;
    }
    let (text, pattern): (Vec<char>, Vec<char>) =
        (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut wanted) = (0, 0);
    // Where to go on with the last `*` taking one character more.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(character) = text.get(at) {
        match pattern.get(wanted) {
            Some('*') => {
                retry = Some((at, wanted));
                wanted += 1;
            }
            Some(one) if *one == '?' || one == character => {
                at += 1;
                wanted += 1;
            }
            _ => {
                let Some((start, star)) = retry else { return false };
                retry = Some((start + 1, star));
                at = start + 1;
                wanted = star + 1;
            }
        }
    }
    pattern.get(wanted..).is_some_and(|rest| rest.iter().all(|character| *character == '*'))
}

/// `isInNet(host, pattern, mask)` with the address of the host: they agree in the bits of the mask. Addresses of different
/// families never do.
pub(super) fn is_in_net(address: IpAddr, pattern: &str, mask: &str) -> bool {
    match (address, pattern.parse(), mask.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(pattern)), Ok(IpAddr::V4(mask))) => {
            u32::from(address) & u32::from(mask) == u32::from(pattern) & u32::from(mask)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(pattern)), Ok(IpAddr::V6(mask))) => {
            u128::from(address) & u128::from(mask) == u128::from(pattern) & u128::from(mask)
        }
        _ => false,
    }
}

/// `isInNetEx(host, prefix)` with the address of the host, and the network as `2001:db8::/32` or `10.0.0.0/8`.
pub(super) fn is_in_prefix(address: IpAddr, prefix: &str) -> bool {
    let Some((network, length)) = prefix.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.trim().parse(), length.trim().parse()) else {
        return false;
    };
    IpNet::new(network, length).is_ok_and(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_defined() {
        let plain = ["www", "localhost", ""];
        assert!(plain.into_iter().all(is_plain_host_name));
        let qualified = ["www.example.com", "192.0.2.7", "2001:db8::7", "::1"];
        assert!(!qualified.into_iter().any(is_plain_host_name));

        for (host, domain, expected) in [
            ("www.example.com", ".example.com", true),
            ("WWW.Example.COM", ".example.com", true),
            ("www", ".example.com", false),
            ("www.mcom.com", ".example.com", false),
            ("example.com", ".example.com", false),
            ("example.com", "example.com", true),
            ("notexample.com", "example.com", true),
            ("ü.example", "\u{bc}.example", false),
            ("", "", true),
        ] {
            assert_eq!(dns_domain_is(host, domain), expected, "{host} {domain}");
        }

        for (host, known, expected) in [
            ("www.example.com", "www.example.com", true),
            ("www", "www.example.com", true),
            ("WWW", "www.example.com", true),
            ("www.mcom.com", "www.example.com", false),
            ("home.example.com", "www.example.com", false),
            ("ww", "www.example.com", false),
            ("www.example.com", "www", false),
        ] {
            assert_eq!(local_host_or_domain_is(host, known), expected, "{host} {known}");
        }

        for (host, levels) in [("www", 0), ("www.example.com", 2), ("mozilla.org.", 2)] {
            assert_eq!(dns_domain_levels(host), levels, "{host}");
        }
    }

    #[test]
    fn shell_expressions_match_as_defined() {
        for (text, pattern, expected) in [
            ("http://home.example.com/people/ari/index.html", "*/ari/*", true),
            ("http://home.example.com/people/montulli/index.html", "*/ari/*", false),
            ("www.example.com", "*.example.com", true),
            ("www.example.com", "www.example.co?", true),
            ("www.example.com", "www.example.com?", false),
            ("wwwXexample.com", "www.example.com", false),
            ("", "", true),
            ("", "*", true),
            ("", "?", false),
            ("abc", "***", true),
            ("abcabcabd", "*abd", true),
            ("aXbXc", "a*b*c*", true),
            ("a[b]|c", "a[b]|c", true),
            ("a", "[a]", false),
            ("straße", "stra?e", true),
            ("Www", "www", false),
        ] {
            assert_eq!(sh_exp_match(text, pattern), expected, "{text} {pattern}");
        }
        let long = "a".repeat(5000);
        assert!(!sh_exp_match(&long, &("a*".repeat(50) + "b")));
        assert!(!sh_exp_match(&"a".repeat(TEXT_BYTES_MAX + 1), "*"));
        assert!(!sh_exp_match("a", &"*".repeat(EXPRESSION_BYTES_MAX + 1)));
    }

    #[test]
    fn addresses_are_in_nets_of_their_family() {
        for (address, pattern, mask, expected) in [
            ("198.95.249.79", "198.95.249.79", "255.255.255.255", true),
            ("198.95.6.8", "198.95.0.0", "255.255.0.0", true),
            ("198.96.6.8", "198.95.0.0", "255.255.0.0", false),
            ("10.1.2.3", "10.9.9.9", "255.0.0.0", true),
            ("10.1.2.3", "0.0.0.0", "0.0.0.0", true),
            ("10.1.2.3", "10.0.0", "255.0.0.0", false),
            ("10.1.2.3", "::", "::", false),
            ("2001:db8::7", "2001:db8::", "ffff:ffff::", true),
            ("2001:db9::7", "2001:db8::", "ffff:ffff::", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_in_net(address, pattern, mask), expected, "{address} {pattern} {mask}");
        }
        for (address, prefix, expected) in [
            ("198.95.6.8", "198.95.0.0/16", true),
            ("198.96.6.8", "198.95.0.0/16", false),
            ("198.96.6.8", "0.0.0.0/0", true),
            ("3ffe:8311:ffff::1", "3ffe:8311:ffff::/48", true),
            ("3ffe:8312:ffff::1", "3ffe:8311:ffff::/48", false),
            ("::1", "::/0", true),
            ("::1", "::1/128", true),
            ("::1", "::1/129", false),
            ("10.0.0.1", "10.0.0.1/33", false),
            ("10.0.0.1", "::/0", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.0/x", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_in_prefix(address, prefix), expected, "{address} {prefix}");
        }
    }
}
