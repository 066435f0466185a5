//! Measures of a score that says how surely one answer serves two prompts, against labels.
//!
//! "Served" means: the score is above a threshold. A right pair that is served is a hit; a wrong one is a wrong hit.

use serde::Serialize;

/// A labelled pair's score; higher means more surely right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub is_right: bool,
    pub score: f32,
}

/// A share with the limits of its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub of: usize,
}

/// One threshold's consequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Lowest score that is served.
    pub threshold: f32,
    /// Share of the right pairs that are served.
    pub right: f64,
    /// Share of the wrong pairs that are served.
    pub wrong: f64,
    /// Share of right ones among those that are served.
    pub precision: f64,
}

/// Two-sided 95 %.
const Z: f64 = 1.959_964;
/// Resamples of a bootstrap.
const RESAMPLES: usize = 400;
const SEED: u64 = 20_817;

impl Share {
    /// Wilson's interval (1927), which is sound for few and for extreme counts.
    pub fn new(count: usize, of: usize) -> Self {
        if of == 0 {
            return Self { value: f64::NAN, low: 0.0, high: 1.0, of };
        }
        let (n, p) = (of as f64, count as f64 / of as f64);
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        Self { value: p, low: (middle - half).max(0.0), high: (middle + half).min(1.0), of }
    }
}

/// The served-right against served-wrong curve: one point for each different score, highest first, before them the one that
/// serves nothing.
pub fn curve(scored: &[Scored]) -> Vec<Point> {
    let mut points = Vec::new();
    sweep(&ranked(scored), |_| 1, &mut points);
    points
}

/// Chance that a right pair scores above a wrong one, ties counting half; `None` without both.
pub fn auc(curve: &[Point]) -> Option<f64> {
    let both = curve.last().is_some_and(|last| last.right > 0.0 && last.wrong > 0.0);
    let strip = |pair: &[Point]| (pair[1].wrong - pair[0].wrong) * (pair[0].right + pair[1].right) / 2.0;
    both.then(|| curve.windows(2).map(strip).sum())
}

/// The largest share of right pairs that a threshold serves with at most that share of the wrong ones.
pub fn served_at(curve: &[Point], most_wrong: f64) -> f64 {
    curve.iter().filter(|point| point.wrong <= most_wrong).map(|point| point.right).fold(0.0, f64::max)
}

/// The largest share of right pairs that a threshold serves with at least that precision.
pub fn recall_at(curve: &[Point], precision: f64) -> f64 {
    curve.iter().filter(|point| point.precision >= precision).map(|point| point.right).fold(0.0, f64::max)
}

/// 95 % intervals of measures of the curve, by resampling right and wrong pairs apart, with a fixed seed.
pub fn intervals<const N: usize>(scored: &[Scored], measures: impl Fn(&[Point]) -> [f64; N]) -> [(f64, f64); N] {
    let ranked = ranked(scored);
    let places = |is_right| (0..ranked.len()).filter(|&i| ranked[i].is_right == is_right).collect::<Vec<_>>();
    let parts = [places(true), places(false)];
    let mut dice = fastrand::Rng::with_seed(SEED);
    let (mut weights, mut points) = (vec![0; ranked.len()], Vec::new());
    let mut values: Vec<[f64; N]> = (0..RESAMPLES)
        .map(|_| {
            weights.fill(0);
            for part in &parts {
                part.iter().for_each(|_| weights[part[dice.usize(0..part.len())]] += 1);
            }
            sweep(&ranked, |i| weights[i], &mut points);
            measures(&points)
        })
        .collect();
    std::array::from_fn(|n| {
        values.sort_by(|a, b| a[n].total_cmp(&b[n]));
        (values[RESAMPLES / 40][n], values[RESAMPLES - 1 - RESAMPLES / 40][n])
    })
}

/// Highest score first.
fn ranked(scored: &[Scored]) -> Vec<Scored> {
    let mut ranked = scored.to_vec();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// The curve of pairs of which each counts so often.
fn sweep(ranked: &[Scored], weight: impl Fn(usize) -> usize, points: &mut Vec<Point>) {
    let total = |is_right| (0..ranked.len()).filter(|&i| ranked[i].is_right == is_right).map(&weight).sum::<usize>();
    let (rights, wrongs) = (total(true).max(1) as f64, total(false).max(1) as f64);
    points.clear();
    points.push(Point { threshold: f32::INFINITY, right: 0.0, wrong: 0.0, precision: 1.0 });
    let (mut right, mut wrong) = (0, 0);
    for (i, Scored { is_right, score }) in ranked.iter().enumerate() {
        *(if *is_right { &mut right } else { &mut wrong }) += weight(i);
        if right + wrong > 0 && ranked.get(i + 1).is_none_or(|next| next.score < *score) {
            let precision = right as f64 / (right + wrong) as f64;
            let (right, wrong) = (right as f64 / rights, wrong as f64 / wrongs);
            points.push(Point { threshold: *score, right, wrong, precision });
        }
    }
}

/// One bin of a reliability plot: pairs whose chance to be wrong was said to be about the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Mean of what was said.
    pub said: f64,
    /// Share that was wrong.
    pub seen: Share,
}

/// Pairs in `bins` bins of equal counts, lowest risk first. `risks`: the chance to be wrong that was said of each pair.
pub fn reliability(risks: &[(bool, f64)], bins: usize) -> Vec<Bin> {
    let mut sorted = risks.to_vec();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let size = sorted.len().div_ceil(bins.max(1)).max(1);
    let bin = |part: &[(bool, f64)]| Bin {
        said: part.iter().map(|(_, risk)| risk).sum::<f64>() / part.len() as f64,
        seen: Share::new(part.iter().filter(|(is_right, _)| !is_right).count(), part.len()),
    };
    sorted.chunks(size).map(bin).collect()
}

/// Mean distance between what was said and what was seen, weighted by the bins' sizes (expected calibration error).
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let total: usize = bins.iter().map(|bin| bin.seen.of).sum();
    bins.iter().map(|bin| (bin.said - bin.seen.value).abs() * bin.seen.of as f64).sum::<f64>() / total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(right: &[f32], wrong: &[f32]) -> Vec<Scored> {
        let of = |is_right| move |score: &f32| Scored { is_right, score: *score };
        right.iter().map(of(true)).chain(wrong.iter().map(of(false))).collect()
    }

    #[test]
    fn measures_of_a_small_set_are_those_counted_by_hand() {
        let set = curve(&scored(&[0.9, 0.8, 0.4], &[0.85, 0.3, 0.2, 0.1]));
        // Of 12 comparisons, 0.8 and 0.4 lose to 0.85.
        assert!((auc(&set).unwrap() - 10.0 / 12.0).abs() < 1e-12);
        assert!((served_at(&set, 0.0) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(served_at(&set, 0.25), 1.0);
        assert!((recall_at(&set, 0.95) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(recall_at(&set, 0.75), 1.0);
        assert_eq!(set.last().unwrap(), &Point { threshold: 0.1, right: 1.0, wrong: 1.0, precision: 3.0 / 7.0 });
    }

    #[test]
    fn ties_count_half_and_are_served_together() {
        let set = curve(&scored(&[0.5, 0.5], &[0.5, 0.1]));
        assert!((auc(&set).unwrap() - 0.75).abs() < 1e-12);
        assert_eq!(served_at(&set, 0.4), 0.0);
        assert_eq!(served_at(&set, 0.5), 1.0);
    }

    #[test]
    fn without_one_kind_of_pairs_there_is_no_auc() {
        assert_eq!(auc(&curve(&scored(&[0.1, 0.2], &[]))), None);
        let none = curve(&[]);
        assert_eq!((auc(&none), served_at(&none, 0.01), recall_at(&none, 0.95)), (None, 0.0, 0.0));
    }

    #[test]
    fn wilsons_interval_is_the_published_one() {
        // Newcombe 1998, table I: 81 of 263.
        let share = Share::new(81, 263);
        assert!((share.low - 0.2553).abs() < 1e-4 && (share.high - 0.3662).abs() < 1e-4, "{share:?}");
        let none = Share::new(0, 29);
        assert!(none.low.abs() < 1e-12 && (none.high - 0.1170).abs() < 1e-4, "{none:?}");
    }

    #[test]
    fn a_calibrated_score_has_no_error_and_an_overconfident_one_has() {
        let said = |risk: f64| (0..100).map(move |n| (n >= 20, risk));
        let honest: Vec<_> = said(0.2).collect();
        let overconfident: Vec<_> = said(0.0).collect();
        assert!((calibration_error(&reliability(&overconfident, 1)) - 0.2).abs() < 1e-9);
        assert!(calibration_error(&reliability(&honest, 1)) < 1e-9);
    }

    #[test]
    fn the_interval_holds_the_value_and_narrows_with_more_pairs() {
        let mut dice = fastrand::Rng::with_seed(1);
        let mut width = |count: usize| {
            let right: Vec<f32> = (0..count).map(|_| dice.f32() + 0.3).collect();
            let wrong: Vec<f32> = (0..count).map(|_| dice.f32()).collect();
            let set = scored(&right, &wrong);
            let points = curve(&set);
            let found = intervals(&set, |curve| [auc(curve).unwrap_or(f64::NAN), served_at(curve, 0.05)]);
            let values = [auc(&points).unwrap(), served_at(&points, 0.05)];
            assert!(found.iter().zip(values).all(|((low, high), value)| *low < value && value < *high), "{found:?}");
            found[0].1 - found[0].0
        };
        assert!(width(1000) < width(50) / 2.0);
    }

    proptest! {
        #[test]
        fn the_area_under_the_curve_is_the_chance_of_the_right_order(
            right in prop::collection::vec(0u8..20, 1..30),
            wrong in prop::collection::vec(0u8..20, 1..30),
        ) {
            let value = |x: &u8| f32::from(*x);
            let set = scored(&right.iter().map(value).collect::<Vec<_>>(), &wrong.iter().map(value).collect::<Vec<_>>());
            let wins: f64 = right
                .iter()
                .flat_map(|r| wrong.iter().map(move |w| if r > w { 1.0 } else if r == w { 0.5 } else { 0.0 }))
                .sum();
            let expected = wins / (right.len() * wrong.len()) as f64;
            prop_assert!((auc(&curve(&set)).unwrap() - expected).abs() < 1e-9);
        }
    }
}
