//! What a result means for the appliance, and the sentence for the owner of the network: which host and port, what stands in
//! the way, what to allow. The sentences are whole, to be pasted into a message.

use std::net::IpAddr;

use bellwire_client::transport::{CertificateFault, ExaminedStep, TransportError, TransportStage};
use http::StatusCode;

use super::routes::HubEndpoint;

/// The page that has what to set in the programs of a network.
const SECTION: &str =
    "(Settings for common programs: docs/networks.md, \"On the appliance's side\", of Bellwire.)";

/// What comes before any sentence to the owner of a network.
const CHECK_HUB: &str = "Check that the hub runs: `bellwire health` on its machine.";

/// From this limit of idle connections on, in seconds, the smallest heartbeat of 5 s is frequent enough, even 2 s late.
const HEARTBEAT_HELPS_S: u64 = 7;

/// What a failed result means, and the sentence to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) meaning: Option<String>,
    pub(super) remedy: Option<String>,
}

impl Advice {
    fn new(meaning: impl Into<String>, remedy: String) -> Self {
        Self { meaning: Some(meaning.into()), remedy: Some(format!("{remedy} {SECTION}")) }
    }

    /// The hub may be down: that is to be ruled out first.
    fn hub_first(meaning: impl AsRef<str>, remedy: String, to: &HubEndpoint) -> Self {
        let meaning = format!("{CHECK_HUB} {}", meaning.as_ref());
        if to.is_here() {
            Self::only(meaning.trim_end())
        } else {
            Self::new(meaning.trim_end(), remedy)
        }
    }

    /// Where the owner of the network is not the one to ask.
    fn only(meaning: impl Into<String>) -> Self {
        Self { meaning: Some(meaning.into()), remedy: None }
    }
}

impl HubEndpoint {
    /// Host and port, for a sentence.
    fn address(&self) -> String {
        format!(
            "{}, TCP port {} ({})",
            self.host,
            self.port,
            if self.is_tls { "HTTPS" } else { "HTTP" }
        )
    }

    /// Whether the hub is on this machine: then there is no owner of a network to ask.
    fn is_here(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// What passes the bytes on, and is responsible for what happens to them.
    fn intermediary(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => String::from("a middlebox between this appliance and the internet"),
        }
    }
}

/// There is no proxy from a PAC file; `setting` is `pac+` and where the file is.
pub(super) fn for_unusable_pac(setting: &str, to: &HubEndpoint) -> Advice {
    let location = setting.strip_prefix("pac+").unwrap_or(setting);
    if !location.starts_with("http") {
        return Advice::only(
            "The PAC file cannot be used, so that the proxy is not known: correct the file, or give the proxy's own URL with --proxy.",
        );
    }
    Advice::new(
        "The PAC file cannot be used, so that the proxy is not known. Where it is known, give its own URL with --proxy.",
        format!(
            "Please check the PAC file {location}, or tell us the HTTP proxy that devices use to reach {}.",
            to.address()
        ),
    )
}

/// A step of connecting failed.
pub(super) fn for_failed_connection(
    step: ExaminedStep,
    error: &TransportError,
    to: &HubEndpoint,
) -> Advice {
    let at = to.address();
    match (step, &to.proxy) {
        (ExaminedStep::Name, Some(proxy)) => Advice::new(
            "The name of the proxy is not found, so that nothing can be sent.",
            format!(
                "Please check the name of the proxy {proxy}: your DNS server does not find it."
            ),
        ),
        (ExaminedStep::Name, None) => Advice::new(
            "The hub's name is not found here. In many networks only a proxy finds names of the internet: set it with --proxy.",
            format!(
                "Please have your DNS server answer for {}, or tell us the HTTP proxy that devices use to reach {at}.",
                to.host
            ),
        ),
        (ExaminedStep::Tcp, Some(proxy)) => Advice::new(
            "The proxy does not accept connections from here.",
            format!(
                "Please permit this appliance to connect to the proxy {proxy}, or tell us the right one."
            ),
        ),
        (ExaminedStep::Tcp, None) if error.is_refused_by_server() => Advice::hub_first(
            "If it does, a firewall refuses the connection, or the hub listens elsewhere.",
            format!(
                "Please permit outgoing connections from this appliance to {at}, or tell us the HTTP proxy that it has to use."
            ),
            to,
        ),
        (ExaminedStep::Tcp, None) => Advice::new(
            "A firewall drops or refuses the connection, or the hub does not listen there.",
            format!(
                "Please permit outgoing connections from this appliance to {at}, or tell us the HTTP proxy that it has to use."
            ),
        ),
        (ExaminedStep::Tunnel, proxy) => {
            for_failed_tunnel(error, proxy.as_deref().unwrap_or_default(), to)
        }
        _ => for_failed_tls(error, to),
    }
}

/// The proxy did not open a tunnel, or did not pass a request on.
fn for_failed_tunnel(error: &TransportError, proxy: &str, to: &HubEndpoint) -> Advice {
    let authority = format!("{}:{}", to.host, to.port);
    let own = error.advice().map(|advice| sentence(&advice));
    match (error.stage(), error.proxy_refusal()) {
        (TransportStage::ProxyAuthentication, refusal) => {
            let schemes = refusal.map(|refusal| refusal.schemes.join(", ")).unwrap_or_default();
            let offers =
                if schemes.is_empty() { String::new() } else { format!(" (it offers {schemes})") };
            Advice::new(
                own.unwrap_or_else(|| String::from("The proxy requires a user and password.")),
                format!(
                    "Please give us an account for this appliance at the proxy {proxy}{offers}, or exempt {authority} from authentication there."
                ),
            )
        }
        (TransportStage::Untrusted, _) => for_failed_tls(error, to),
        (_, Some(refusal)) if refusal.is_unavailable() => {
            for_unreached_hub(proxy, refusal.status, to)
        }
        (_, None) if error.is_timeout() => Advice::new(
            "The proxy accepts the connection and does not answer: it hangs, or is overloaded, or what listens there is no proxy.",
            format!(
                "Please check the proxy {proxy}: it does not answer a request for {authority} in time."
            ),
        ),
        (_, refusal) => {
            let answers = refusal.map(|refusal| format!(" (it answers {})", refusal.status));
            let answers = answers.unwrap_or_default();
            let what = match to.is_tls {
                true => format!("the method CONNECT to {authority}"),
                false => format!("requests to http://{authority}/"),
            };
            Advice::new(
                "The proxy does not let this appliance reach the hub.",
                format!("Please permit {what} at the proxy {proxy}{answers}."),
            )
        }
    }
}

/// The proxy would pass it on, and does not reach the hub.
fn for_unreached_hub(proxy: &str, status: StatusCode, to: &HubEndpoint) -> Advice {
    let authority = format!("{}:{}", to.host, to.port);
    Advice::hub_first(
        "If it does, the proxy does not find it or may not connect to it.",
        format!("Please have the proxy {proxy} reach {authority}: it answers {status}."),
        to,
    )
}

fn for_failed_tls(error: &TransportError, to: &HubEndpoint) -> Advice {
    let own = error.advice().map(|advice| sentence(&advice));
    let exempt = |shown: &str| {
        format!(
            "Please exempt {} from TLS inspection and from sign-in pages: {shown}. Or give us the certificate of the authority that your \
             network uses.",
            to.address()
        )
    };
    match error.certificate_fault() {
        Some(CertificateFault::UnknownIssuer { issuer, .. }) => {
            let issuer = issuer.as_deref().unwrap_or("an authority without a name");
            let shown = format!("what answers in its place shows a certificate issued by \"{issuer}\"");
            Advice::new(own.unwrap_or_default(), exempt(&shown))
        }
        Some(CertificateFault::OtherName { .. } | CertificateFault::OtherKey { .. }) => {
            Advice::new(own.unwrap_or_default(), exempt("another server's certificate is shown in its place"))
        }
        Some(_) => Advice::only(own.unwrap_or_default()),
        None if error.stage() == TransportStage::Untrusted => {
            Advice::new(own.unwrap_or_default(), exempt("what answers there does not speak TLS"))
        }
        None => Advice::new(
            own.unwrap_or_else(|| {
                String::from("The connection is made, and TLS on it fails: something cuts or drops what is no plain HTTP.")
            }),
            format!("Please permit HTTPS (TLS) from this appliance to {}.", to.address()),
        ),
    }
}

/// A request got no response.
pub(super) fn for_unanswered_request(error: &TransportError, to: &HubEndpoint) -> Advice {
    match (error.stage(), &to.proxy) {
        (TransportStage::ProxyAuthentication | TransportStage::ProxyRefused, Some(proxy)) => {
            for_failed_tunnel(error, proxy, to)
        }
        (TransportStage::Untrusted, _) => for_failed_tls(error, to),
        (TransportStage::Encoding, _) => Advice::new(
            "Something compresses what the hub sends.",
            format!("Please exempt {} from compression by {}.", to.address(), to.intermediary()),
        ),
        (stage, None) if stage != TransportStage::Encoding && error.advice().is_some() => {
            Advice::only(sentence(&error.advice().unwrap_or_default()))
        }
        _ => Advice::new(
            "The connection is made, and the request is not answered.",
            format!(
                "Please let requests from this appliance to {} pass: they are not answered.",
                to.address()
            ),
        ),
    }
}

/// Something else than the hub answered.
pub(super) fn for_foreign_answer(status: u16, location: Option<&str>, to: &HubEndpoint) -> Advice {
    if let (502..=504, Ok(code)) = (status, StatusCode::from_u16(status)) {
        return match &to.proxy {
            Some(proxy) => for_unreached_hub(proxy, code, to),
            None => Advice::hub_first(
                "What answers in its place does not reach it.",
                format!(
                    "Please let this appliance reach {}: now {} answers with status {status}.",
                    to.address(),
                    to.intermediary()
                ),
                to,
            ),
        };
    }
    if let (407, Some(proxy)) = (status, &to.proxy) {
        return Advice::new(
            "The proxy requires a user and password: set them in its URL.",
            format!("Please give us an account for this appliance at the proxy {proxy}."),
        );
    }
    let redirects = location.map(|to| format!(" (it redirects to {to})")).unwrap_or_default();
    Advice::new(
        "What answers is not the hub: the sign-in page of a guest network, the block page of a proxy, or another server at this URL.",
        format!(
            "Please let this appliance reach {} without a sign-in or block page: now {} answers in its place with status {status}{redirects}.",
            to.address(),
            to.intermediary()
        ),
    )
}

/// A stream is refused where a ping is not.
pub(super) fn for_refused_stream(status: u16, to: &HubEndpoint) -> Advice {
    Advice::new(
        "Event streams are refused. The agent uses the long poll instead, which works without a stream.",
        format!(
            "Please permit responses of the type text/event-stream from {} to this appliance: {} refuses them with status {status}.",
            to.address(),
            to.intermediary()
        ),
    )
}

/// The head of a stream arrived, and then its end.
pub(super) fn for_cut_stream(to: &HubEndpoint) -> Advice {
    Advice::new(
        "Something ends the stream before its first event. The agent uses the long poll instead, which works without a stream.",
        format!(
            "Responses of the type text/event-stream from {} to this appliance are cut off by {}. Please let them stay open.",
            to.address(),
            to.intermediary()
        ),
    )
}

/// Nothing, or too little, of a stream arrived.
pub(super) fn for_buffered_stream(to: &HubEndpoint) -> Advice {
    let exempt = match to.is_tls {
        true => "exempt it from TLS inspection, or pass its responses on as they arrive",
        false => {
            "pass its responses on as they arrive (no buffering, no virus scan of the whole response, no compression), or permit CONNECT to its port 443"
        }
    };
    Advice::new(
        "Something holds the response back until it is complete. If a reverse proxy of your own stands before the hub, set it up \
         first as in docs/networks.md, \"Before the hub\". The agent uses the long poll instead, which works without a stream.",
        format!(
            "Responses from {} to this appliance are held back by {}. Please {exempt}.",
            to.address(),
            to.intermediary()
        ),
    )
}

/// What the hub writes arrives late.
pub(super) fn for_delayed_stream(to: &HubEndpoint) -> Advice {
    Advice::new(
        "Something holds back what the hub writes.",
        format!(
            "Responses from {} to this appliance are delayed by {}. Please pass them on as they arrive.",
            to.address(),
            to.intermediary()
        ),
    )
}

/// A connection on which nothing passes is ended before its time; the longest silence that it survived.
pub(super) fn for_idle_timeout(survived_s: u64, to: &HubEndpoint) -> Advice {
    let meaning = match survived_s {
        15.. => "The hub's heartbeats, one each 15 s, are frequent enough for the stream.",
        HEARTBEAT_HELPS_S.. => {
            "The hub's heartbeats, one each 15 s, are too rare: set heartbeat = \"5s\" in agent.toml."
        }
        _ => {
            "No heartbeat is frequent enough for the stream (the smallest is 5 s): the agent uses the long poll instead, at short \
             intervals."
        }
    };
    Advice::new(
        meaning,
        format!(
            "Connections from this appliance to {} end when nothing passes for {survived_s} s or somewhat more. Please allow 60 s or more.",
            to.address()
        ),
    )
}

/// An answer that was held back did not arrive.
pub(super) fn for_failed_long_poll(held_s: u64, to: &HubEndpoint) -> Advice {
    Advice::new(
        "The long poll cannot wait for so long; the agent then asks at shorter intervals.",
        format!(
            "Requests from this appliance to {} fail when the answer takes {held_s} s. Please allow 30 s or more until the first byte.",
            to.address()
        ),
    )
}

/// An answer was not written for the request.
pub(super) fn for_cached_answer(to: &HubEndpoint) -> Advice {
    Advice::new(
        "A cache repeats an older answer.",
        format!("Please exempt {} from the cache of {}.", to.address(), to.intermediary()),
    )
}

pub(super) fn for_old_hub() -> Advice {
    Advice::only(
        "It says nothing about the network. Update the hub to find out whether a stream works.",
    )
}

pub(super) fn for_busy_hub() -> Advice {
    Advice::only("It says nothing about the network. Try again later.")
}

/// The hub has no such resource.
pub(super) fn for_wrong_path() -> Advice {
    Advice::only(
        "It is a hub, and the path of the URL is wrong: leave out what follows the host, unless the hub is mounted below a path.",
    )
}

pub(super) fn for_refusing_hub() -> Advice {
    Advice::only(
        "The network lets it through. It is the hub's configuration that must change, or the URL.",
    )
}

/// The rest of a sentence as one.
fn sentence(rest: &str) -> String {
    let mut chars = rest.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(is_tls: bool, proxy: Option<&str>) -> HubEndpoint {
        let port = if is_tls { 443 } else { 80 };
        HubEndpoint { host: "hub.test".to_owned(), port, is_tls, proxy: proxy.map(str::to_owned) }
    }

    #[test]
    fn each_sentence_names_host_port_what_is_done_and_where_the_settings_are() {
        let error = |stage| TransportError::new(stage, "on purpose");
        let direct = target(true, None);
        let proxied = target(true, Some("http://p.test:3128/"));
        let tcp =
            for_failed_connection(ExaminedStep::Tcp, &error(TransportStage::Connect), &direct);
        let tunnel = for_failed_connection(
            ExaminedStep::Tunnel,
            &error(TransportStage::ProxyRefused),
            &proxied,
        );
        for (advice, parts) in [
            (tcp, &["permit outgoing", "hub.test, TCP port 443 (HTTPS)"][..]),
            (tunnel, &["CONNECT to hub.test:443", "http://p.test:3128/"]),
            (
                for_buffered_stream(&target(false, None)),
                &["held back", "hub.test, TCP port 80 (HTTP)", "CONNECT"],
            ),
            (
                for_foreign_answer(302, Some("http://portal.test/"), &direct),
                &["status 302", "portal.test", "hub.test"],
            ),
            (for_refused_stream(403, &direct), &["text/event-stream", "status 403"]),
            (
                for_unusable_pac("pac+http://w.test/wpad.dat", &direct),
                &["file http://w.test/wpad.dat,", "443"],
            ),
            (for_cut_stream(&direct), &["text/event-stream", "hub.test", "cut off", "stay open"]),
            (for_idle_timeout(5, &direct), &["nothing passes for 5 s", "60 s or more"]),
            (for_failed_long_poll(25, &direct), &["the answer takes 25 s", "30 s or more"]),
        ] {
            let remedy = advice.remedy.unwrap();
            assert!(remedy.contains("docs/networks.md"), "{remedy}");
            assert!(advice.meaning.is_some());
            for part in parts {
                assert!(remedy.contains(part), "{part}: {remedy}");
            }
        }
    }

    /// With the hub down, the owner of the network was asked to change the proxy.
    #[test]
    fn a_hub_that_may_be_down_is_to_be_checked_before_the_owner_is_asked() {
        let proxied = target(false, Some("http://p.test:3128/"));
        for status in [502, 503, 504] {
            for to in [&proxied, &target(false, None)] {
                let Advice { meaning, remedy } = for_foreign_answer(status, None, to);
                assert!(meaning.unwrap().starts_with(CHECK_HUB));
                assert!(remedy.unwrap().contains(&status.to_string()));
            }
        }
        for here in ["localhost", "127.0.0.1", "[::1]"] {
            let here = HubEndpoint { host: here.to_owned(), ..proxied.clone() };
            let Advice { meaning, remedy } = for_foreign_answer(503, None, &here);
            assert!(meaning.unwrap().starts_with(CHECK_HUB) && remedy.is_none(), "{here:?}");
        }
        assert!(!for_foreign_answer(200, None, &proxied).meaning.unwrap().contains(CHECK_HUB));
    }

    #[test]
    fn a_short_idle_limit_says_which_setting_helps_the_agent() {
        assert!(
            for_idle_timeout(9, &target(true, None))
                .meaning
                .unwrap()
                .contains("heartbeat = \"5s\"")
        );
        assert!(for_idle_timeout(5, &target(true, None)).meaning.unwrap().contains("long poll"));
        assert!(!for_idle_timeout(30, &target(true, None)).meaning.unwrap().contains("agent.toml"));
    }
}
