//! Where a PAC file is, and how it is read from there: without a proxy, within its limits.

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bellwire_proto::limits::{PAC_BYTES_MAX, PAC_FETCH_TIMEOUT};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::{PacFault, worker};
use crate::Address;
use crate::transport::{TooLong, Transport, TransportError, TransportStage, read_body};

/// The media type of PAC files, which no standard registers; servers use others as well.
const MEDIA_TYPES: &str = "application/x-ns-proxy-autoconfig, */*;q=0.5";

/// Where a PAC file is: `pac+http://…`, `pac+https://…` or `pac+file:///…`.
///
/// ```
/// use bellwire_client::path::pac::PacLocation;
///
/// let location: PacLocation = "pac+http://proxy.example.com/proxy.pac".parse()?;
/// assert_eq!(location.to_string(), "http://proxy.example.com/proxy.pac");
/// assert!(PacLocation::is_one("pac+file:///etc/proxy.pac"));
/// assert!(!PacLocation::is_one("http://proxy.example.com:3128"));
/// # Ok::<(), bellwire_client::path::pac::InvalidPacLocation>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacLocation(Source);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Url(Address),
    File(PathBuf),
}

/// The text is not the location of a PAC file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{redacted:?} is no PAC file: write pac+http://HOST/PATH, pac+https://HOST/PATH or pac+file:///PATH"
)]
pub struct InvalidPacLocation {
    redacted: String,
}

impl PacLocation {
    /// Whether a setting names a PAC file rather than a proxy.
    pub fn is_one(setting: &str) -> bool {
        without_prefix(setting).is_some()
    }

    /// The path of a file on this machine, to watch for changes.
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Source::File(path) => Some(path),
            Source::Url(_) => None,
        }
    }

    pub(super) async fn read(&self, transport: &dyn Transport) -> Result<String, PacFault> {
        let content = match &self.0 {
            Source::File(path) => {
                let path = path.clone();
                let read = worker::run(PAC_FETCH_TIMEOUT, move || read_file(&path));
                read.await.map_err(|error| error.into_fault(PacFault::FetchTimeout))??
            }
            Source::Url(url) => {
                let fetched = tokio::time::timeout(PAC_FETCH_TIMEOUT, fetch(url, transport));
                fetched.await.map_err(|_| PacFault::FetchTimeout)??
            }
        };
        Ok(text_of(&content))
    }
}

impl FromStr for PacLocation {
    type Err = InvalidPacLocation;

    fn from_str(text: &str) -> Result<Self, InvalidPacLocation> {
        // The text before an @ may be a password.
        let redacted = text.rsplit('@').next().unwrap_or_default().to_owned();
        let source = without_prefix(text).and_then(|url| match url.split_once(':')? {
            (scheme, path) if scheme.eq_ignore_ascii_case("file") => {
                file_of(path).map(Source::File)
            }
            _ => url.parse().ok().map(Source::Url),
        });
        source.map(Self).ok_or(InvalidPacLocation { redacted })
    }
}

/// Without a password, and without `pac+`.
impl fmt::Display for PacLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Url(url) => url.fmt(f),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

fn without_prefix(setting: &str) -> Option<&str> {
    let (prefix, rest) = setting.split_at_checked(4)?;
    prefix.eq_ignore_ascii_case("pac+").then_some(rest)
}

/// The path of `file:///path`, `file://localhost/path` and `file:/path` (RFC 8089, section 2).
fn file_of(after_scheme: &str) -> Option<PathBuf> {
    let path = match after_scheme.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => after_scheme,
    };
    let path = percent_decode_str(path).decode_utf8().ok()?;
    (path.starts_with('/') && !path.contains('\0')).then(|| PathBuf::from(path.as_ref()))
}

fn read_file(path: &Path) -> Result<Bytes, PacFault> {
    let mut content = Vec::new();
    let bytes_max = u64::try_from(PAC_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let read = File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut content));
    match read {
        Err(error) => Err(PacFault::File { message: error.to_string() }),
        Ok(bytes) if bytes > PAC_BYTES_MAX => Err(PacFault::TooLong),
        Ok(_) => Ok(content.into()),
    }
}

async fn fetch(url: &Address, transport: &dyn Transport) -> Result<Bytes, PacFault> {
    let mut request = http::Request::builder()
        .method(Method::GET)
        .uri(url.url.as_str())
        .header(ACCEPT, MEDIA_TYPES);
    if let Some(authorization) = &url.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request
        .body(Bytes::new())
        .map_err(|error| PacFault::Fetch(TransportError::new(TransportStage::Connect, error)))?;
    let response = transport.send(request).await.map_err(PacFault::Fetch)?;
    let status = response.status();
    if status != StatusCode::OK {
        let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
        let target = target.filter(|_| status.is_redirection());
        let advice = match target {
            Some(target) => format!("set that URL, if it is yours: {target}"),
            None => "check its URL".to_owned(),
        };
        return Err(PacFault::Status { status, advice });
    }
    let content = read_body(response.into_body(), PAC_BYTES_MAX).await;
    content.map_err(|error| match error.source().is_some_and(|source| source.is::<TooLong>()) {
        true => PacFault::TooLong,
        false => PacFault::Fetch(error),
    })
}

/// UTF-8, with or without a byte order mark; else Latin-1, as browsers read it.
fn text_of(content: &[u8]) -> String {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    match std::str::from_utf8(content) {
        Ok(text) => text.to_owned(),
        Err(_) => content.iter().copied().map(char::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_url_or_an_absolute_path_and_hides_its_password() {
        for (text, shown) in [
            ("pac+http://wpad/wpad.dat", "http://wpad/wpad.dat"),
            ("PAC+HTTPS://kiosk:s3cret@proxy.lan/p?x=1", "https://proxy.lan/p?x=1"),
            ("pac+file:///etc/proxy.pac", "/etc/proxy.pac"),
            ("pac+file:/etc/proxy.pac", "/etc/proxy.pac"),
            ("pac+file://localhost/etc/our%20proxy.pac", "/etc/our proxy.pac"),
        ] {
            assert!(PacLocation::is_one(text), "{text}");
            assert_eq!(text.parse::<PacLocation>().unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "pac+",
            "pac",
            "http://proxy:3128",
            "pac+ftp://x/y",
            "pac+file:proxy.pac",
            "pac+file://server/proxy.pac",
            "pac+file:///etc/%00",
            "pac+htp://kiosk:s3cret@proxy",
            "päc+http://x",
        ] {
            let error = text.parse::<PacLocation>().unwrap_err().to_string();
            assert!(error.contains("pac+http://HOST/PATH") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_script_is_utf_8_or_else_latin_1() {
        assert_eq!(text_of("\u{feff}// ü".as_bytes()), "// ü");
        assert_eq!(text_of("// ü".as_bytes()), "// ü");
        assert_eq!(text_of(b"// \xfc"), "// ü");
    }
}
