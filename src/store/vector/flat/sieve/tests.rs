use crate::store::vector::contract::{near, unit};
use crate::store::vector::flat::kernels::dot_f32;
use crate::store::vector::flat::quantise::{Quantised, Row};
use crate::store::vector::flat::rotate::Rotation;
use crate::store::vector::flat::rows::Rows;
use crate::store::vector::flat::scan::{EXACT_CODES, Query, candidates};
use crate::types::UnixMillis;
use std::sync::Arc;

const DIM: usize = 384;
const NEVER: UnixMillis = UnixMillis(u64::MAX);

struct Set {
    rotation: Rotation,
    rows: Rows,
    vectors: Vec<Arc<[f32]>>,
}

impl Set {
    /// Enough rows to go by sketches.
    fn new(vector: impl Fn(u64) -> Arc<[f32]>, expires: impl Fn(u64) -> UnixMillis) -> Self {
        let count = (EXACT_CODES / DIM) as u64 + 2_000;
        let mut set = Self { rotation: Rotation::new(DIM), rows: Rows::new(DIM), vectors: Vec::new() };
        for n in 0..count {
            let vector = vector(n);
            let Quantised { scale, codes } = Quantised::new(&set.rotation, &vector);
            set.rows.push(Row { id: n as i64, expires: expires(n), scale, codes: &codes });
            set.vectors.push(vector);
        }
        assert!(set.rows.is_sketched());
        set
    }

    fn candidates(&self, query: &[f32], k: usize) -> Vec<i64> {
        let query = Query::new(&self.rotation, query);
        candidates(&self.rows, &query, k, UnixMillis(5)).iter().map(|candidate| candidate.id).collect()
    }

    /// Cosines and ids, best first.
    fn reference(&self, query: &[f32]) -> Vec<(f32, i64)> {
        let mut all: Vec<_> = (0..).zip(&self.vectors).map(|(id, vector)| (dot_f32(vector, query), id)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all
    }
}

#[test]
fn near_neighbours_are_found_and_far_ones_mostly() {
    let set = Set::new(|n| near(&unit(1 << 32 | (n % 200), DIM), n, 0.8), |_| NEVER);
    let (mut far, mut found) = (0, 0);
    for n in 0..100 {
        // Rows of its cluster have a cosine of about 0.6 to the query, one of them of 0.85 to 0.98.
        let query = near(&set.vectors[n * 31], 1 << 40 | n as u64, 0.2 + 0.004 * n as f32);
        let (reference, candidates) = (set.reference(&query), set.candidates(&query, 8));
        let is_found = |id: &i64| candidates.contains(id);
        assert!(reference[0].0 >= 0.85 && is_found(&reference[0].1), "{:?}", reference[0]);
        far += 7;
        found += reference[1..8].iter().filter(|(_, id)| is_found(id)).count();
    }
    assert!(found * 100 >= far * 95, "{found} of {far} far neighbours");
}

#[test]
fn no_near_neighbour_is_left_out_where_all_rows_are_near() {
    let centre = unit(1 << 32, DIM);
    let set = Set::new(|n| near(&centre, n, 0.3), |_| NEVER);
    for n in 0..5 {
        let query = near(&centre, 1 << 40 | n, 0.3);
        let candidates = set.candidates(&query, 8);
        for (cosine, id) in &set.reference(&query)[..8] {
            assert!(*cosine > 0.9 && candidates.contains(id), "{cosine}");
        }
    }
}

#[test]
fn there_are_as_many_results_as_asked_for_however_far() {
    let live = |n: u64| if n.is_multiple_of(4) { NEVER } else { UnixMillis(5) };
    let set = Set::new(|n| unit(n, DIM), live);
    let opposite: Vec<f32> = set.vectors[0].iter().map(|x| -x).collect();
    let total = set.rows.iter().filter(|(_, expires)| *expires == NEVER).count();
    for (k, least) in [(1, 1), (8, 8), (1000, 1000), (100_000, total)] {
        let found = set.candidates(&opposite, k);
        assert!(found.len() >= least && found.iter().all(|id| id % 4 == 0), "{k}: {}", found.len());
    }
}

#[test]
fn an_expired_neighbour_is_not_found() {
    let set = Set::new(|n| unit(n, DIM), |n| if n == 77 { UnixMillis(5) } else { NEVER });
    assert!(!set.candidates(&set.vectors[77], 3).contains(&77));
    assert_eq!(set.candidates(&set.vectors[78], 1)[0], 78);
}
