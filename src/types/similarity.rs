//! Vectors and how close they are.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use super::{Error, Result};

/// Cosine similarity in [-1, 1]; higher is closer. Never NaN.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Similarity(f32);

impl Similarity {
    /// Refuses NaN and anything outside [-1, 1].
    pub fn new(cosine: f32) -> Result<Self> {
        if (-1.0..=1.0).contains(&cosine) {
            Ok(Self(cosine))
        } else {
            Err(Error::invalid("min_similarity", format!("{cosine} is not a cosine; expected a number from -1 to 1")))
        }
    }

    /// A computed cosine: rounding may leave it a little outside [-1, 1], so it is clamped; NaN becomes -1, the
    /// value that never hits.
    pub fn from_dot(dot: f32) -> Self {
        if dot.is_nan() { Self(-1.0) } else { Self(dot.clamp(-1.0, 1.0)) }
    }

    /// Of two vectors of unit length and one size.
    pub fn between(a: &[f32], b: &[f32]) -> Self {
        Self::from_dot(a.iter().zip(b).map(|(x, y)| x * y).sum())
    }

    pub fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Similarity {
    type Error = Error;
    fn try_from(cosine: f32) -> Result<Self> {
        Self::new(cosine)
    }
}

impl From<Similarity> for f32 {
    fn from(similarity: Similarity) -> f32 {
        similarity.0
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

/// A text as a unit vector, with what the tokeniser saw of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Unit length, `dim` values.
    pub vector: Arc<[f32]>,
    /// Tokens that went through the model, special tokens included.
    pub tokens: u32,
    /// True when the text was longer than the model reads and its end was cut off.
    pub truncated: bool,
    /// Tokens, of those that went through the model, that its vocabulary does not have: they all look alike to it.
    pub unknown: u32,
}

impl Embedding {
    /// Whether the vector speaks for the whole text. Where it does not, texts that mean different things can have
    /// the very same vector, so it must not decide a semantic hit, neither as the question nor as the entry.
    pub fn is_whole(&self) -> bool {
        !self.truncated && self.unknown == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_cosine_and_never_nan() {
        assert!(Similarity::new(f32::NAN).is_err());
        assert!(Similarity::new(1.5).is_err());
        assert_eq!(Similarity::new(0.95).unwrap().get(), 0.95);
    }

    #[test]
    fn between_vectors_it_is_their_cosine() {
        assert_eq!(Similarity::between(&[0.6, 0.8], &[0.6, 0.8]).get(), 1.0);
        assert!((Similarity::between(&[0.6, 0.8], &[1.0, 0.0]).get() - 0.6).abs() < 1e-6);
    }

    #[test]
    fn a_computed_nan_never_hits() {
        assert_eq!(Similarity::from_dot(f32::NAN).get(), -1.0);
        assert_eq!(Similarity::from_dot(1.000_001).get(), 1.0);
    }
}
