//! What was found: steps, routes, the best carrier; as lines for people and as one JSON value.

use serde::Serialize;

use crate::exit;
use crate::out::{self, BAD, BOLD, DIM, GOOD, StdoutError};

/// A step of one route.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) took_ms: u64,
    pub(super) detail: String,
    /// What it means for the appliance, where that is not obvious.
    pub(super) meaning: Option<String>,
    /// A sentence for the owner of the network.
    pub(super) remedy: Option<String>,
}

/// The best way to carry commands that works on a route, from the worst to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BestCarrier {
    /// The hub is not reached.
    None,
    /// The hub answers, so that polls work; whether a stream does was not found out.
    Ping,
    /// The long poll works, and no stream does.
    Poll,
    /// A stream works.
    Stream,
}

/// What was found of one route.
#[derive(Debug, Serialize)]
pub(super) struct RouteReport {
    pub(super) hub: String,
    /// As in the agent's configuration.
    pub(super) setting: String,
    /// The proxy that it goes through.
    pub(super) proxy: Option<String>,
    /// Who decided that.
    pub(super) reason: String,
    pub(super) steps: Vec<Step>,
    pub(super) verdict: BestCarrier,
}

/// The best route, for agent.toml.
#[derive(Debug, Serialize)]
pub(super) struct Use {
    pub(super) hub: String,
    /// All by which as much works, in the order of preference.
    pub(super) hubs: Vec<String>,
    pub(super) proxy: String,
    pub(super) ca_file: Option<String>,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(rename = "ways")]
    pub(super) routes: Vec<RouteReport>,
    pub(super) verdict: BestCarrier,
    pub(super) r#use: Option<Use>,
    pub(super) exit_code: u8,
}

impl BestCarrier {
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Stream => exit::OK,
            Self::Poll | Self::Ping => exit::FAILED,
            Self::None => exit::UNREACHABLE,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Stream => "a stream works: commands arrive at once",
            Self::Poll => "long poll only: commands arrive, without a stream",
            Self::Ping => {
                "the hub answers, so that at least polls work; whether a stream does is not known"
            }
            Self::None => "no way to the hub",
        }
    }
}

/// The position of the best route: the first of those by which most works.
pub(super) fn best(
    verdicts: impl IntoIterator<Item = BestCarrier>,
) -> Option<(usize, BestCarrier)> {
    let found = verdicts.into_iter().enumerate();
    // Of equal ones `max_by_key` takes the last one.
    found.collect::<Vec<_>>().into_iter().rev().max_by_key(|(_, verdict)| *verdict)
}

/// `through` is what [`HubRoute::through`](super::routes::HubRoute::through) says.
pub(super) fn heading(hub: &str, through: &str, reason: &str) -> Result<(), StdoutError> {
    let (hub, through) = (out::printable(hub), out::printable(through));
    out::line(format_args!(
        "{BOLD}{hub}{BOLD:#} {through} {DIM}({}){DIM:#}",
        out::printable(reason)
    ))
}

impl Step {
    pub(super) fn print(&self) -> Result<(), StdoutError> {
        self.lines().into_iter().try_for_each(out::line)
    }

    fn lines(&self) -> Vec<String> {
        let (style, mark) = if self.ok { (GOOD, '✓') } else { (BAD, '✗') };
        let (detail, took) = (out::printable(&self.detail), span(self.took_ms));
        let mut lines =
            vec![format!("  {style}{mark}{style:#} {:<7} {detail} {DIM}{took}{DIM:#}", self.name)];
        if let Some(meaning) = &self.meaning {
            lines.push(format!("            {}", out::printable(meaning)));
        }
        if let Some(remedy) = &self.remedy {
            lines.push(String::from("            Send to the owner of the network:"));
            lines.push(format!("              {BOLD}{}{BOLD:#}", out::printable(remedy)));
        }
        lines
    }
}

pub(super) fn print_best_carrier(verdict: BestCarrier) -> Result<(), StdoutError> {
    let style = if verdict == BestCarrier::None { BAD } else { GOOD };
    out::line(format_args!("  {style}{}{style:#}\n", verdict.text()))
}

impl Report {
    /// The end, for people.
    pub(super) fn print_end(&self) -> Result<(), StdoutError> {
        let Some(best) = &self.r#use else {
            return out::line(
                "No way to the hub was found; the crosses above say what is in the way.",
            );
        };
        out::line("use, in agent.toml:")?;
        best.lines()
            .into_iter()
            .try_for_each(|line| out::line(format_args!("  {}", out::printable(&line))))
    }
}

impl Use {
    fn lines(&self) -> Vec<String> {
        let Self { hub, hubs, proxy, ca_file } = self;
        let hub = if hubs.len() > 1 { format!("{hubs:?}") } else { format!("{hub:?}") };
        let mut lines = vec![format!("hub = {hub}"), format!("proxy = {proxy:?}")];
        lines.extend(ca_file.as_ref().map(|ca_file| format!("ca_file = {ca_file:?}")));
        lines
    }
}

fn span(ms: u64) -> String {
    out::span(std::time::Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(line: &str) -> String {
        anstream::adapter::strip_str(line).to_string()
    }

    #[test]
    fn a_step_is_a_tick_or_a_cross_with_what_it_means_and_a_sentence_to_send() {
        let step = Step {
            name: "stream",
            ok: false,
            took_ms: 10_000,
            detail: "nothing arrived\u{1b}[2J".to_owned(),
            meaning: Some("It buffers.".to_owned()),
            remedy: Some("Please exempt hub.test.".to_owned()),
        };
        let shown: Vec<_> = step.lines().iter().map(|line| bare(line)).collect();
        assert_eq!(
            shown,
            [
                "  ✗ stream  nothing arrived\u{fffd}[2J 10 s",
                "            It buffers.",
                "            Send to the owner of the network:",
                "              Please exempt hub.test.",
            ]
        );
        let fine = Step { ok: true, meaning: None, remedy: None, took_ms: 3, ..step };
        assert_eq!(fine.lines().len(), 1);
        assert!(bare(&fine.lines()[0]).starts_with("  ✓ stream"));
    }

    #[test]
    fn the_lines_for_the_agent_have_all_urls_by_which_as_much_works() {
        let mut best = Use {
            hub: "https://h".to_owned(),
            hubs: vec!["https://h".to_owned()],
            proxy: "none".to_owned(),
            ca_file: Some("/etc/ca.pem".to_owned()),
        };
        let expected = ["hub = \"https://h\"", "proxy = \"none\"", "ca_file = \"/etc/ca.pem\""];
        assert_eq!(best.lines(), expected);
        best.hubs.push("http://h".to_owned());
        assert_eq!(best.lines()[0], "hub = [\"https://h\", \"http://h\"]");
    }

    #[test]
    fn the_best_way_is_the_first_of_those_by_which_most_works() {
        use BestCarrier::{None as Nothing, Ping, Poll, Stream};
        assert_eq!(best([Poll, Stream, Stream, Nothing]), Some((1, Stream)));
        assert_eq!(best([Nothing, Ping, Poll]), Some((2, Poll)));
        assert_eq!(best([Nothing, Nothing]), Some((0, Nothing)));
        assert_eq!(best([]), None);
        assert_eq!([Stream, Poll, Ping, Nothing].map(BestCarrier::exit_code), [0, 1, 1, 6]);
    }

    #[test]
    fn json_has_every_member_of_a_step_and_the_exit_code() {
        let step = Step {
            name: "ping",
            ok: true,
            took_ms: 3,
            detail: String::new(),
            meaning: None,
            remedy: None,
        };
        let route = RouteReport {
            hub: "http://h".to_owned(),
            setting: "none".to_owned(),
            proxy: None,
            reason: String::new(),
            steps: vec![step],
            verdict: BestCarrier::Ping,
        };
        let report =
            Report { routes: vec![route], verdict: BestCarrier::Ping, r#use: None, exit_code: 1 };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["verdict"], "ping");
        assert_eq!(json["exit_code"], 1);
        assert!(json["use"].is_null());
        let step = json["ways"][0]["steps"][0].as_object().unwrap();
        for member in ["name", "ok", "took_ms", "detail", "meaning", "remedy"] {
            assert!(step.contains_key(member), "{member}");
        }
    }
}
