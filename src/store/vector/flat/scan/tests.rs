use super::*;
use crate::store::vector::contract::{near, unit};
use crate::store::vector::flat::testing::{NEVER, Set};
use std::sync::Arc;

const DIM: usize = 96;

/// `count` rows around `centres` directions; the smaller the spread, the harder they are to tell apart.
fn around(count: u64, centres: u64, spread: f32) -> Set {
    let mut set = Set::new(DIM);
    (0..count).for_each(|n| set.push(blend(n % centres, n, spread), NEVER));
    set
}

fn blend(centre: u64, seed: u64, spread: f32) -> Arc<[f32]> {
    near(&unit(1 << 32 | centre, DIM), seed, spread)
}

#[test]
fn the_best_of_a_small_scope_are_always_among_the_candidates() {
    for (centres, spread) in [(1, 1e-4), (1, 0.01), (5, 0.1), (20, 0.5), (1500, 1.0)] {
        let set = around(1500, centres, spread);
        for query in 0..20 {
            let query = blend(query % centres, 1 << 40 | query, spread);
            let reference = set.reference(&query);
            for k in [1, 8, 100, 1500, 2000] {
                let found = set.candidates(&query, k, UnixMillis(0));
                for &(dot, id) in reference.iter().take(k) {
                    let own = found.iter().find(|candidate| candidate.id == id);
                    assert!(own.is_some_and(|own| own.upper >= dot), "{centres} {k} {own:?} {dot}");
                }
                assert!(found.is_sorted_by(|a, b| a.upper >= b.upper));
            }
        }
    }
}

#[test]
fn few_rows_are_left_for_f32() {
    let set = around(20_000, 2_000, 0.5);
    let found = set.candidates(&blend(7, 1 << 40, 0.5), 8, UnixMillis(0));
    assert!((8..100).contains(&found.len()), "{} candidates", found.len());
}

#[test]
fn expired_rows_push_no_live_one_out() {
    let mut set = around(10, 1, 0.1);
    for _ in 10..20 {
        set.push(unit(1 << 32, DIM), UnixMillis(5));
    }
    let query = unit(1 << 32, DIM);
    let found = set.candidates(&query, 3, UnixMillis(5));
    assert!(found.len() >= 3 && found.iter().all(|candidate| candidate.id < 10), "{found:?}");
    let found = set.candidates(&query, 3, UnixMillis(4));
    assert!(found.len() >= 3 && found[..3].iter().all(|candidate| candidate.id >= 10), "{found:?}");
}
