//! Vectors in 8 bits a value, with a proven bound on what a dot product loses by it.

use super::kernels::MAX_CODE;
use super::rotate::{self, Rotation};
use crate::store::vector::LENGTH_TOLERANCE;
use crate::types::UnixMillis;

/// What codes stand for: value = `scale` * code, and `error` is the length of what that leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub scale: f32,
    pub error: f32,
    /// Dot product of the values with the signs of their codes.
    pub reach: f32,
}

/// A vector as it is kept in memory, and the id of its row in the file.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub id: i64,
    pub expires: UnixMillis,
    pub scale: Scale,
    pub codes: &'a [i8],
}

/// The codes of one vector's rotation.
#[derive(Debug, Clone)]
pub struct Quantised {
    pub scale: Scale,
    pub codes: Box<[i8]>,
}

impl Quantised {
    /// Of a vector of the rotation's dimension, with finite values.
    pub fn new(rotation: &Rotation, vector: &[f32]) -> Self {
        let mut codes = vec![0; vector.len()].into_boxed_slice();
        Self { scale: quantise(&rotation.apply(vector), &mut codes), codes }
    }
}

/// The sign of a code as a sketch has it: zero counts as positive.
pub fn is_positive(code: i8) -> bool {
    code >= 0
}

/// Writes the codes of `vector` (finite values) into `codes`, of the same length.
///
/// Each value goes to the nearest multiple of max|x| / 127, give or take f32's rounding. The error's length is computed,
/// in f64, rather than taken as its worst case: that halves the bound.
pub fn quantise(vector: &[f32], codes: &mut [i8]) -> Scale {
    let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / f32::from(MAX_CODE);
    let steps = if scale > 0.0 { scale.recip() } else { 0.0 };
    let (mut squares, mut reach) = (0.0f64, 0.0f64);
    for (&x, code) in vector.iter().zip(codes) {
        // Rounds without `round`, which is a call for each value where the CPU is not known to have it.
        let scaled = x * steps;
        let rounded = scaled + 0.5f32.copysign(scaled);
        *code = rounded.clamp(-f32::from(MAX_CODE), f32::from(MAX_CODE)) as i8;
        let left_out = f64::from(x) - f64::from(scale) * f64::from(*code);
        squares += left_out * left_out;
        reach += if is_positive(*code) { f64::from(x) } else { -f64::from(x) };
    }
    Scale { scale, error: (squares.sqrt() as f32).next_up(), reach: reach as f32 }
}

/// Bounds the f32 dot product of two unit vectors from that of the codes of their rotations.
///
/// With x = s c + e and q = t d + f (scale * codes + what is left out), x.q = s t c.d + (s c).f + e.q, so by
/// Cauchy-Schwarz |x.q - s t c.d| <= |s c| |f| + |e| |q| <= (L + |e|) |f| + |e| L, with L the longest vector accepted.
/// On top comes the rounding of the rotation, and of f32 sums of n products, at most n 2^-24 L^2 for each of the few
/// sums involved.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    query: Scale,
    rounding: f32,
}

const LONGEST: f32 = 1.0 + LENGTH_TOLERANCE;

impl Bound {
    /// For comparisons with a query of that scale, of vectors of `dim` values.
    pub fn new(query: Scale, dim: usize) -> Self {
        Self { query, rounding: (dim + 16) as f32 * f32::EPSILON + rotate::ROUNDING }
    }

    /// The dot product as far as the codes tell it.
    pub fn estimate(&self, row: Scale, dot: i32) -> f32 {
        row.scale * self.query.scale * dot as f32
    }

    /// How far the f32 dot product may be from the estimate, up or down.
    pub fn margin(&self, row: Scale) -> f32 {
        row.error * (LONGEST + self.query.error) + LONGEST * self.query.error + self.rounding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::flat::kernels::{dot_f32, dots_i8};
    use proptest::prelude::*;

    fn unit(values: &[f32]) -> Vec<f32> {
        let length = values.iter().map(|x| x * x).sum::<f32>().sqrt();
        values.iter().map(|x| x / length).collect()
    }

    #[test]
    fn the_largest_value_takes_the_largest_code_and_small_ones_vanish() {
        let mut codes = [0; 4];
        let scale = quantise(&[0.8, -0.6, 0.001, 0.0], &mut codes);
        assert_eq!(codes, [127, -95, 0, 0]);
        assert!((scale.scale - 0.8 / 127.0).abs() < 1e-9);
        assert_eq!(quantise(&[0.0; 4], &mut codes).scale, 0.0);
        assert_eq!(codes, [0; 4]);
    }

    #[test]
    fn the_reach_is_the_sum_by_the_signs_of_the_codes() {
        let scale = quantise(&[0.75, -0.5, -0.000_001, 0.125], &mut [0; 4]);
        assert!((scale.reach - (0.75 + 0.5 - 0.000_001 + 0.125)).abs() < 1e-7, "{scale:?}");
    }

    proptest! {
        #[test]
        fn the_f32_dot_product_is_within_the_margin(
            values in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 1..400),
            spike in 0.0f32..50.0,
        ) {
            let (mut x, mut q): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            x[0] += spike;
            q[0] += 0.1;
            prop_assume!(x.iter().any(|v| v.abs() > 1e-3));
            let (x, q) = (unit(&x), unit(&q));
            let rotation = Rotation::new(x.len());
            let (row, query) = (Quantised::new(&rotation, &x), Quantised::new(&rotation, &q));
            let mut dot = [0];
            dots_i8(&query.codes, &row.codes, &mut dot);
            let bound = Bound::new(query.scale, x.len());
            let off = (dot_f32(&x, &q) - bound.estimate(row.scale, dot[0])).abs();
            prop_assert!(off <= bound.margin(row.scale), "{off} > {}", bound.margin(row.scale));
        }
    }
}
