//! Semantic lookup without the embedding: the best 8 of one scope, 384 values per vector, in the embedded store, beside
//! a plain scan in f32 of the same vectors in the same run. And how long the store takes to open.
//!
//! The vectors are clustered as prompts are: about 50 to a cluster, with a cosine of about 0.8 to each other. A query
//! is a new member of a cluster.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up has nothing better to do")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

use reprise::store::sqlite::Sqlite;
use reprise::store::vector::flat::{Flat, kernels::dot_f32};
use reprise::store::vector::{Point, VectorStore};
use reprise::types::{EntryKey, Namespace, Owner, ScopeId, TenantId, UnixMillis};

const DIM: usize = 384;
const K: usize = 8;
const CLUSTER: u64 = 50;
const SPREAD: f32 = 0.5;
const MODEL: &str = "bench";
const QUERIES: u64 = 64;

fn lookup(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("similarity");
    for rows in [10_000u64, 100_000] {
        let vectors: Vec<Arc<[f32]>> = (0..rows).map(|n| member(n % (rows / CLUSTER), n)).collect();
        let queries: Vec<Arc<[f32]>> = (0..QUERIES).map(|n| member(n * 7 % (rows / CLUSTER), rows + n)).collect();
        let folder = tempfile::tempdir().unwrap();
        let (sqlite, flat) = runtime.block_on(async {
            let (sqlite, flat) = open(folder.path()).await;
            for (n, vectors) in vectors.chunks(1000).enumerate() {
                flat.upsert(points(n * 1000, vectors)).await.unwrap();
            }
            (sqlite, flat)
        });
        let scope = scope();
        group.sample_size(50).bench_function(BenchmarkId::new("flat", rows), |b| {
            let mut turn = queries.iter().cycle();
            b.to_async(&runtime).iter(|| {
                let query = turn.next().unwrap();
                let (flat, scope) = (&flat, &scope);
                async move { black_box(flat.search(scope, query, K).await.unwrap()) }
            });
        });
        let plain: Vec<f32> = vectors.iter().flat_map(|v| v.iter().copied()).collect();
        group.bench_function(BenchmarkId::new("plain_f32", rows), |b| {
            let mut turn = queries.iter().cycle();
            b.iter(|| black_box(scan(&plain, turn.next().unwrap())));
        });
        runtime.block_on(close(sqlite, flat));
        group.sample_size(10).bench_function(BenchmarkId::new("open", rows), |b| {
            b.to_async(&runtime).iter_custom(|times| {
                let folder = folder.path();
                async move {
                    let mut total = Duration::ZERO;
                    for _ in 0..times {
                        let started = Instant::now();
                        let (sqlite, flat) = open(folder).await;
                        total += started.elapsed();
                        assert_eq!(flat.count(None).await.unwrap(), rows);
                        close(sqlite, flat).await;
                    }
                    total
                }
            });
        });
    }
    group.finish();
}

/// The best [`K`] by a scan of all vectors, as plain as it can be.
fn scan(vectors: &[f32], query: &[f32]) -> Vec<(f32, usize)> {
    let mut best: Vec<(f32, usize)> = Vec::with_capacity(K + 1);
    for (n, vector) in vectors.chunks_exact(DIM).enumerate() {
        let dot = dot_f32(vector, query);
        if best.len() < K || dot > best[K - 1].0 {
            let at = best.partition_point(|b| b.0 >= dot);
            best.insert(at, (dot, n));
            best.truncate(K);
        }
    }
    best
}

async fn open(folder: &Path) -> (Arc<Sqlite>, Flat) {
    let sqlite = Sqlite::open(folder).await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), MODEL, DIM).await.unwrap();
    (sqlite, flat)
}

async fn close(sqlite: Arc<Sqlite>, flat: Flat) {
    flat.close().await.unwrap();
    sqlite.close().await;
}

fn scope() -> ScopeId {
    ScopeId::from_bytes([1; 32])
}

fn points(first: usize, vectors: &[Arc<[f32]>]) -> Vec<Point> {
    let owner = Owner { tenant: TenantId::new("bench").unwrap(), namespace: Namespace::new("bench").unwrap() };
    let expires = UnixMillis::now().after(Duration::from_secs(24 * 3600));
    let point = |(n, vector): (usize, &Arc<[f32]>)| Point {
        key: EntryKey::from_bytes(*blake3::hash(&(first + n).to_le_bytes()).as_bytes()),
        scope: scope(),
        owner: owner.clone(),
        vector: Arc::clone(vector),
        expires,
        tags: Vec::new(),
        depends_on: Vec::new(),
    };
    vectors.iter().enumerate().map(point).collect()
}

/// A unit vector of that cluster.
fn member(cluster: u64, seed: u64) -> Arc<[f32]> {
    let (mut centre, mut own) = (fastrand::Rng::with_seed(!cluster), fastrand::Rng::with_seed(seed));
    let mixed: Vec<f32> = (0..DIM).map(|_| normal(&mut centre) + SPREAD * normal(&mut own)).collect();
    let length = mixed.iter().map(|x| x * x).sum::<f32>().sqrt();
    mixed.iter().map(|x| x / length).collect()
}

/// Nearly normal: the sum of a few uniform numbers.
fn normal(random: &mut fastrand::Rng) -> f32 {
    (0..6).map(|_| random.f32() - 0.5).sum()
}

criterion_group!(benches, lookup);
criterion_main!(benches);
