//! The default model with its real weights, against vectors another implementation made
//! (`models/reference/embed_reference.py`). Skipped with a message where the model files cannot be had.

use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

use super::contract::cosine;
use super::{Embedder, Engine, LocalEmbedder, Model, contract};
use crate::config::{self, Precision};
use crate::types::{Embedding, ErrorKind, TenantId};

pub(super) const NAME: &str = "all-MiniLM-L6-v2";

#[derive(Deserialize)]
pub(super) struct Reference {
    pub(super) text: String,
    tokens: u32,
    truncated: bool,
    unknown: u32,
    vector: Vec<f32>,
}

pub(super) fn dir() -> Option<PathBuf> {
    crate::test_models::find_or_pull(NAME)
}

fn load(dir: &std::path::Path, queue: usize) -> LocalEmbedder {
    LocalEmbedder::load(dir, NAME, &config::Embedding { queue, ..Default::default() }).unwrap()
}

pub(super) fn tenant() -> TenantId {
    TenantId::new("tenant").unwrap()
}

pub(super) fn references() -> Vec<Reference> {
    serde_json::from_str(include_str!("../../models/reference/minilm.json")).unwrap()
}

#[tokio::test]
async fn minilm_agrees_with_another_implementation() {
    let Some(dir) = dir() else { return };
    let expected = references();
    assert!(expected.len() >= 40);
    let embedder = load(&dir, 1024);
    let actual = embedder.embed(&tenant(), expected.iter().map(|row| row.text.clone()).collect()).await.unwrap();
    assert_agree(&expected, &actual);
    embedder.close().await.unwrap();
}

pub(super) fn assert_agree(expected: &[Reference], actual: &[Embedding]) {
    assert_eq!(expected.len(), actual.len());
    for (expected, actual) in expected.iter().zip(actual) {
        let start: String = expected.text.chars().take(40).collect();
        let seen = (actual.tokens, actual.truncated, actual.unknown);
        assert_eq!(seen, (expected.tokens, expected.truncated, expected.unknown), "{start:?}");
        let cosine: f32 = expected.vector.iter().zip(actual.vector.iter()).map(|(x, y)| x * y).sum();
        assert!(cosine >= 0.9999, "{start:?}: cosine {cosine}");
        let furthest = expected.vector.iter().zip(actual.vector.iter()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(furthest < 2e-3, "{start:?}: furthest value {furthest}"); // weights are in bfloat16
    }
}

/// The words of the reference texts in an order of its own, as `mixed` of the script puts them.
fn mixed(number: u64, words: &[&str]) -> String {
    let mut state = number;
    let draw = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 33) as usize % words.len()]
    };
    (0..1 + number * number % 167).map(draw).collect::<Vec<_>>().join(" ")
}

#[test]
fn five_hundred_texts_of_all_lengths_and_languages_agree_in_both_precisions() {
    let Some(dir) = dir() else { return };
    for precision in [Precision::F32, Precision::Bf16] {
        let settings = config::Embedding { precision, ..Default::default() };
        let model = Model::load(&dir, NAME, &settings, Engine::Own).unwrap();
        // Without optimisation the kernels take minutes for all of them; `cargo test --release` does.
        assert_mixed_texts_agree(&model, &format!("{precision:?}"), if cfg!(debug_assertions) { 10 } else { 1 });
    }
}

/// Of the ten batches of fifty texts, every `step`th.
pub(super) fn assert_mixed_texts_agree(model: &Model, what: &str, step: usize) {
    let references = references();
    let words: Vec<&str> = references.iter().flat_map(|row| row.text.split_whitespace()).collect();
    let (vectors, rest) = include_bytes!("../../models/reference/minilm_mixed.f16").as_chunks::<{ 2 * 384 }>();
    assert_eq!((vectors.len(), rest.len()), (500, 0));
    let tokens: Vec<_> = (0..500).map(|number| model.tokens(&mixed(number, &words)).unwrap()).collect();
    let lengths = (tokens.iter().map(Vec::len).min(), tokens.iter().map(Vec::len).max());
    assert_eq!(lengths, (Some(3), Some(237)), "longer ones are among the other reference texts");
    for (at, batch) in tokens.chunks(50).enumerate().step_by(step) {
        let actual = model.forward(&batch.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        for (n, (actual, expected)) in actual.iter().zip(&vectors[50 * at..]).enumerate() {
            let (halves, _) = expected.as_chunks::<2>();
            let expected = halves.iter().map(|half| half::f16::from_le_bytes(*half).to_f32());
            // The stored vectors are rounded, so they have not quite the length 1.
            let length = expected.clone().map(|x| x * x).sum::<f32>().sqrt();
            let cosine = expected.zip(actual.iter()).map(|(x, y)| x * y).sum::<f32>() / length;
            assert!(cosine >= 0.9999, "{what}, text {}: cosine {cosine}", 50 * at + n);
        }
    }
}

#[tokio::test]
async fn a_paraphrase_is_close_and_another_question_is_not() {
    let Some(dir) = dir() else { return };
    let texts =
        ["How do I reset my password?", "I forgot my password, how can I change it?", "What is the capital of France?"];
    let vectors: Vec<Embedding> = load(&dir, 16).embed(&tenant(), texts.map(str::to_owned).to_vec()).await.unwrap();
    assert!((cosine(&vectors[0], &vectors[1]) - 0.894).abs() < 0.001);
    assert!((cosine(&vectors[0], &vectors[2]) - 0.075).abs() < 0.001);
}

#[tokio::test]
async fn minilm_keeps_the_contract() {
    let Some(dir) = dir() else { return };
    contract::run(|places| Arc::new(load(&dir, places))).await;
}

#[test]
fn the_id_names_the_weights() {
    let Some(dir) = dir() else { return };
    let embedder = load(&dir, 1);
    let model = embedder.model();
    assert_eq!(model.id, "all-MiniLM-L6-v2@53aa51172d14");
    assert_eq!((model.name.as_str(), model.dim, model.max_tokens), (NAME, 384, 256));
}

#[test]
fn files_that_are_missing_or_damaged_are_told_apart() {
    let Some(dir) = dir() else { return };
    let copy = tempfile::tempdir().unwrap();
    let kind = || LocalEmbedder::load(copy.path(), NAME, &config::Embedding::default()).err().map(|e| e.kind);
    assert_eq!(kind(), Some(ErrorKind::FailedPrecondition));
    std::fs::copy(dir.join("config.json"), copy.path().join("config.json")).unwrap();
    std::fs::copy(dir.join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    assert_eq!(kind(), Some(ErrorKind::FailedPrecondition));
    std::fs::write(copy.path().join("model.safetensors"), [0; 100]).unwrap();
    assert_eq!(kind(), Some(ErrorKind::Corrupt));
    std::fs::write(copy.path().join("tokenizer.json"), "{").unwrap();
    assert_eq!(kind(), Some(ErrorKind::Corrupt));
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    std::fs::write(copy.path().join("1_Pooling/config.json"), r#"{"pooling_mode_max_tokens": true}"#).unwrap();
    assert_eq!(kind(), Some(ErrorKind::Unsupported));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_without_its_code_says_how_to_get_it() {
    let settings = config::Embedding { device: config::Device::Cuda, ..Default::default() };
    let error = LocalEmbedder::load(std::path::Path::new("nowhere"), NAME, &settings).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("--features cuda"));
}
