//! What the scores of labelled pairs say, as numbers for programs and a page for people.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::data::Pair;
use super::measure::{
    Bin, Point, Scored, Share, auc, calibration_error, curve, intervals, recall_at, reliability, served_at,
};
use super::run::{Found, Took};
use crate::cache::decide::risk::RiskModel;

/// Shares of wrong pairs served, at which the share of right ones is told.
const WRONG: [f64; 4] = [0.005, 0.01, 0.02, 0.05];
/// The one that kinds are told at.
const TOLD: f64 = 0.01;
/// Points of a curve that are kept.
const POINTS: usize = 200;

#[derive(Debug, Serialize)]
pub struct Report {
    pub embedder: String,
    pub verifier: Option<String>,
    pub sets: Vec<Set>,
    pub seconds: Seconds,
}

/// Wall-clock time by step, for all pairs.
#[derive(Debug, Serialize)]
pub struct Seconds {
    pub embedding: f64,
    pub guards: f64,
    pub verifying: f64,
}

/// The pairs of one set.
#[derive(Debug, Serialize)]
pub struct Set {
    pub name: String,
    pub right: usize,
    pub wrong: usize,
    /// The ablation: what each way to score gives.
    pub stages: Vec<Stage>,
    /// Pairs that each guard speaks against.
    pub guards: BTreeMap<&'static str, Vetoed>,
    /// What the risk model said of pairs, beside what was so.
    pub reliability: Vec<Bin>,
    /// Mean distance between the two.
    pub calibration_error: f64,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Vetoed {
    pub right: usize,
    pub wrong: usize,
}

/// One way to score.
#[derive(Debug, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub auc: Option<f64>,
    pub auc_interval: Option<(f64, f64)>,
    /// Highest recall at 95 % precision.
    pub recall_at_95: f64,
    /// Right pairs served where at most so many of the wrong ones are.
    pub served: Vec<Served>,
    /// By kind: what is served at the threshold that serves 1 % of the wrong pairs.
    pub kinds: Vec<Kind>,
    pub curve: Vec<Point>,
}

#[derive(Debug, Serialize)]
pub struct Served {
    pub most_wrong: f64,
    pub right: f64,
    pub interval: (f64, f64),
}

#[derive(Debug, Serialize)]
pub struct Kind {
    pub name: String,
    pub is_right: bool,
    pub served: Share,
}

/// How a stage scores a pair; a guard's veto puts it below all others.
type Score = fn(&Found) -> Option<f32>;

const VETO: f32 = -1e6;

const STAGES: [(&str, Score); 5] = [
    ("similarity", |found| Some(found.similarity)),
    ("similarity + guards", |found| {
        Some(if found.compared.guards.is_empty() { found.similarity } else { VETO + found.similarity })
    }),
    ("verifier", |found| found.logit),
    ("verifier + guards", |found| {
        found.logit.map(|logit| if found.compared.guards.is_empty() { logit } else { VETO + logit })
    }),
    ("risk model", |found| Some(-risk(found)? as f32)),
];

/// Bins of the reliability table.
const BINS: usize = 10;

fn risk(found: &Found) -> Option<f64> {
    RiskModel::own().ok().map(|model| model.wrong(&found.evidence()))
}

impl Report {
    /// Of pairs and what was found of them, in the same order.
    pub fn new(embedder: &str, verifier: Option<&str>, pairs: &[Pair], found: &[Found], took: Took) -> Self {
        let mut sets: BTreeMap<&str, Vec<(&Pair, &Found)>> = BTreeMap::new();
        for (pair, found) in pairs.iter().zip(found) {
            sets.entry(pair.set()).or_default().push((pair, found));
        }
        let seconds = Seconds {
            embedding: took.embedding.as_secs_f64(),
            guards: took.guards.as_secs_f64(),
            verifying: took.verifying.as_secs_f64(),
        };
        Self {
            embedder: embedder.to_owned(),
            verifier: verifier.map(str::to_owned),
            sets: sets.into_iter().map(|(name, of)| Set::new(name, &of)).collect(),
            seconds,
        }
    }

    /// One page without scripts or outside files.
    pub fn html(&self) -> String {
        let mut page = String::from(HEAD);
        let verifier = self.verifier.as_deref().unwrap_or("none");
        let _ = write!(page, "<p>Embedder {}, verifier {}.</p>", escaped(&self.embedder), escaped(verifier));
        for set in &self.sets {
            let _ =
                write!(page, "<h2>{}</h2><p>{} right pairs, {} wrong.</p>", escaped(&set.name), set.right, set.wrong);
            page += &set.plot();
            page += "<table><tr><th>score</th><th>AUC</th><th>recall at 95 % precision</th>";
            for wrong in WRONG {
                let _ = write!(page, "<th>served at {} % wrong</th>", 100.0 * wrong);
            }
            page += "</tr>";
            for stage in &set.stages {
                let auc = match (stage.auc, stage.auc_interval) {
                    (Some(auc), Some((low, high))) => format!("{auc:.3} ({low:.3} to {high:.3})"),
                    _ => "-".into(),
                };
                let _ = write!(page, "<tr><td>{}</td><td>{auc}</td><td>{:.3}</td>", stage.name, stage.recall_at_95);
                for served in &stage.served {
                    let (low, high) = served.interval;
                    let _ = write!(page, "<td>{:.3} ({low:.3} to {high:.3})</td>", served.right);
                }
                page += "</tr>";
            }
            page += "</table>";
            if let Some(best) = set.stages.last() {
                let _ = write!(page, "<h3>{}: served at {} % wrong, by kind</h3><table>", best.name, 100.0 * TOLD);
                for kind in &best.kinds {
                    let label = if kind.is_right { "right" } else { "wrong" };
                    let Share { value, low, high, of } = kind.served;
                    let _ = write!(
                        page,
                        "<tr><td>{}</td><td>{label}</td><td>{value:.3} ({low:.3} to {high:.3})</td><td>of {of}</td></tr>",
                        escaped(&kind.name)
                    );
                }
                page += "</table>";
            }
            let _ = write!(
                page,
                "<h3>Calibration of the risk model: off by {:.3} in the mean</h3><table><tr><th>risk said</th><th>wrong</th></tr>",
                set.calibration_error
            );
            for Bin { said, seen } in &set.reliability {
                let Share { value, low, high, of } = seen;
                let _ = write!(page, "<tr><td>{said:.3}</td><td>{value:.3} ({low:.3} to {high:.3}) of {of}</td></tr>");
            }
            page += "</table>";
            if !set.guards.is_empty() {
                page += "<h3>Guards: pairs vetoed</h3><table><tr><th>guard</th><th>wrong</th><th>right</th></tr>";
                for (name, vetoed) in &set.guards {
                    let _ = write!(page, "<tr><td>{name}</td><td>{}</td><td>{}</td></tr>", vetoed.wrong, vetoed.right);
                }
                page += "</table>";
            }
        }
        page += "</body></html>\n";
        page
    }
}

impl Set {
    fn new(name: &str, pairs: &[(&Pair, &Found)]) -> Self {
        let right = pairs.iter().filter(|(pair, _)| pair.is_right).count();
        let mut guards: BTreeMap<&'static str, Vetoed> = BTreeMap::new();
        for (pair, found) in pairs {
            for guard in &found.compared.guards {
                let vetoed = guards.entry(guard.as_str()).or_default();
                *(if pair.is_right { &mut vetoed.right } else { &mut vetoed.wrong }) += 1;
            }
        }
        let stages = STAGES.iter().filter_map(|(name, score)| Stage::new(name, *score, pairs)).collect();
        let risks: Vec<_> = pairs.iter().filter_map(|(pair, found)| Some((pair.is_right, risk(found)?))).collect();
        let reliability = reliability(&risks, BINS);
        let calibration_error = calibration_error(&reliability);
        let (name, wrong) = (name.to_owned(), pairs.len() - right);
        Self { name, right, wrong, stages, guards, reliability, calibration_error }
    }

    /// Share of right pairs served, upwards, against the share of wrong ones, to the right on a logarithmic scale.
    fn plot(&self) -> String {
        let x = |wrong: f64| LEFT + WIDTH * (1.0 + wrong.max(LEAST).log10() / -LEAST.log10());
        let y = |right: f64| TOP + HEIGHT * (1.0 - right);
        let mut plot = format!("<svg viewBox=\"0 0 {} {}\" width=\"620\">", LEFT + WIDTH + 150.0, TOP + HEIGHT + 40.0);
        for wrong in [0.001, 0.01, 0.1, 1.0] {
            let (at, bottom) = (x(wrong), y(0.0));
            let _ =
                write!(plot, "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" class=\"grid\"/>");
            let _ =
                write!(plot, "<text x=\"{at:.1}\" y=\"{:.1}\" class=\"x\">{} %</text>", bottom + 14.0, 100.0 * wrong);
        }
        for right in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let at = y(right);
            let _ =
                write!(plot, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" class=\"grid\"/>", x(1.0));
            let _ = write!(
                plot,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{} %</text>",
                LEFT - 4.0,
                at + 4.0,
                100.0 * right
            );
        }
        for (n, (stage, colour)) in self.stages.iter().zip(COLOURS).enumerate() {
            let points: Vec<_> =
                stage.curve.iter().map(|point| format!("{:.1},{:.1}", x(point.wrong), y(point.right))).collect();
            let _ = write!(plot, "<polyline points=\"{}\" stroke=\"{colour}\" class=\"curve\"/>", points.join(" "));
            let at = TOP + 14.0 + 16.0 * n as f64;
            let _ = write!(plot, "<text x=\"{:.1}\" y=\"{at}\" fill=\"{colour}\">{}</text>", x(1.0) + 8.0, stage.name);
        }
        let _ =
            write!(plot, "<text x=\"{:.1}\" y=\"{:.1}\" class=\"x\">wrong pairs served</text>", x(0.03), y(0.0) + 32.0);
        plot + "</svg>"
    }
}

const LEFT: f64 = 44.0;
const TOP: f64 = 10.0;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
/// Least share of wrong pairs that is drawn; what is below stands at the left edge.
const LEAST: f64 = 1e-3;
const COLOURS: [&str; 5] = ["#888", "#2a7ab9", "#c4681a", "#1f8a4c", "#8a2be2"];

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Reprise: right hits</title><style>\
    body{font:15px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}\
    svg text{font-size:11px}.x{text-anchor:middle}.y{text-anchor:end}.grid{stroke:#ddd}.curve{fill:none;stroke-width:2}\
    </style></head><body><h1>Right hits and wrong ones</h1><p>How many right pairs (one answer serves both prompts) and wrong ones \
    each score would serve. Intervals are of 95 %.</p>";

impl Stage {
    /// `None` where a pair has no such score.
    fn new(name: &'static str, score: Score, pairs: &[(&Pair, &Found)]) -> Option<Self> {
        let scored = |(pair, found): &(&Pair, &Found)| Some(Scored { is_right: pair.is_right, score: score(found)? });
        let scored: Vec<Scored> = pairs.iter().map(scored).collect::<Option<_>>()?;
        let points = curve(&scored);
        let measures = |curve: &[Point]| {
            let [a, b, c, d] = WRONG.map(|most_wrong| served_at(curve, most_wrong));
            [auc(curve).unwrap_or(f64::NAN), a, b, c, d]
        };
        let [auc_interval, intervals @ ..] = intervals(&scored, measures);
        let served = WRONG.into_iter().zip(intervals).map(|(most_wrong, interval)| Served {
            most_wrong,
            right: served_at(&points, most_wrong),
            interval,
        });
        let threshold = points.iter().rfind(|point| point.wrong <= TOLD).map_or(f32::INFINITY, |point| point.threshold);
        let mut kinds: BTreeMap<(bool, &str), (usize, usize)> = BTreeMap::new();
        for ((pair, _), scored) in pairs.iter().zip(&scored) {
            let (served, of) = kinds.entry((pair.is_right, pair.kind())).or_default();
            *served += usize::from(scored.score >= threshold);
            *of += 1;
        }
        let kind = |((is_right, name), (served, of)): ((bool, &str), (usize, usize))| Kind {
            name: name.to_owned(),
            is_right,
            served: Share::new(served, of),
        };
        let step = points.len().div_ceil(POINTS).max(1);
        let kept = |(n, _): &(usize, Point)| n.is_multiple_of(step) || *n + 1 == points.len();
        Some(Self {
            name,
            auc: auc(&points),
            auc_interval: auc(&points).map(|_| auc_interval),
            recall_at_95: recall_at(&points, 0.95),
            served: served.collect(),
            kinds: kinds.into_iter().map(kind).collect(),
            curve: points.iter().copied().enumerate().filter(kept).map(|(_, point)| point).collect(),
        })
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::decide::guards::{Comparison, Guard};
    use crate::types::ChatRequest;

    fn case(is_right: bool, kind: &str, similarity: f32, logit: f32, guards: &[Guard]) -> (Pair, Found) {
        let prompt = || ChatRequest::prompt("m", "q");
        let pair = Pair { cached: prompt(), new: prompt(), is_right, source: format!("own/{kind}") };
        (
            pair,
            Found {
                similarity,
                compared: Comparison { guards: guards.to_vec(), ..Comparison::default() },
                logit: Some(logit),
            },
        )
    }

    fn report(cases: Vec<(Pair, Found)>) -> Report {
        let (pairs, found): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
        Report::new("<e>", Some("v"), &pairs, &found, Took::default())
    }

    #[test]
    fn each_stage_is_measured_by_its_own_score() {
        let report = report(vec![
            case(true, "far", 0.7, 2.0, &[]),
            case(true, "near", 0.9, 1.0, &[]),
            case(false, "number", 0.95, -1.0, &[Guard::Number]),
            case(false, "topic", 0.8, -2.0, &[]),
        ]);
        let set = &report.sets[0];
        assert_eq!((set.name.as_str(), set.right, set.wrong), ("own", 2, 2));
        let served: Vec<_> = set.stages.iter().map(|stage| (stage.name, stage.served[1].right)).collect();
        assert_eq!(
            served,
            [
                ("similarity", 0.0),
                ("similarity + guards", 0.5),
                ("verifier", 1.0),
                ("verifier + guards", 1.0),
                ("risk model", 1.0)
            ]
        );
        assert_eq!(set.reliability.iter().map(|bin| bin.seen.of).sum::<usize>(), 4);
        assert_eq!((set.guards["number"].wrong, set.guards["number"].right), (1, 0));
        let kinds: Vec<_> =
            set.stages[1].kinds.iter().map(|kind| (kind.name.as_str(), kind.is_right, kind.served.value)).collect();
        assert_eq!(kinds, [("number", false, 0.0), ("topic", false, 0.0), ("far", true, 0.0), ("near", true, 1.0)]);
    }

    #[test]
    fn without_a_verifier_there_are_no_stages_of_it() {
        let (pair, found) = case(true, "far", 0.7, 0.0, &[]);
        let report = Report::new("e", None, &[pair], &[Found { logit: None, ..found }], Took::default());
        assert_eq!(report.sets[0].stages.len(), 3);
        assert_eq!(report.sets[0].stages[0].auc, None);
    }

    #[test]
    fn the_page_is_whole_and_holds_no_markup_of_others() {
        let page = report(vec![case(true, "<b>", 0.7, 2.0, &[]), case(false, "x", 0.6, 1.0, &[])]).html();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("&lt;e&gt;") && page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert_eq!(page.matches("<polyline").count(), 5);
    }
}
