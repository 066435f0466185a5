//! The default model with its real weights, against vectors another implementation made
//! (`models/reference/embed_reference.py`). Skipped with a message where the model files cannot be had.

use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

use super::contract::cosine;
use super::{CandleEmbedder, Embedder, contract};
use crate::config;
use crate::types::{Embedding, ErrorKind};

const NAME: &str = "all-MiniLM-L6-v2";

#[derive(Deserialize)]
struct Reference {
    text: String,
    tokens: u32,
    truncated: bool,
    unknown: u32,
    vector: Vec<f32>,
}

fn dir() -> Option<PathBuf> {
    crate::test_models::find_or_pull(NAME)
}

fn load(dir: &std::path::Path, queue: usize) -> CandleEmbedder {
    CandleEmbedder::load(dir, NAME, &config::Embedding { queue, ..Default::default() }).unwrap()
}

#[tokio::test]
async fn minilm_agrees_with_another_implementation() {
    let Some(dir) = dir() else { return };
    let expected: Vec<Reference> = serde_json::from_str(include_str!("../../models/reference/minilm.json")).unwrap();
    assert!(expected.len() >= 40);
    let embedder = load(&dir, 1024);
    let actual = embedder.embed(expected.iter().map(|row| row.text.clone()).collect()).await.unwrap();
    for (expected, actual) in expected.iter().zip(&actual) {
        let start: String = expected.text.chars().take(40).collect();
        let seen = (actual.tokens, actual.truncated, actual.unknown);
        assert_eq!(seen, (expected.tokens, expected.truncated, expected.unknown), "{start:?}");
        let cosine: f32 = expected.vector.iter().zip(actual.vector.iter()).map(|(x, y)| x * y).sum();
        assert!(cosine >= 0.9999, "{start:?}: cosine {cosine}");
        let furthest = expected.vector.iter().zip(actual.vector.iter()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-4, "{start:?}: furthest value {furthest}");
    }
    embedder.close().await.unwrap();
}

#[tokio::test]
async fn a_paraphrase_is_close_and_another_question_is_not() {
    let Some(dir) = dir() else { return };
    let texts =
        ["How do I reset my password?", "I forgot my password, how can I change it?", "What is the capital of France?"];
    let vectors: Vec<Embedding> = load(&dir, 16).embed(texts.map(str::to_owned).to_vec()).await.unwrap();
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
    let kind = || CandleEmbedder::load(copy.path(), NAME, &config::Embedding::default()).err().map(|e| e.kind);
    assert_eq!(kind(), Some(ErrorKind::FailedPrecondition));
    std::fs::copy(dir.join("config.json"), copy.path().join("config.json")).unwrap();
    std::fs::copy(dir.join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    assert_eq!(kind(), Some(ErrorKind::FailedPrecondition));
    std::fs::write(copy.path().join("model.safetensors"), [0; 100]).unwrap();
    assert_eq!(kind(), Some(ErrorKind::Corrupt));
    std::fs::write(copy.path().join("tokenizer.json"), "{").unwrap();
    assert_eq!(kind(), Some(ErrorKind::Corrupt));
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    std::fs::write(copy.path().join("1_Pooling/config.json"), r#"{"pooling_mode_cls_token": true}"#).unwrap();
    assert_eq!(kind(), Some(ErrorKind::Unsupported));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_without_its_code_says_how_to_get_it() {
    let settings = config::Embedding { device: config::Device::Cuda, ..Default::default() };
    let error = CandleEmbedder::load(std::path::Path::new("nowhere"), NAME, &settings).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("--features cuda"));
}
