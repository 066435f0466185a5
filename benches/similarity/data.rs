//! The vectors: questions that people asked, embedded once and kept in the folder for temporary files; or generated
//! ones, where the texts or the model are not there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use reprise::config;
use reprise::embed::{Embedder, LocalEmbedder};

use crate::test_models;

pub const DIM: usize = 384;
const MODEL: &str = "all-MiniLM-L6-v2";
/// Question pairs, one object a line with `a`, `b` and `label` (1: the same question).
const PAIRS: &str = "../shared/data/qqp_gptcache.jsonl";
const ROWS: usize = 8000;
const QUERIES: usize = 1000;
/// Texts for one call of the embedder.
const BATCH: usize = 64;

pub struct Data {
    pub source: String,
    /// [queries, DIM]: each the partner of a row.
    pub queries: Vec<f32>,
    /// [ROWS, DIM], the partners of the queries first.
    base: Vec<f32>,
}

impl Data {
    pub fn load() -> Self {
        if let Some((base, queries)) = embedded() {
            let source = format!("{ROWS} embedded questions, beyond them repeated with noise");
            return Self { source, queries, base };
        }
        let base = (0..ROWS as u64).flat_map(|n| member(n % (ROWS as u64 / 10), n)).collect();
        let queries = (0..QUERIES as u64).flat_map(|n| member(n % (ROWS as u64 / 10), 1 << 40 | n)).collect();
        let source = "generated vectors, ten to a cluster (the texts or the model are not there)".into();
        Self { source, queries, base }
    }

    /// [count, DIM]. Beyond the embedded ones, each row is one of them with noise: their cosine is 0.89 to 0.995.
    pub fn rows(&self, count: usize) -> Vec<f32> {
        let mut rows = self.base[..self.base.len().min(count * DIM)].to_vec();
        rows.reserve_exact(count * DIM - rows.len());
        for n in ROWS..count {
            let mut random = fastrand::Rng::with_seed(n as u64);
            let spread = (0.1 + 0.4 * random.f32()) * (2.0 / DIM as f32).sqrt();
            let base = &self.base[n % ROWS * DIM..][..DIM];
            rows.extend(unit(base.iter().map(|x| x + spread * normal(&mut random)).collect()));
        }
        rows
    }
}

/// Rows and queries; `None` where the texts or the model are missing.
fn embedded() -> Option<(Vec<f32>, Vec<f32>)> {
    let texts = texts()?;
    let dir = test_models::find_or_pull(MODEL)?;
    let embedder = LocalEmbedder::load(&dir, MODEL, &config::Embedding::default()).ok()?;
    let tenant = reprise::types::TenantId::new("bench").ok()?;
    let id: String = embedder.model().id.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let kept = std::env::temp_dir().join(format!("reprise-bench-{id}-{}.f32", texts.len()));
    let mut values = read(&kept).unwrap_or_default();
    if values.len() != texts.len() * DIM {
        values.clear();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for batch in texts.chunks(BATCH) {
            let embeddings = runtime.block_on(embedder.embed(&tenant, batch.to_vec())).unwrap();
            values.extend(embeddings.iter().flat_map(|embedding| embedding.vector.iter().copied()));
        }
        write(&kept, &values);
    }
    let queries = values.split_off(ROWS * DIM);
    Some((values, queries))
}

/// [`ROWS`] different texts, then the partners of the first [`QUERIES`] of them.
fn texts() -> Option<Vec<String>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(PAIRS);
    let pairs: Vec<serde_json::Value> = BufReader::new(std::fs::File::open(path).ok()?)
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let text = |pair: &serde_json::Value, name: &str| pair[name].as_str().unwrap().to_owned();
    let mut seen = std::collections::HashSet::new();
    let (same, other): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| pair["label"] == 1);
    let same: Vec<_> = same.into_iter().filter(|pair| seen.insert(text(pair, "a"))).take(QUERIES).collect();
    let others = other.into_iter().map(|pair| text(pair, "a")).filter(|text| seen.insert(text.clone()));
    let rows: Vec<_> = same.iter().map(|pair| text(pair, "a")).chain(others.take(ROWS - QUERIES)).collect();
    (rows.len() == ROWS).then(|| rows.into_iter().chain(same.iter().map(|pair| text(pair, "b"))).collect())
}

fn read(path: &Path) -> Option<Vec<f32>> {
    let bytes = std::fs::read(path).ok()?;
    Some(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

/// Little-endian f32, one after the other.
pub fn write(path: &Path, values: &[f32]) {
    std::fs::write(path, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

/// A unit vector of that cluster.
fn member(cluster: u64, seed: u64) -> Vec<f32> {
    let (mut centre, mut own) = (fastrand::Rng::with_seed(!cluster), fastrand::Rng::with_seed(seed));
    unit((0..DIM).map(|_| normal(&mut centre) + 0.4 * normal(&mut own)).collect())
}

fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

/// Nearly normal, with a variance of 0.5: the sum of a few uniform numbers.
fn normal(random: &mut fastrand::Rng) -> f32 {
    (0..6).map(|_| random.f32() - 0.5).sum()
}
