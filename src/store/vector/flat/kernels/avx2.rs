//! x86-64 with AVX2: registers of 32 bytes.

use super::{BLOCK, LANES, NIBBLE, Table, finish, portable};
use std::arch::x86_64::*;

/// Codes in one register.
const STEP: usize = 32;

#[target_feature(enable = "avx2")]
pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot_i8(query, row);
    }
}

/// `maddubs` multiplies unsigned by signed, so the sign of the query's code moves over to the row's.
#[target_feature(enable = "avx2")]
fn dot_i8(query: &[i8], row: &[i8]) -> i32 {
    let (query, query_rest) = query.as_chunks::<STEP>();
    let (row, row_rest) = row.as_chunks::<STEP>();
    let ones = _mm256_set1_epi16(1);
    let mut sums = _mm256_setzero_si256();
    for (q, r) in query.iter().zip(row) {
        // SAFETY: each chunk is 32 readable bytes; the loads need no alignment.
        let (q, r) = unsafe { (_mm256_loadu_si256(q.as_ptr().cast()), _mm256_loadu_si256(r.as_ptr().cast())) };
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(r, q));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
    }
    let mut parts = [0i32; 8];
    // SAFETY: `parts` is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sums) };
    parts.iter().sum::<i32>() + portable::dot_i8(query_rest, row_rest)
}

/// No fused multiply-add: it rounds once where the portable path rounds twice.
#[target_feature(enable = "avx2")]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut low = _mm256_setzero_ps();
    let mut high = _mm256_setzero_ps();
    for (x, y) in a.iter().zip(b) {
        // SAFETY: each chunk is 16 readable values, two registers; the loads need no alignment.
        unsafe {
            let (x, y) = (x.as_ptr(), y.as_ptr());
            low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(y)));
            high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(x.add(8)), _mm256_loadu_ps(y.add(8))));
        }
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` is 16 writable values, two registers; the stores need no alignment.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), low);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), high);
    }
    finish(lanes, a_rest, b_rest)
}

/// One shuffle looks up a table for all 32 rows. Table values are at most 63, so four of them add up in 8 bits; then
/// they go into sums of 16 bits, even rows apart from odd ones.
#[target_feature(enable = "avx2")]
pub fn sketch_scores(tables: &[Table], block: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    let (mut mixed, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let (blocks, block_rest) = block.as_chunks::<2>();
    let (tables, tables_rest) = tables.as_chunks::<4>();
    for (bytes, tables) in blocks.iter().zip(tables) {
        let four =
            _mm256_add_epi8(look_up(&bytes[0], [&tables[0], &tables[1]]), look_up(&bytes[1], [&tables[2], &tables[3]]));
        mixed = _mm256_add_epi16(mixed, four);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(four));
    }
    if let ([bytes], [low, high]) = (block_rest, tables_rest) {
        let two = look_up(bytes, [low, high]);
        mixed = _mm256_add_epi16(mixed, two);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(two));
    }
    in_order(mixed, odd, least, scores)
}

/// Writes the scores and gives a bit for each row that reaches `least`. `odd` has the scores of rows 1, 3, 5…, and
/// `mixed` those of rows 0, 2, 4… with 256 times the odd ones added, modulo 2^16.
#[target_feature(enable = "avx2")]
pub fn in_order(mixed: __m256i, odd: __m256i, least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    let even = _mm256_sub_epi16(mixed, _mm256_slli_epi16::<8>(odd));
    let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
    let first = _mm256_permute2x128_si256::<0x20>(low, high);
    let second = _mm256_permute2x128_si256::<0x31>(low, high);
    // SAFETY: `scores` is 64 writable bytes; the stores need no alignment.
    unsafe {
        let out = scores.as_mut_ptr().cast::<__m256i>();
        _mm256_storeu_si256(out, first);
        _mm256_storeu_si256(out.add(1), second);
    }
    let least = _mm256_set1_epi16(least.cast_signed());
    let reached = |scores| _mm256_cmpeq_epi16(_mm256_max_epu16(scores, least), scores);
    // Packing goes by halves of a register; the permutation puts the quarters in order.
    let bytes = _mm256_packs_epi16(reached(first), reached(second));
    _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)).cast_unsigned()
}

#[target_feature(enable = "avx2")]
fn look_up(bytes: &[u8; BLOCK], tables: [&Table; 2]) -> __m256i {
    let nibble = _mm256_set1_epi8(NIBBLE as i8);
    // SAFETY: 32 and 16 readable bytes; the loads need no alignment.
    let (bytes, low, high) = unsafe {
        let table = |table: &Table| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        (_mm256_loadu_si256(bytes.as_ptr().cast()), table(tables[0]), table(tables[1]))
    };
    let low = _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble));
    let high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble));
    _mm256_add_epi8(low, high)
}
