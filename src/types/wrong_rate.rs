//! The one knob of a semantic cache.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::{Error, Result};

/// The largest share of requests that may be answered with another prompt's wrong answer, from 0 (serve nothing by meaning) to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct WrongRate(f64);

impl WrongRate {
    /// What is asked for, in one place for all messages.
    pub const EXPECTED: &str = "expected a share from 0 to 1, for example 0.01";

    /// Refuses NaN and anything outside [0, 1].
    pub fn new(share: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(Error::invalid("max_wrong_rate", format!("{share} is not a share; {}", Self::EXPECTED)))
        }
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for WrongRate {
    type Error = Error;
    fn try_from(share: f64) -> Result<Self> {
        Self::new(share)
    }
}

impl From<WrongRate> for f64 {
    fn from(rate: WrongRate) -> f64 {
        rate.0
    }
}

impl fmt::Display for WrongRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_share_and_never_nan() {
        for bad in [f64::NAN, -0.01, 1.01, f64::INFINITY] {
            assert!(WrongRate::new(bad).is_err());
        }
        assert_eq!(WrongRate::new(0.01).unwrap().to_string(), "0.01");
    }
}
