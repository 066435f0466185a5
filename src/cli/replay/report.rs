//! What a replay measured: requests and latencies by outcome, and right and wrong hits of labelled rows.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::output;

/// How one request ended; in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    Exact,
    Semantic,
    Stale,
    Miss,
    Bypass,
    Error,
}

/// What a labelled row showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The answer to `a` was served for `b`, and the label says that it serves both.
    Right,
    /// It was served, and the label says that it does not.
    Wrong,
    /// The answer to something else was served; no label speaks about it.
    Other,
    /// The label says that the answer serves both, and nothing was served.
    MissedRepeat,
    /// Nothing was served, rightly.
    RightMiss,
}

#[derive(Default)]
pub(super) struct Report {
    latencies: BTreeMap<Ending, Latencies>,
    judged: Judged,
    pub errors: Messages,
    pub malformed: Messages,
    pub stored: u64,
    /// Time spent storing and asking.
    pub storing: Duration,
    pub asking: Duration,
    /// Name of the call that asked.
    pub asked_with: &'static str,
    pub interrupted: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Judged {
    right: u64,
    wrong: u64,
    other: u64,
    missed: u64,
    right_misses: u64,
    repeats: u64,
}

/// How often something was said, and the first few wordings of it.
#[derive(Default)]
pub(super) struct Messages {
    pub count: u64,
    pub first: Vec<String>,
}

/// Messages kept of each sort.
const FIRST: usize = 5;

/// Latencies in microseconds, to three digits.
struct Latencies(Histogram<u64>);

/// An hour; longer ones count as this.
const LONGEST_MICROS: u64 = 3_600_000_000;

impl Report {
    pub(super) fn new(asked_with: &'static str) -> Self {
        Self { asked_with, ..Self::default() }
    }

    pub(super) fn ended(&mut self, ending: Ending, latency: Duration) {
        self.latencies.entry(ending).or_default().add(latency);
    }

    /// `repeat`: the label says that one answer serves both prompts.
    pub(super) fn judged(&mut self, judgement: Judgement, repeat: bool) {
        self.judged.repeats += u64::from(repeat);
        let count = match judgement {
            Judgement::Right => &mut self.judged.right,
            Judgement::Wrong => &mut self.judged.wrong,
            Judgement::Other => &mut self.judged.other,
            Judgement::MissedRepeat => &mut self.judged.missed,
            Judgement::RightMiss => &mut self.judged.right_misses,
        };
        *count += 1;
    }

    /// Requests asked, those that failed included.
    pub(super) fn requests(&self) -> u64 {
        self.latencies.values().map(Latencies::count).sum()
    }

    /// Requests that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.requests() - self.latencies.get(&Ending::Error).map_or(0, Latencies::count)
    }

    pub(super) fn to_text(&self) -> String {
        let requests = self.requests();
        let mut text = String::new();
        if self.interrupted {
            text += "Interrupted; this is what was done until then.\n";
        }
        if self.stored > 0 {
            let rate = rate(self.stored, self.storing);
            text += &format!("{} answers stored in {} ({rate})\n", self.stored, output::time(self.storing));
        }
        text += &format!(
            "{requests} requests by {} in {} ({}), {} errors, {} malformed lines\n\n",
            self.asked_with,
            output::time(self.asking),
            rate(requests, self.asking),
            self.errors.count,
            self.malformed.count
        );
        for message in &self.errors.first {
            text += &format!("error: {message}\n");
        }
        let row = |name: &str, latencies: &Latencies| {
            let mut row = vec![name.to_owned(), latencies.count().to_string(), percent(latencies.count(), requests)];
            row.extend(QUANTILES.map(|q| output::time(latencies.quantile(q))));
            row
        };
        let mut rows: Vec<_> = self.latencies.iter().map(|(ending, l)| row(ending.as_str(), l)).collect();
        if self.latencies.len() > 1 {
            rows.push(row("all", &self.all()));
        }
        text += &format!("{}\n", output::table(&["outcome", "requests", "share", "p50", "p95", "p99"], 1, rows));
        if self.judged.total() > 0 {
            text += &format!("\n{}\n", self.judged.to_table());
        }
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let side = |l: &Latencies| {
            let [p50, p95, p99] = QUANTILES.map(|q| l.quantile(q).as_secs_f64());
            json!({ "count": l.count(), "p50_seconds": p50, "p95_seconds": p95, "p99_seconds": p99 })
        };
        let outcomes: serde_json::Map<_, _> =
            self.latencies.iter().map(|(ending, l)| (ending.as_str().to_owned(), side(l))).collect();
        json!({
            "requests": self.requests(),
            "requests_per_second": per_second(self.requests(), self.asking),
            "asked_with": self.asked_with,
            "seconds": self.asking.as_secs_f64(),
            "errors": self.errors.count,
            "first_errors": self.errors.first,
            "malformed": self.malformed.count,
            "first_malformed": self.malformed.first,
            "stored": self.stored,
            "storing_seconds": self.storing.as_secs_f64(),
            "interrupted": self.interrupted,
            "outcomes": outcomes,
            "all": side(&self.all()),
            "labelled": (self.judged.total() > 0).then(|| self.judged.to_json()),
        })
    }

    fn all(&self) -> Latencies {
        let mut all = Latencies::default();
        for latencies in self.latencies.values() {
            // Cannot fail: all histograms have the same bounds.
            let _ = all.0.add(&latencies.0);
        }
        all
    }
}

const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Semantic => "semantic",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Error => "error",
        }
    }
}

impl Judged {
    fn total(&self) -> u64 {
        self.right + self.wrong + self.other + self.missed + self.right_misses
    }

    /// Right hits among the hits that a label speaks about.
    fn precision(&self) -> Option<f64> {
        share(self.right, self.right + self.wrong)
    }

    /// Right hits among the rows whose answer serves both prompts, those answered by another entry included.
    fn recall(&self) -> Option<f64> {
        share(self.right, self.repeats)
    }

    fn to_table(self) -> comfy_table::Table {
        let counted = |name: &str, count: u64| vec![name.to_owned(), count.to_string()];
        let quality =
            |name: &str, value: Option<f64>| vec![name.to_owned(), value.map_or("n/a".into(), |v| format!("{v:.4}"))];
        let rows = [
            counted("right hits", self.right),
            counted("wrong hits", self.wrong),
            counted("other hits", self.other),
            counted("missed repeats", self.missed),
            counted("right misses", self.right_misses),
            quality("precision", self.precision()),
            quality("recall", self.recall()),
        ];
        output::table(&["labelled", "rows"], 1, rows)
    }

    fn to_json(self) -> Value {
        json!({
            "right_hits": self.right,
            "wrong_hits": self.wrong,
            "other_hits": self.other,
            "missed_repeats": self.missed,
            "right_misses": self.right_misses,
            "precision": self.precision(),
            "recall": self.recall(),
        })
    }
}

impl Messages {
    /// Counts one; gives whether it is among the first few, which are kept.
    pub(super) fn add(&mut self, message: String) -> bool {
        self.count += 1;
        let new = self.first.len() < FIRST && !self.first.contains(&message);
        if new {
            self.first.push(message);
        }
        new
    }
}

impl Default for Latencies {
    fn default() -> Self {
        // Bounds that cannot fail: 1 <= low, 2 low <= high, at most 5 digits.
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("constant bounds"))
    }
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros().try_into().unwrap_or(LONGEST_MICROS));
    }

    fn count(&self) -> u64 {
        self.0.len()
    }

    fn quantile(&self, q: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(q))
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(part: u64, whole: u64) -> String {
    share(part, whole).map_or("n/a".into(), |share| format!("{:.1}%", 100.0 * share))
}

fn per_second(count: u64, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

fn rate(count: u64, time: Duration) -> String {
    per_second(count, time).map_or("n/a".into(), |rate| format!("{rate:.1}/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str, name: &str) -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(&format!("| {name} "))).expect(name);
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn the_table_has_count_share_and_percentiles_by_outcome() {
        let mut report = Report { asked_with: "Complete", asking: Duration::from_secs(2), ..Report::default() };
        for ms in 1..=100 {
            report.ended(Ending::Exact, Duration::from_millis(ms));
        }
        for _ in 0..300 {
            report.ended(Ending::Miss, Duration::from_secs(2));
        }
        let text = report.to_text();
        assert_eq!(cells(&text, "exact"), ["exact", "100", "25.0%", "50.0 ms", "95.0 ms", "99.0 ms"]);
        assert_eq!(cells(&text, "miss"), ["miss", "300", "75.0%", "2.00 s", "2.00 s", "2.00 s"]);
        assert_eq!(cells(&text, "all")[1..4], ["400", "100.0%", "2.00 s"]);
        assert!(text.contains("400 requests by Complete in 2.00 s (200.0/s), 0 errors, 0 malformed lines"), "{text}");
        assert!(!text.contains("labelled"));
    }

    #[test]
    fn other_hits_count_against_recall_and_not_against_precision() {
        let mut report = Report::default();
        for (judgement, repeat, times) in [
            (Judgement::Right, true, 3),
            (Judgement::Wrong, false, 1),
            (Judgement::Other, false, 4),
            (Judgement::Other, true, 1),
            (Judgement::MissedRepeat, true, 2),
            (Judgement::RightMiss, false, 4),
        ] {
            (0..times).for_each(|_| report.judged(judgement, repeat));
        }
        let text = report.to_text();
        assert_eq!(cells(&text, "precision")[1], "0.7500");
        assert_eq!(cells(&text, "recall")[1], "0.5000");
        assert_eq!(cells(&text, "other hits")[1], "5");
        assert_eq!(report.to_json()["labelled"]["precision"], 0.75);
    }

    #[test]
    fn without_a_single_request_nothing_is_divided_by_zero() {
        let report = Report { asked_with: "Lookup", ..Report::default() };
        assert!(report.to_text().contains("0 requests by Lookup in 0.00 µs (n/a)"), "{}", report.to_text());
        assert_eq!(report.to_json()["requests_per_second"], Value::Null);
    }

    #[test]
    fn the_same_message_is_kept_once_and_only_the_first_few() {
        let mut messages = Messages::default();
        assert!(messages.add("a".into()));
        assert!(!messages.add("a".into()));
        for i in 0..10 {
            messages.add(i.to_string());
        }
        assert_eq!((messages.count, messages.first.len()), (12, FIRST));
    }
}
