//! What was measured, and how it is told: a table for people, JSON for programs.

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

/// A line of the table.
struct Line {
    name: &'static str,
    decimals: usize,
    of: fn(&Figures) -> f64,
}

const LINES: [Line; 15] = [
    Line { name: "user bytes per stream, 0 to N", decimals: 0, of: |f| f.stream_bytes },
    Line {
        name: "user bytes per stream, N/2 to N",
        decimals: 0,
        of: |f| f.stream_bytes_second_half,
    },
    Line { name: "connects/s", decimals: 0, of: |f| f.connects_per_s },
    Line { name: "server CPU per connect, µs", decimals: 1, of: |f| f.connect_cpu_us },
    Line { name: "durable sends/s", decimals: 0, of: |f| f.sends_per_s },
    Line { name: "server CPU per send, µs", decimals: 1, of: |f| f.send_cpu_us },
    Line { name: "POST to answer, ms: p50", decimals: 2, of: |f| f.answer.p50_ms },
    Line { name: "p99", decimals: 2, of: |f| f.answer.p99_ms },
    Line { name: "POST to receipt, ms: p50", decimals: 2, of: |f| f.receipt.p50_ms },
    Line { name: "p99", decimals: 2, of: |f| f.receipt.p99_ms },
    Line { name: "one in flight: answer, ms: p50", decimals: 2, of: |f| f.answer_alone.p50_ms },
    Line { name: "p99", decimals: 2, of: |f| f.answer_alone.p99_ms },
    Line { name: "receipt, ms: p50", decimals: 2, of: |f| f.receipt_alone.p50_ms },
    Line { name: "p99", decimals: 2, of: |f| f.receipt_alone.p99_ms },
    Line { name: "cores busy with other things", decimals: 2, of: |f| f.other_cores },
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
            Kind::Hub => self.hub.push(figures),
            Kind::Floor => self.floor.push(figures),
        }
    }

    pub(crate) fn print_json(&self) {
        let medians: serde_json::Map<_, _> = LINES
            .iter()
            .scan("", |group, line| {
                // `p99` belongs to the line above it.
                let name = match line.name.strip_suffix("p50") {
                    Some(of) => {
                        *group = of;
                        line.name.to_owned()
                    }
                    None if line.name == "p99" => format!("{group}p99"),
                    None => line.name.to_owned(),
                };
                let (hub, floor, ratio) = self.medians(line.of);
                Some((name, json!({ "hub": hub, "floor": floor, "ratio": ratio })))
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
            "{} streams; sends of {} bytes for {} s, {} in flight unless said otherwise; medians of \
             {} rounds\n",
            self.streams,
            self.size,
            self.seconds,
            self.window,
            self.hub.len(),
        );
        println!("{:<34}{:>12}{:>12}{:>10}", "", "hub", "floor", "ratio");
        for Line { name, decimals, of } in LINES {
            let (hub, floor, ratio) = self.medians(of);
            let told = |figure: Option<f64>, decimals: usize| match figure {
                Some(figure) => format!("{figure:.decimals$}"),
                None => String::from("-"),
            };
            let (hub, floor) = (told(hub, decimals), told(floor, decimals));
            let name = if name == "p99" { format!("{name:>30}") } else { name.to_owned() };
            println!("{name:<34}{hub:>12}{floor:>12}{:>10}", told(ratio, 2));
        }
    }

    /// Medians of hub and floor, and of the ratios round by round.
    fn medians(&self, of: fn(&Figures) -> f64) -> (Option<f64>, Option<f64>, Option<f64>) {
        let ratios = self.hub.iter().zip(&self.floor).map(|(hub, floor)| of(hub) / of(floor));
        (median(self.hub.iter().map(of)), median(self.floor.iter().map(of)), median(ratios))
    }
}

fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    let even = figures.len().is_multiple_of(2);
    let lower = if even { *figures.get(middle.checked_sub(1)?)? } else { upper };
    Some(f64::midpoint(lower, upper))
}
