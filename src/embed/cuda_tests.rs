//! The embedder on a CUDA device. Skipped with a message where there is none, or where the model files cannot be had.

use candle_core::cuda_backend::cudarc::driver::CudaContext;
use std::path::Path;
use std::sync::Arc;

use super::contract::{self, cosine};
use super::minilm_tests::{NAME, assert_agree, assert_mixed_texts_agree, dir, references, tenant};
use super::{Embedder, Engine, LocalEmbedder, Model};
use crate::config::{self, Device, Precision};
use crate::types::ErrorKind;

/// Whether the driver counts a device. One that is counted and cannot be used fails the tests.
fn has_device() -> bool {
    match CudaContext::device_count() {
        Ok(0) => eprintln!("SKIPPED, there is no CUDA device"),
        Ok(_) => return true,
        Err(error) => eprintln!("SKIPPED, there is no CUDA device: {error}"),
    }
    false
}

fn on(device: Device) -> config::Embedding {
    config::Embedding { device, precision: Precision::F32, queue: 1024, ..Default::default() }
}

#[tokio::test]
async fn cuda_gives_the_vectors_of_the_cpu() {
    let Some(dir) = dir().filter(|_| has_device()) else { return };
    let cpu = LocalEmbedder::load(&dir, NAME, &on(Device::Cpu)).unwrap();
    let cuda = LocalEmbedder::load(&dir, NAME, &on(Device::Cuda)).unwrap();
    assert_eq!(cuda.model(), cpu.model());
    let references = references();
    let texts: Vec<String> = references.iter().map(|row| row.text.clone()).collect();
    let expected = cpu.embed(&tenant(), texts.clone()).await.unwrap();
    let actual = cuda.embed(&tenant(), texts).await.unwrap();
    for (row, (expected, actual)) in references.iter().zip(expected.iter().zip(&actual)) {
        let cosine = cosine(expected, actual);
        assert!(cosine >= 0.9999, "{:?}: cosine {cosine}", row.text);
    }
    assert_agree(&references, &actual);
    cpu.close().await.unwrap();
    cuda.close().await.unwrap();
}

#[test]
fn five_hundred_texts_of_all_lengths_and_languages_agree_on_cuda() {
    let Some(dir) = dir().filter(|_| has_device()) else { return };
    let model = Model::load(&dir, NAME, &on(Device::Cuda), Engine::Candle).unwrap();
    assert_mixed_texts_agree(&model, "CUDA", 1);
}

#[tokio::test]
async fn minilm_on_cuda_keeps_the_contract() {
    let Some(dir) = dir().filter(|_| has_device()) else { return };
    let make = |queue| LocalEmbedder::load(&dir, NAME, &config::Embedding { queue, ..on(Device::Cuda) }).unwrap();
    contract::run(|queue| Arc::new(make(queue))).await;
}

#[test]
fn without_a_device_the_error_says_what_to_do() {
    if CudaContext::device_count().is_ok_and(|count| count > 0) {
        return eprintln!("SKIPPED, there is a CUDA device");
    }
    let error = LocalEmbedder::load(Path::new("nowhere"), NAME, &on(Device::Cuda)).err().unwrap();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains("nvidia-smi") && error.message.contains("embedding.device"), "{error}");
}
