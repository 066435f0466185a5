//! The search of one scope in memory: which rows may be among the best, and how good each can be at most.
//!
//! Up to [`EXACT_CODES`], the codes of all rows are compared. Above it, those of the rows that their sketches leave
//! ([`super::sieve`]).

use std::cmp::Reverse;

use super::best::{Best, Ordered};
use super::kernels::dots_i8;
use super::quantise::{Bound, Quantised, quantise};
use super::rotate::Rotation;
use super::rows::Rows;
use super::{sieve, sketch};
use crate::types::UnixMillis;

/// Codes (rows times dimension) that are all compared: about 0.15 ms' work, and 10,922 rows of 384 values.
pub const EXACT_CODES: usize = 4 << 20;

/// A rotated query, as rows are kept.
pub struct Query {
    pub rotated: Vec<f32>,
    pub quantised: Quantised,
    pub bound: Bound,
}

impl Query {
    /// Of a unit vector of the rotation's dimension.
    pub fn new(rotation: &Rotation, vector: &[f32]) -> Self {
        let rotated = rotation.apply(vector);
        let mut codes = vec![0; rotated.len()].into_boxed_slice();
        let scale = quantise(&rotated, &mut codes);
        let bound = Bound::new(scale, rotated.len());
        Self { rotated, quantised: Quantised { scale, codes }, bound }
    }
}

/// A row that may be among the best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub id: i64,
    /// Upper limit of its f32 dot product with the query.
    pub upper: f32,
}

/// Whether a search of that many rows goes by sketches.
pub fn is_sketched(rows: usize, dim: usize) -> bool {
    sketch::DIMS.contains(&dim) && rows * dim > EXACT_CODES
}

/// Live rows that may be among the best `k`, those with the highest upper limit first.
///
/// [`Bound`] gives, for each row, limits between which its f32 dot product lies. The k-th highest lower limit is
/// reached by k rows, so a row whose upper limit is below it is not among the best k. All others are here, unless
/// the search goes by sketches: what that may miss stands in [`super::sieve`].
pub fn candidates(rows: &Rows, query: &Query, k: usize, now: UnixMillis) -> Vec<Candidate> {
    let k = k.min(rows.len());
    if k == 0 {
        return Vec::new();
    }
    let mut close = Close::new(k);
    let sketched = rows.is_sketched() && is_sketched(rows.len(), rows.dim());
    if !sketched || !sieve::compare(rows, query, k, now, &mut close) {
        close = Close::new(k);
        compare_all(rows, query, now, &mut close);
    }
    close.finish()
}

fn compare_all(rows: &Rows, query: &Query, now: UnixMillis, close: &mut Close) {
    let mut dots = Vec::new();
    for block in rows.chunks().iter().flat_map(|chunk| chunk.blocks()) {
        dots.resize(block.rows.len(), 0);
        dots_i8(&query.quantised.codes, &block.codes, &mut dots);
        for ((&(id, expires), &scale), &dot) in block.rows.iter().zip(&block.scales).zip(&dots) {
            let (estimate, margin) = (query.bound.estimate(scale, dot), query.bound.margin(scale));
            if close.may_hold(estimate + margin) && expires > now {
                close.offer(id, estimate, margin);
            }
        }
    }
}

/// Candidates so far, with the floor that `k` of them reach.
pub struct Close {
    lower: Best,
    floor: f32,
    candidates: Vec<Candidate>,
}

impl Close {
    fn new(k: usize) -> Self {
        Self { lower: Best::new(k), floor: f32::NEG_INFINITY, candidates: Vec::new() }
    }

    /// What the f32 dot products of `k` rows reach, once there are as many.
    pub fn floor(&self) -> f32 {
        self.floor
    }

    pub fn may_hold(&self, upper: f32) -> bool {
        upper >= self.floor
    }

    pub fn offer(&mut self, id: i64, estimate: f32, margin: f32) {
        self.candidates.push(Candidate { id, upper: estimate + margin });
        self.lower.offer(estimate - margin);
        self.floor = self.lower.floor().unwrap_or(f32::NEG_INFINITY);
    }

    fn finish(mut self) -> Vec<Candidate> {
        self.candidates.retain(|candidate| candidate.upper >= self.floor);
        self.candidates.sort_unstable_by_key(|candidate| (Reverse(Ordered(candidate.upper)), candidate.id));
        self.candidates
    }
}

#[cfg(test)]
mod tests;
