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
    /// See [`super::guards::Comparison`].
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
}

const FEATURES: usize = 8;

static OWN: LazyLock<Result<RiskModel>> = LazyLock::new(|| RiskModel::parse(include_str!("risk.json")));

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
        Ok(model)
    }

    /// Chance from 0 to 1 that one answer does not serve both.
    pub fn wrong(&self, evidence: &Evidence) -> f64 {
        let weights = if evidence.logit.is_some() { &self.with_verifier } else { &self.without };
        let sum: f64 = evidence.features().iter().zip(weights).map(|(x, weight)| x * weight).sum();
        1.0 / (1.0 + (-sum).exp())
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
        for logit in [None, Some(-1e4), Some(0.0), Some(1e4)] {
            for value in [-1.0, 0.0, 1.0] {
                let evidence = Evidence { similarity: value, logit, likeness: value, lengths: value, vetoed: false };
                assert!((0.0..=1.0).contains(&own.wrong(&evidence)));
            }
        }
    }

    #[test]
    fn a_model_with_missing_weights_is_refused() {
        let json = r#"{"verifier": "v", "with_verifier": [1, 2], "without": [1, 2, 3, 4, 5, 6, 7, 8]}"#;
        assert_eq!(RiskModel::parse(json).unwrap_err().kind, ErrorKind::Corrupt);
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
