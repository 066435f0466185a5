//! A scan in f32 as plain as it can be: the yardstick of time, and the truth for recall.

use std::time::Duration;

use rayon::prelude::*;
use reprise::store::vector::flat::kernels::dot_f32;

use crate::data::DIM;
use crate::{K, NEAR, timed};

/// Rows that stay in the cache while all queries are compared with them.
const TILE: usize = 64;

type Best = Vec<(f32, usize)>;

fn offer(best: &mut Best, dot: f32, row: usize) {
    if best.len() < K || dot > best[K - 1].0 {
        best.insert(best.partition_point(|b| b.0 >= dot), (dot, row));
        best.truncate(K);
    }
}

fn scan(rows: &[f32], query: &[f32]) -> Best {
    let mut best = Vec::with_capacity(K + 1);
    rows.chunks_exact(DIM).enumerate().for_each(|(n, row)| offer(&mut best, dot_f32(row, query), n));
    best
}

/// Of up to 50 queries, one core. The rows of one scope lie one after the other, as in the store.
pub fn times(rows: &[f32], queries: &[f32], scopes: usize) -> Vec<Duration> {
    let one_scope: Vec<f32>;
    let rows = if scopes == 1 {
        rows
    } else {
        one_scope = rows.chunks_exact(DIM).step_by(scopes).flatten().copied().collect();
        &one_scope
    };
    let time = |query| timed(|| std::hint::black_box(scan(rows, query))).0;
    queries.chunks_exact(DIM).take(50).map(time).collect()
}

/// For each query the true best, with their cosines.
pub struct Truth(Vec<Best>);

impl Truth {
    /// Row `n` is in scope `n % scopes`, and query `n` searches that scope.
    pub fn new(rows: &[f32], queries: &[f32], scopes: usize) -> Self {
        let queries: Vec<(usize, &[f32])> = queries.chunks_exact(DIM).enumerate().collect();
        let best = |queries: &[(usize, &[f32])]| {
            let mut best = vec![Vec::with_capacity(K + 1); queries.len()];
            for (t, tile) in rows.chunks(TILE * DIM).enumerate() {
                for (&(n, query), best) in queries.iter().zip(&mut best) {
                    // The first row of the tile that is in the query's scope.
                    let first = (n % scopes + scopes - t * TILE % scopes) % scopes;
                    for (i, row) in tile.chunks_exact(DIM).enumerate().skip(first).step_by(scopes) {
                        offer(best, dot_f32(row, query), t * TILE + i);
                    }
                }
            }
            best
        };
        Self(queries.par_chunks(queries.len().div_ceil(2).max(1)).flat_map(best).collect())
    }

    /// Of what a search found for each query: shares of the true best, and of the true best [`K`], that are near.
    pub fn recall(&self, found: &[Vec<usize>]) -> String {
        let near = |truth: &[(f32, usize)], k: usize, found: &[usize]| {
            let near = truth.iter().take(k).filter(|(cosine, _)| *cosine >= NEAR);
            let total = near.clone().count();
            (near.filter(|(_, row)| found[..k.min(found.len())].contains(row)).count(), total)
        };
        let share = |k: usize| {
            let counts = self.0.iter().zip(found).map(|(truth, found)| near(truth, k, found));
            let (found, total) = counts.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
            format!("@{k} {:.4} ({found} of {total})", found as f64 / total.max(1) as f64)
        };
        format!("{}, {}", share(1), share(K))
    }
}
