//! The inner loops: 8-bit and f32 dot products and scores of 1-bit sketches, portable and with the instructions of each
//! CPU, chosen at run time. All paths give the same bits: sums of whole numbers are exact, and the f32 ones add
//! in the same order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// f32 lanes that are summed apart; part of the definition of [`dot_f32`], so that all paths round alike.
const LANES: usize = 16;

/// Largest magnitude of an 8-bit code. With it two products fit in 16 bits (2 * 127 * 127 < 2^15), which the AVX2
/// path relies on; -128 never occurs.
pub const MAX_CODE: i8 = 127;

/// Rows whose sketches are scored together.
pub const BLOCK: usize = 32;

/// What each value of 4 sketch bits adds to a score.
pub type Table = [u8; 16];

/// Largest value in a [`Table`]: four of them fit in 8 bits.
pub const MAX_TABLE: u8 = 63;

const NIBBLE: u8 = 0x0f;

/// Dot products of one query with `out.len()` rows of codes that lie one after the other.
///
/// Shapes: `query` has `dim` codes, `rows` has `out.len() * dim`. Codes are from -127 to 127 and `dim` is at most
/// 65,536, so that the sums fit.
pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    debug_assert_eq!(rows.len(), query.len() * out.len());
    #[cfg(target_arch = "x86_64")]
    {
        if avx512_vnni() {
            // SAFETY: the CPU has what `avx512_vnni` asks for.
            return unsafe { avx512::dots_i8(query, rows, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { avx2::dots_i8(query, rows, out) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has NEON.
        return unsafe { neon::dots_i8(query, rows, out) };
    }
    portable::dots_i8(query, rows, out);
}

/// Dot product of two vectors of the same length.
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { avx2::dot_f32(a, b) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has NEON.
        return unsafe { neon::dot_f32(a, b) };
    }
    portable::dot_f32(a, b)
}

/// For each row of a block of sketches, the sum of what its bits add by the query's tables; gives a bit for each row whose
/// sum is at least `least`.
///
/// Shapes: `block[b][row]` holds bits `8 b .. 8 b + 8` of that row's sketch, lowest first; `tables` has two for each
/// byte, that of its low nibble first. Table values are at most [`MAX_TABLE`], and there are at most 1,024
/// tables, so that the sums fit.
///
/// After the fast scan of product quantisation codes: Andre, Kermarrec, Le Scouarnec, "Cache locality is not enough",
/// VLDB 2015.
pub fn sketch_scores(tables: &[Table], block: &[[u8; BLOCK]], least: u16, scores: &mut [u16; BLOCK]) -> u32 {
    debug_assert_eq!(tables.len(), 2 * block.len());
    #[cfg(target_arch = "x86_64")]
    {
        if avx512_vnni() {
            // SAFETY: the CPU has what `avx512_vnni` asks for.
            return unsafe { avx512::sketch_scores(tables, block, least, scores) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { avx2::sketch_scores(tables, block, least, scores) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the CPU has NEON.
        return unsafe { neon::sketch_scores(tables, block, least, scores) };
    }
    portable::sketch_scores(tables, block, least, scores)
}

/// Asks for `values` to be loaded into the cache; a hint, and nothing where there is no instruction for it.
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on the cache, and the address is that of a byte of `values`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// All that the AVX-512 path uses; a CPU that has VNNI has the rest.
#[cfg(target_arch = "x86_64")]
fn avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512f")
}

/// Sums the lanes in halves, then adds what was left over at the end of the vectors.
fn finish(mut lanes: [f32; LANES], a: &[f32], b: &[f32]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    a.iter().zip(b).fold(lanes[0], |sum, (x, y)| sum + x * y)
}

#[cfg(test)]
mod tests;
