//! The kernels in plain Rust: what the others must give, and what runs where none of them does.

use super::{BLOCK, LANES, NIBBLE, Table, finish};

pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot_i8(query, row);
    }
}

pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (x, y) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    finish(lanes, a_rest, b_rest)
}

pub fn sketch_scores(tables: &[Table], block: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    scores.fill(0);
    for (bytes, tables) in block.iter().zip(tables.chunks_exact(2)) {
        for (score, &byte) in scores.iter_mut().zip(bytes) {
            let (low, high) = (byte & NIBBLE, byte >> 4);
            *score += u16::from(tables[0][usize::from(low)]) + u16::from(tables[1][usize::from(high)]);
        }
    }
    reached(scores, least)
}

/// A bit for each row: whether its score is at least `least`.
pub fn reached(scores: &[u16; BLOCK], least: u16) -> u32 {
    scores.iter().enumerate().fold(0, |mask, (row, &score)| mask | u32::from(score >= least) << row)
}
