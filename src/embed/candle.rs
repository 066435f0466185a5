//! The embedder for BERT-family sentence models in safetensors, on the CPU or on an NVIDIA GPU.

use async_trait::async_trait;
use candle_core::Device;
use serde::Deserialize;
use std::path::Path;

use super::bert::{Bert, Forward};
use super::tokenize::{BertTokenizer, Tokenise};
use super::worker::Worker;
use super::{Embedder, EmbeddingModel};
use crate::config;
use crate::types::{Embedding, Error, ErrorKind, Result};

/// Hex digits of the weights' sha256 in a model's id.
const ID_DIGITS: usize = 12;

/// A sentence model on its own threads, behind a bounded queue.
pub struct CandleEmbedder {
    model: EmbeddingModel,
    worker: Worker,
}

impl CandleEmbedder {
    /// Reads a model from its folder (`config.json`, `tokenizer.json`, `model.safetensors`, and where they are there
    /// `sentence_bert_config.json` and `1_Pooling/config.json`) and runs it once. Blocks for some tenths of a second.
    ///
    /// Errors: [`ErrorKind::FailedPrecondition`] when a file is missing, [`ErrorKind::Corrupt`] when one does not
    /// parse or fit, [`ErrorKind::Unsupported`] for a model of another kind or a device this binary has no code for.
    pub fn load(model_dir: &Path, name: &str, settings: &config::Embedding) -> Result<Self> {
        let device = device(settings.device)?;
        let config: candle_transformers::models::bert::Config = parse(&read(model_dir, "config.json")?, "config.json")?;
        check_pooling(model_dir)?;
        let max_tokens = max_tokens(model_dir)?.min(config.max_position_embeddings);
        let tokenizer = BertTokenizer::from_bytes(&read(model_dir, "tokenizer.json")?, max_tokens)?;
        if tokenizer.vocabulary() > config.vocab_size {
            let message = "tokenizer.json has more tokens than the model of config.json";
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let weights = read(model_dir, "model.safetensors")?;
        let hash = sha256(&weights);
        let bert = Bert::load(&config, weights, device, threads(settings.threads))?;
        let id = format!("{name}@{}", &hash[..ID_DIGITS]);
        let model = EmbeddingModel { id, name: name.to_owned(), dim: config.hidden_size, max_tokens };
        // The first pass faults the weights in and shows what loading could not: it should not be a caller's.
        let probe = bert.forward(&[&tokenizer.tokenise("warm up")?.ids])?;
        if probe.iter().any(|vector| vector.len() != model.dim) {
            return Err(Error::internal("the model's vectors are not of the size its config.json says"));
        }
        let worker = Worker::start(tokenizer, bert, settings.queue, settings.batch_tokens)?;
        Ok(Self { model, worker })
    }

    /// Refuses new texts, finishes those that wait, ends the threads; within 30 seconds.
    pub async fn close(&self) -> Result<()> {
        self.worker.close().await
    }
}

#[async_trait]
impl Embedder for CandleEmbedder {
    fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    /// An empty text is a text: it gets the vector of `[CLS] [SEP]`. More texts than the queue holds go through in
    /// parts. After [`CandleEmbedder::close`], [`ErrorKind::Unavailable`].
    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Embedding>> {
        self.worker.embed(texts).await
    }

    async fn ping(&self) -> Result<()> {
        if self.worker.is_alive() { Ok(()) } else { Err(Error::unavailable("the embedding threads have ended")) }
    }
}

fn device(wanted: config::Device) -> Result<Device> {
    match wanted {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda if !cfg!(feature = "cuda") => Err(Error::new(
            ErrorKind::Unsupported,
            "embedding.device = \"cuda\", but this binary has no CUDA code; build it with --features cuda",
        )),
        config::Device::Cuda => Device::new_cuda(0)
            .map_err(|e| Error::new(ErrorKind::FailedPrecondition, "cannot use the first CUDA device").with_source(e)),
    }
}

/// sentence-transformers' own limit; without that file, what the positions allow.
fn max_tokens(model_dir: &Path) -> Result<usize> {
    #[derive(Deserialize)]
    struct Limits {
        max_seq_length: Option<usize>,
    }
    let name = "sentence_bert_config.json";
    if !model_dir.join(name).exists() {
        return Ok(usize::MAX);
    }
    let limits: Limits = parse(&read(model_dir, name)?, name)?;
    match limits.max_seq_length {
        Some(length) if length < 3 => Err(Error::new(ErrorKind::Corrupt, format!("{name}: max_seq_length {length}"))),
        length => Ok(length.unwrap_or(usize::MAX)),
    }
}

/// Only mean pooling is done here; a model trained with another would give plausible and useless vectors.
fn check_pooling(model_dir: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Pooling {
        #[serde(default)]
        pooling_mode_mean_tokens: bool,
    }
    let name = "1_Pooling/config.json";
    if !model_dir.join(name).exists() {
        return Ok(());
    }
    let pooling: Pooling = parse(&read(model_dir, name)?, name)?;
    if pooling.pooling_mode_mean_tokens {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{name} asks for other than mean pooling")))
}

fn read(model_dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = model_dir.join(name);
    std::fs::read(&path).map_err(|e| {
        Error::new(ErrorKind::FailedPrecondition, format!("cannot read {}", path.display())).with_source(e)
    })
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| Error::new(ErrorKind::Corrupt, name).with_source(e))
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    }
}
