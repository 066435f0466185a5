//! What commands print: text for people, JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::failure::Failure;
use crate::grpc::pb;

/// Writes to standard output and flushes; a reader that went away ends the command quietly.
pub(super) fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// Indented for a terminal, one line for a program.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let pretty = io::stdout().is_terminal();
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    line(&text.map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?)
}

/// Something for the person at the terminal, beside the result.
pub(super) fn note(text: &str) {
    // Standard error may be closed; the result counts.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A table that is readable as it is and as Markdown. Columns from `right` on hold numbers.
pub(super) fn table(header: &[&str], right: usize, rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(right) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A duration with three digits: `850 µs`, `12.3 ms`, `1.25 s`.
pub(super) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        m if m < 1e3 => (m, "µs"),
        m if m < 1e6 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

/// Whole units of an age: `3m 20s`.
pub(super) fn age(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A duration of the protocol; a negative one counts as none.
pub(super) fn from_wire(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|d| Duration::try_from(d).ok())
}

/// Name of a status, as in the header `X-Reprise-Cache`.
pub(super) fn status(outcome: &pb::CacheOutcome) -> &'static str {
    match outcome.status() {
        pb::CacheStatus::Exact => "exact",
        pb::CacheStatus::Semantic => "semantic",
        pb::CacheStatus::Miss => "miss",
        pb::CacheStatus::Bypass => "bypass",
        pb::CacheStatus::Stale => "stale",
        pb::CacheStatus::Unspecified => "unknown",
    }
}

/// How a request was answered, in a few words: `semantic hit, similarity 0.9731, 3m old`.
pub(super) fn outcome(outcome: &pb::CacheOutcome) -> String {
    let mut text = status(outcome).to_owned();
    if matches!(outcome.status(), pb::CacheStatus::Exact | pb::CacheStatus::Semantic | pb::CacheStatus::Stale) {
        text += " hit";
    }
    if let Some(similarity) = outcome.similarity {
        text += &format!(", similarity {similarity:.4}");
    }
    if let Some(risk) = outcome.risk {
        text += &format!(", risk {risk:.4}");
    }
    if let Some(old) = from_wire(outcome.age) {
        text += &format!(", {} old", age(old));
    }
    if !outcome.reason.is_empty() {
        text += &format!(" ({})", outcome.reason);
    }
    text
}

pub(super) fn outcome_json(outcome: &pb::CacheOutcome) -> Value {
    json!({
        "status": status(outcome),
        "entry": outcome.entry,
        "similarity": outcome.similarity.map(exact_f32),
        "risk": outcome.risk,
        "hit": Some(&outcome.hit).filter(|hit| !hit.is_empty()),
        "age_seconds": from_wire(outcome.age).map(|age| age.as_secs_f64()),
        "reason": Some(&outcome.reason).filter(|reason| !reason.is_empty()),
    })
}

pub(super) fn usage_json(usage: &pb::Usage) -> Value {
    json!({ "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens })
}

/// An f32 with the digits it was written with: 0.95, not 0.949999988079071.
pub(super) fn exact_f32(value: f32) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_fitting_unit() {
        let shown = [0, 850, 1_234, 12_345, 123_456, 1_250_000, 83_000_000].map(|us| time(Duration::from_micros(us)));
        assert_eq!(shown, ["0.00 µs", "850 µs", "1.23 ms", "12.3 ms", "123 ms", "1.25 s", "83.0 s"]);
    }

    #[test]
    fn an_outcome_reads_as_a_phrase() {
        let mut hit = pb::CacheOutcome { similarity: Some(0.97312), risk: Some(0.00321), ..Default::default() };
        hit.set_status(pb::CacheStatus::Semantic);
        hit.age = Some(prost_types::Duration { seconds: 200, nanos: 5 });
        assert_eq!(outcome(&hit), "semantic hit, similarity 0.9731, risk 0.0032, 3m 20s old");
        let mut bypass = pb::CacheOutcome { reason: "time-sensitive".into(), ..Default::default() };
        bypass.set_status(pb::CacheStatus::Bypass);
        assert_eq!(outcome(&bypass), "bypass (time-sensitive)");
        assert_eq!(outcome_json(&hit)["similarity"].to_string(), "0.97312");
    }
}
