//! Exact money: decimals, never floats.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign};

use super::Usage;

/// US dollars, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Usd(pub Decimal);

impl Add for Usd {
    type Output = Usd;
    fn add(self, other: Usd) -> Usd {
        Usd(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Usd) {
        *self = *self + other;
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.normalize())
    }
}

/// What a model costs, in dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    pub input: Decimal,
    pub output: Decimal,
}

impl Price {
    /// Cost of one answer. Prices are per million tokens, as providers publish them.
    pub fn cost(&self, usage: &Usage) -> Usd {
        let of = |tokens: u64, price: Decimal| Decimal::from(tokens).saturating_mul(price) / Decimal::from(1_000_000);
        Usd(of(usage.prompt_tokens, self.input) + of(usage.completion_tokens, self.output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact() {
        let price = Price { input: Decimal::new(15, 2), output: Decimal::new(60, 2) };
        let usage = Usage { prompt_tokens: 1000, completion_tokens: 1, ..Usage::default() };
        assert_eq!(price.cost(&usage).to_string(), "0.0001506");
    }
}
