//! Prompts that arrive one by one into an empty cache, with what is known of which of them one answer serves.
//!
//! From labelled pairs: what is linked by right pairs, directly or through others, is one group. From rows `{"text", "intent"}`: one
//! intent is one group. A hit within a group is right. A hit between two prompts that are labelled as a wrong pair, or of two
//! intents, is wrong. What else there is nobody has labelled: it is told apart, and counted as wrong where one number is wanted.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::measure::Share;
use crate::types::{Error, ErrorKind, Result};

/// Prompts in the order in which they arrive, each text once.
#[derive(Debug, Default)]
pub struct Stream {
    pub prompts: Vec<String>,
    places: HashMap<String, usize>,
    /// Of the disjoint-set forest of prompts that one answer serves.
    parents: Vec<usize>,
    wrong: HashSet<(usize, usize)>,
    intents: Vec<Option<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Pair { a: String, b: String, label: u8 },
    Intent { text: String, intent: String },
}

/// What a hit was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Was {
    Right,
    Wrong,
    Unlabelled,
}

impl Stream {
    /// Adds the prompts of a file, up to `most` in all.
    ///
    /// Errors: `InvalidArgument` with the number of the first line that is neither a labelled pair of texts nor a text with an intent.
    pub fn read(&mut self, path: &Path, most: usize) -> Result<()> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidArgument, why);
        let text = std::fs::read_to_string(path)
            .map_err(|e| invalid(format!("cannot read {}", path.display())).with_source(e))?;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let row: Row = serde_json::from_str(line).map_err(|_| {
                let expected = "expected {\"a\", \"b\", \"label\"} with texts, or {\"text\", \"intent\"}";
                invalid(format!("{}, line {number}: {expected}", path.display()))
            })?;
            if self.prompts.len() >= most {
                break;
            }
            self.add(row);
        }
        Ok(())
    }

    fn add(&mut self, row: Row) {
        match row {
            Row::Pair { a, b, label } => {
                let (a, b) = (self.place(a, None), self.place(b, None));
                if label == 1 {
                    let (a, b) = (self.root(a), self.root(b));
                    self.parents[a] = b;
                } else {
                    self.wrong.insert((a.min(b), a.max(b)));
                }
            }
            Row::Intent { text, intent } => {
                self.place(text, Some(intent));
            }
        }
    }

    fn place(&mut self, text: String, intent: Option<String>) -> usize {
        if let Some(&place) = self.places.get(&text) {
            return place;
        }
        let place = self.prompts.len();
        self.places.insert(text.clone(), place);
        self.prompts.push(text);
        self.parents.push(place);
        self.intents.push(intent);
        place
    }

    fn root(&self, mut at: usize) -> usize {
        while self.parents[at] != at {
            at = self.parents[at];
        }
        at
    }

    /// What it was to answer prompt `new` with the answer to `cached`.
    pub fn was(&self, cached: &str, new: usize) -> Was {
        let Some(&cached) = self.places.get(cached) else { return Was::Unlabelled };
        match (&self.intents[cached], &self.intents[new]) {
            (Some(a), Some(b)) => return if a == b { Was::Right } else { Was::Wrong },
            _ if self.root(cached) == self.root(new) => return Was::Right,
            _ => {}
        }
        if self.wrong.contains(&(cached.min(new), cached.max(new))) { Was::Wrong } else { Was::Unlabelled }
    }

    /// Whether each prompt has one before it that an answer would serve too.
    pub fn repeats(&self) -> Vec<bool> {
        let mut seen = HashSet::new();
        (0..self.prompts.len())
            .map(|n| match &self.intents[n] {
                Some(intent) => !seen.insert((usize::MAX, intent.as_str())),
                None => !seen.insert((self.root(n), "")),
            })
            .collect()
    }
}

/// What came of a stream.
#[derive(Debug, Serialize)]
pub struct StreamReport {
    pub max_wrong_rate: f64,
    pub requests: usize,
    /// Requests that one before them could have answered.
    pub repeats: usize,
    pub hits: usize,
    pub right: usize,
    pub wrong: usize,
    pub unlabelled: usize,
    /// Repeats that got a right hit.
    pub repeats_served: Share,
    /// Wrong hits by request and by hit; in the second number of each, unlabelled ones count as wrong.
    pub wrong_per_request: [Share; 2],
    pub wrong_per_hit: [Share; 2],
    /// Of lookups, in milliseconds, embedding and decision included.
    pub hit_latency: Latency,
    pub miss_latency: Latency,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Latency {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = (share * times.len() as f64) as usize;
            times.get(place.min(times.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// One request: what its hit was, if it was one, and how long the lookup took.
pub type Answered = (Option<Was>, Duration);

impl StreamReport {
    /// Of the first requests of a stream, in order.
    pub fn new(max_wrong_rate: f64, stream: &Stream, answered: &[Answered]) -> Self {
        let count = |was: Was| answered.iter().filter(|(hit, _)| *hit == Some(was)).count();
        let (right, wrong, unlabelled) = (count(Was::Right), count(Was::Wrong), count(Was::Unlabelled));
        let (hits, requests) = (right + wrong + unlabelled, answered.len());
        let repeats = stream.repeats().into_iter().take(requests).filter(|repeats| *repeats).count();
        let times =
            |hit: bool| answered.iter().filter(|(was, _)| was.is_some() == hit).map(|(_, took)| *took).collect();
        Self {
            max_wrong_rate,
            requests,
            repeats,
            hits,
            right,
            wrong,
            unlabelled,
            repeats_served: Share::new(right.min(repeats), repeats),
            wrong_per_request: [wrong, wrong + unlabelled].map(|wrong| Share::new(wrong, requests)),
            wrong_per_hit: [wrong, wrong + unlabelled].map(|wrong| Share::new(wrong, hits)),
            hit_latency: Latency::of(times(true)),
            miss_latency: Latency::of(times(false)),
        }
    }

    pub fn to_text(&self) -> String {
        let share = |share: &Share| match share.of {
            0 => "-".to_owned(),
            _ => format!("{:.4} ({:.4} to {:.4})", share.value, share.low, share.high),
        };
        let latency = |latency: &Latency| format!("p50 {:.2} ms, p99 {:.2} ms", latency.p50_ms, latency.p99_ms);
        let Self { requests, repeats, hits, right, wrong, unlabelled, .. } = self;
        format!(
            "{requests} requests at a wrong rate of {}: {repeats} repeats, {hits} hits by meaning: {right} right, {wrong} wrong, \
             {unlabelled} unlabelled\n\n\
             repeats served             {}\n\
             wrong hits per request     {}\n\
             \x20 and unlabelled ones      {}\n\
             wrong hits per hit         {}\n\
             \x20 and unlabelled ones      {}\n\
             lookups that hit           {}\n\
             lookups that miss          {}\n",
            self.max_wrong_rate,
            share(&self.repeats_served),
            share(&self.wrong_per_request[0]),
            share(&self.wrong_per_request[1]),
            share(&self.wrong_per_hit[0]),
            share(&self.wrong_per_hit[1]),
            latency(&self.hit_latency),
            latency(&self.miss_latency),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lines: &str, most: usize) -> Result<Stream> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.jsonl");
        std::fs::write(&file, lines).unwrap();
        let mut stream = Stream::default();
        stream.read(&file, most).map(|()| stream)
    }

    const PAIRS: &str = r#"{"a": "x", "b": "y", "label": 1}
{"a": "y", "b": "z", "label": 1, "source": "s"}
{"a": "x", "b": "q", "label": 0}
{"a": "r", "b": "q", "label": 1}
"#;

    #[test]
    fn what_right_pairs_link_is_one_group() {
        let stream = stream(PAIRS, 100).unwrap();
        assert_eq!(stream.prompts, ["x", "y", "z", "q", "r"]);
        assert_eq!(stream.repeats(), [false, true, true, false, true]);
        assert_eq!(
            [stream.was("x", 2), stream.was("x", 3), stream.was("x", 4)],
            [Was::Right, Was::Wrong, Was::Unlabelled]
        );
        assert_eq!(stream.was("never asked", 1), Was::Unlabelled);
    }

    #[test]
    fn intents_are_groups() {
        let rows = r#"{"text": "a", "intent": "pay"}
{"text": "b", "intent": "pay"}
{"text": "c", "intent": "fly"}"#;
        let stream = stream(rows, 100).unwrap();
        assert_eq!((stream.was("a", 1), stream.was("a", 2)), (Was::Right, Was::Wrong));
        assert_eq!(stream.repeats(), [false, true, false]);
    }

    #[test]
    fn a_report_counts_what_came() {
        let stream = stream(PAIRS, 100).unwrap();
        let took = Duration::from_millis(2);
        let answered: Vec<Answered> =
            [None, Some(Was::Right), Some(Was::Unlabelled), Some(Was::Wrong), None].map(|was| (was, took)).into();
        let report = StreamReport::new(0.01, &stream, &answered);
        assert_eq!((report.hits, report.right, report.wrong, report.unlabelled), (3, 1, 1, 1));
        assert_eq!((report.repeats, report.repeats_served.value), (3, 1.0 / 3.0));
        assert_eq!(report.wrong_per_request.map(|share| share.value), [0.2, 0.4]);
        assert_eq!(report.wrong_per_hit.map(|share| share.value), [1.0 / 3.0, 2.0 / 3.0]);
        assert!(report.to_text().contains("5 requests at a wrong rate of 0.01"));
    }

    #[test]
    fn no_more_than_asked_for_is_read_and_nonsense_is_named() {
        assert!(stream(PAIRS, 3).unwrap().prompts.len() <= 4);
        let error = stream("{\"a\": \"x\"}", 10).unwrap_err();
        assert!(error.to_string().contains("s.jsonl, line 1: expected"), "{error}");
    }
}
