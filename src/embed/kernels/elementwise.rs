//! What is done value by value or row by row: GELU, softmax, layer norm, widening.

use super::simd::Simd;

/// The normal distribution's cumulative function less one half is `x P(x^2) / Q(x^2)`; these are P's and Q's
/// coefficients, lowest power first. A least-squares fit in f64, reweighted towards equal extremes, over |x| <= 5.5:
/// off by at most 6e-8.
const P: [f32; 6] = [0.398_942, 0.035_141_017, 0.004_761_491, 0.000_182_836_87, 6.529_87e-6, 2.221_276_7e-8];
const Q: [f32; 6] = [1.0, 0.254_749_06, 0.029_397_821, 0.001_962_324_6, 7.859_94e-5, 1.195_238_8e-6];
const FITTED: f32 = 5.5;

/// x (1 + erf(x / sqrt 2)) / 2, off by at most 4e-7 max(1, |x|).
///
/// # Safety
/// As [`Simd`] says.
#[inline(always)]
pub unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: passed on to the caller.
    unsafe {
        let inside = S::max(S::min(x, S::splat(FITTED)), S::splat(-FITTED));
        let t = S::mul(inside, inside);
        let odd = S::mul(inside, S::div(polynomial::<S, 6>(&P, t), polynomial::<S, 6>(&Q, t)));
        S::mul(x, S::add(odd, S::splat(0.5)))
    }
}

/// e^x for x <= 0, off by at most 2e-7 of its value; below -87 about 1e-38.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // 1 / n!, of Taylor's series; |r| <= ln 2 / 2 leaves 6e-9.
    const SERIES: [f32; 8] = [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    // ln 2 in two parts, the first with few enough bits that its products here are exact (Cody and Waite).
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    // SAFETY: passed on to the caller.
    unsafe {
        let x = S::max(x, S::splat(-87.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2.0), x);
        let r = S::fma(n, S::splat(-LN2.1), r);
        S::mul(polynomial::<S, 8>(&SERIES, r), S::exp2_whole(n))
    }
}

/// By Horner's rule; lowest power first.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(coefficients: &[f32; N], x: S::V) -> S::V {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut value = S::splat(coefficients[N - 1]);
        for c in coefficients[..N - 1].iter().rev() {
            value = S::fma(value, x, S::splat(*c));
        }
        value
    }
}

/// Scores of one token with `len` others, in place: e^x over the sum of all. Values from `len` to `padded`, a multiple
/// of [`Simd::LANES`], come out as next to nothing.
///
/// # Safety
/// As [`Simd`] says; `scores` is good for `padded` values, `0 < len <= padded`.
#[inline(always)]
pub unsafe fn softmax<S: Simd>(scores: *mut f32, len: usize, padded: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        for at in len..padded {
            *scores.add(at) = -1e30;
        }
        let mut highest = S::splat(-1e30);
        for at in (0..padded).step_by(S::LANES) {
            highest = S::max(highest, S::load(scores.add(at)));
        }
        let highest = S::splat(S::highest(highest));
        let mut sum = S::splat(0.0);
        for at in (0..padded).step_by(S::LANES) {
            let value = exp::<S>(S::sub(S::load(scores.add(at)), highest));
            S::store(scores.add(at), value);
            sum = S::add(sum, value);
        }
        let share = S::splat(S::sum(sum).recip());
        for at in (0..padded).step_by(S::LANES) {
            S::store(scores.add(at), S::mul(S::load(scores.add(at)), share));
        }
    }
}

/// Rows to be brought to mean 0 and variance 1, then scaled and shifted.
#[derive(Clone, Copy)]
pub struct LayerNorm {
    pub rows: usize,
    /// Values of a row, a multiple of [`Simd::LANES`]; rows lie one after the other.
    pub width: usize,
    pub from: *const f32,
    /// May be the same as `from`.
    pub to: *mut f32,
    pub scale: *const f32,
    pub shift: *const f32,
    /// Added to the variance.
    pub epsilon: f32,
}

/// # Safety
/// As [`Simd`] says; the pointers are good for `rows * width` values, or for `width`.
#[inline(always)]
pub unsafe fn layer_norm<S: Simd>(norm: &LayerNorm) {
    let width = norm.width as f32;
    for row in 0..norm.rows {
        // SAFETY: passed on to the caller.
        unsafe {
            let (from, to) = (norm.from.add(row * norm.width), norm.to.add(row * norm.width));
            let mut sum = S::splat(0.0);
            for at in (0..norm.width).step_by(S::LANES) {
                sum = S::add(sum, S::load(from.add(at)));
            }
            let mean = S::splat(S::sum(sum) / width);
            let mut squares = S::splat(0.0);
            for at in (0..norm.width).step_by(S::LANES) {
                let off = S::sub(S::load(from.add(at)), mean);
                squares = S::fma(off, off, squares);
            }
            let factor = S::splat((S::sum(squares) / width + norm.epsilon).sqrt().recip());
            for at in (0..norm.width).step_by(S::LANES) {
                let unit = S::mul(S::sub(S::load(from.add(at)), mean), factor);
                S::store(to.add(at), S::fma(unit, S::load(norm.scale.add(at)), S::load(norm.shift.add(at))));
            }
        }
    }
}

/// bfloat16 values, kept as [`super::Panel::Bf16`] says, to `f32`; `count` is a multiple of a panel's width.
///
/// # Safety
/// As [`Simd`] says; both pointers are good for `count` values.
#[inline(always)]
pub unsafe fn widen<S: Simd>(from: *const u16, to: *mut f32, count: usize) {
    for start in (0..count).step_by(S::PANEL) {
        for n in 0..S::ACROSS / 2 {
            // SAFETY: passed on to the caller.
            unsafe {
                let (first, second) = S::load_pair(from.add(start + 2 * n * S::LANES));
                S::store(to.add(start + n * S::LANES), first);
                S::store(to.add(start + n * S::LANES + S::PANEL / 2), second);
            }
        }
    }
}
