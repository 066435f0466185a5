//! Embedding with all-MiniLM-L6-v2: one short prompt, one long one, real questions in batches, and the whole way over gRPC.
//! Needs the model's files; measures nothing without them.
//!
//! `cargo bench --bench embed` times our own forward pass and candle's with criterion. With `REPRISE_BENCH_PEERS` set to
//! the Python of an environment made by `benches/peers/setup.sh`, it then compares them with ONNX Runtime, taking turns with
//! it, and prints ratios. `REPRISE_BENCH_VERIFY=1` compares a verification with an embedding. `REPRISE_BENCH_SOAK=1` embeds 100,000 texts and tells how memory grew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench has nobody to return an error to")]

#[path = "../../tests/support/models.rs"]
mod test_models;

mod compare;
mod peer;
mod service;
mod texts;
mod verify;

use criterion::{Criterion, Throughput};
use reprise::config::{self, Precision};
use reprise::embed::{Engine, Model};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "all-MiniLM-L6-v2";

/// One model to measure.
struct Contender {
    name: &'static str,
    model: Model,
}

fn load(dir: &Path, name: &'static str, engine: Engine, precision: Precision) -> Contender {
    let settings = config::Embedding { precision, ..Default::default() };
    Contender { name, model: Model::load(dir, NAME, &settings, engine).unwrap() }
}

fn contenders(dir: &Path) -> Vec<Contender> {
    vec![
        load(dir, "own, bf16 weights", Engine::Own, Precision::Bf16),
        load(dir, "own, f32 weights", Engine::Own, Precision::F32),
        load(dir, "candle", Engine::Candle, Precision::F32),
    ]
}

fn criterion(contenders: &[Contender]) {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, texts) in
        [("short", vec![texts::SHORT]), ("long", vec![texts::LONG]), ("questions_32", texts::GENERATED.to_vec())]
    {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20).measurement_time(Duration::from_secs(5));
        for Contender { name, model } in contenders {
            let tokens: Vec<_> = texts.iter().map(|text| model.tokens(text).unwrap()).collect();
            let batch: Vec<_> = tokens.iter().map(Vec::as_slice).collect();
            group.throughput(Throughput::Elements(batch.iter().map(|ids| ids.len() as u64).sum()));
            group.bench_function(*name, |bencher| bencher.iter(|| model.forward(black_box(&batch)).unwrap()));
        }
        group.finish();
    }
    criterion.final_summary();
}

fn main() {
    let Some(dir) = test_models::find_or_pull(NAME) else { return };
    let contenders = contenders(&dir);
    if let Some(python) = std::env::var_os("REPRISE_BENCH_PEERS").map(PathBuf::from) {
        compare::run(&contenders, &dir, &python);
        return;
    }
    if std::env::var_os("REPRISE_BENCH_VERIFY").is_some() {
        return verify::run(&dir);
    }
    criterion(&contenders);
    if std::env::var_os("REPRISE_BENCH_SOAK").is_some() {
        soak(&contenders[0].model);
    }
}

/// Memory of the process before and after 100,000 texts of changing lengths, in batches of changing sizes.
fn soak(model: &Model) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut embed = |texts: usize| {
        let mut done = 0;
        while done < texts {
            let batch: Vec<Vec<u32>> = (0..random.usize(1..40))
                .map(|_| (0..random.usize(2..24)).map(|_| random.u32(1000..20_000)).collect())
                .collect();
            model.forward(&batch.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            done += batch.len();
        }
    };
    embed(1_000);
    let before = resident();
    embed(100_000);
    println!("soak: {before} MiB before 100,000 texts, {} MiB after", resident());
}

/// Resident memory in MiB, where the system tells it.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096 / (1 << 20)
}
