//! One route, step by step, until one fails that the next ones need.

use std::time::Duration;

use bellwire_client::transport::ExaminedStep;
use tokio::time::Instant;

use super::advice::{self, Advice};
use super::report::{self, BestCarrier, RouteReport, Step};
use super::routes::{HubEndpoint, HubRoute};
use super::screen::Screen;
use super::trial::{self, Idle, Lags, TrialFailure};
use crate::out;

/// How long the answer of the test of the long poll is held back; with `--idle` up to the agent's own 25 s.
const HELD: Duration = Duration::from_secs(5);
const HELD_MAX: Duration = Duration::from_secs(25);
/// Silences that are tried beside that of `--idle`, in seconds: the default of heartbeats, and what many middleboxes allow.
const SILENCES_S: [u64; 2] = [15, 30];

pub(super) struct Examiner<'a> {
    route: &'a HubRoute,
    endpoint: HubEndpoint,
    screen: Screen,
    idle: Option<Duration>,
    steps: Vec<Step>,
}

/// What a step found: the detail, or the detail and what it means.
type Outcome = Result<String, (String, Advice)>;

impl<'a> Examiner<'a> {
    pub(super) fn new(route: &'a HubRoute, screen: Screen, idle: Option<Duration>) -> Self {
        Self { route, endpoint: route.endpoint(), screen, idle, steps: Vec::new() }
    }

    /// Examines the route.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) async fn run(mut self) -> anyhow::Result<RouteReport> {
        let (hub, choice) = (self.route.hub.to_string(), self.route.choice.clone());
        if self.screen.is_shown() {
            report::heading(&hub, &self.route.through(), &choice.reason)?;
        }
        let verdict = self.best_carrier().await?;
        if self.screen.is_shown() {
            report::print_best_carrier(verdict)?;
        }
        Ok(RouteReport {
            hub,
            setting: self.route.proxy.clone(),
            proxy: choice.proxy,
            reason: choice.reason,
            steps: self.steps,
            verdict,
        })
    }

    async fn best_carrier(&mut self) -> anyhow::Result<BestCarrier> {
        if let Some(fault) = &self.route.fault {
            let outcome =
                Err((fault.clone(), advice::for_unusable_pac(&self.route.proxy, &self.endpoint)));
            self.ended("pac", Duration::ZERO, outcome)?;
            return Ok(BestCarrier::None);
        }
        if !self.connects().await? {
            return Ok(BestCarrier::None);
        }
        let Some(exchange) = self.pings().await? else { return Ok(BestCarrier::None) };
        let streams = self.streams(exchange).await?;
        if let (Some(Streams::Good { compat }), Some(idle)) = (&streams, self.idle) {
            self.stays_idle(idle, *compat).await?;
        }
        self.polls().await?;
        Ok(match streams {
            Some(Streams::Good { .. }) => BestCarrier::Stream,
            Some(Streams::Not) => BestCarrier::Poll,
            None => BestCarrier::Ping,
        })
    }

    /// Name, TCP, the proxy's tunnel, TLS.
    async fn connects(&mut self) -> anyhow::Result<bool> {
        let mut examination = self.route.transport.examine(&self.route.url);
        while let Some(step) = examination.upcoming() {
            let (name, waits_for) = match step {
                ExaminedStep::Name => ("name", "the name"),
                ExaminedStep::Tcp => ("tcp", "the connection"),
                ExaminedStep::Tunnel => ("proxy", "the proxy"),
                _ => ("tls", "TLS"),
            };
            let begun = Instant::now();
            let outcome = self.screen.wait(waits_for, examination.advance()).await;
            let outcome = outcome.map_err(|error| {
                (error.to_string(), advice::for_failed_connection(step, &error, &self.endpoint))
            });
            if !self.ended(name, begun.elapsed(), outcome)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How long a ping took, if the hub answered it.
    async fn pings(&mut self) -> anyhow::Result<Option<Duration>> {
        let begun = Instant::now();
        let answer = self.screen.wait("an answer", trial::ping(self.route, None)).await;
        let took = begun.elapsed();
        let scheme = self.route.transport.proxy_scheme(&self.route.url);
        let by = scheme.filter(|_| !self.endpoint.is_tls);
        let by = by.map(|s| format!("; the proxy accepts user and password by {s}"));
        let outcome = match answer {
            Ok(pong) => Ok(format!("{} answers{}", pong.hub, by.unwrap_or_default())),
            Err(failure) => {
                Err(self.failed(failure, advice::for_failed_long_poll(0, &self.endpoint)))
            }
        };
        Ok(self.ended("ping", took, outcome)?.then_some(took))
    }

    /// `None` when the hub does not offer the test.
    async fn streams(&mut self, exchange: Duration) -> anyhow::Result<Option<Streams>> {
        for compat in [false, true] {
            let begun = Instant::now();
            let waiting = self.screen.wait("a stream, up to 13 s", trial::open(self.route, compat));
            let name = if compat { "padded" } else { "stream" };
            let opened = match waiting.await {
                Ok(opened) => opened,
                Err(failure) => {
                    let untested = matches!(failure, TrialFailure::TooOld | TrialFailure::Busy(_));
                    let outcome = Err(self.no_stream(failure));
                    self.ended(name, begun.elapsed(), outcome)?;
                    return Ok((!untested).then_some(Streams::Not));
                }
            };
            let padding = if compat { ", with a comment after each write" } else { "" };
            self.ended(name, begun.elapsed(), Ok(format!("its first event arrived{padding}")))?;
            let begun = Instant::now();
            let lags =
                self.screen.wait("what the hub writes, up to 6 s", opened.lags(exchange)).await;
            let is_good = lags.are_good();
            let outcome = match is_good {
                true => Ok(shown(&lags)),
                false => Err((shown(&lags), self.late(&lags, compat))),
            };
            self.ended("lag", begun.elapsed(), outcome)?;
            if is_good {
                return Ok(Some(Streams::Good { compat }));
            }
        }
        Ok(Some(Streams::Not))
    }

    fn no_stream(&self, failure: TrialFailure) -> (String, Advice) {
        match failure {
            // The ping before it came through, so that it is the stream that is refused.
            TrialFailure::Foreign { status, location: None } if !status.is_success() => {
                let advice = advice::for_refused_stream(status.as_u16(), &self.endpoint);
                (format!("status {status}, and not from the hub"), advice)
            }
            failure => self.failed(failure, advice::for_buffered_stream(&self.endpoint)),
        }
    }

    fn late(&self, lags: &Lags, compat: bool) -> Advice {
        let advice = match lags.ms.len() {
            0..=2 => advice::for_buffered_stream(&self.endpoint),
            _ => advice::for_delayed_stream(&self.endpoint),
        };
        if compat {
            return advice;
        }
        // The next step shows whether the agent can make up for it.
        Advice {
            remedy: advice.remedy,
            meaning: Some(String::from(
                "Something holds back what the hub writes. A comment after each write may push it through:",
            )),
        }
    }

    async fn stays_idle(&mut self, idle: Duration, compat: bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        let shorter = SILENCES_S.into_iter().map(Duration::from_secs);
        let mut silences: Vec<_> = shorter.filter(|silence| *silence < idle).collect();
        silences.push(idle);
        let trials = silences.iter().map(|silence| trial::idle(self.route, *silence, compat));
        let label = format!("a connection on which nothing passes, {}", out::span(idle));
        let found = self.screen.wait(&label, futures_util::future::join_all(trials)).await;
        let mut survived = Duration::ZERO;
        let mut outcome = Ok(format!("a connection stays open for {} of silence", out::span(idle)));
        for (silence, found) in silences.iter().zip(found) {
            let detail = match found {
                Ok(Idle::Open) => {
                    survived = *silence;
                    continue;
                }
                Ok(Idle::Cut(after)) => {
                    survived = survived.max(after);
                    format!("cut after {} of silence", out::span(after))
                }
                Ok(Idle::Lost) => {
                    format!("lost without notice within {} of silence", out::span(*silence))
                }
                // A trial that could not be made says nothing about silences.
                Err(failure) => {
                    outcome =
                        Err(self.failed(failure, advice::for_buffered_stream(&self.endpoint)));
                    break;
                }
            };
            outcome = Err((detail, advice::for_idle_timeout(survived.as_secs(), &self.endpoint)));
            break;
        }
        self.ended("idle", begun.elapsed(), outcome)?;
        Ok(())
    }

    async fn polls(&mut self) -> anyhow::Result<()> {
        let held = self.idle.map_or(HELD, |idle| idle.clamp(HELD, HELD_MAX));
        let begun = Instant::now();
        let label = format!("an answer that the hub holds back for {}", out::span(held));
        let answer = self.screen.wait(&label, trial::ping(self.route, Some(held))).await;
        let took = begun.elapsed();
        let silent = advice::for_failed_long_poll(held.as_secs(), &self.endpoint);
        let outcome = match answer {
            Ok(_) => Ok(format!("answered after {}", out::span(took))),
            Err(failure) => Err(self.failed(failure, silent)),
        };
        self.ended("poll", took, outcome)?;
        Ok(())
    }

    /// What a failure is, and what it means; `silent` if nothing came.
    fn failed(&self, failure: TrialFailure, silent: Advice) -> (String, Advice) {
        let to = &self.endpoint;
        match failure {
            TrialFailure::Transport(error) => {
                (error.to_string(), advice::for_unanswered_request(&error, to))
            }
            TrialFailure::Silent { after, head: false } => {
                (format!("nothing arrived within {}", out::span(after)), silent)
            }
            TrialFailure::Silent { after, head: true } => (
                format!(
                    "the head of the response arrived, and no more within {}",
                    out::span(after)
                ),
                silent,
            ),
            TrialFailure::Ended => {
                let detail = String::from("the stream ended before its first event");
                (detail, advice::for_cut_stream(to))
            }
            TrialFailure::Foreign { status, location } => {
                let detail = format!("status {status}, and not from the hub");
                (detail, advice::for_foreign_answer(status.as_u16(), location.as_deref(), to))
            }
            TrialFailure::Replayed => {
                let detail = String::from("the answer belongs to another request");
                (detail, advice::for_cached_answer(to))
            }
            TrialFailure::TooOld => {
                let detail = String::from("the hub is too old for this test");
                (detail, advice::for_old_hub())
            }
            TrialFailure::Busy(status) => (
                format!("the hub cannot serve this test now (status {status})"),
                advice::for_busy_hub(),
            ),
            TrialFailure::WrongPath { status } => (
                format!("the hub answers, and has nothing at this URL (status {status})"),
                advice::for_wrong_path(),
            ),
            TrialFailure::Refused { status, detail } => (
                format!("the hub itself refuses it (status {status}): {detail}"),
                advice::for_refusing_hub(),
            ),
        }
    }

    /// Shows and stores a step, and returns whether it was a success.
    fn ended(
        &mut self,
        name: &'static str,
        took: Duration,
        outcome: Outcome,
    ) -> anyhow::Result<bool> {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let ok = outcome.is_ok();
        let (detail, advice) = outcome.map_or_else(
            |(detail, advice)| (detail, advice),
            |detail| (detail, Advice { meaning: None, remedy: None }),
        );
        let Advice { meaning, remedy } = advice;
        let step = Step { name, ok, took_ms, detail, meaning, remedy };
        if self.screen.is_shown() {
            step.print()?;
        }
        self.steps.push(step);
        Ok(ok)
    }
}

/// What was found of streams.
enum Streams {
    Good { compat: bool },
    Not,
}

fn shown(lags: &Lags) -> String {
    let Lags { ms, limit_ms, ended } = lags;
    let heartbeats = ms.len().saturating_sub(1);
    let worst = out::span(Duration::from_millis(lags.worst_ms()));
    let limit = out::span(Duration::from_millis(*limit_ms));
    let end = if *ended { ", then the stream ended" } else { "" };
    format!("{heartbeats} of 3 heartbeats, at most {worst} late (allowed {limit}){end}")
}
