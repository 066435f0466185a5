//! A fixed rotation that spreads what a vector holds evenly over its values. Cosines stay as they are; rounding to 8
//! bits loses less, since no value sticks out, and the signs of the values become a sharp sketch of the vector.
//!
//! Random signs and Hadamard transforms, in turn (Ailon, Chazelle: "The fast Johnson-Lindenstrauss transform", 2009).
//! A transform has a power of two as its length; where the dimension is none, it covers the first values in one turn
//! and the last ones in the next.

/// How often signs and transform alternate; every value reaches every other in two turns where the dimension
/// is no power of two.
const TURNS: usize = 4;

/// How far the length of a rotated vector, or its dot product with another, may be off by rounding; vectors as long as
/// the store accepts, of up to 65,536 values.
pub const ROUNDING: f32 = 2e-5;

/// Part of the stored format: codes made with other signs cannot be compared.
const SEED: u64 = 0x5265_7072_6973_6531;

/// The rotation for vectors of one dimension, at least 1.
#[derive(Debug)]
pub struct Rotation {
    /// 1 or -1, for each turn and value.
    signs: Vec<f32>,
    dim: usize,
    /// Largest power of two that is not above `dim`.
    span: usize,
}

impl Rotation {
    pub fn new(dim: usize) -> Self {
        let mut state = SEED;
        let signs = (0..TURNS * dim).map(|_| if split_mix(&mut state) >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        Self { signs, dim, span: 1 << dim.ilog2() }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rotates a vector of the rotation's dimension.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let mut values = vector.to_vec();
        let norm = (self.span as f32).sqrt().recip();
        for (turn, signs) in self.signs.chunks_exact(self.dim).enumerate() {
            values.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            let start = if turn % 2 == 0 { 0 } else { self.dim - self.span };
            let span = &mut values[start..start + self.span];
            hadamard(span);
            span.iter_mut().for_each(|x| *x *= norm);
        }
        values
    }
}

/// The Walsh-Hadamard transform in place, not normalised.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), of our own so that no update of a crate changes the signs.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::contract::unit;
    use crate::store::vector::flat::kernels::dot_f32;

    #[test]
    fn dot_products_stay_as_they_are() {
        for dim in [1, 2, 3, 48, 64, 100, 384, 768, 1000, 65_536] {
            let rotation = Rotation::new(dim);
            for seed in 0..4 {
                let (a, b) = (unit(seed, dim), unit(100 + seed, dim));
                let (x, y) = (rotation.apply(&a), rotation.apply(&b));
                assert!((dot_f32(&x, &y) - dot_f32(&a, &b)).abs() < ROUNDING, "{dim}");
                assert!((dot_f32(&x, &x) - 1.0).abs() < ROUNDING, "{dim}");
            }
        }
    }

    #[test]
    fn a_single_value_is_spread_over_all() {
        for dim in [384, 768, 1000, 1024] {
            let rotation = Rotation::new(dim);
            for at in [0, dim / 2, dim - 1] {
                let mut vector = vec![0.0; dim];
                vector[at] = 1.0;
                let largest = rotation.apply(&vector).iter().fold(0.0f32, |l, x| l.max(x.abs()));
                assert!(largest < 6.0 / (dim as f32).sqrt(), "{dim}: {largest}");
            }
        }
    }

    #[test]
    fn the_rotation_never_changes() {
        let rotated = Rotation::new(3).apply(&[1.0, 2.0, 3.0]);
        assert_eq!(rotated, EXPECTED, "stored codes were made with these signs");
    }

    const EXPECTED: [f32; 3] = [0.353_553_38, -1.224_873_7, -3.517_766_7];
}
