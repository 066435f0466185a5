//! One vector register of `f32`, as the kernels see it. Kernels are written once over [`Simd`]; each instruction set
//! says what a register is.

/// Vector registers of an instruction set.
///
/// # Safety
///
/// All functions may only be called where the CPU has the instruction set, from a function that was compiled for it (into
/// which they are inlined). Pointers must be good for [`Simd::LANES`] values; they need no alignment.
pub trait Simd: Copy + 'static {
    type V: Copy;

    /// Values in one register.
    const LANES: usize;
    /// Registers across one panel of weights.
    const ACROSS: usize;
    /// Values across one panel: the columns of weights that lie together.
    const PANEL: usize = Self::LANES * Self::ACROSS;
    /// Rows whose sums stay in registers, for a panel.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Two registers of bfloat16 values that lie in turns, first the first of the first; widened. Reads twice as many
    /// values as [`Simd::load`].
    unsafe fn load_pair(from: *const u16) -> (Self::V, Self::V);
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; with one rounding, except where the CPU has no such instruction.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole number.
    unsafe fn round(v: Self::V) -> Self::V;
    /// 2 to the power of whole numbers from -126 to 127.
    unsafe fn exp2_whole(v: Self::V) -> Self::V;
    /// Asks for the cache line at that address, which need not be readable.
    unsafe fn prefetch(at: *const u8);

    /// The lanes' sum, added from left to right: all instruction sets with as many lanes round alike.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: no register has more than `MOST_LANES` lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().sum()
    }

    #[inline(always)]
    unsafe fn highest(v: Self::V) -> f32 {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: no register has more than `MOST_LANES` lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().fold(f32::NEG_INFINITY, |highest, &x| highest.max(x))
    }
}

const MOST_LANES: usize = 16;
