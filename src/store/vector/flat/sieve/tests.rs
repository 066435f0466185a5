use crate::store::vector::contract::{near, unit};
use crate::store::vector::flat::scan::EXACT_CODES;
use crate::store::vector::flat::testing::{NEVER, Set};
use crate::types::UnixMillis;
use std::sync::Arc;

const DIM: usize = 384;

/// Enough rows to go by sketches.
fn large(vector: impl Fn(u64) -> Arc<[f32]>, expires: impl Fn(u64) -> UnixMillis) -> Set {
    let mut set = Set::new(DIM);
    (0..(EXACT_CODES / DIM) as u64 + 2_000).for_each(|n| set.push(vector(n), expires(n)));
    assert!(set.rows.is_sketched());
    set
}

fn candidates(set: &Set, query: &[f32], k: usize) -> Vec<i64> {
    set.candidates(query, k, UnixMillis(5)).iter().map(|candidate| candidate.id).collect()
}

#[test]
fn near_neighbours_are_found_and_far_ones_mostly() {
    let set = large(|n| near(&unit(1 << 32 | (n % 200), DIM), n, 0.8), |_| NEVER);
    let (mut far, mut found) = (0, 0);
    for n in 0..100 {
        // Rows of its cluster have a cosine of about 0.6 to the query, one of them of 0.85 to 0.98.
        let query = near(&set.vectors[n * 31], 1 << 40 | n as u64, 0.2 + 0.004 * n as f32);
        let (reference, candidates) = (set.reference(&query), candidates(&set, &query, 8));
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
    let set = large(|n| near(&centre, n, 0.3), |_| NEVER);
    for n in 0..5 {
        let query = near(&centre, 1 << 40 | n, 0.3);
        let candidates = candidates(&set, &query, 8);
        for (cosine, id) in &set.reference(&query)[..8] {
            assert!(*cosine > 0.9 && candidates.contains(id), "{cosine}");
        }
    }
}

#[test]
fn there_are_as_many_results_as_asked_for_however_far() {
    let live = |n: u64| if n.is_multiple_of(4) { NEVER } else { UnixMillis(5) };
    let set = large(|n| unit(n, DIM), live);
    let opposite: Vec<f32> = set.vectors[0].iter().map(|x| -x).collect();
    let total = set.rows.iter().filter(|(_, expires)| *expires == NEVER).count();
    for (k, least) in [(1, 1), (8, 8), (1000, 1000), (100_000, total)] {
        let found = candidates(&set, &opposite, k);
        assert!(found.len() >= least && found.iter().all(|id| id % 4 == 0), "{k}: {}", found.len());
    }
}

#[test]
fn an_expired_neighbour_is_not_found() {
    let set = large(|n| unit(n, DIM), |n| if n == 77 { UnixMillis(5) } else { NEVER });
    assert!(!candidates(&set, &set.vectors[77], 3).contains(&77));
    assert_eq!(candidates(&set, &set.vectors[78], 1)[0], 78);
}
