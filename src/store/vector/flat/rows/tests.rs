use super::*;
use crate::store::vector::contract::unit;
use crate::store::vector::flat::quantise::Quantised;
use crate::store::vector::flat::rotate::Rotation;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Enough for sketches in two parts.
const DIM: usize = 200;

fn quantised(id: i64) -> Quantised {
    // A few different ones are enough to tell a row from its neighbours.
    Quantised::new(&Rotation::new(DIM), &unit(id.unsigned_abs() % 16, DIM))
}

fn push(rows: &mut Rows, id: i64) {
    let Quantised { scale, codes } = quantised(id);
    rows.push(Row { id, expires: UnixMillis(id.unsigned_abs()), scale, codes: &codes });
}

fn filled(count: i64) -> Rows {
    let mut rows = Rows::new(DIM);
    (0..count).for_each(|id| push(&mut rows, id));
    rows
}

fn ids(rows: &Rows) -> BTreeSet<i64> {
    rows.iter().map(|(id, _)| id).collect()
}

/// Every row is the one that was pushed, its sketch that of its codes, and every chunk in its order.
fn assert_whole(rows: &Rows) {
    let mut last = i64::MIN;
    for chunk in rows.chunks() {
        assert!(chunk.len() > 0 && chunk.first > last);
        for (i, block) in chunk.blocks().iter().enumerate() {
            assert!(i + 1 == chunk.blocks().len() || block.rows.len() == BLOCK);
            assert_eq!((block.scales.len(), block.codes.len()), (block.rows.len(), block.rows.len() * DIM));
            for lane in 0..block.rows.len() {
                let row = block.row(lane, DIM);
                let expected = quantised(row.id);
                assert_eq!((row.codes, row.scale), (&*expected.codes, expected.scale));
                assert!(row.id >= chunk.first && row.scale.reach >= chunk.least_reach());
                assert_eq!(row.expires, UnixMillis(row.id.unsigned_abs()));
                last = last.max(row.id);
                if let Some(sketches) = chunk.sketches() {
                    let mut own = Sketches::new(DIM);
                    own.resize(1);
                    own.write(lane, row.codes);
                    let stored = sketches.head_blocks().nth(i).unwrap().iter().chain(sketches.tail(i));
                    assert!(stored.zip(own.heads().iter().chain(own.tail(0))).all(|(a, b)| a[lane] == b[lane]));
                }
            }
        }
        assert_eq!(chunk.sketches().is_some(), rows.is_sketched());
        assert!(chunk.sketches().is_none_or(|sketches| sketches.blocks() == chunk.blocks().len()));
    }
    assert_eq!(rows.iter().count(), rows.len());
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut rows = filled(3000);
    let snapshot = rows.clone();
    assert!(rows.remove(3));
    assert!(!rows.remove(3) && !rows.remove(-1) && !rows.remove(3000));
    push(&mut rows, 3000);
    assert_eq!(ids(&snapshot), (0..3000).collect());
    assert_eq!(ids(&rows), (0..3001).filter(|&id| id != 3).collect());
    assert_whole(&snapshot);
    assert_whole(&rows);
}

#[test]
fn a_change_copies_one_block_and_shares_the_rest() {
    let mut rows = filled(3000);
    let snapshot = rows.clone();
    push(&mut rows, 3000);
    let blocks =
        |rows: &Rows| -> Vec<_> { rows.chunks().iter().flat_map(|chunk| chunk.blocks()).map(Arc::as_ptr).collect() };
    let (before, after) = (blocks(&snapshot), blocks(&rows));
    assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
}

#[test]
fn a_scope_gets_sketches_when_it_is_large_enough() {
    let enough = (scan::EXACT_CODES / DIM) as i64;
    let mut rows = filled(enough);
    assert!(!rows.is_sketched() && rows.chunks().iter().all(|chunk| chunk.sketches().is_none()));
    (enough..enough + 40).for_each(|id| push(&mut rows, id));
    assert!(rows.is_sketched());
    (0..40).for_each(|id| assert!(rows.remove(id * 7)));
    assert_whole(&rows);
}

#[test]
fn little_room_is_left_empty() {
    let mut rows = Rows::new(DIM);
    rows.sketch();
    (0..20_000).for_each(|id| push(&mut rows, id));
    let row = DIM + DIM / 8 + 28;
    assert!(rows.bytes() < 20_000 * (row + 8), "{}", rows.bytes());
    (0..20_000).filter(|id| id % 10 != 0).for_each(|id| assert!(rows.remove(id)));
    assert!(rows.chunks().len() < 8, "{} chunks for 2,000 rows", rows.chunks().len());
    assert_whole(&rows);
}

#[test]
fn a_scope_of_one_row_takes_the_room_of_one() {
    assert!(filled(1).bytes() < 2 * DIM + 400, "{}", filled(1).bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_behave_as_a_set(changes in prop::collection::vec(any::<(u8, u16)>(), 0..4000), sketched: bool) {
        let (mut rows, mut set) = (Rows::new(DIM), BTreeSet::new());
        if sketched {
            rows.sketch();
        }
        for (next, (kind, pick)) in changes.into_iter().enumerate() {
            let id = i64::from(pick) % (next as i64 + 1);
            if kind % 3 == 0 {
                prop_assert_eq!(rows.remove(id), set.remove(&id));
            } else {
                push(&mut rows, next as i64);
                set.insert(next as i64);
            }
        }
        prop_assert_eq!(ids(&rows), set);
        assert_whole(&rows);
    }
}
