//! What a PAC file answers: `PROXY a:1; HTTPS b:2; SOCKS c; DIRECT`, an ordered list of ways.

use std::fmt;
use std::net::Ipv6Addr;

use bellwire_proto::limits::{PAC_ANSWER_BYTES_MAX, PAC_PROXIES_MAX};

use super::PacFault;

/// Characters of an entry that a note shows.
const SHOWN_CHARS_MAX: usize = 80;
/// Notes about skipped entries.
const NOTES_MAX: usize = 8;
/// Bytes of a host's name (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 255;
/// The ports of a proxy for which none is given, as in Chromium.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// One way, as a PAC file lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyEntry {
    /// A proxy that is spoken to without TLS.
    Http {
        /// Its name or address; an IPv6 address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A proxy that is spoken to with TLS.
    Https {
        /// Its name or address; an IPv6 address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// No proxy.
    Direct,
}

impl ProxyEntry {
    /// The URL of the proxy, as [`proxy`](crate::transport::HttpTransportBuilder::proxy) takes it; `None` without one.
    pub fn url(&self) -> Option<String> {
        let (scheme, host, port) = match self {
            Self::Http { host, port } => ("http", host, port),
            Self::Https { host, port } => ("https", host, port),
            Self::Direct => return None,
        };
        Some(match host.contains(':') {
            true => format!("{scheme}://[{host}]:{port}"),
            false => format!("{scheme}://{host}:{port}"),
        })
    }
}

/// The proxy's URL, or `direct`.
impl fmt::Display for ProxyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url().unwrap_or_else(|| "direct".to_owned()))
    }
}

/// The usable entries of an answer, and notes about the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacAnswer {
    /// In the order in which they are to be tried; at least one, at most 16, each once.
    pub entries: Vec<ProxyEntry>,
    /// What was skipped, and why: a few lines for a person.
    pub notes: Vec<String>,
}

impl PacAnswer {
    /// Reads the text that `FindProxyForURL` returned. An empty one means no proxy.
    ///
    /// ```
    /// use bellwire_client::path::pac::PacAnswer;
    ///
    /// let answer = PacAnswer::parse("PROXY a:1; SOCKS c; HTTPS b; DIRECT")?;
    /// let shown: Vec<String> = answer.entries.iter().map(ToString::to_string).collect();
    /// assert_eq!(shown, ["http://a:1", "https://b:443", "direct"]);
    /// assert!(answer.notes[0].contains("SOCKS"));
    /// # Ok::<(), bellwire_client::path::pac::PacFault>(())
    /// ```
    ///
    /// # Errors
    /// When it is longer than 8 KiB, or no entry is usable.
    pub fn parse(text: &str) -> Result<Self, PacFault> {
        if text.len() > PAC_ANSWER_BYTES_MAX {
            return Err(PacFault::AnswerTooLong);
        }
        let mut answer = Self { entries: Vec::new(), notes: Vec::new() };
        let listed = text.split(';').map(str::trim).filter(|entry| !entry.is_empty());
        let mut is_empty = true;
        for entry in listed {
            is_empty = false;
            match parse_entry(entry) {
                Ok(entry) if answer.entries.contains(&entry) => {}
                Ok(_) if answer.entries.len() >= PAC_PROXIES_MAX => {
                    answer.note(entry, &format!("it is beyond the first {PAC_PROXIES_MAX}"));
                }
                Ok(entry) => answer.entries.push(entry),
                Err(reason) => answer.note(entry, reason),
            }
        }
        if is_empty {
            answer.entries.push(ProxyEntry::Direct);
        }
        match answer.entries.is_empty() {
            true => Err(PacFault::NoUsableProxy { notes: answer.notes.join(", ") }),
            false => Ok(answer),
        }
    }

    fn note(&mut self, entry: &str, reason: &str) {
        if self.notes.len() < NOTES_MAX {
            let shown: String = entry.chars().take(SHOWN_CHARS_MAX).collect();
            self.notes.push(format!("{shown:?} is skipped: {reason}"));
        }
    }
}

fn parse_entry(entry: &str) -> Result<ProxyEntry, &'static str> {
    let (kind, rest) = entry.split_once(char::is_whitespace).unwrap_or((entry, ""));
    let is = |name: &str| kind.eq_ignore_ascii_case(name);
    let rest = rest.trim();
    if is("DIRECT") {
        return match rest {
            "" => Ok(ProxyEntry::Direct),
            _ => Err("DIRECT has no host"),
        };
    }
    if is("PROXY") || is("HTTP") {
        let (host, port) = host_and_port(rest)?;
        return Ok(ProxyEntry::Http { host, port: port.unwrap_or(HTTP_PORT) });
    }
    if is("HTTPS") {
        let (host, port) = host_and_port(rest)?;
        return Ok(ProxyEntry::Https { host, port: port.unwrap_or(HTTPS_PORT) });
    }
    Err(match kind.get(..5) {
        Some(socks) if socks.eq_ignore_ascii_case("SOCKS") => "SOCKS proxies are not supported",
        _ => "it is none of PROXY, HTTP, HTTPS and DIRECT",
    })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("its address has no ]")?;
            address.parse::<Ipv6Addr>().map_err(|_| "it has no IPv6 address between [ and ]")?;
            (address, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return Err("it has no host");
    }
    if !text.starts_with('[') && !host.bytes().all(is_name) {
        return Err("its host has characters that no name has");
    }
    let port = match port {
        Some("") if !text.ends_with(':') => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(
            digits.parse().ok().filter(|port| *port != 0).ok_or("its port is not 1 to 65535")?,
        ),
        _ => return Err("its port is no number"),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<String> {
        let answer = PacAnswer::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        answer.entries.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entries_are_in_the_order_of_the_answer_and_only_those_of_it() {
        for (text, expected) in [
            ("DIRECT", vec!["direct"]),
            ("", vec!["direct"]),
            (" ; ; ", vec!["direct"]),
            ("PROXY a:1; HTTPS b:2; SOCKS c; DIRECT", vec!["http://a:1", "https://b:2", "direct"]),
            ("PROXY a:1", vec!["http://a:1"]),
            ("direct;proxy a:1", vec!["direct", "http://a:1"]),
            ("PROXY\ta:1 ;\n HTTP b:8080;", vec!["http://a:1", "http://b:8080"]),
            ("PROXY a; HTTPS b", vec!["http://a:80", "https://b:443"]),
            ("PROXY a:1; PROXY a:1; HTTPS a:1", vec!["http://a:1", "https://a:1"]),
            (
                "PROXY [2001:db8::7]:3128; HTTPS [::1]",
                vec!["http://[2001:db8::7]:3128", "https://[::1]:443"],
            ),
            ("PROXY 192.0.2.7:65535", vec!["http://192.0.2.7:65535"]),
            (
                "SOCKS5 s:1080; PROXY proxy_1.example.com:3128",
                vec!["http://proxy_1.example.com:3128"],
            ),
            ("PROXY user:pw@a:1; PROXY b:1", vec!["http://b:1"]),
            (
                "PROXY ; PROXY a:; PROXY a:0; PROXY a:65536; PROXY a:1x; PROXY a b:1; DIRECT x; PROXY b:1",
                vec!["http://b:1"],
            ),
            (
                "PROXY [::1; PROXY [zz]:1; PROXY []:1; PROXY [::1]x; PROXY 2001:db8::7; PROXY b:1",
                vec!["http://b:1"],
            ),
            ("PROXY http://a:1; PROXY ü:1; PROXY b:1", vec!["http://b:1"]),
        ] {
            assert_eq!(entries(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_skipped_is_noted_and_an_answer_of_nothing_else_is_an_error() {
        let answer = PacAnswer::parse("SOCKS4 s:1080; PROXY a:1; QUIC q:443; PROXY a:0").unwrap();
        assert_eq!(
            answer.notes,
            [
                "\"SOCKS4 s:1080\" is skipped: SOCKS proxies are not supported",
                "\"QUIC q:443\" is skipped: it is none of PROXY, HTTP, HTTPS and DIRECT",
                "\"PROXY a:0\" is skipped: its port is not 1 to 65535",
            ]
        );
        let error = PacAnswer::parse("SOCKS s:1080").unwrap_err().to_string();
        assert!(error.contains("SOCKS proxies are not supported"), "{error}");
        PacAnswer::parse("undefined").unwrap_err();
    }

    #[test]
    fn an_answer_is_bounded() {
        let many: String = (1..=500).map(|port| format!("PROXY a:{port};")).collect();
        let answer = PacAnswer::parse(&many).unwrap();
        assert_eq!((answer.entries.len(), answer.notes.len()), (PAC_PROXIES_MAX, NOTES_MAX));
        let error = PacAnswer::parse(&"x".repeat(PAC_ANSWER_BYTES_MAX + 1)).unwrap_err();
        assert!(matches!(error, PacFault::AnswerTooLong), "{error}");
        let notes = PacAnswer::parse(&("é".repeat(4000))).unwrap_err().to_string();
        assert!(notes.len() < 400, "{notes}");
    }
}
