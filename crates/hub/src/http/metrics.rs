//! `GET /metrics`: what a hub counts, in the text formats of Prometheus and OpenMetrics. Contract, section 9.
//!
//! Each value is a counter that is at hand: nothing is scanned, and the core is locked for one read. Labels are of bounded sets,
//! and never the name of a device, a token, an address or a path. `docs/operations.md` has the table of all of them, which
//! a test holds beside this (`hub/tests/http/metrics.rs`).

use std::fmt::Error;

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::Problem;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::request::Request;
use crate::driver::{Driver, Readiness};
use crate::internal;

/// OpenMetrics 1.0, if the request accepts it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    let open = asks_for_open_metrics(&request.head.headers);
    let mut registry = Registry::with_prefix("bellwire");
    registry.register_collector(Box::new(HubCollector(request.driver.clone())));
    let mut page = String::new();
    let written = if open {
        text::encode(&mut page, &registry)
    } else {
        prometheus_text::encode(&mut page, &registry)
    };
    written.map_err(internal::failed)?;
    let media_type = if open { OPEN_METRICS } else { prometheus_text::CONTENT_TYPE };
    let length = page.len();
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Prometheus itself lists both and prefers this one.
fn asks_for_open_metrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("application/openmetrics-text"))
}

/// All metrics of a hub.
#[derive(Debug)]
struct HubCollector(Driver);

/// A metric's values by one label, or one value without any.
type Labelled<'a, T> = Vec<(&'a str, T)>;

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (page, driver) = (&mut Page(&mut encoder), &self.0);
        page.gauge(
            "build_info",
            "1, with the version of the hub",
            "version",
            vec![(env!("CARGO_PKG_VERSION"), 1)],
        )?;
        let ready = driver.readiness() == Readiness::Ready;
        page.gauge_of("ready", "1 if the hub can take work, as /readyz says", i64::from(ready))?;
        streams(page, driver)?;
        requests(page, driver)?;
        certificates(page, driver)?;
        keys(page, driver)?;
        commits(page, driver)
    }
}

fn streams(page: &mut Page<'_, '_>, driver: &Driver) -> Result<(), Error> {
    if let Ok(online) = driver.online_count() {
        page.gauge_of("devices_online", "Devices that are online", count(online as u64))?;
    }
    let counts = driver.plane().counts();
    let open = counts.open_by.iter().map(|(by, open)| (by.as_str(), count(*open)));
    page.gauge("streams", "Streams that are open", "transport", open.collect())?;
    let closed = counts.closed.iter().map(|(reason, closed)| (reason.as_str(), *closed));
    page.counter("streams_closed", "Streams that have ended", "reason", closed.collect())?;
    page.counter_of("stream_bytes", "Bytes that were written to streams", counts.bytes_written)
}

fn requests(page: &mut Page<'_, '_>, driver: &Driver) -> Result<(), Error> {
    let metrics = driver.metrics();
    let help = "Requests that were answered, streams with their head";
    page.counter("requests", help, "status", metrics.answers().collect())?;
    let help = "Requests that were refused, by the code of the problem";
    page.counter("requests_refused", help, "reason", metrics.refusals().collect())?;
    page.counter_of("sends", "Commands that were stored", metrics.sends())?;
    let help = "Entries of the audit log that were written, counts that were raised among them";
    page.counter_of("audit_entries", help, metrics.audit_entries())
}

fn certificates(page: &mut Page<'_, '_>, driver: &Driver) -> Result<(), Error> {
    let serving = driver.metrics().certificates();
    let acme = serving.and_then(|serving| serving.acme()).map(|acme| acme.counts());
    let (issued, failed) = acme.map_or((0, 0), |acme| (acme.issued, acme.failed));
    let help = "Attempts to obtain a certificate by ACME";
    page.counter("acme_renewals", help, "outcome", outcomes(issued, failed))?;
    let now = driver.now().unix_ms();
    let expiries = serving.map(|serving| serving.expiries()).unwrap_or_default();
    let mut remaining: Vec<(&str, i64)> = Vec::new();
    for (name, expires_at) in &expiries {
        let seconds = (count(expires_at.unix_ms()) - count(now)) / 1000;
        // Of two with one name, the one that expires first is the one to look after.
        match remaining.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = seconds.min(*known),
            None => remaining.push((name, seconds)),
        }
    }
    let help = "Time until a certificate expires, negative when it has, by its first name";
    page.family("tls_certificate_expiry", help, Some(&Unit::Seconds), MetricType::Gauge, |family| {
        each(family, "certificate", &remaining, |metric, seconds| metric.encode_gauge(seconds))
    })
}

fn keys(page: &mut Page<'_, '_>, driver: &Driver) -> Result<(), Error> {
    let keys = driver.jwt().map(|jwt| jwt.keys());
    let (fetched, failed) = keys.map_or((0, 0), |keys| (keys.fetched, keys.failed));
    let help = "Fetches of the keys of JWTs from their URL";
    page.counter("jwt_keys_fetches", help, "outcome", outcomes(fetched, failed))?;
    let help = "Keys of JWTs in use";
    page.gauge_of("jwt_keys", help, keys.map_or(0, |keys| count(keys.keys as u64)))
}

fn commits(page: &mut Page<'_, '_>, driver: &Driver) -> Result<(), Error> {
    let Some(times) = driver.store().commit_times() else { return Ok(()) };
    let counts = times.counts();
    let number = counts.buckets.iter().map(|(_, count)| count).sum();
    let help = "Time that a commit took, with its fsync, of all transactions that had gathered";
    let name = "store_commit_duration";
    page.family(name, help, Some(&Unit::Seconds), MetricType::Histogram, |family| {
        family.encode_histogram::<NoLabelSet>(counts.sum_s, number, &counts.buckets, None)
    })
}

/// A page that is being written.
struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        values: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        values(&mut self.0.encode_descriptor(name, help, unit, kind)?)
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: Labelled<'_, u64>,
    ) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Counter, |family| {
            each(family, label, &values, |metric, value| {
                metric.encode_counter::<NoLabelSet, _, u64>(value, None)
            })
        })
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: Labelled<'_, i64>,
    ) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Gauge, |family| {
            each(family, label, &values, |metric, value| metric.encode_gauge(value))
        })
    }

    fn counter_of(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Counter, |metric| {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge_of(&mut self, name: &str, help: &str, value: i64) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Gauge, |metric| metric.encode_gauge(&value))
    }
}

fn each<T>(
    family: &mut MetricEncoder<'_>,
    label: &str,
    values: &[(&str, T)],
    encode: impl Fn(&mut MetricEncoder<'_>, &T) -> Result<(), Error>,
) -> Result<(), Error> {
    for (value, number) in values {
        encode(&mut family.encode_family(&[(label, *value)])?, number)?;
    }
    Ok(())
}

fn outcomes(succeeded: u64, failed: u64) -> Labelled<'static, u64> {
    vec![("succeeded", succeeded), ("failed", failed)]
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
