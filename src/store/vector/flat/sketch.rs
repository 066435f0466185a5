//! One bit a value: the signs of a rotated vector, and what they tell of its dot product with a query.
//!
//! The query keeps its values (an asymmetric estimate), which halves the error against comparing signs with signs. With
//! s the signs of a unit vector x, q.s / x.s is an unbiased estimate of the cosine c of q and x, and its standard
//! deviation is sqrt((1 - c^2) (n / (x.s)^2 - 1) / (n - 1)) for n values: about 0.020 at c = 0.85 and n = 384. The rotation
//! stands in for the random one of the proof. Gao, Long: "RaBitQ", SIGMOD 2024, theorem 3.2.

use super::kernels::{BLOCK, MAX_TABLE, Table};
use super::quantise::is_positive;

/// Dimensions that are sketched. With fewer values a sketch says too little, and with more a score may not fit.
pub const DIMS: std::ops::RangeInclusive<usize> = 64..=4096;

/// How many standard deviations a row's estimate may lie below a cosine before the row is taken to lie below it too. Were the
/// errors normal, one row in 3.5 million would be missed.
pub const DEVIATIONS: f32 = 5.0;

/// Values whose signs share a [`Table`], and a byte of a sketch.
const TABLE_VALUES: usize = 4;
const BYTE_VALUES: usize = 8;

/// Bytes of a sketch of that many values.
pub fn bytes(dim: usize) -> usize {
    dim.div_ceil(BYTE_VALUES)
}

/// Writes the sketch of `codes` as row `row` of a block of [`bytes()`] times [`BLOCK`] bytes.
pub fn write(codes: &[i8], block: &mut [[u8; BLOCK]], row: usize) {
    for (codes, bytes) in codes.chunks(BYTE_VALUES).zip(block) {
        bytes[row] = codes.iter().enumerate().fold(0, |byte, (i, &code)| byte | u8::from(is_positive(code)) << i);
    }
}

/// Copies the sketch of one row over that of another.
pub fn copy(sketches: &mut [[u8; BLOCK]], width: usize, from: usize, to: usize) {
    for byte in 0..width {
        sketches[to / BLOCK * width + byte][to % BLOCK] = sketches[from / BLOCK * width + byte][from % BLOCK];
    }
}

/// A query, ready for [`super::kernels::sketch_scores`].
///
/// A score counts steps above the lowest dot product that any signs could have with the query, -|q|_1.
#[derive(Debug)]
pub struct Query {
    pub tables: Vec<Table>,
    step: f32,
    lowest: f32,
    /// Variance of what rounding the tables adds to a dot product.
    rounding: f32,
    dim: f32,
}

impl Query {
    /// Of a rotated unit vector; its dimension is one of [`DIMS`].
    pub fn new(rotated: &[f32]) -> Self {
        let sum = |values: &[f32]| values.iter().map(|x| x.abs()).sum::<f32>();
        let widest = rotated.chunks(TABLE_VALUES).map(|values| 2.0 * sum(values)).fold(f32::MIN_POSITIVE, f32::max);
        let step = widest / f32::from(MAX_TABLE);
        let mut tables: Vec<Table> = rotated.chunks(TABLE_VALUES).map(|values| table(values, step)).collect();
        // Two for each byte, also for the last one.
        tables.resize(2 * bytes(rotated.len()), [0; 16]);
        let rounding = step * step * tables.len() as f32 / 12.0;
        Self { tables, step, lowest: -sum(rotated), rounding, dim: rotated.len() as f32 }
    }

    /// About the dot product of the query with the signs of a row of that score.
    pub fn dot(&self, score: u16) -> f32 {
        self.lowest + self.step * f32::from(score)
    }

    /// The lowest score that may stand for that dot product.
    pub fn score(&self, dot: f32) -> u16 {
        // A conversion to whole numbers saturates.
        ((dot - self.lowest) / self.step) as u16
    }

    /// The dot product with its signs that a row of that `reach` has at least, short of [`DEVIATIONS`], if its cosine with
    /// the query is `cosine` or more. Grows with the reach when the cosine is positive.
    pub fn least_dot(&self, cosine: f32, reach: f32) -> f32 {
        let signs = (1.0 - cosine * cosine).max(0.0) * (self.dim - reach * reach).max(0.0) / (self.dim - 1.0);
        cosine * reach - DEVIATIONS * (signs + self.rounding).sqrt()
    }
}

/// Up to four values: entry `b` is the sum of those whose bit in `b` is set, less the others, above the lowest such sum.
fn table(values: &[f32], step: f32) -> Table {
    let mut above = [0.0; 16];
    above[0] = 2.0 * values.iter().map(|x| (-x).max(0.0)).sum::<f32>();
    for (i, x) in values.iter().enumerate() {
        for bits in 0..1 << i {
            above[bits | 1 << i] = above[bits] + 2.0 * x;
        }
    }
    above.map(|above| (above / step + 0.5).min(f32::from(MAX_TABLE)) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::contract::{near, unit};
    use crate::store::vector::flat::kernels::{dot_f32, sketch_scores};
    use crate::store::vector::flat::quantise::quantise;
    use crate::store::vector::flat::rotate::Rotation;

    /// The estimated and the true cosine of a query and a row, and the row's reach.
    fn compare(rotation: &Rotation, query: &[f32], row: &[f32]) -> (f32, f32, Query, f32) {
        let mut codes = vec![0; row.len()];
        let reach = quantise(&rotation.apply(row), &mut codes).reach;
        let mut block = vec![[0; BLOCK]; bytes(row.len())];
        write(&codes, &mut block, 7);
        let sketched = Query::new(&rotation.apply(query));
        let mut scores = [0; BLOCK];
        sketch_scores(&sketched.tables, &block, 0, &mut scores);
        (sketched.dot(scores[7]), dot_f32(query, row), sketched, reach)
    }

    #[test]
    fn errors_are_those_of_the_formula() {
        for dim in [64, 100, 384, 768, 4096] {
            let rotation = Rotation::new(dim);
            let (mut squares, mut worst) = (0.0, 0.0f32);
            const PAIRS: u64 = 400;
            for seed in 0..PAIRS {
                let query = unit(seed, dim);
                let row = near(&query, PAIRS + seed, 0.1 + 0.01 * seed as f32);
                let (dot, cosine, query, reach) = compare(&rotation, &query, &row);
                let deviation = (cosine * reach - query.least_dot(cosine, reach)) / DEVIATIONS;
                let off = (dot - cosine * reach) / deviation;
                squares += off * off;
                worst = worst.max(off.abs());
            }
            let spread = (squares / PAIRS as f32).sqrt();
            assert!((0.8..1.2).contains(&spread) && worst < DEVIATIONS, "{dim}: {spread} {worst}");
        }
    }

    #[test]
    fn a_score_below_that_of_a_dot_product_stands_for_a_lower_one() {
        let query = Query::new(&unit(1, 384));
        for dot in [-3.0f32, 0.0, 2.5, 11.0] {
            let score = query.score(dot);
            assert!(query.dot(score) <= dot && query.dot(score + 1) > dot - 1e-4);
        }
        assert_eq!((query.score(-1e9), query.score(1e9)), (0, u16::MAX));
    }

    #[test]
    fn a_copied_sketch_is_that_of_the_row_it_came_from() {
        let width = bytes(100);
        let mut sketches = vec![[0; BLOCK]; 2 * width];
        let codes: Vec<i8> = unit(5, 100).iter().map(|x| (x * 100.0) as i8).collect();
        write(&codes, &mut sketches[width..], 3);
        copy(&mut sketches, width, BLOCK + 3, 9);
        let mut expected = vec![[0; BLOCK]; width];
        write(&codes, &mut expected, 9);
        assert_eq!(sketches[..width], expected);
    }
}
