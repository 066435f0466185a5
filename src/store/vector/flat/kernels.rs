//! The inner loops: 8-bit and f32 dot products, portable and with AVX2, chosen at run time. Both paths give the
//! same bits: the 8-bit sums are exact, and the f32 ones add in the same order.

/// f32 lanes that are summed apart; part of the definition of [`dot_f32`], so that all paths round alike.
const LANES: usize = 16;

/// Largest magnitude of an 8-bit code. With it two products fit in 16 bits (2 * 127 * 127 < 2^15), which the AVX2
/// path relies on; -128 never occurs.
pub const MAX_CODE: i8 = 127;

/// Dot products of one query with `out.len()` rows of codes that lie one after the other.
///
/// Shapes: `query` has `dim` codes, `rows` has `out.len() * dim`. Codes are from -127 to 127 and `dim` is at most
/// 65,536, so that the sums fit.
pub fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    debug_assert_eq!(rows.len(), query.len() * out.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        unsafe { avx2::dots_i8(query, rows, out) };
        return;
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
    portable::dot_f32(a, b)
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

mod portable {
    use super::{LANES, finish};

    pub(super) fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            *out = dot_i8(query, row);
        }
    }

    pub(super) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
        a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
    }

    pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
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
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{LANES, finish, portable};
    use std::arch::x86_64::*;

    /// Codes in one register.
    const STEP: usize = 32;

    #[target_feature(enable = "avx2")]
    pub(super) fn dots_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
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
    pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dot_product_is_the_sum_of_products() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..37).map(|i| (i % 3) as f32).collect();
        let expected: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        assert_eq!(dot_f32(&a, &b), expected, "whole numbers this small are exact in f32");
        assert_eq!(dot_f32(&[], &[]), 0.0);
    }

    #[test]
    fn the_largest_codes_do_not_overflow() {
        let dim = 65_536;
        let mut out = [0; 2];
        let rows: Vec<i8> = (0..2 * dim).map(|i| if i < dim { MAX_CODE } else { -MAX_CODE }).collect();
        dots_i8(&vec![MAX_CODE; dim], &rows, &mut out);
        assert_eq!(out, [127 * 127 * 65_536, -127 * 127 * 65_536]);
    }

    #[cfg(target_arch = "x86_64")]
    proptest! {
        #[test]
        fn the_avx2_and_the_portable_8_bit_sums_are_equal(
            codes in prop::collection::vec((-MAX_CODE..=MAX_CODE, -MAX_CODE..=MAX_CODE, -MAX_CODE..=MAX_CODE), 1..200),
        ) {
            prop_assume!(is_x86_feature_detected!("avx2"));
            let query: Vec<i8> = codes.iter().map(|c| c.0).collect();
            let rows: Vec<i8> = codes.iter().map(|c| c.1).chain(codes.iter().map(|c| c.2)).collect();
            let (mut fast, mut plain) = ([0; 2], [0; 2]);
            // SAFETY: the CPU has AVX2, as assumed above.
            unsafe { avx2::dots_i8(&query, &rows, &mut fast) };
            portable::dots_i8(&query, &rows, &mut plain);
            prop_assert_eq!(fast, plain);
        }

        #[test]
        fn the_avx2_and_the_portable_f32_sums_are_equal_bit_for_bit(
            values in prop::collection::vec((any::<f32>(), any::<f32>()), 0..200),
        ) {
            prop_assume!(is_x86_feature_detected!("avx2"));
            let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            // SAFETY: the CPU has AVX2, as assumed above.
            let fast = unsafe { avx2::dot_f32(&a, &b) };
            let plain = portable::dot_f32(&a, &b);
            prop_assert!(fast.to_bits() == plain.to_bits() || (fast.is_nan() && plain.is_nan()), "{fast} {plain}");
        }
    }
}
