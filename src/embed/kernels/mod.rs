//! The inner loops of the forward pass, each written once over [`simd::Simd`] and compiled for every instruction set;
//! [`Kernels::best`] picks at run time.
//!
//! Instruction sets differ in how many rounding errors they make, not in what they compute: they agree to about 1e-6.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod elementwise;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod product;
mod simd;
#[cfg(test)]
mod tests;

pub use elementwise::LayerNorm;
pub use product::{Onto, Panel, Product};
use simd::Simd;

/// The kernels of one instruction set. What each asks of its caller stands where it is defined.
pub struct Kernels {
    /// For logs and benches.
    pub name: &'static str,
    /// Columns of a packed panel of weights. Also, what the size of an attention head must be a multiple of.
    pub panel: usize,
    pub product: unsafe fn(&Product),
    pub layer_norm: unsafe fn(&LayerNorm),
    /// `(scores, len, padded)`, see [`elementwise::softmax`].
    pub softmax: unsafe fn(*mut f32, usize, usize),
    /// `(from, to, count)`, see [`elementwise::widen`].
    pub widen: unsafe fn(*const u16, *mut f32, usize),
}

/// Compiles all kernels for an instruction set.
macro_rules! kernels {
    ($simd:ty, $name:literal $(, features = $features:literal)?) => {{
        // SAFETY, here and below: callers keep what the kernel asks; the CPU has the features, or the table is not given out.
        $(#[target_feature(enable = $features)])?
        unsafe fn product(p: &Product) {
            unsafe { product::product::<$simd>(p) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn layer_norm(norm: &LayerNorm) {
            unsafe { elementwise::layer_norm::<$simd>(norm) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn softmax(scores: *mut f32, len: usize, padded: usize) {
            unsafe { elementwise::softmax::<$simd>(scores, len, padded) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn widen(from: *const u16, to: *mut f32, count: usize) {
            unsafe { elementwise::widen::<$simd>(from, to, count) }
        }
        Kernels { name: $name, panel: <$simd as Simd>::PANEL, product, layer_norm, softmax, widen }
    }};
}

impl Kernels {
    /// For any CPU.
    pub const fn portable() -> Self {
        kernels!(portable::Portable, "portable")
    }

    /// The fastest this CPU can run.
    pub fn best() -> Self {
        Self::all().pop().unwrap_or(Self::portable())
    }

    /// All that this CPU can run, slowest first.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "some targets have one only")]
        let mut all = vec![Self::portable()];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                all.push(kernels!(avx2::Avx2, "avx2", features = "avx2,fma"));
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                all.push(kernels!(avx512::Avx512, "avx512", features = "avx512f,avx2,fma"));
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(kernels!(neon::Neon, "neon", features = "neon"));
        all
    }
}
