//! The search of one scope: an 8-bit scan of all rows, then exact f32 cosines of those that may be among the best.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::kernels::{dot_f32, dots_i8};
use super::quantise::{Bound, quantise};
use super::rows::{Row, Rows};
use crate::store::vector::Match;
use crate::types::{Similarity, UnixMillis};

/// The `k` live rows with the highest f32 dot product with `query` (a unit vector of the rows' dimension), best first.
///
/// The result is that of a scan in f32: [`Bound`] gives, for each row, limits between which its f32 dot product lies.
/// The k-th highest lower limit is reached by k rows, so a row whose upper limit is below it is not among the best k.
/// The others are computed in f32, those with the highest upper limit first, until no upper limit reaches the
/// k-th best.
pub fn search(rows: &Rows, query: &[f32], k: usize, now: UnixMillis) -> Vec<Match> {
    let mut best = Best::new(k.min(rows.len()));
    if best.k == 0 {
        return Vec::new();
    }
    let mut candidates = candidates(rows, query, best.k, now);
    candidates.sort_unstable_by_key(|candidate| Reverse(Ordered(candidate.upper)));
    let mut matches = Vec::new();
    for Candidate { upper, row } in candidates {
        if best.floor().is_some_and(|floor| upper < floor) {
            break;
        }
        let dot = dot_f32(&row.vector, query);
        best.offer(dot);
        matches.push((dot, row.key));
    }
    matches.sort_unstable_by_key(|&(dot, key)| (Reverse(Ordered(dot)), key));
    matches.truncate(k);
    matches.into_iter().map(|(dot, key)| Match { key, similarity: Similarity::from_dot(dot) }).collect()
}

struct Candidate<'a> {
    /// Upper limit of its f32 dot product with the query.
    upper: f32,
    row: &'a Row,
}

/// Live rows that may be among the best `k`.
fn candidates<'a>(rows: &'a Rows, query: &[f32], k: usize, now: UnixMillis) -> Vec<Candidate<'a>> {
    let mut codes = vec![0; query.len()];
    let bound = Bound::new(quantise(query, &mut codes), query.len());
    let mut lower = Best::new(k);
    let mut candidates = Vec::new();
    let mut dots = Vec::new();
    for chunk in rows.chunks() {
        dots.resize(chunk.rows.len(), 0);
        dots_i8(&codes, &chunk.codes, &mut dots);
        let mut floor = lower.floor();
        for (i, (&dot, &scale)) in dots.iter().zip(&chunk.scales).enumerate() {
            let (estimate, margin) = (bound.estimate(scale, dot), bound.margin(scale));
            let upper = estimate + margin;
            if floor.is_some_and(|floor| upper < floor) || !chunk.rows[i].is_live(now) {
                continue;
            }
            candidates.push(Candidate { upper, row: &chunk.rows[i] });
            lower.offer(estimate - margin);
            floor = lower.floor();
        }
    }
    if let Some(floor) = lower.floor() {
        candidates.retain(|candidate| candidate.upper >= floor);
    }
    candidates
}

/// The `k` highest of the values offered.
struct Best {
    k: usize,
    values: BinaryHeap<Reverse<Ordered>>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, values: BinaryHeap::with_capacity(k) }
    }

    /// The k-th highest value, once there are k.
    fn floor(&self) -> Option<f32> {
        if self.values.len() < self.k { None } else { self.values.peek().map(|value| value.0.0) }
    }

    fn offer(&mut self, value: f32) {
        if self.values.len() < self.k {
            self.values.push(Reverse(Ordered(value)));
        } else if let Some(mut lowest) = self.values.peek_mut()
            && value > lowest.0.0
        {
            *lowest = Reverse(Ordered(value));
        }
    }
}

/// f32 in its total order.
#[derive(Debug, Clone, Copy)]
struct Ordered(f32);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::contract::{key, unit};
    use std::sync::Arc;

    const DIM: usize = 96;
    const NEVER: UnixMillis = UnixMillis(u64::MAX);

    /// `count` rows around `centres` directions; the smaller the spread, the harder they are to tell apart.
    fn rows(count: u32, centres: u64, spread: f32) -> Rows {
        let mut rows = Rows::default();
        for n in 0..count {
            rows.push(Row { key: key(n), expires: NEVER, vector: blend(u64::from(n) % centres, u64::from(n), spread) });
        }
        rows
    }

    fn blend(centre: u64, seed: u64, spread: f32) -> Arc<[f32]> {
        let mixed: Vec<f32> =
            unit(1 << 32 | centre, DIM).iter().zip(&*unit(seed, DIM)).map(|(x, y)| x + spread * y).collect();
        let length = dot_f32(&mixed, &mixed).sqrt();
        mixed.iter().map(|x| x / length).collect()
    }

    /// The plain scan in f32.
    fn reference(rows: &Rows, query: &[f32], k: usize) -> Vec<Match> {
        let mut all: Vec<_> = rows.iter().map(|row| (dot_f32(&row.vector, query), row.key)).collect();
        all.sort_by_key(|&(dot, key)| (Reverse(Ordered(dot)), key));
        all.into_iter().take(k).map(|(dot, key)| Match { key, similarity: Similarity::from_dot(dot) }).collect()
    }

    #[test]
    fn the_result_is_that_of_a_scan_in_f32() {
        for (centres, spread) in [(1, 1e-4), (1, 0.01), (5, 0.1), (20, 0.5), (1500, 1.0)] {
            let rows = rows(1500, centres, spread);
            for query in 0..20 {
                let query = blend(query % centres, 1 << 40 | query, spread);
                for k in [1, 8, 100, 1500, 2000] {
                    assert_eq!(search(&rows, &query, k, UnixMillis(0)), reference(&rows, &query, k), "{centres} {k}");
                }
            }
        }
    }

    #[test]
    fn few_rows_are_computed_in_f32() {
        let rows = rows(20_000, 2_000, 0.5);
        let query = blend(7, 1 << 40, 0.5);
        let candidates = candidates(&rows, &query, 8, UnixMillis(0));
        assert!(candidates.len() < 100, "{} candidates", candidates.len());
    }

    #[test]
    fn expired_rows_push_no_live_one_out() {
        let mut rows = rows(10, 1, 0.1);
        for n in 10..20 {
            rows.push(Row { key: key(n), expires: UnixMillis(5), vector: unit(1 << 32, DIM) });
        }
        let query = unit(1 << 32, DIM);
        let found = search(&rows, &query, 3, UnixMillis(5));
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|m| (0..10).any(|n| key(n) == m.key)), "{found:?}");
        assert!(search(&rows, &query, 3, UnixMillis(4)).iter().all(|m| (10..20).any(|n| key(n) == m.key)));
    }
}
