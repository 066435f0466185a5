//! Rows with the vectors they were made from, for the tests of searches.

use std::cmp::Reverse;
use std::sync::Arc;

use super::best::Ordered;
use super::kernels::dot_f32;
use super::quantise::{Quantised, Row};
use super::rotate::Rotation;
use super::rows::Rows;
use super::scan::{Candidate, Query, candidates};
use crate::types::UnixMillis;

pub const NEVER: UnixMillis = UnixMillis(u64::MAX);

/// A row's id is the position of its vector.
pub struct Set {
    rotation: Rotation,
    pub rows: Rows,
    pub vectors: Vec<Arc<[f32]>>,
}

impl Set {
    pub fn new(dim: usize) -> Self {
        Self { rotation: Rotation::new(dim), rows: Rows::new(dim), vectors: Vec::new() }
    }

    pub fn push(&mut self, vector: Arc<[f32]>, expires: UnixMillis) {
        let Quantised { scale, codes } = Quantised::new(&self.rotation, &vector);
        self.rows.push(Row { id: self.vectors.len() as i64, expires, scale, codes: &codes });
        self.vectors.push(vector);
    }

    pub fn candidates(&self, query: &[f32], k: usize, now: UnixMillis) -> Vec<Candidate> {
        candidates(&self.rows, &Query::new(&self.rotation, query), k, now)
    }

    /// Dot products and ids of all rows, best first.
    pub fn reference(&self, query: &[f32]) -> Vec<(f32, i64)> {
        let mut all: Vec<_> = (0..).zip(&self.vectors).map(|(id, v)| (dot_f32(v, query), id)).collect();
        all.sort_by_key(|&(dot, id)| (Reverse(Ordered(dot)), id));
        all
    }
}
