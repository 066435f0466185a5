//! x86-64 with AVX-512 (F, BW, VNNI): registers of 64 bytes, and 8-bit dot products in one instruction.

use super::{BLOCK, NIBBLE, Table, avx2, portable};
use std::arch::x86_64::*;

/// Codes in one register.
const STEP: usize = 64;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot_i8(query, row);
    }
}

/// `dpbusd` multiplies unsigned by signed, so the sign of the query's code moves over to the row's.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_i8(query: &[i8], row: &[i8]) -> i32 {
    let (query, query_rest) = query.as_chunks::<STEP>();
    let (row, row_rest) = row.as_chunks::<STEP>();
    let zero = _mm512_setzero_si512();
    let mut sums = zero;
    for (q, r) in query.iter().zip(row) {
        // SAFETY: each chunk is 64 readable bytes; the loads need no alignment.
        let (q, r) = unsafe { (_mm512_loadu_si512(q.as_ptr().cast()), _mm512_loadu_si512(r.as_ptr().cast())) };
        let signed = _mm512_mask_sub_epi8(r, _mm512_movepi8_mask(q), zero, r);
        sums = _mm512_dpbusd_epi32(sums, _mm512_abs_epi8(q), signed);
    }
    _mm512_reduce_add_epi32(sums) + portable::dot_i8(query_rest, row_rest)
}

/// As with AVX2, two bytes of each sketch at a time: the first for the lower half of a register, the second for the upper.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn sketch_scores(tables: &[Table], block: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    let (mut mixed, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (bytes, tables) in block.chunks(2).zip(tables.chunks(4)) {
        let two = match (bytes, tables) {
            ([first, second], [a, b, c, d]) => look_up([first, second], [a, b, c, d]),
            // The last byte of an odd number: the upper half adds nothing.
            ([first, ..], [a, b, ..]) => look_up([first, &[0; BLOCK]], [a, b, &[0; 16], &[0; 16]]),
            _ => break,
        };
        mixed = _mm512_add_epi16(mixed, two);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(two));
    }
    let mixed = _mm256_add_epi16(_mm512_castsi512_si256(mixed), _mm512_extracti64x4_epi64::<1>(mixed));
    let odd = _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64::<1>(odd));
    avx2::in_order(mixed, odd, least, scores)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn look_up(bytes: [&[u8; BLOCK]; 2], tables: [&Table; 4]) -> __m512i {
    let nibble = _mm512_set1_epi8(NIBBLE as i8);
    // SAFETY: twice 32 readable bytes, and four times 16; the loads need no alignment.
    let (bytes, low, high) = unsafe {
        let half = |bytes: &[u8; BLOCK]| _mm256_loadu_si256(bytes.as_ptr().cast());
        let table = |table: &Table| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let join = |low, high| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        (
            join(half(bytes[0]), half(bytes[1])),
            join(table(tables[0]), table(tables[2])),
            join(table(tables[1]), table(tables[3])),
        )
    };
    let low = _mm512_shuffle_epi8(low, _mm512_and_si512(bytes, nibble));
    let high = _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble));
    _mm512_add_epi8(low, high)
}
