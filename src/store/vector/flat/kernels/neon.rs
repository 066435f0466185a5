//! 64-bit Arm with NEON: registers of 16 bytes.

use super::{BLOCK, LANES, NIBBLE, Table, finish, portable};
use std::arch::aarch64::*;

/// Codes in one register.
const STEP: usize = 16;

#[target_feature(enable = "neon")]
pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot_i8(query, row);
    }
}

/// Two products of codes fit in 16 bits; then they go into sums of 32 bits.
#[target_feature(enable = "neon")]
fn dot_i8(query: &[i8], row: &[i8]) -> i32 {
    let (query, query_rest) = query.as_chunks::<STEP>();
    let (row, row_rest) = row.as_chunks::<STEP>();
    let mut sums = vdupq_n_s32(0);
    for (q, r) in query.iter().zip(row) {
        // SAFETY: each chunk is 16 readable bytes.
        let (q, r) = unsafe { (vld1q_s8(q.as_ptr()), vld1q_s8(r.as_ptr())) };
        let pairs = vmlal_high_s8(vmull_s8(vget_low_s8(q), vget_low_s8(r)), q, r);
        sums = vpadalq_s16(sums, pairs);
    }
    vaddvq_s32(sums) + portable::dot_i8(query_rest, row_rest)
}

/// No fused multiply-add: it rounds once where the portable path rounds twice.
#[target_feature(enable = "neon")]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [vdupq_n_f32(0.0); LANES / 4];
    for (x, y) in a.iter().zip(b) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: each chunk is 16 readable values, four registers.
            let (x, y) = unsafe { (vld1q_f32(x.as_ptr().add(4 * i)), vld1q_f32(y.as_ptr().add(4 * i))) };
            *sum = vaddq_f32(*sum, vmulq_f32(x, y));
        }
    }
    let mut lanes = [0.0; LANES];
    for (lanes, sum) in lanes.chunks_exact_mut(4).zip(sums) {
        // SAFETY: `lanes` is four writable values.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), sum) };
    }
    finish(lanes, a_rest, b_rest)
}

/// One lookup serves 16 rows. Two table values add up in 8 bits, and go into sums of 16 bits.
#[target_feature(enable = "neon")]
pub fn sketch_scores(tables: &[Table], block: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    let nibble = vdupq_n_u8(NIBBLE);
    let mut sums = [vdupq_n_u16(0); 4];
    for (bytes, tables) in block.iter().zip(tables.chunks_exact(2)) {
        // SAFETY: each table is 16 readable bytes.
        let (low, high) = unsafe { (vld1q_u8(tables[0].as_ptr()), vld1q_u8(tables[1].as_ptr())) };
        for half in 0..2 {
            // SAFETY: a block's byte has 32 rows, two registers.
            let bytes = unsafe { vld1q_u8(bytes.as_ptr().add(STEP * half)) };
            let two = vaddq_u8(vqtbl1q_u8(low, vandq_u8(bytes, nibble)), vqtbl1q_u8(high, vshrq_n_u8::<4>(bytes)));
            sums[2 * half] = vaddw_u8(sums[2 * half], vget_low_u8(two));
            sums[2 * half + 1] = vaddw_high_u8(sums[2 * half + 1], two);
        }
    }
    for (scores, sum) in scores.chunks_exact_mut(8).zip(sums) {
        // SAFETY: `scores` is eight writable values.
        unsafe { vst1q_u16(scores.as_mut_ptr(), sum) };
    }
    portable::reached(scores, least)
}
