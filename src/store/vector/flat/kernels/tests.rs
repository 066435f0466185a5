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

#[test]
fn the_largest_scores_do_not_overflow() {
    let mut scores = [0; BLOCK];
    let reached = sketch_scores(&vec![[MAX_TABLE; 16]; 1024], &vec![[0xa5; BLOCK]; 512], 64_512, &mut scores);
    assert_eq!((scores, reached), ([64_512; BLOCK], u32::MAX));
    assert_eq!(sketch_scores(&vec![[MAX_TABLE; 16]; 1024], &vec![[0; BLOCK]; 512], 64_513, &mut scores), 0);
}

proptest! {
    #[test]
    fn the_8_bit_sums_are_those_of_the_portable_path(
        codes in prop::collection::vec((-MAX_CODE..=MAX_CODE, -MAX_CODE..=MAX_CODE, -MAX_CODE..=MAX_CODE), 1..200),
    ) {
        let query: Vec<i8> = codes.iter().map(|c| c.0).collect();
        let rows: Vec<i8> = codes.iter().map(|c| c.1).chain(codes.iter().map(|c| c.2)).collect();
        let mut plain = [0; 2];
        portable::dots_i8(&query, &rows, &mut plain);
        for path in paths() {
            let mut fast = [0; 2];
            (path.dots_i8)(&query, &rows, &mut fast);
            prop_assert_eq!(fast, plain, "{}", path.name);
        }
    }

    #[test]
    fn the_f32_sums_are_those_of_the_portable_path_bit_for_bit(
        values in prop::collection::vec((any::<f32>(), any::<f32>()), 0..200),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        let plain = portable::dot_f32(&a, &b);
        for path in paths() {
            let fast = (path.dot_f32)(&a, &b);
            let equal = fast.to_bits() == plain.to_bits() || (fast.is_nan() && plain.is_nan());
            prop_assert!(equal, "{}: {fast} {plain}", path.name);
        }
    }

    #[test]
    fn the_scores_of_sketches_are_those_of_the_portable_path(
        columns in prop::collection::vec((any::<[u8; BLOCK]>(), any::<[[u8; 16]; 2]>()), 1..70),
        least in 0u16..9000,
    ) {
        let block: Vec<[u8; BLOCK]> = columns.iter().map(|c| c.0).collect();
        let tables: Vec<Table> = columns.iter().flat_map(|c| c.1).map(|t| t.map(|x| x % (MAX_TABLE + 1))).collect();
        let mut plain = [7; BLOCK];
        let expected = portable::sketch_scores(&tables, &block, least, &mut plain);
        prop_assert_eq!(expected, plain.iter().rev().fold(0, |mask, &score| mask << 1 | u32::from(score >= least)));
        for path in paths() {
            let mut fast = [9; BLOCK];
            prop_assert_eq!((path.sketch_scores)(&tables, &block, least, &mut fast), expected, "{}", path.name);
            prop_assert_eq!(fast, plain, "{}", path.name);
        }
    }
}

type SketchScores = fn(&[Table], &[[u8; BLOCK]], u16, &mut [u16; BLOCK]) -> u32;

struct Path {
    name: &'static str,
    dots_i8: fn(&[i8], &[i8], &mut [i32]),
    dot_f32: fn(&[f32], &[f32]) -> f32,
    sketch_scores: SketchScores,
}

/// What this CPU can run, besides the portable path: the one that is chosen, and those below it.
fn paths() -> Vec<Path> {
    let mut paths = vec![Path { name: "chosen", dots_i8, dot_f32, sketch_scores }];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        paths.push(Path {
            name: "avx2",
            // SAFETY: the CPU has AVX2, as asked above.
            dots_i8: |query, rows, out| unsafe { avx2::dots_i8(query, rows, out) },
            // SAFETY: the same.
            dot_f32: |a, b| unsafe { avx2::dot_f32(a, b) },
            // SAFETY: the same.
            sketch_scores: |tables, block, least, scores| unsafe { avx2::sketch_scores(tables, block, least, scores) },
        });
    }
    paths
}
