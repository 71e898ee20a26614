//! Proxies from a PAC file: a script that an administrator offers, whose function `FindProxyForURL(url, host)` names the proxies
//! for a URL.
//!
//! The definition is Netscape's ("Navigator Proxy Auto-Config File Format", 1996), which every browser follows. Where the file
//! is, is `location`'s; its functions are in `names`, `calendar` and `lookup`, which `engine` offers to the script;
//! what the script answers is `answer`'s. It decides nothing about which entry is tried when.

use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{PAC_BYTES_MAX, PAC_TIMEOUT};

use crate::Address;
use crate::transport::{HttpTransport, Transport, TransportError, TransportStage};

mod answer;
mod calendar;
mod engine;
mod fault;
mod location;
mod lookup;
mod names;
mod worker;

pub use answer::{PacAnswer, ProxyEntry};
pub use fault::{PacError, PacFault};
pub use location::{InvalidPacLocation, PacLocation};

/// What an evaluation may take beyond its own limit, until its thread is given up.
const GRACE: Duration = Duration::from_secs(1);

/// A PAC file that was evaluated once and defines its function.
///
/// ```
/// use bellwire_client::path::pac::Pac;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let script = r#"
///     function FindProxyForURL(url, host) {
///         if (isPlainHostName(host) || dnsDomainIs(host, ".lan")) return "DIRECT";
///         return "PROXY proxy.lan:3128; DIRECT";
///     }"#;
/// let pac = Pac::parse(script).await?;
/// let proxies = pac.proxies_for(&"https://hub.example.com".parse()?).await?;
/// assert_eq!(proxies[0].url().as_deref(), Some("http://proxy.lan:3128"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pac {
    file: Arc<str>,
    script: Arc<str>,
}

impl Pac {
    /// A script that is there already.
    ///
    /// # Errors
    /// When it cannot be evaluated, or defines no `FindProxyForURL`.
    pub async fn parse(script: &str) -> Result<Self, PacError> {
        Self::of("given as text", script)?.checked().await
    }

    /// Reads the file, without a proxy, and trusting the certificates that this machine does: within 5 s.
    ///
    /// # Errors
    /// When it cannot be read or evaluated, is longer than 1 MiB, or defines no `FindProxyForURL`.
    pub async fn fetch(location: &PacLocation) -> Result<Self, PacError> {
        let transport = HttpTransport::builder().no_proxy().build();
        let transport = transport.map_err(|error| {
            let error = TransportError::new(TransportStage::Connect, error);
            PacFault::Fetch(error).of(&location.to_string())
        })?;
        Self::fetch_by(location, &transport).await
    }

    /// As [`Pac::fetch`], by a transport of the caller's: with more certificates, as a company's.
    ///
    /// # Errors
    /// As [`Pac::fetch`].
    pub async fn fetch_by(
        location: &PacLocation,
        transport: &dyn Transport,
    ) -> Result<Self, PacError> {
        Self::read_by(location, transport).await?.checked().await
    }

    /// As [`Pac::fetch_by`], without the evaluation that shows whether it defines its function.
    ///
    /// # Errors
    /// When it cannot be read, is longer than 1 MiB, or is a web page.
    pub(crate) async fn read_by(
        location: &PacLocation,
        transport: &dyn Transport,
    ) -> Result<Self, PacError> {
        let file = location.to_string();
        let script = location.read(transport).await.map_err(|fault| fault.of(&file))?;
        Self::of(&file, &script)
    }

    fn of(file: &str, script: &str) -> Result<Self, PacError> {
        let pac = Self { file: file.into(), script: script.into() };
        if script.len() > PAC_BYTES_MAX {
            return Err(PacFault::TooLong.of(file));
        }
        if is_web_page(script) {
            return Err(PacFault::WebPage.of(file));
        }
        Ok(pac)
    }

    async fn checked(self) -> Result<Self, PacError> {
        self.evaluate(|script| engine::check(script, engine::Limits::default())).await?;
        Ok(self)
    }

    /// Where the file is, without a password.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The proxies for a URL, in the order in which they are to be tried: at least one, at most 16. What is skipped is logged.
    /// Of an https URL the script sees the scheme and the host alone, as in browsers.
    ///
    /// # Errors
    /// When the script fails, takes longer than 10 s, or lists nothing that can be used.
    pub async fn proxies_for(&self, url: &Address) -> Result<Vec<ProxyEntry>, PacError> {
        let answer = self.answer_for(url).await?;
        for note in &answer.notes {
            tracing::warn!("of the proxies of the PAC file {}, {note}", self.file);
        }
        Ok(answer.entries)
    }

    /// As [`Pac::proxies_for`], with notes about what is skipped in place of the log: for diagnostics.
    ///
    /// # Errors
    /// As [`Pac::proxies_for`].
    pub async fn answer_for(&self, url: &Address) -> Result<PacAnswer, PacError> {
        let (url, host) = shown_to_script(url);
        self.evaluate(move |script| {
            engine::find_proxy(script, engine::Limits::default(), &url, &host)
        })
        .await
    }

    /// The answers for several URLs by one evaluation, which has the 10 s for all of them.
    ///
    /// # Errors
    /// When the script fails, or takes too long, before it comes to the URLs.
    pub(crate) async fn answers_for(
        &self,
        urls: &[Address],
    ) -> Result<Vec<Result<PacAnswer, PacError>>, PacError> {
        let urls: Vec<_> = urls.iter().map(shown_to_script).collect();
        let find =
            move |script: &str| engine::find_proxies(script, engine::Limits::default(), &urls);
        let answers = self.evaluate(find).await?.into_iter();
        Ok(answers.map(|answer| answer.map_err(|fault| fault.of(&self.file))).collect())
    }

    async fn evaluate<T: Send + 'static>(
        &self,
        task: impl FnOnce(&str) -> Result<T, PacFault> + Send + 'static,
    ) -> Result<T, PacError> {
        let script = Arc::clone(&self.script);
        let outcome = worker::run(PAC_TIMEOUT + GRACE, move || task(&script)).await;
        let late = PacFault::OutOfTime { line: None };
        let outcome = outcome.unwrap_or_else(|error| Err(error.into_fault(late)));
        outcome.map_err(|fault| fault.of(&self.file))
    }
}

/// The two arguments of the function: the URL, and its host without port and brackets.
fn shown_to_script(url: &Address) -> (String, String) {
    let url = &url.url;
    let host = url.host_str().unwrap_or_default();
    let shown = match url.scheme() {
        "https" => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("https://{host}{port}/")
        }
        _ => url.as_str().to_owned(),
    };
    (shown, host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn is_web_page(script: &str) -> bool {
    let start: String = script.trim_start().chars().take(9).collect();
    let start = start.to_ascii_lowercase();
    ["<!doctype", "<html", "<head", "<?xml"].iter().any(|page| start.starts_with(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_sees_no_password_no_fragment_and_of_an_https_url_no_path() {
        for (url, shown, host) in [
            (
                "https://u:pw@Hub.example.com/v1/x?token=1#f",
                "https://hub.example.com/",
                "hub.example.com",
            ),
            ("https://hub:8443/v1", "https://hub:8443/", "hub"),
            ("http://u:pw@hub:8080/v1/x?a=1#f", "http://hub:8080/v1/x?a=1", "hub"),
            ("https://[2001:db8::7]/v1", "https://[2001:db8::7]/", "2001:db8::7"),
        ] {
            let expected = (shown.to_owned(), host.to_owned());
            assert_eq!(shown_to_script(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_web_page_is_no_script() {
        for page in ["<!DOCTYPE html><title>Sign in", " \n<HTML>", "<?xml version='1.0'?>"] {
            assert!(is_web_page(page), "{page}");
        }
        assert!(!is_web_page("<!-- hidden\nfunction FindProxyForURL() {}") && !is_web_page(""));
    }
}
