//! Every instruction set this CPU has, against the same sums in f64.

use super::*;

/// (1 + erf(x / sqrt 2)) / 2, by Taylor's series near 0 and by a continued fraction further out.
fn normal_cdf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    }
    let tail = (1..100).rev().fold(x.abs(), |rest, n| x.abs() + f64::from(n) / rest);
    let beyond = (-x * x / 2.0).exp() / (tail * std::f64::consts::TAU.sqrt());
    if x > 0.0 { 1.0 - beyond } else { beyond }
}

/// As [`Panel::Bf16`] says, and what comes out again.
fn kept(values: &[f32], panel: usize) -> (Vec<u16>, Vec<f32>) {
    let rounded: Vec<half::bf16> = values.iter().map(|x| half::bf16::from_f32(*x)).collect();
    let in_turns =
        |row: &[half::bf16]| (0..panel).map(|i| row[i % 2 * panel / 2 + i / 2].to_bits()).collect::<Vec<_>>();
    (rounded.chunks_exact(panel).flat_map(in_turns).collect(), rounded.iter().map(|x| x.to_f32()).collect())
}

#[test]
fn the_reference_of_these_tests_is_the_normal_distribution() {
    for (x, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (-1.959_963_985, 0.025), (-4.0, 3.167_124e-5)] {
        assert!((normal_cdf(x) - expected).abs() < 1e-9, "{x}");
    }
}

#[test]
fn gelu_is_as_accurate_as_it_says() {
    for kernels in Kernels::all() {
        let values: Vec<f32> = (-4000..4000).map(|i| i as f32 / 400.0).chain([-1e4, 1e4, 0.0, 1e-20]).collect();
        for bias in values.chunks_exact(4).map(|four| std::array::from_fn::<f32, 64, _>(|i| four[i % 4])) {
            let mut out = vec![0.0; kernels.panel];
            let product = Product {
                onto: Onto::Bias(bias.as_ptr()),
                gelu: true,
                ..of(&kernels, &[], &Weights::F32(vec![]), 1, 0, &mut out)
            };
            // SAFETY: a depth of 0 reads no weights; `bias` and `out` are as wide as a panel, or wider.
            unsafe { (kernels.product)(&product) };
            for (x, y) in bias.iter().zip(&out) {
                let expected = f64::from(*x) * normal_cdf(f64::from(*x));
                let off = (f64::from(*y) - expected).abs() / f64::from(x.abs().max(1.0));
                assert!(off <= 4e-7, "{}: gelu({x}) = {y}, not {expected}", kernels.name);
            }
        }
    }
}

enum Weights {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

fn of(kernels: &Kernels, a: &[f32], b: &Weights, rows: usize, depth: usize, c: &mut [f32]) -> Product {
    let b = match b {
        Weights::F32(b) => Panel::F32(b.as_ptr()),
        Weights::Bf16(b) => Panel::Bf16(b.as_ptr()),
    };
    Product {
        rows,
        depth,
        a: a.as_ptr(),
        a_stride: depth,
        b,
        b_stride: kernels.panel,
        c: c.as_mut_ptr(),
        c_stride: kernels.panel,
        onto: Onto::Nothing,
        gelu: false,
        next: std::ptr::null(),
        next_bytes: 0,
    }
}

fn values(random: &mut fastrand::Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.f32() - 0.5).collect()
}

#[test]
fn a_product_is_the_sum_of_products_onto_what_was_asked_for() {
    let mut random = fastrand::Rng::with_seed(7);
    for kernels in Kernels::all() {
        for rows in 1..=30 {
            let (depth, width) = (random.usize(1..90), kernels.panel);
            let [a, b, before, bias, residual] =
                [rows * depth, depth * width, rows * width, width, rows * width].map(|n| values(&mut random, n));
            let (short, widened) = kept(&b, width);
            for (kept, b) in [(Weights::F32(b.clone()), &b), (Weights::Bf16(short), &widened)] {
                let (bias_at, residual_at) = (bias.as_ptr(), residual.as_ptr());
                let cases = [Onto::Nothing, Onto::Bias(bias_at), Onto::BiasAndRows(bias_at, residual_at), Onto::Output];
                for (case, onto) in cases.into_iter().enumerate() {
                    let mut c = before.clone();
                    let product = Product { onto, ..of(&kernels, &a, &kept, rows, depth, &mut c) };
                    // SAFETY: all buffers have the sizes that `of` tells.
                    unsafe { (kernels.product)(&product) };
                    for (at, c) in c.iter().enumerate() {
                        let (row, column) = (at / width, at % width);
                        let onto = [0.0, bias[column], bias[column] + residual[at], before[at]][case];
                        let terms =
                            (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * width + column]));
                        let expected = f64::from(onto) + terms.sum::<f64>();
                        let off = (f64::from(*c) - expected).abs();
                        assert!(off < 1e-5, "{}, {rows} x {depth}, case {case}: {c}, not {expected}", kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_gives_shares_of_one_and_nothing_to_the_padding() {
    let mut random = fastrand::Rng::with_seed(8);
    for kernels in Kernels::all() {
        for len in 1..100usize {
            let padded = len.next_multiple_of(kernels.panel);
            let mut scores: Vec<f32> = (0..padded).map(|_| (random.f32() - 0.5) * 60.0).collect();
            let exact: Vec<f64> = scores[..len].iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = exact.iter().sum();
            // SAFETY: `scores` is as long as told.
            unsafe { (kernels.softmax)(scores.as_mut_ptr(), len, padded) };
            for (share, exact) in scores.iter().zip(&exact) {
                assert!((f64::from(*share) - exact / sum).abs() < 1e-6, "{}: {share} {}", kernels.name, exact / sum);
            }
            assert!(scores[len..].iter().all(|share| *share < 1e-30), "{}", kernels.name);
        }
    }
}

#[test]
fn layer_norm_brings_rows_to_mean_0_and_variance_1_then_scales_and_shifts() {
    let mut random = fastrand::Rng::with_seed(9);
    for kernels in Kernels::all() {
        let (rows, width) = (5, 96);
        let mut from: Vec<f32> = values(&mut random, rows * width).iter().map(|x| x * 4.0 + 3.0).collect();
        from[..width].fill(2.0); // has no variance to be divided by
        let (scale, shift) = (values(&mut random, width), values(&mut random, width));
        let mut to = vec![0.0; rows * width];
        let norm = LayerNorm {
            rows,
            width,
            from: from.as_ptr(),
            to: to.as_mut_ptr(),
            scale: scale.as_ptr(),
            shift: shift.as_ptr(),
            epsilon: 1e-12,
        };
        // SAFETY: all buffers have the sizes told.
        unsafe { (kernels.layer_norm)(&norm) };
        for (from, to) in from.chunks(width).zip(to.chunks(width)) {
            let mean = from.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            let variance = from.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
            for (i, (x, y)) in from.iter().zip(to).enumerate() {
                let expected =
                    (f64::from(*x) - mean) / (variance + 1e-12).sqrt() * f64::from(scale[i]) + f64::from(shift[i]);
                assert!((f64::from(*y) - expected).abs() < 1e-5, "{}: {y} {expected}", kernels.name);
            }
        }
    }
}

#[test]
fn widening_is_exact() {
    let mut random = fastrand::Rng::with_seed(10);
    let values: Vec<f32> = (0..1920).map(|_| f32::from_bits(random.u32(..))).filter(|x| x.is_finite()).collect();
    for kernels in Kernels::all() {
        let values = &values[..values.len() / kernels.panel * kernels.panel];
        let (short, expected) = kept(values, kernels.panel);
        let mut wide = vec![0.0; short.len()];
        // SAFETY: both are as long as told, a multiple of a panel.
        unsafe { (kernels.widen)(short.as_ptr(), wide.as_mut_ptr(), short.len()) };
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&wide), bits(&expected), "{}", kernels.name);
    }
}
