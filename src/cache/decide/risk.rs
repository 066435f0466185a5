//! The chance that a candidate's answer is a wrong one for the new prompt: one logistic model over all that is known of the two
//! prompts, fitted on labelled pairs that the verifier was not trained on (`models/verifier/fit_risk.py`).

use serde::Deserialize;
use std::sync::LazyLock;

use crate::types::{Error, ErrorKind, Result};

/// What is known of two prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// Cosine of their vectors.
    pub similarity: f32,
    /// The verifier's log-odds; `None` where no verifier read them.
    pub logit: Option<f32>,
    /// See [`super::compare::Comparison`].
    pub likeness: f32,
    pub lengths: f32,
    /// A guard spoke against them.
    pub vetoed: bool,
}

/// Weights of the features that [`Evidence::features`] gives, with a verifier and without one.
#[derive(Debug, Clone, Deserialize)]
pub struct RiskModel {
    /// The verifier whose log-odds it knows.
    pub verifier: String,
    with_verifier: Vec<f64>,
    without: Vec<f64>,
    /// Rising pairs of a wrong rate and the highest risk that may be served for it, as `fit_risk.py` found them.
    with_verifier_bounds: Vec<(f64, f64)>,
    without_bounds: Vec<(f64, f64)>,
}

const FEATURES: usize = 8;

const OWN_JSON: &str = include_str!("risk.json");

static OWN: LazyLock<Result<RiskModel>> = LazyLock::new(|| RiskModel::parse(OWN_JSON));

impl RiskModel {
    /// The one that belongs to the program's own verifier.
    ///
    /// Errors: `Corrupt`, if the program was built with one that does not parse.
    pub fn own() -> Result<&'static Self> {
        OWN.as_ref().map_err(Clone::clone)
    }

    fn parse(json: &str) -> Result<Self> {
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, format!("risk.json: {why}"));
        let model: Self = serde_json::from_str(json).map_err(|e| corrupt(e.to_string()))?;
        if model.with_verifier.len() != FEATURES || model.without.len() != FEATURES {
            return Err(corrupt(format!("each model has {FEATURES} weights")));
        }
        for bounds in [&model.with_verifier_bounds, &model.without_bounds] {
            let rise = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            let shares = |&(rate, risk): &(f64, f64)| (0.0..1.0).contains(&rate) && (0.0..=1.0).contains(&risk);
            if !(bounds.windows(2).all(rise) && bounds.iter().all(shares)) {
                return Err(corrupt("bounds must be rising shares".into()));
            }
        }
        Ok(model)
    }

    /// The highest risk that may be served so that at most this share of requests gets a wrong answer, as far as held-out pairs
    /// tell. Nothing may be at a rate of 0, and everything at 1; between the rates that were fitted it is a straight line.
    pub fn max_risk(&self, rate: f64, has_verifier: bool) -> f64 {
        let bounds = if has_verifier { &self.with_verifier_bounds } else { &self.without_bounds };
        let mut below = (0.0, 0.0);
        for &above in bounds.iter().chain([&(1.0, 1.0)]) {
            if rate <= above.0 {
                return below.1 + (above.1 - below.1) * (rate - below.0) / (above.0 - below.0).max(f64::MIN_POSITIVE);
            }
            below = above;
        }
        1.0
    }

    /// Chance from 0 to 1 that one answer does not serve both.
    pub fn wrong(&self, evidence: &Evidence) -> f64 {
        let weights = if evidence.logit.is_some() { &self.with_verifier } else { &self.without };
        // What is no number is no reason to serve.
        let sum: f64 = evidence.features().iter().zip(weights).map(|(x, weight)| x * weight).sum();
        if sum.is_nan() { 1.0 } else { 1.0 / (1.0 + (-sum).exp()) }
    }

    /// A short hash of [`RiskModel::own`]: risks of different models are never compared.
    pub fn own_id() -> String {
        blake3::hash(OWN_JSON.as_bytes()).to_hex()[..8].to_owned()
    }
}

impl Evidence {
    /// The order is that of the weights in `risk.json`.
    fn features(&self) -> [f64; FEATURES] {
        let [similarity, likeness, lengths] = [self.similarity, self.likeness, self.lengths].map(f64::from);
        let veto = f64::from(u8::from(self.vetoed));
        match self.logit.map(f64::from) {
            Some(logit) => {
                [1.0, similarity, logit, logit * logit.abs() / 4.0, similarity * logit, likeness, lengths, veto]
            }
            None => {
                let square = similarity * similarity;
                [1.0, similarity, square, similarity * likeness, likeness, likeness * likeness, lengths, veto]
            }
        }
    }
}

/// Log-odds of a chance, which is taken to be no nearer to 0 and 1 than floating point can tell them apart.
pub fn logit(chance: f64) -> f64 {
    let chance = chance.clamp(1e-12, 1.0 - 1e-12);
    (chance / (1.0 - chance)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: Evidence = Evidence { similarity: 0.95, logit: Some(4.0), likeness: 0.9, lengths: 0.9, vetoed: false };

    #[test]
    fn what_speaks_against_a_pair_raises_its_risk() {
        let own = RiskModel::own().unwrap();
        let sure = own.wrong(&SURE);
        assert!(sure < 0.1, "{sure}");
        for worse in [
            Evidence { logit: Some(-2.0), ..SURE },
            Evidence { vetoed: true, ..SURE },
            Evidence { similarity: 0.5, logit: Some(1.0), ..SURE },
            Evidence { logit: None, ..SURE },
        ] {
            assert!(own.wrong(&worse) > sure, "{worse:?}");
        }
    }

    #[test]
    fn a_risk_is_a_chance_whatever_the_evidence() {
        let own = RiskModel::own().unwrap();
        for logit in [None, Some(f32::NEG_INFINITY), Some(f32::NAN), Some(-1e4), Some(0.0), Some(1e4)] {
            for value in [-1.0, 0.0, 1.0] {
                let evidence = Evidence { similarity: value, logit, likeness: value, lengths: value, vetoed: false };
                assert!((0.0..=1.0).contains(&own.wrong(&evidence)));
            }
        }
    }

    #[test]
    fn a_model_with_missing_weights_is_refused() {
        let parse = |with: &str, bounds: &str| {
            let json = format!(
                r#"{{"verifier": "v", "with_verifier": {with}, "without": [1, 2, 3, 4, 5, 6, 7, 8],
                    "with_verifier_bounds": {bounds}, "without_bounds": []}}"#
            );
            RiskModel::parse(&json)
        };
        let eight = "[1, 2, 3, 4, 5, 6, 7, 8]";
        assert!(parse(eight, "[[0.1, 0.2], [0.2, 0.2]]").is_ok());
        for (with, bounds) in [("[1, 2]", "[]"), (eight, "[[0.2, 0.2], [0.1, 0.3]]"), (eight, "[[0.1, 1.2]]")] {
            assert_eq!(parse(with, bounds).unwrap_err().kind, ErrorKind::Corrupt, "{with} {bounds}");
        }
    }

    #[test]
    fn a_looser_bound_serves_more_and_the_ends_are_nothing_and_all() {
        let own = RiskModel::own().unwrap();
        for has_verifier in [true, false] {
            let most = |rate| own.max_risk(rate, has_verifier);
            assert_eq!((most(0.0), most(1.0)), (0.0, 1.0));
            let risks: Vec<f64> = (0..=1000).map(|n| most(f64::from(n) / 1000.0)).collect();
            assert!(risks.is_sorted() && risks[10] > risks[1] && risks.iter().all(|r| (0.0..=1.0).contains(r)));
        }
        let with_verifier_bounds = vec![(0.1, 0.2), (0.2, 0.4)];
        let fitted = RiskModel { with_verifier_bounds, ..own.clone() };
        for (rate, risk) in [(0.05, 0.1), (0.1, 0.2), (0.15, 0.3), (0.6, 0.7)] {
            assert!((fitted.max_risk(rate, true) - risk).abs() < 1e-12, "{rate}");
        }
    }

    #[test]
    fn it_belongs_to_the_verifier_that_the_program_has() {
        use sha2::{Digest, Sha256};
        let weights = crate::embed::VerifierFiles::OWN.weights;
        let hash: String = Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(RiskModel::own().unwrap().verifier, hash);
        assert_eq!(include_str!("../../../models/verifier/verifier.sha256").trim(), hash);
    }
}
