//! All contenders in one run, taking turns, so that what else the machine does hits them alike. Medians over the rounds.

use std::path::Path;
use std::time::Instant;

use super::peer::Peer;
use super::{Contender, service, texts};

/// Turns each contender has.
const ROUNDS: usize = 7;
/// Texts of a batch of real questions.
const BATCH: usize = 32;
/// Multiplications and additions per token in the linear layers of MiniLM: 6 layers of (3 + 1) 384^2 + 2 * 384 * 1536
/// products. What attention adds is left out.
const FLOP_PER_TOKEN: f64 = 2.0 * 6.0 * (4.0 * 384.0 * 384.0 + 2.0 * 384.0 * 1536.0);
/// Question pairs for the comparison of similarities.
const PAIRS: usize = 4_000;

pub fn run(contenders: &[Contender], dir: &Path, python: &Path) {
    let mut peer = Peer::start(python, dir);
    let model = &contenders[0].model;
    let questions: Vec<Vec<u32>> = texts::questions(2_000).iter().map(|text| model.tokens(text).unwrap()).collect();
    let tokens: usize = questions.iter().map(Vec::len).sum();
    println!("\n{} questions of {:.1} tokens", questions.len(), tokens as f64 / questions.len() as f64);
    agree(&mut peer, model, &questions[..BATCH]);
    for (what, text, runs) in [("short", texts::SHORT, 100), ("long", texts::LONG, 25)] {
        let ids = vec![model.tokens(text).unwrap()];
        let title = format!("one prompt of {} tokens, ms, p50", ids[0].len());
        let rows = measure(contenders, &mut peer, &[ids], runs);
        table(what, &title, &rows, |seconds| seconds * 1e3, false);
    }
    let batches: Vec<_> = questions.chunks(BATCH).map(<[Vec<u32>]>::to_vec).collect();
    // ONNX Runtime takes long; candle longer still. A part of the questions is enough for a ratio.
    let rows = measure(contenders, &mut peer, &batches[..16], 1);
    let part: f64 = batches[..16].iter().map(|batch| batch.len() as f64).sum();
    table("questions", "questions in batches of 32, texts/s", &rows, |seconds| part / seconds, true);

    let (mut shares, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let peak = peer.sgemm();
        let seconds = pass(&contenders[0].model, &batches);
        shares.push(tokens as f64 * FLOP_PER_TOKEN / seconds / 1e9 / peak);
        peaks.push(peak);
    }
    println!(
        "share of sgemm ({:.0} GFLOP/s) reached on all questions: {:.0} %",
        median(&mut peaks),
        100.0 * median(&mut shares)
    );
    drop(peer);
    similarity(contenders);
    service::run(dir, &contenders[0].model);
}

/// A yardstick that computes something else measures nothing.
fn agree(peer: &mut Peer, model: &reprise::embed::Model, batch: &[Vec<u32>]) {
    let own = model.forward(&batch.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    for (engine, least) in [("fp32", 0.9999), ("int8", 0.98)] {
        let worst = own.iter().zip(peer.vectors(engine, batch)).map(|(a, b)| dot(a, &b)).fold(1.0, f32::min);
        assert!(worst >= least, "ONNX Runtime {engine} gives other vectors: cosine {worst}");
    }
}

/// Name and median seconds of each, ONNX Runtime's fp32 first.
fn measure(contenders: &[Contender], peer: &mut Peer, batches: &[Vec<Vec<u32>>], runs: usize) -> Vec<(String, f64)> {
    let mut rows: Vec<(String, Vec<f64>)> = ["ONNX Runtime fp32", "ONNX Runtime int8"]
        .into_iter()
        .chain(contenders.iter().map(|c| c.name))
        .map(|name| (name.to_owned(), Vec::new()))
        .collect();
    for round in 0..ROUNDS {
        for (engine, at) in [("fp32", 0), ("int8", 1)] {
            let mut seconds = peer.seconds(engine, batches, runs);
            rows[at].1.push(median(&mut seconds));
        }
        for (contender, row) in contenders.iter().zip(&mut rows[2..]) {
            // candle needs seconds for what others do in tenths: fewer rounds of it.
            if contender.name != "candle" || round < 2 {
                let mut seconds: Vec<_> = (0..runs).map(|_| pass(&contender.model, batches)).collect();
                row.1.push(median(&mut seconds));
            }
        }
    }
    rows.into_iter().map(|(name, mut seconds)| (name, median(&mut seconds))).collect()
}

/// Seconds to embed all batches.
fn pass(model: &reprise::embed::Model, batches: &[Vec<Vec<u32>>]) -> f64 {
    let started = Instant::now();
    for batch in batches {
        let ids: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
        std::hint::black_box(model.forward(&ids).unwrap());
    }
    started.elapsed().as_secs_f64()
}

fn table(what: &str, title: &str, rows: &[(String, f64)], value: impl Fn(f64) -> f64, more_is_better: bool) {
    println!("\n{what}: {title}");
    for (name, seconds) in rows {
        let ratio = if more_is_better { rows[0].1 / seconds } else { seconds / rows[0].1 };
        println!("  {name:20} {:9.3}   {ratio:.2}x ONNX Runtime fp32", value(*seconds));
    }
}

/// Whether bfloat16 costs quality: the area under the ROC curve on labelled pairs, and how far vectors are apart.
fn similarity(contenders: &[Contender]) {
    let pairs = texts::pairs(PAIRS);
    if pairs.is_empty() {
        println!("SKIPPED: no labelled pairs here");
        return;
    }
    let mut vectors = Vec::new();
    for Contender { name, model } in contenders.iter().filter(|c| c.name != "candle") {
        let ids: Vec<_> = pairs.iter().flat_map(|p| [&p.a, &p.b]).map(|text| model.tokens(text).unwrap()).collect();
        let batches = ids.chunks(BATCH).map(|batch| batch.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let embedded: Vec<_> = batches.flat_map(|batch| model.forward(&batch).unwrap()).collect();
        let scores = embedded.chunks(2).map(|two| dot(&two[0], &two[1]));
        let auc = auc(scores.zip(pairs.iter().map(|pair| pair.label == 1)).collect());
        println!("{name}: AUC {auc:.5} on {} labelled question pairs", pairs.len());
        vectors.push(embedded);
    }
    let worst = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| dot(a, b)).fold(1.0, f32::min);
    println!("lowest cosine between bf16 and f32 weights: {worst:.7}");
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The chance that a pair of the same meaning scores above one that is not (Mann and Whitney); ties are rare here.
fn auc(mut scored: Vec<(f32, bool)>) -> f64 {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins) = (0u64, 0u64);
    for (_, same) in &scored {
        if *same { wins += below } else { below += 1 }
    }
    wins as f64 / (below as f64 * (scored.len() as u64 - below) as f64)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
