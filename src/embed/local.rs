//! The embedder for BERT-family sentence models in safetensors: on the CPU by our own forward pass, on an NVIDIA GPU by
//! candle's.

use async_trait::async_trait;
use candle_core::Device;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

use super::bert::config::{BertConfig, Pooling};
use super::bert::{Bert, Kind};
use super::kernels::Kernels;
use super::stock::StockBert;
use super::tokenize::BertTokenizer;
use super::worker::Worker;
use super::{Cores, Embedder, EmbeddingModel, Forward, Input};
use crate::config;
use crate::types::{Embedding, Error, ErrorKind, Result, TenantId};

/// Hex digits of the weights' sha256 in a model's id.
pub(super) const ID_DIGITS: usize = 12;

/// A sentence model without queue or threads of its own: what [`LocalEmbedder`] runs, and what benches measure.
pub struct Model {
    pub info: EmbeddingModel,
    tokenizer: BertTokenizer,
    forward: Box<dyn Forward>,
}

/// Whose forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Ours, on the CPU.
    Own,
    /// candle's stock BERT, on the CPU or a GPU.
    Candle,
}

/// A sentence model on its own threads, behind a bounded queue.
pub struct LocalEmbedder {
    model: EmbeddingModel,
    cores: Cores,
    worker: Worker<String>,
}

impl Model {
    /// Reads a model from its folder (`config.json`, `tokenizer.json`, `model.safetensors`, and where they are there
    /// `sentence_bert_config.json` and `1_Pooling/config.json`) and runs it once. Blocks for some tenths of a second.
    ///
    /// Errors: [`ErrorKind::FailedPrecondition`] when a file is missing, [`ErrorKind::Corrupt`] when one does not
    /// parse or fit, [`ErrorKind::Unsupported`] for a model of another kind or a device this binary has no code for,
    /// [`ErrorKind::FailedPrecondition`] also when the device is not there or has no room.
    pub fn load(model_dir: &Path, name: &str, settings: &config::Embedding, engine: Engine) -> Result<Self> {
        Self::load_on(Cores::default(), model_dir, name, settings, engine)
    }

    fn load_on(
        cores: Cores,
        model_dir: &Path,
        name: &str,
        settings: &config::Embedding,
        engine: Engine,
    ) -> Result<Self> {
        let device = device(settings.device)?;
        let config_json = read(model_dir, "config.json")?;
        let config = BertConfig::parse(&config_json)?;
        let pooling = pooling(model_dir)?;
        let max_tokens = max_tokens(model_dir)?.min(config.longest_text());
        let tokenizer = BertTokenizer::from_bytes(&read(model_dir, "tokenizer.json")?, max_tokens)?;
        if tokenizer.vocabulary() > config.vocab_size {
            let message = "tokenizer.json has more tokens than the model of config.json";
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let weights = read(model_dir, "model.safetensors")?;
        let id = format!("{name}@{}", &sha256(&weights)[..ID_DIGITS]);
        let info = EmbeddingModel { id, name: name.to_owned(), dim: config.hidden_size, max_tokens };
        let threads = threads(settings.threads);
        let forward: Box<dyn Forward> = match engine {
            Engine::Own => {
                let kernels = Kernels::best();
                tracing::debug!(kernels = kernels.name, threads, precision = ?settings.precision, "embedding on the CPU");
                let kind = Kind::Embedder(pooling);
                Box::new(Bert::load(config, kind, &weights, settings.precision, (threads, cores), kernels)?)
            }
            Engine::Candle => Box::new(StockBert::load(&config_json, pooling, weights, device, threads)?),
        };
        let model = Self { info, tokenizer, forward };
        // The first pass faults the weights in and shows what loading could not: it should not be a caller's.
        let probe = model.forward(&[&model.tokens("warm up")?])?;
        if probe.iter().any(|vector| vector.len() != model.info.dim) {
            return Err(Error::internal("the model's vectors are not of the size its config.json says"));
        }
        Ok(model)
    }

    /// Token ids of a text, special tokens included, cut to what the model reads.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.tokenise(text)?.ids)
    }

    /// One unit vector per sequence of token ids, in order. No sequence may be empty.
    pub fn forward(&self, batch: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        let inputs: Vec<Input> = batch.iter().map(|ids| Input::text(ids)).collect();
        self.forward.forward(&inputs)
    }
}

impl LocalEmbedder {
    /// As [`Model::load`]; on the CPU with our own forward pass, on a GPU with candle's.
    pub fn load(model_dir: &Path, name: &str, settings: &config::Embedding) -> Result<Self> {
        let engine = if settings.device == config::Device::Cpu { Engine::Own } else { Engine::Candle };
        let cores = Cores::default();
        let Model { info, tokenizer, forward } = Model::load_on(cores.clone(), model_dir, name, settings, engine)?;
        let worker = Worker::start("embed", tokenizer, forward, settings.queue, settings.batch_tokens)?;
        Ok(Self { model: info, cores, worker })
    }

    /// What it computes on, for a model that is to share it.
    pub fn cores(&self) -> Cores {
        self.cores.clone()
    }

    /// Refuses new texts, finishes those that wait, ends the threads; within 30 seconds.
    pub async fn close(&self) -> Result<()> {
        self.worker.close().await
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    /// An empty text is a text: it gets the vector of `[CLS] [SEP]`. More texts than the queue holds go through in
    /// parts. After [`LocalEmbedder::close`], [`ErrorKind::Unavailable`].
    async fn embed(&self, tenant: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>> {
        self.worker.call(tenant, texts).await
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
        config::Device::Cuda => Device::new_cuda(0).map_err(|e| {
            let message = "embedding.device = \"cuda\", but the first CUDA device cannot be used; nvidia-smi shows \
                           whether a GPU and its driver are there; without one, set embedding.device to \"cpu\"";
            Error::new(ErrorKind::FailedPrecondition, message).with_source(e)
        }),
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

/// Mean pooling, where the model's files do not say.
fn pooling(model_dir: &Path) -> Result<Pooling> {
    let name = "1_Pooling/config.json";
    if model_dir.join(name).exists() { Pooling::parse(&read(model_dir, name)?) } else { Ok(Pooling::Mean) }
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

pub(super) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    }
}
