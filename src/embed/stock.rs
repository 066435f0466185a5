//! The forward pass on a GPU: candle's stock BERT, padded batches, unit length. On the CPU it is the yardstick.

use candle_core::{DType, Device, Error as CandleError, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use std::sync::Arc;

use super::bert::config::Pooling;
use super::{Forward, Input};
use crate::types::{Error, ErrorKind, Result};

pub struct StockBert {
    model: BertModel,
    device: Device,
    pooling: Pooling,
    /// Its own threads, so that neither the local LLM nor tokio's workers share them.
    pool: rayon::ThreadPool,
}

impl StockBert {
    /// `config`, `weights`: the bytes of `config.json` and `model.safetensors`. `threads`: at least one; a GPU is fed by
    /// one in any case.
    ///
    /// Errors: [`ErrorKind::Corrupt`] when they do not fit each other, [`ErrorKind::FailedPrecondition`] when the GPU
    /// cannot take them.
    pub fn load(config: &[u8], pooling: Pooling, weights: Vec<u8>, device: Device, threads: usize) -> Result<Self> {
        let config: Config =
            serde_json::from_slice(config).map_err(|e| Error::new(ErrorKind::Corrupt, "config.json").with_source(e))?;
        // On a GPU, work is queued in the stream of the thread that asks for it, and nothing orders the streams of two
        // threads: weights could be read before they are there. So one thread loads them and runs every pass.
        let threads = if device.is_cuda() { 1 } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|at| format!("embed-{at}"))
            .build()
            .map_err(|e| Error::internal("cannot start the model's threads").with_source(e))?;
        let load = || {
            let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &device)?;
            BertModel::load(weights, &config)
        };
        let model = pool.install(load).map_err(refused)?;
        Ok(Self { model, device, pooling, pool })
    }

    fn run(&self, batch: &[&[u32]]) -> candle_core::Result<Vec<Arc<[f32]>>> {
        let longest = batch.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let shape = (batch.len(), longest);
        let padded = |of: fn(&u32) -> u32| -> Vec<u32> {
            let row = |ids: &&[u32]| {
                let padding = longest - ids.len();
                ids.iter().map(of).chain(std::iter::repeat_n(0, padding)).collect::<Vec<_>>()
            };
            batch.iter().flat_map(row).collect()
        };
        let ids = Tensor::from_vec(padded(|id| *id), shape, &self.device)?;
        let mask = Tensor::from_vec(padded(|_| 1), shape, &self.device)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let sum = match self.pooling {
            Pooling::Cls => hidden.narrow(1, 0, 1)?.squeeze(1)?,
            // Sum and mean point the same way, so the mean needs no division.
            Pooling::Mean => hidden.broadcast_mul(&mask.to_dtype(DType::F32)?.unsqueeze(2)?)?.sum(1)?,
        }; // (texts, dim)
        let unit = sum.broadcast_div(&sum.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        Ok(unit.to_vec2::<f32>()?.into_iter().map(Arc::from).collect())
    }
}

/// Why a model was not loaded.
fn refused(error: CandleError) -> Error {
    let (kind, message) = if is_of_cuda(&error) {
        (ErrorKind::FailedPrecondition, "the GPU cannot take the model; nvidia-smi shows whether its memory is free")
    } else {
        (ErrorKind::Corrupt, "model.safetensors does not fit config.json")
    };
    Error::new(kind, message).with_source(error)
}

fn is_of_cuda(error: &CandleError) -> bool {
    match error {
        CandleError::Cuda(_) => true,
        CandleError::WithBacktrace { inner, .. } => is_of_cuda(inner),
        _ => false,
    }
}

impl Forward for StockBert {
    fn forward(&self, batch: &[Input]) -> Result<Vec<Arc<[f32]>>> {
        let batch: Vec<&[u32]> = batch.iter().map(|input| input.ids).collect();
        let result = self.pool.install(|| self.run(&batch));
        let vectors = result.map_err(|e| Error::internal("the embedding model failed").with_source(e))?;
        // Weights of another model can pass every check of shapes and still give NaN: never let that be stored.
        if vectors.iter().any(|vector| vector.iter().any(|x| !x.is_finite())) {
            return Err(Error::internal("the embedding model gave values that are not numbers"));
        }
        Ok(vectors)
    }
}
