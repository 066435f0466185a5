//! Rows of activations times one panel of weights: where nearly all of the time goes.
//!
//! A tile of rows by one panel is summed in registers over the whole depth; one step loads a row of the panel and
//! multiplies it with one value of each row of activations. What follows a sum (bias, residual, GELU) happens before it is stored.

use super::elementwise::gelu;
use super::simd::Simd;

/// One product `c = a x b` and what is added to it. All pointers must be good for the shapes given; `c` overlaps nothing
/// that another thread touches meanwhile, nor `a` or `b`.
#[derive(Clone, Copy)]
pub struct Product {
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// Columns of `a`, rows of `b`.
    pub depth: usize,
    pub a: *const f32,
    /// Values from one row of `a` to the next.
    pub a_stride: usize,
    pub b: Panel,
    /// Values from one row of the panel to the next: the panel's width where it is packed.
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub onto: Onto,
    /// Whether GELU comes last.
    pub gelu: bool,
    /// What is needed next, fetched meanwhile; or null.
    pub next: *const u8,
    pub next_bytes: usize,
}

/// Weights as they are stored.
#[derive(Clone, Copy)]
pub enum Panel {
    F32(*const f32),
    /// bfloat16, the upper halves of `f32`. In each row, values of its first and second half lie in turns, so that one
    /// register holds values of both halves, and a shift and a mask widen them.
    Bf16(*const u16),
}

/// What the product is added to.
#[derive(Clone, Copy)]
pub enum Onto {
    Nothing,
    /// One value per column.
    Bias(*const f32),
    /// A bias, and a matrix laid out as `c` is.
    BiasAndRows(*const f32, *const f32),
    /// What `c` holds.
    Output,
}

/// # Safety
/// As [`Simd`] and [`Product`] say.
#[inline(always)]
pub unsafe fn product<S: Simd>(p: &Product) {
    // SAFETY: passed on to the caller.
    unsafe {
        match p.b {
            Panel::F32(b) => tiles::<S, f32>(p, b),
            Panel::Bf16(b) => tiles::<S, u16>(p, b),
        }
    }
}

/// A row of a panel, as it comes into the registers.
trait Weight: Copy {
    unsafe fn load<S: Simd>(from: *const Self) -> [S::V; MOST_ACROSS];
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> [S::V; MOST_ACROSS] {
        let mut row = [unsafe { S::splat(0.0) }; MOST_ACROSS];
        for (n, part) in row.iter_mut().enumerate().take(S::ACROSS) {
            *part = unsafe { S::load(from.add(n * S::LANES)) };
        }
        row
    }
}

impl Weight for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> [S::V; MOST_ACROSS] {
        let mut row = [unsafe { S::splat(0.0) }; MOST_ACROSS];
        for n in 0..S::ACROSS / 2 {
            (row[n], row[n + S::ACROSS / 2]) = unsafe { S::load_pair(from.add(2 * n * S::LANES)) };
        }
        row
    }
}

/// Splits the rows into as few tiles as there can be, of nearly the same height: a tile of few rows does not keep the
/// units for multiplication busy.
#[inline(always)]
unsafe fn tiles<S: Simd, B: Weight>(p: &Product, b: *const B) {
    let count = p.rows.div_ceil(S::ROWS);
    // Each tile fetches its share of what comes next.
    let fetch_step = p.next_bytes / (count * p.depth).max(1);
    let mut row = 0;
    for tile in 0..count {
        let rows = (p.rows - row).div_ceil(count - tile);
        // SAFETY: passed on to the caller; the rows of this tile are among those of the product.
        unsafe {
            let mut at = At { a: p.a.add(row * p.a_stride), c: p.c.add(row * p.c_stride), onto: p.onto, next: p.next };
            if let Onto::BiasAndRows(bias, rows) = p.onto {
                at.onto = Onto::BiasAndRows(bias, rows.add(row * p.c_stride));
            }
            if !p.next.is_null() {
                at.next = p.next.wrapping_add(tile * p.depth * fetch_step);
            }
            by_height::<S, B>(rows, p, at, b, fetch_step);
        }
        row += rows;
    }
}

/// Where a tile lies.
#[derive(Clone, Copy)]
struct At {
    a: *const f32,
    c: *mut f32,
    onto: Onto,
    next: *const u8,
}

#[inline(always)]
unsafe fn by_height<S: Simd, B: Weight>(rows: usize, p: &Product, at: At, b: *const B, fetch_step: usize) {
    // SAFETY: passed on to the caller. No height above `S::ROWS` occurs.
    unsafe {
        match rows {
            1 => tile::<S, B, 1>(p, at, b, fetch_step),
            2 => tile::<S, B, 2>(p, at, b, fetch_step),
            3 => tile::<S, B, 3>(p, at, b, fetch_step),
            4 => tile::<S, B, 4>(p, at, b, fetch_step),
            5 if S::ROWS >= 5 => tile::<S, B, 5>(p, at, b, fetch_step),
            6 if S::ROWS >= 6 => tile::<S, B, 6>(p, at, b, fetch_step),
            7 if S::ROWS >= 7 => tile::<S, B, 7>(p, at, b, fetch_step),
            8 if S::ROWS >= 8 => tile::<S, B, 8>(p, at, b, fetch_step),
            9 if S::ROWS >= 9 => tile::<S, B, 9>(p, at, b, fetch_step),
            10 if S::ROWS >= 10 => tile::<S, B, 10>(p, at, b, fetch_step),
            11 if S::ROWS >= 11 => tile::<S, B, 11>(p, at, b, fetch_step),
            12 if S::ROWS >= 12 => tile::<S, B, 12>(p, at, b, fetch_step),
            _ => {}
        }
    }
}

/// Rows of a tile, at most.
const MOST_ROWS: usize = 12;
/// Registers across a panel, at most.
const MOST_ACROSS: usize = 4;

/// `at`. The compiler does not see that, and so does not rewrite the sums of pointers into ones that take more instructions.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written there")]
fn opaque(#[allow(unused_mut, reason = "some targets leave it")] mut at: *const f32) -> *const f32 {
    // SAFETY: does nothing.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags))
    };
    at
}

#[inline(always)]
unsafe fn tile<S: Simd, B: Weight, const ROWS: usize>(p: &Product, at: At, b: *const B, fetch_step: usize) {
    let (mut b, mut next) = (b, at.next);
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sums = [[S::splat(0.0); MOST_ACROSS]; ROWS];
        // One pointer for three rows, which is what a memory operand can reach with the stride in a register.
        let mut rows: [*const f32; MOST_ROWS / 3] = std::array::from_fn(|n| at.a.wrapping_add(3 * n * p.a_stride));
        for _ in 0..p.depth {
            let weights = B::load::<S>(b);
            S::prefetch(next);
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = S::splat(*rows[r / 3].add(r % 3 * p.a_stride));
                for (sum, weights) in sums.iter_mut().zip(&weights).take(S::ACROSS) {
                    *sum = S::fma(x, *weights, *sum);
                }
            }
            for row in rows.iter_mut().take(ROWS.div_ceil(3)) {
                *row = opaque(row.add(1));
            }
            (b, next) = (b.wrapping_add(p.b_stride), next.wrapping_add(fetch_step));
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate().take(S::ACROSS) {
                let (column, offset) = (j * S::LANES, r * p.c_stride + j * S::LANES);
                let onto = match at.onto {
                    Onto::Nothing => *sum,
                    Onto::Bias(bias) => S::add(*sum, S::load(bias.add(column))),
                    Onto::BiasAndRows(bias, rows) => {
                        S::add(S::add(*sum, S::load(bias.add(column))), S::load(rows.add(offset)))
                    }
                    Onto::Output => S::add(*sum, S::load(at.c.add(offset))),
                };
                S::store(at.c.add(offset), if p.gelu { gelu::<S>(onto) } else { onto });
            }
        }
    }
}
