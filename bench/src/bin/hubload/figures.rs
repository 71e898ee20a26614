//! The figures and their output: a table for people, JSON for programs.

use serde::Serialize;
use serde_json::json;

use super::server::Kind;

/// The figures of one server in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// User memory per stream: growth of RssAnon from none to all, by their number.
    pub(crate) stream_bytes: f64,
    /// The same from half of the streams to all: without what is needed once.
    pub(crate) stream_bytes_second_half: f64,
    pub(crate) connects_per_s: f64,
    pub(crate) connect_cpu_us: f64,
    /// Sends that were answered and received, with many in flight.
    pub(crate) sends_per_s: f64,
    pub(crate) send_cpu_us: f64,
    /// From the POST to its answer and to the receipt, with one in flight …
    pub(crate) answer_alone: Latency,
    pub(crate) receipt_alone: Latency,
    /// … and with many.
    pub(crate) answer: Latency,
    pub(crate) receipt: Latency,
    /// Cores that were busy with something else.
    pub(crate) other_cores: f64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Latency {
    pub(crate) fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            let index = (micros.len() as f64 * share) as usize;
            micros.get(index).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// A line of the table: its name in JSON, its name for people, and decimals.
struct Line(&'static str, &'static str, usize, fn(&Figures) -> f64);

const LINES: [Line; 15] = [
    Line("stream_bytes", "user bytes per stream, 0 to N", 0, |f| f.stream_bytes),
    Line("stream_bytes_second_half", "user bytes per stream, N/2 to N", 0, |f| {
        f.stream_bytes_second_half
    }),
    Line("connects_per_s", "connects/s", 0, |f| f.connects_per_s),
    Line("connect_cpu_us", "server CPU per connect, µs", 0, |f| f.connect_cpu_us),
    Line("sends_per_s", "durable sends/s", 0, |f| f.sends_per_s),
    Line("send_cpu_us", "server CPU per send, µs", 0, |f| f.send_cpu_us),
    Line("answer_p50_ms", "POST to answer, p50, ms", 2, |f| f.answer.p50_ms),
    Line("answer_p99_ms", "POST to answer, p99, ms", 2, |f| f.answer.p99_ms),
    Line("receipt_p50_ms", "POST to receipt, p50, ms", 2, |f| f.receipt.p50_ms),
    Line("receipt_p99_ms", "POST to receipt, p99, ms", 2, |f| f.receipt.p99_ms),
    Line("answer_alone_p50_ms", "one in flight: answer, p50, ms", 2, |f| f.answer_alone.p50_ms),
    Line("answer_alone_p99_ms", "one in flight: answer, p99, ms", 2, |f| f.answer_alone.p99_ms),
    Line("receipt_alone_p50_ms", "one in flight: receipt, p50, ms", 2, |f| f.receipt_alone.p50_ms),
    Line("receipt_alone_p99_ms", "one in flight: receipt, p99, ms", 2, |f| f.receipt_alone.p99_ms),
    Line("other_cores", "cores busy with other things", 2, |f| f.other_cores),
];

/// The figures of all rounds.
pub(crate) struct Report {
    streams: usize,
    window: usize,
    size: usize,
    seconds: u64,
    hub: Vec<Figures>,
    floor: Vec<Figures>,
}

impl Report {
    pub(crate) fn new(streams: usize, window: usize, size: usize, seconds: u64) -> Self {
        Self { streams, window, size, seconds, hub: Vec::new(), floor: Vec::new() }
    }

    pub(crate) fn add(&mut self, kind: Kind, figures: Figures) {
        match kind {
            Kind::Hub | Kind::TlsHub => self.hub.push(figures),
            Kind::Floor | Kind::TlsFloor | Kind::TlsHolder => self.floor.push(figures),
        }
    }

    pub(crate) fn print_json(&self) {
        let medians: serde_json::Map<_, _> = LINES
            .iter()
            .map(|Line(key, _, _, of)| {
                let (hub, floor, ratio) = self.medians(*of);
                ((*key).to_owned(), json!({ "hub": hub, "floor": floor, "ratio": ratio }))
            })
            .collect();
        let all = json!({
            "streams": self.streams, "in_flight": self.window, "size_bytes": self.size,
            "seconds": self.seconds, "medians": medians, "hub": self.hub, "floor": self.floor,
        });
        println!("{all}");
    }

    pub(crate) fn print_table(&self) {
        println!(
            "{} streams; sends of {} bytes for {} s, {} in flight unless stated otherwise; medians of \
             {} rounds\n",
            self.streams,
            self.size,
            self.seconds,
            self.window,
            self.hub.len(),
        );
        println!("{:<34}{:>12}{:>12}{:>10}", "", "hub", "floor", "ratio");
        for Line(_, name, decimals, of) in LINES {
            let (hub, floor, ratio) = self.medians(of);
            let shown = |figure: Option<f64>, decimals: usize| match figure {
                Some(figure) => format!("{figure:.decimals$}"),
                None => String::from("-"),
            };
            let (hub, floor) = (shown(hub, decimals), shown(floor, decimals));
            println!("{name:<34}{hub:>12}{floor:>12}{:>10}", shown(ratio, 2));
        }
    }

    /// Medians of hub and floor, and of the ratios round by round.
    fn medians(&self, of: fn(&Figures) -> f64) -> (Option<f64>, Option<f64>, Option<f64>) {
        let ratios = self.hub.iter().zip(&self.floor).map(|(hub, floor)| of(hub) / of(floor));
        (median(self.hub.iter().map(of)), median(self.floor.iter().map(of)), median(ratios))
    }
}

pub(crate) fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    let even = figures.len().is_multiple_of(2);
    let lower = if even { *figures.get(middle.checked_sub(1)?)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_one_in_the_middle_or_between_the_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None, "a figure that was not measured is not shown");
    }

    #[test]
    fn a_latency_is_printed_in_milliseconds() {
        let Latency { p50_ms, p99_ms } = Latency::of((1..=1000).rev().collect());
        assert_eq!((p50_ms, p99_ms), (0.501, 0.991));
    }
}
