//! Which client a request comes from, where proxies stand before the hub.
//!
//! Only a trusted proxy is believed: what any other client says of addresses is ignored. A proxy in TCP says it in a header
//! before everything else (PROXY protocol, v1 and v2), one in HTTP in `X-Forwarded-For` or `Forwarded` (RFC 7239). Each proxy
//! appends the address that it was connected from, so the list is read from its end, as long as the one who appended is
//! trusted: whatever a client wrote itself is further left and not reached.

use std::io;
use std::net::IpAddr;

use bellwire_proto::limits::PROXY_HEADER_BYTES_MAX;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::{ClientRule, ForwardedHeader, ListenerConfig, Networks};

/// What a listener believes, and whom it lets in.
#[derive(Debug, Clone, Default)]
pub struct ListenerRules {
    /// Callers without a credential may do everything here.
    pub open: bool,
    /// The proxies that are believed.
    pub trusted_proxies: Networks,
    /// Their connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// The one field that they are believed in HTTP; `None` for `X-Forwarded-For`, or `Forwarded` where that is absent.
    pub forwarded: Option<ForwardedHeader>,
    /// Whom the certificates of clients make, which its TLS has verified.
    pub clients: Vec<ClientRule>,
}

impl From<&ListenerConfig> for ListenerRules {
    fn from(config: &ListenerConfig) -> Self {
        Self {
            open: config.open,
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            forwarded: config.forwarded,
            clients: config
                .client_certificates
                .as_ref()
                .map(|clients| clients.rules.clone())
                .unwrap_or_default(),
        }
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// PROXY protocol v2, section 2.2: the signature, then version, family and the length of the rest.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Section 2.1: the longest line of v1, with its CRLF.
const V1_BYTES_MAX: usize = 107;

impl ListenerRules {
    /// Whether connections of this address begin with a header of the PROXY protocol.
    pub(super) fn begins_with_header(&self, peer: IpAddr) -> bool {
        self.proxy_protocol && self.trusted_proxies.contains(peer)
    }

    /// The client of a request, which came from this address: the other end of the connection, or what the PROXY protocol
    /// named.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusted_proxies.contains(client) {
            return client;
        }
        let header = self.forwarded.unwrap_or(match headers.contains_key(X_FORWARDED_FOR) {
            true => ForwardedHeader::XForwardedFor,
            false => ForwardedHeader::Forwarded,
        });
        type Elements = fn(&str) -> Vec<&str>;
        type Address = fn(&str) -> Option<IpAddr>;
        let (name, elements, address): (_, Elements, Address) = match header {
            ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, plain_elements, address),
            ForwardedHeader::Forwarded => (FORWARDED, quoted_elements, forwarded_for),
        };
        for value in headers.get_all(name).iter().rev() {
            // What is not ASCII names no address.
            let Ok(value) = value.to_str() else { return client };
            let elements = elements(value).into_iter().map(str::trim);
            for element in elements.filter(|element| !element.is_empty()) {
                let Some(named) = address(element) else { return client };
                client = named;
                if !self.trusted_proxies.contains(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// The elements of `X-Forwarded-For`, the last one first.
fn plain_elements(value: &str) -> Vec<&str> {
    value.rsplit(',').collect()
}

/// The elements of `Forwarded`, the last one first.
fn quoted_elements(value: &str) -> Vec<&str> {
    rsplit(value, b',')
}

/// Splits from the end, outside of quoted texts (RFC 9110, section 5.6.4): a quote that a client opened and did not close must
/// not swallow what its proxy appended.
fn rsplit(text: &str, separator: u8) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut end, mut quoted) = (Vec::new(), text.len(), false);
    for (at, &byte) in bytes.iter().enumerate().rev() {
        if byte == b'"' && !is_escaped(bytes, at) {
            quoted = !quoted;
        } else if byte == separator && !quoted {
            parts.extend(text.get(at + 1..end));
            end = at;
        }
    }
    parts.extend(text.get(..end));
    parts
}

/// Whether an odd number of backslashes is before a position. To be asked of quotes alone: so each backslash is read once.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    let before = bytes.iter().take(at).rev();
    before.take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address of an element of `Forwarded`: its parameter `for` (RFC 7239, sections 4 and 6).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut named = rsplit(element, b';').into_iter().filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    // A parameter occurs once in an element.
    let (Some(value), None) = (named.next(), named.next()) else { return None };
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    address(quoted.unwrap_or(value))
}

/// An address as proxies write it: alone, or with a port; IPv6 with or without brackets. `unknown` and names that conceal
/// (RFC 7239, section 6.3) are none.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    let address = match bracketed {
        Some((address, rest)) if is_port(rest) => address.parse().ok().map(IpAddr::V6)?,
        Some(_) => return None,
        None => match text.parse() {
            Ok(address) => address,
            Err(_) => {
                let (address, _) = text.rsplit_once(':').filter(|(_, port)| {
                    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
                })?;
                address.parse().ok().map(IpAddr::V4)?
            }
        },
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads the header with which a proxy begins a connection, and nothing behind it. The client's address; `None` when the
/// proxy speaks for itself, as in checks of its own, or does not know.
///
/// # Errors
/// When there is none, or it is invalid or too long.
pub(super) async fn read_proxy_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; V2_SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == V2_SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        header.extend_from_slice(&rest);
        let begun = header.len();
        if begun + length > PROXY_HEADER_BYTES_MAX {
            return Err(invalid("its header of the PROXY protocol is too long"));
        }
        header.resize(begun + length, 0);
        if let Some(addresses) = header.get_mut(begun..) {
            stream.read_exact(addresses).await?;
        }
    } else if header.starts_with(b"PROXY ") {
        // Byte by byte, for what follows is not ours.
        while !header.ends_with(b"\n") {
            if header.len() == V1_BYTES_MAX {
                return Err(invalid("its header of the PROXY protocol has no end"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(invalid("it does not begin with a header of the PROXY protocol"));
    }
    parse_proxy_header(&header)
}

/// The client that a whole header of the PROXY protocol names.
///
/// # Errors
/// When it is invalid.
pub fn parse_proxy_header(header: &[u8]) -> io::Result<Option<IpAddr>> {
    let (parsed, length) = ProxyHeader::parse(header, ParseConfig::default())
        .map_err(|_| invalid("its header of the PROXY protocol is invalid"))?;
    if length != header.len() {
        return Err(invalid("its header of the PROXY protocol is invalid"));
    }
    Ok(parsed.proxied_address().map(|address| address.source.ip().to_canonical()))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
