//! The search of a large scope: sketches of all rows first, then the codes of those that are left.
//!
//! A neighbour with a cosine of at least [`SURE`] that is among the best `k` is left out only if its estimate errs by more than
//! [`DEVIATIONS`](sketch::DEVIATIONS) standard deviations. Of neighbours further away, the [`KEPT`] with the best
//! estimates are compared, so the best of those are found mostly, not always. There are always as many
//! results as asked for, if the scope has them.

use super::kernels::{BLOCK, dots_i8, prefetch};
use super::rows::Rows;
use super::scan::{Close, Query};
use super::sketch::{self, Sketches};
use crate::types::UnixMillis;

/// Cosine from which neighbours are not missed.
const SURE: f32 = 0.85;
/// Rows that are kept for their estimates alone, at least, and for each result asked for.
const KEPT: usize = 256;
const KEPT_PER_RESULT: usize = 16;
/// How far, in standard deviations, the first bytes of a sketch may fall short of what the last row kept for its estimate
/// would score, before the rest is not read. A row that is nearer by 0.1 is still found but for one in a hundred.
const KEPT_DEVIATIONS: f32 = 1.0;
/// Rows whose codes are asked into the cache ahead of their turn.
const AHEAD: usize = 4;

/// A row by its place, so that nothing but sketches is read for most of them.
#[derive(Clone, Copy)]
struct Survivor {
    score: u16,
    row: u16,
    chunk: u32,
}

/// Offers to `close` the live rows that may be among the best `k`; false when they are fewer than `k` and there may be
/// more, because most of the nearest have expired.
pub fn compare(rows: &Rows, query: &Query, k: usize, now: UnixMillis, close: &mut Close) -> bool {
    let sketched = sketch::Query::new(&query.rotated);
    let survivors = survivors(rows, &sketched, KEPT.max(KEPT_PER_RESULT * k));
    let block = |survivor: &Survivor| {
        let row = usize::from(survivor.row);
        (&*rows.chunks()[survivor.chunk as usize].blocks()[row / BLOCK], row % BLOCK)
    };
    for (i, survivor) in survivors.iter().enumerate() {
        if let Some(next) = survivors.get(i + AHEAD) {
            let (block, row) = block(next);
            prefetch(block.codes(row, rows.dim()));
        }
        let floor = close.floor();
        let least_reach = rows.chunks()[survivor.chunk as usize].least_reach();
        if floor > 0.0 && sketched.dot(survivor.score) < sketched.least_dot(floor.min(1.0), least_reach) {
            continue;
        }
        let (block, row) = block(survivor);
        let (scale, (id, expires)) = (block.scales[row], block.rows[row]);
        let mut dot = [0];
        dots_i8(&query.quantised.codes, block.codes(row, rows.dim()), &mut dot);
        let (estimate, margin) = (query.bound.estimate(scale, dot[0]), query.bound.margin(scale));
        if close.may_hold(estimate + margin) && expires > now {
            close.offer(id, estimate, margin);
        }
    }
    close.floor() > f32::NEG_INFINITY || survivors.len() == rows.len()
}

/// The rows that may have a cosine of [`SURE`], and at least the `kept` with the highest scores; highest scores first.
///
/// Of most blocks only the first bytes of the sketches are read: a third of them, and a scan of many rows waits for
/// memory.
fn survivors(rows: &Rows, query: &sketch::Query, kept: usize) -> Vec<Survivor> {
    let by_score = |a: &Survivor, b: &Survivor| b.score.cmp(&a.score);
    let mut survivors: Vec<Survivor> = Vec::with_capacity(2 * kept + BLOCK);
    let mut limit = 2 * kept;
    // What the highest scores reach so far, and what the first bytes of a row have to score to go on.
    let mut last_kept = 0;
    let sure_head = query.least_head(SURE, sketch::DEVIATIONS);
    let mut least_head = 0;
    let mut found = Found::default();
    for (c, chunk) in rows.chunks().iter().enumerate() {
        if let Some(sketches) = rows.chunks().get(c + 1).and_then(|next| next.sketches()) {
            prefetch(&sketches.heads()[..2]);
        }
        let Some(sketches) = chunk.sketches() else { continue };
        found.heads(query, sketches, least_head, chunk.len());
        // The reach of rows differs by few per cent: what is kept for its score alone needs no more than the score.
        let sure = query.score(query.least_dot(SURE, chunk.least_reach()));
        found.tails(query, sketches, sure.min(last_kept), |row, score| {
            survivors.push(Survivor { score, row: row as u16, chunk: c as u32 });
        });
        if survivors.len() > limit {
            let (_, last, _) = survivors.select_nth_unstable_by(kept - 1, by_score);
            last_kept = last_kept.max(last.score);
            least_head = sure_head.min(query.least_head(query.cosine(last_kept), KEPT_DEVIATIONS));
            // Rows that may be sure are never dropped; the more there are, the less often this is tried.
            survivors.retain(|survivor| {
                let reach = rows.chunks()[survivor.chunk as usize].least_reach();
                survivor.score >= last_kept || survivor.score >= query.score(query.least_dot(SURE, reach))
            });
            limit = 2 * survivors.len().max(kept);
        }
    }
    survivors.sort_unstable_by(by_score);
    survivors
}

/// Blocks of a chunk with rows that go on, what the first bytes of their sketches score, and which rows those are.
#[derive(Default)]
struct Found {
    blocks: Vec<(usize, u32, [u16; BLOCK])>,
}

impl Found {
    /// Finds the rows of a chunk of `len` whose first bytes score at least `least`, and asks for the other bytes.
    fn heads(&mut self, query: &sketch::Query, sketches: &Sketches, least: u16, len: usize) {
        self.blocks.clear();
        for (b, head) in sketches.head_blocks().enumerate() {
            let mut scores = [0; BLOCK];
            let mut reached = query.score_heads(head, least, &mut scores);
            // The last block of a chunk may have room left.
            let left = len - b * BLOCK;
            if left < BLOCK {
                reached &= (1 << left) - 1;
            }
            if reached != 0 {
                prefetch(sketches.tail(b));
                self.blocks.push((b, reached, scores));
            }
        }
    }

    /// Hands those that score at least `least` in all to `each`.
    fn tails(&self, query: &sketch::Query, sketches: &Sketches, least: u16, mut each: impl FnMut(usize, u16)) {
        let mut tails = [0; BLOCK];
        for &(b, mut reached, ref heads) in &self.blocks {
            query.score_tails(sketches.tail(b), &mut tails);
            while reached != 0 {
                let row = reached.trailing_zeros() as usize;
                reached &= reached - 1;
                let score = heads[row] + tails[row];
                if score >= least {
                    each(b * BLOCK + row, score);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
