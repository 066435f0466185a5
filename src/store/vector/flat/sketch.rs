//! One bit a value: the signs of a rotated vector, and what they tell of its dot product with a query.
//!
//! The query keeps its values (an asymmetric estimate), which halves the error against comparing signs with signs. With
//! s the signs of a unit vector x, q.s / x.s is an unbiased estimate of the cosine c of q and x, and its standard
//! deviation is sqrt((1 - c^2) (n / (x.s)^2 - 1) / (n - 1)) for n values: about 0.020 at c = 0.85 and n = 384. The rotation
//! stands in for the random one of the proof. Gao, Long: "RaBitQ", SIGMOD 2024, theorem 3.2.

use super::kernels::{BLOCK, MAX_TABLE, Table, sketch_scores};
use super::quantise::is_positive;

/// Dimensions that are sketched. With fewer values a sketch says too little, and with more a score may not fit.
pub const DIMS: std::ops::RangeInclusive<usize> = 64..=4096;

/// How many standard deviations a row's estimate may lie below a cosine before the row is taken to lie below it too. Were the
/// errors normal, one row in 3.5 million would be missed.
pub const DEVIATIONS: f32 = 5.0;

/// Values whose signs share a [`Table`], and a byte of a sketch.
const TABLE_VALUES: usize = 4;
const BYTE_VALUES: usize = 8;

/// Bytes of a sketch that are kept apart, and read first: 128 signs say enough of most rows to leave them out.
const HEAD: usize = 16;
/// Shorter sketches are all head.
const DIVIDED: usize = 24;

/// The sketches of some rows, in blocks of [`BLOCK`] rows: first bytes of all, then the rest of all.
#[derive(Debug, Clone)]
pub struct Sketches {
    heads: Part,
    tails: Part,
}

/// Some bytes of each sketch; of the rows of a block the first byte, then their second, and so on.
#[derive(Debug, Clone)]
struct Part {
    width: usize,
    bytes: Vec<[u8; BLOCK]>,
}

impl Sketches {
    /// Of no rows; vectors of `dim` values.
    pub fn new(dim: usize) -> Self {
        let width = dim.div_ceil(BYTE_VALUES);
        let head = head(width);
        Self { heads: Part { width: head, bytes: Vec::new() }, tails: Part { width: width - head, bytes: Vec::new() } }
    }

    /// Bytes held, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        (self.heads.bytes.capacity() + self.tails.bytes.capacity()) * BLOCK
    }

    /// Blocks that there is room for.
    pub fn blocks(&self) -> usize {
        self.heads.bytes.len() / self.heads.width
    }

    /// First bytes of all rows.
    pub fn heads(&self) -> &[[u8; BLOCK]] {
        &self.heads.bytes
    }

    /// The first bytes of each block.
    pub fn head_blocks(&self) -> impl Iterator<Item = &[[u8; BLOCK]]> {
        self.heads.bytes.chunks_exact(self.heads.width)
    }

    /// The other bytes of a block.
    pub fn tail(&self, block: usize) -> &[[u8; BLOCK]] {
        &self.tails.bytes[block * self.tails.width..(block + 1) * self.tails.width]
    }

    /// Room for so many blocks, and no more. Those that are new are of nothing.
    pub fn resize(&mut self, blocks: usize) {
        for part in [&mut self.heads, &mut self.tails] {
            let len = blocks * part.width;
            // A doubled list would be mostly empty.
            part.bytes.reserve_exact(len.saturating_sub(part.bytes.len()));
            part.bytes.resize(len, [0; BLOCK]);
            part.bytes.shrink_to_fit();
        }
    }

    /// Writes the sketch of `codes`.
    pub fn write(&mut self, row: usize, codes: &[i8]) {
        let (head, tail) = codes.split_at(codes.len().min(self.heads.width * BYTE_VALUES));
        self.heads.write(row, head);
        self.tails.write(row, tail);
    }

    /// Copies the sketch of one row over that of another.
    pub fn copy(&mut self, from: usize, to: usize) {
        for part in [&mut self.heads, &mut self.tails] {
            for byte in 0..part.width {
                part.bytes[to / BLOCK * part.width + byte][to % BLOCK] =
                    part.bytes[from / BLOCK * part.width + byte][from % BLOCK];
            }
        }
    }
}

impl Part {
    fn write(&mut self, row: usize, codes: &[i8]) {
        let block = &mut self.bytes[row / BLOCK * self.width..];
        for (codes, bytes) in codes.chunks(BYTE_VALUES).zip(block) {
            bytes[row % BLOCK] =
                codes.iter().enumerate().fold(0, |byte, (i, &code)| byte | u8::from(is_positive(code)) << i);
        }
    }
}

fn head(width: usize) -> usize {
    if width < DIVIDED { width } else { HEAD }
}

/// A query, ready to score sketches.
///
/// A score counts steps above the lowest dot product that any signs could have with the query, -|q|_1.
#[derive(Debug)]
pub struct Query {
    heads: Vec<Table>,
    tails: Vec<Table>,
    step: f32,
    lowest: f32,
    /// The values that the first bytes of a sketch are of.
    head: Vec<f32>,
    dim: f32,
}

impl Query {
    /// Of a rotated unit vector; its dimension is one of [`DIMS`].
    pub fn new(rotated: &[f32]) -> Self {
        let sum = |values: &[f32]| values.iter().map(|x| x.abs()).sum::<f32>();
        let widest = rotated.chunks(TABLE_VALUES).map(|values| 2.0 * sum(values)).fold(f32::MIN_POSITIVE, f32::max);
        let step = widest / f32::from(MAX_TABLE);
        let mut tables: Vec<Table> = rotated.chunks(TABLE_VALUES).map(|values| table(values, step)).collect();
        let width = rotated.len().div_ceil(BYTE_VALUES);
        // Two for each byte, also for the last one.
        tables.resize(2 * width, [0; 16]);
        let tails = tables.split_off(2 * head(width));
        let head = rotated[..rotated.len().min(head(width) * BYTE_VALUES)].to_vec();
        Self { heads: tables, tails, step, lowest: -sum(rotated), head, dim: rotated.len() as f32 }
    }

    /// What the first bytes of a block's sketches score; a bit for each row that reaches `least`.
    pub fn score_heads(&self, head: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
        sketch_scores(&self.heads, head, least, scores)
    }

    /// What the other bytes of a block's sketches score.
    pub fn score_tails(&self, tail: &[[u8; BLOCK]], scores: &mut [u16; BLOCK]) {
        sketch_scores(&self.tails, tail, 0, scores);
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
        let tables = self.heads.len() + self.tails.len();
        cosine * reach - DEVIATIONS * (signs + self.rounding(tables)).sqrt()
    }

    /// About the cosine of rows of that score.
    pub fn cosine(&self, score: u16) -> f32 {
        // The signs of a random unit vector have sqrt(2 n / pi) as their dot product with it.
        self.dot(score) / (self.dim * std::f32::consts::FRAC_2_PI).sqrt()
    }

    /// What the first bytes of a row score at least, short of so many standard deviations, if its cosine with the query
    /// is `cosine` or more; 0 for one that is not positive.
    ///
    /// A row with cosine c is c q + sqrt(1 - c^2) v, with v a random unit vector, whose values are nearly normal with variance
    /// 1 / n. So the sign of its value i is that of q_i with the chance that a normal variable stays below
    /// z_i = c |q_i| sqrt(n) / sqrt(1 - c^2), and q_i times the sign has the mean |q_i| erf(z_i / sqrt(2)).
    pub fn least_head(&self, cosine: f32, deviations: f32) -> u16 {
        if cosine <= 0.0 {
            return 0;
        }
        let cosine = cosine.min(0.999);
        let spread = cosine * (self.dim / (2.0 * (1.0 - cosine * cosine))).sqrt();
        let (mut mean, mut variance, mut lowest) = (0.0, self.rounding(self.heads.len()), 0.0);
        for value in self.head.iter().map(|x| x.abs()) {
            let sign = erf(spread * value);
            mean += value * sign;
            variance += value * value * (1.0 - sign * sign);
            lowest -= value;
        }
        ((mean - deviations * variance.sqrt() - lowest) / self.step) as u16
    }

    /// Variance of what rounding so many tables adds to a dot product.
    fn rounding(&self, tables: usize) -> f32 {
        self.step * self.step * tables as f32 / 12.0
    }
}

/// The error function of a value that is not negative, to 5e-4 (Abramowitz and Stegun 7.1.27).
fn erf(x: f32) -> f32 {
    let sum = 1.0 + x * (0.278_393 + x * (0.230_389 + x * (0.000_972 + x * 0.078_108)));
    1.0 - (sum * sum * sum * sum).recip()
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
    use crate::store::vector::flat::kernels::dot_f32;
    use crate::store::vector::flat::quantise::quantise;
    use crate::store::vector::flat::rotate::Rotation;

    /// A query and a row: scores of the first bytes and of all, and the true cosine; the row's reach.
    struct Compared {
        head: u16,
        score: u16,
        cosine: f32,
        query: Query,
        reach: f32,
    }

    fn compare(rotation: &Rotation, query: &[f32], row: &[f32]) -> Compared {
        let mut codes = vec![0; row.len()];
        let reach = quantise(&rotation.apply(row), &mut codes).reach;
        let mut sketches = Sketches::new(row.len());
        sketches.resize(1);
        sketches.write(7, &codes);
        let sketched = Query::new(&rotation.apply(query));
        let (mut heads, mut tails) = ([0; BLOCK], [0; BLOCK]);
        sketched.score_heads(sketches.heads(), 0, &mut heads);
        sketched.score_tails(sketches.tail(0), &mut tails);
        Compared { head: heads[7], score: heads[7] + tails[7], cosine: dot_f32(query, row), query: sketched, reach }
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
                let Compared { score, cosine, query, reach, .. } = compare(&rotation, &query, &row);
                let dot = query.dot(score);
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
    fn errors_of_the_first_bytes_are_those_of_their_formula() {
        for dim in [64, 200, 384, 768, 4096] {
            let rotation = Rotation::new(dim);
            let (mut squares, mut worst) = (0.0, 0.0f32);
            const PAIRS: u64 = 400;
            for seed in 0..PAIRS {
                let query = unit(seed, dim);
                // Cosines from 0.98 down to 0.45.
                let row = near(&query, PAIRS + seed, 0.2 + 0.0045 * seed as f32);
                let Compared { head, cosine, query, .. } = compare(&rotation, &query, &row);
                let (mean, below) = (query.least_head(cosine, 0.0), query.least_head(cosine, 1.0));
                let off = (f32::from(head) - f32::from(mean)) / f32::from(mean - below);
                squares += off * off;
                worst = worst.max(off.abs());
            }
            let spread = (squares / PAIRS as f32).sqrt();
            assert!((0.8..1.2).contains(&spread) && worst < DEVIATIONS, "{dim}: {spread} {worst}");
        }
    }

    #[test]
    fn the_error_function_is_near_known_values() {
        for (x, value) in [(0.0, 0.0), (0.25, 0.276_326), (0.5, 0.520_500), (1.0, 0.842_701), (2.0, 0.995_322)] {
            assert!((erf(x) - value).abs() < 5e-4, "{x}");
        }
        assert_eq!(erf(1e4), 1.0);
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
        for dim in [100, 384] {
            let codes: Vec<i8> = unit(5, dim).iter().map(|x| (x * 100.0) as i8).collect();
            let (mut copied, mut written) = (Sketches::new(dim), Sketches::new(dim));
            copied.resize(2);
            copied.write(BLOCK + 3, &codes);
            copied.copy(BLOCK + 3, 9);
            copied.resize(1);
            written.resize(1);
            written.write(9, &codes);
            assert_eq!(copied.heads(), written.heads());
            assert_eq!(copied.tail(0), written.tail(0));
            assert_eq!(copied.bytes(), dim.div_ceil(8) * BLOCK);
        }
    }
}
