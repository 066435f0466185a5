//! Registers for CPUs without an instruction set of ours: plain arrays, which compilers turn into what there is.

use super::simd::Simd;

#[derive(Clone, Copy)]
pub struct Portable;

const LANES: usize = 8;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const ACROSS: usize = 2;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: good for LANES values, as the trait asks; unaligned is fine.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_pair(from: *const u16) -> (Self::V, Self::V) {
        // SAFETY: good for twice LANES values, as the trait asks; unaligned is fine.
        let bits = unsafe { from.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        let widened = |which: usize| each(|i| f32::from_bits(u32::from(bits[i][which]) << 16));
        (widened(0), widened(1))
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: good for LANES values, as the trait asks; unaligned is fine.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    /// Two roundings: `f32::mul_add` is a call to a slow function where the CPU has no such instruction.
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        each(|i| v[i].round_ties_even())
    }

    #[inline(always)]
    unsafe fn exp2_whole(v: Self::V) -> Self::V {
        each(|i| f32::from_bits(((v[i] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
