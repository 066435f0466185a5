//! What the scores of labelled pairs say, as numbers for programs and a page for people.

use serde::Serialize;
use std::collections::BTreeMap;

use super::data::Pair;
use super::measure::{
    Bin, Point, Scored, Share, auc, calibration_error, curve, intervals, recall_at, reliability, served_at,
};
use super::run::Took;
use crate::cache::{Judgement, Verdict};

/// Shares of wrong pairs served, at which the share of right ones is told.
pub(super) const WRONG: [f64; 4] = [0.005, 0.01, 0.02, 0.05];
/// The one that kinds are told at.
pub(super) const TOLD: f64 = 0.01;
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
    /// What the service would serve of each pair at the bound of the configuration, with nothing learned.
    pub default: AtDefault,
}

/// The decision as it is made for a request, with the pair's first prompt remembered and its second one asked.
#[derive(Debug, Serialize)]
pub struct AtDefault {
    pub max_wrong_rate: f64,
    /// The highest risk that is served for it.
    pub max_risk: f64,
    /// Share of the right pairs that is served, and of the wrong ones.
    pub right: Share,
    pub wrong: Share,
    /// Share of right ones among the served.
    pub precision: Share,
    /// Pairs that are not compared at all: they differ in the conversation before their last turns, their language is not known, or
    /// a model cannot read all of them.
    pub not_compared: usize,
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

/// Pairs of one set with what was found of them, and whether the service would compare the two.
type OfSet<'a> = (Vec<(&'a Pair, &'a Judgement)>, Vec<bool>);

/// How a stage scores a pair; a guard's veto puts it below all others.
type Score = fn(&Judgement) -> Option<f32>;

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
    ("risk model", |found| Some(-found.risk as f32)),
];

/// Bins of the reliability table.
const BINS: usize = 10;

impl Report {
    /// Of pairs and what was found of them, in the same order.
    /// `comparable`: whether the service would compare the two. `bound`: the rate of the configuration, and the highest risk that is served for it.
    pub fn new(
        (embedder, verifier): (&str, Option<&str>),
        bound: (f64, f64),
        pairs: &[Pair],
        (found, comparable): (&[Judgement], &[bool]),
        took: Took,
    ) -> Self {
        let mut sets: BTreeMap<&str, OfSet> = BTreeMap::new();
        for ((pair, found), comparable) in pairs.iter().zip(found).zip(comparable) {
            let (of, can) = sets.entry(pair.set()).or_default();
            of.push((pair, found));
            can.push(*comparable && pair.same_history());
        }
        let seconds = Seconds {
            embedding: took.embedding.as_secs_f64(),
            guards: took.guards.as_secs_f64(),
            verifying: took.verifying.as_secs_f64(),
        };
        Self {
            embedder: embedder.to_owned(),
            verifier: verifier.map(str::to_owned),
            sets: sets.into_iter().map(|(name, (of, can))| Set::new(name, bound, &of, &can)).collect(),
            seconds,
        }
    }
}

impl Set {
    fn new(name: &str, bound: (f64, f64), pairs: &[(&Pair, &Judgement)], can: &[bool]) -> Self {
        let right = pairs.iter().filter(|(pair, _)| pair.is_right).count();
        let mut guards: BTreeMap<&'static str, Vetoed> = BTreeMap::new();
        for (pair, found) in pairs {
            for guard in &found.compared.guards {
                let vetoed = guards.entry(guard.as_str()).or_default();
                *(if pair.is_right { &mut vetoed.right } else { &mut vetoed.wrong }) += 1;
            }
        }
        let stages = STAGES.iter().filter_map(|(name, score)| Stage::new(name, *score, pairs)).collect();
        let risks: Vec<_> = pairs.iter().map(|(pair, found)| (pair.is_right, found.risk)).collect();
        let reliability = reliability(&risks, BINS);
        let calibration_error = calibration_error(&reliability);
        let (name, wrong) = (name.to_owned(), pairs.len() - right);
        Self {
            name,
            right,
            wrong,
            stages,
            guards,
            reliability,
            calibration_error,
            default: AtDefault::new(bound, pairs, can),
        }
    }
}

impl AtDefault {
    fn new((max_wrong_rate, max_risk): (f64, f64), pairs: &[(&Pair, &Judgement)], can: &[bool]) -> Self {
        let (mut served, mut of) = ([0; 2], [0; 2]);
        for ((pair, found), can) in pairs.iter().zip(can) {
            let right = usize::from(pair.is_right);
            of[right] += 1;
            served[right] += usize::from(*can && found.verdict(max_risk) == Verdict::Hit);
        }
        Self {
            max_wrong_rate,
            max_risk,
            right: Share::new(served[1], of[1]),
            wrong: Share::new(served[0], of[0]),
            precision: Share::new(served[1], served[0] + served[1]),
            not_compared: can.iter().filter(|can| !**can).count(),
        }
    }
}

impl Stage {
    /// `None` where a pair has no such score.
    fn new(name: &'static str, score: Score, pairs: &[(&Pair, &Judgement)]) -> Option<Self> {
        let scored =
            |(pair, found): &(&Pair, &Judgement)| Some(Scored { is_right: pair.is_right, score: score(found)? });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::decide::compare::Comparison;
    use crate::cache::decide::guards::Guard;
    use crate::types::ChatRequest;

    fn case(is_right: bool, kind: &str, similarity: f32, logit: f32, guards: &[Guard]) -> (Pair, Judgement) {
        let prompt = || ChatRequest::prompt("m", "q");
        let pair = Pair { cached: prompt(), new: prompt(), is_right, source: format!("own/{kind}") };
        (
            pair,
            Judgement {
                similarity,
                compared: Comparison { guards: guards.to_vec(), ..Comparison::default() },
                logit: Some(logit),
                readable: true,
                prior: 0.5,
                risk: 1.0 / (1.0 + f64::from(logit).exp()),
            },
        )
    }

    fn report(cases: Vec<(Pair, Judgement)>) -> Report {
        let (pairs, found): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
        let comparable = vec![true; pairs.len()];
        Report::new(("<e>", Some("v")), (0.01, 0.2), &pairs, (&found, &comparable), Took::default())
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
        // Log-odds of 2 are a risk of 0.12; of 1, one of 0.27.
        assert_eq!((set.default.right.value, set.default.wrong.value, set.default.precision.of), (0.5, 0.0, 1));
        let kinds: Vec<_> =
            set.stages[1].kinds.iter().map(|kind| (kind.name.as_str(), kind.is_right, kind.served.value)).collect();
        assert_eq!(kinds, [("number", false, 0.0), ("topic", false, 0.0), ("far", true, 0.0), ("near", true, 1.0)]);
    }

    #[test]
    fn without_a_verifier_there_are_no_stages_of_it() {
        let (pair, found) = case(true, "far", 0.7, 0.0, &[]);
        let report = Report::new(
            ("e", None),
            (0.01, 0.2),
            &[pair],
            (&[Judgement { logit: None, ..found }], &[true]),
            Took::default(),
        );
        assert_eq!(report.sets[0].stages.len(), 3);
        assert_eq!(report.sets[0].stages[0].auc, None);
    }

    #[test]
    fn the_page_is_whole_and_holds_no_markup_of_others() {
        let page = report(vec![case(true, "<b>", 0.7, 2.0, &[]), case(false, "x", 0.6, 1.0, &[])]).html();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("&lt;e&gt;") && page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert_eq!(page.matches("<polyline").count(), 5);
        assert!(page.contains("Time for each of 2 pairs") && page.contains("risk said"));
    }
}
