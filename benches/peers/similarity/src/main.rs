//! usearch (HNSW in f32 and i8) and a scan with simsimd's cosine, on vectors that `benches/similarity` has exported:
//!
//! `REPRISE_BENCH_EXPORT=DIR cargo bench --bench similarity`, then
//! `cargo run --release --manifest-path benches/peers/similarity/Cargo.toml -- DIR ROWS…`.

use std::path::Path;
use std::time::{Duration, Instant};

use simsimd::SpatialSimilarity;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

const DIM: usize = 384;
const K: usize = 8;
const NEAR: f32 = 0.85;

/// Queries at sizes from a million, whose true neighbours take half a second each to find.
const FEWER_QUERIES: usize = 200;

type Found = Vec<Vec<u64>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, sizes @ ..] = &arguments[..] else { panic!("give a folder and numbers of rows") };
    let queries = read(&Path::new(folder).join("queries.f32"));
    for size in sizes {
        let few = if size.len() >= 7 { queries.len().min(FEWER_QUERIES * DIM) } else { queries.len() };
        let queries = &queries[..few];
        let rows = read(&Path::new(folder).join(format!("rows-{size}.f32")));
        println!("\n{size} rows");
        let truth: Vec<Vec<(f32, u64)>> = queries.chunks_exact(DIM).map(|query| scan(&rows, query, dot)).collect();
        let (times, found) = searches(&queries[..queries.len().min(50 * DIM)], |query| {
            scan(&rows, query, |a, b| 1.0 - f32::cosine(a, b).unwrap_or(1.0) as f32).iter().map(|b| b.1).collect()
        });
        report("simsimd f32 scan", times, &truth, &found);
        for (name, kind) in [("usearch f32", ScalarKind::F32), ("usearch i8", ScalarKind::I8)] {
            hnsw(name, kind, &rows, queries, &truth);
        }
    }
}

fn hnsw(name: &str, kind: ScalarKind, rows: &[f32], queries: &[f32], truth: &[Vec<(f32, u64)>]) {
    let options = IndexOptions { dimensions: DIM, metric: MetricKind::Cos, quantization: kind, ..Default::default() };
    let index = Index::new(&options).unwrap();
    let count = rows.len() / DIM;
    index.reserve(count).unwrap();
    let started = Instant::now();
    for (n, row) in rows.chunks_exact(DIM).enumerate() {
        index.add(n as u64, row).unwrap();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let bytes = index.memory_usage() as f64 / count as f64;
    println!("  {name}: {rate:.0} inserts/s on one thread, {bytes:.0} bytes per row");
    let (times, found) = searches(queries, |query| index.search(query, K).unwrap().keys);
    report(name, times, truth, &found);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn scan(rows: &[f32], query: &[f32], cosine: impl Fn(&[f32], &[f32]) -> f32) -> Vec<(f32, u64)> {
    let mut best: Vec<(f32, u64)> = Vec::with_capacity(K + 1);
    for (n, row) in rows.chunks_exact(DIM).enumerate() {
        let value = cosine(row, query);
        if best.len() < K || value > best[K - 1].0 {
            best.insert(best.partition_point(|b| b.0 >= value), (value, n as u64));
            best.truncate(K);
        }
    }
    best
}

/// Each query twice; the second time counts.
fn searches(queries: &[f32], search: impl Fn(&[f32]) -> Vec<u64>) -> (Vec<Duration>, Found) {
    queries.chunks_exact(DIM).for_each(|query| drop(std::hint::black_box(search(query))));
    let time = |query| {
        let started = Instant::now();
        let found = search(query);
        (started.elapsed(), found)
    };
    queries.chunks_exact(DIM).map(time).unzip()
}

fn report(name: &str, mut times: Vec<Duration>, truth: &[Vec<(f32, u64)>], found: &Found) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let share = |k: usize| {
        let (mut hit, mut total) = (0, 0);
        for (truth, found) in truth.iter().zip(found) {
            for (_, row) in truth.iter().take(k).filter(|(cosine, _)| *cosine >= NEAR) {
                total += 1;
                hit += usize::from(found[..k.min(found.len())].contains(row));
            }
        }
        format!("@{k} {:.4} ({hit} of {total})", hit as f64 / total.max(1) as f64)
    };
    println!("  {name}: p50 {:.3} ms, p99 {:.3} ms; recall {}, {}", at(50), at(99), share(1), share(K));
}

fn read(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.chunks_exact(4).map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])).collect()
}
