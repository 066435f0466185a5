//! A small model on this machine: a GGUF file of the llama architecture, run by candle on threads of its own.
//!
//! candle's quantized operations share a pool of threads that spins while it waits. On cores that have other work
//! too that costs far more than it gains (4 tokens/s instead of 33 on two busy cores), and the pool is only left out
//! by `CANDLE_NUM_THREADS=1` in the environment when the process starts.

mod generate;
mod gguf;
mod template;
mod tokens;

use async_trait::async_trait;
use candle_core::utils::barrier_pool;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use self::generate::Job;
use self::gguf::Model;
use super::{DeltaStream, Provider};
use crate::types::{Answer, Assembler, ChatRequest, Delta, Error, ErrorKind, FinishReason, Result};

/// Names it answers to when the configuration gives none.
pub const DEFAULT_MODELS: [&str; 2] = ["smollm2", "SmolLM2-135M-Instruct"];
/// Requests that wait for a worker; beyond it, callers are refused.
const QUEUE: usize = 64;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// Tokens in an answer at most, when neither the request nor the configuration sets a limit: ten seconds of the default
/// model on two free cores, and up to a minute on busy ones.
const DEFAULT_ANSWER: u32 = 256;

/// Requests are worked on in the order they came, `workers` at a time. A caller that hangs up, waiting or
/// listening, stops its work at the next token.
pub struct LocalProvider {
    name: String,
    models: Vec<String>,
    model: Arc<Model>,
    queue: mpsc::Sender<Work>,
    timeout: Duration,
    longest_answer: u32,
}

struct Work {
    job: Job,
    listener: mpsc::Sender<Result<Delta>>,
}

impl LocalProvider {
    /// Loads the file, which takes a good part of a second, and starts one worker.
    pub fn load(name: impl Into<String>, models: Vec<String>, path: &Path) -> Result<Self> {
        Self::with_workers(name, models, path, 1)
    }

    /// Each worker adds memory for its own attention cache only; the weights are shared.
    pub fn with_workers(name: impl Into<String>, models: Vec<String>, path: &Path, workers: usize) -> Result<Self> {
        let start = std::time::Instant::now();
        let model = Arc::new(Model::load(path)?);
        let (queue, work) = mpsc::channel(QUEUE);
        let work = Arc::new(Mutex::new(work));
        for i in 0..workers.max(1) {
            let (model, work) = (model.clone(), work.clone());
            let thread = std::thread::Builder::new().name(format!("local-llm-{i}"));
            thread
                .spawn(move || worker(&model, &work))
                .map_err(|e| Error::internal("a thread for the local model cannot start").with_source(e))?;
        }
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() && barrier_pool().n_workers() > 0 {
            tracing::warn!(
                "CANDLE_NUM_THREADS is not set: the local model is slow where cores are busy; 1 is best there"
            );
        }
        let (name, context) = (name.into(), model.context);
        let millis = start.elapsed().as_millis() as u64;
        tracing::info!(provider = name, file = %path.display(), context, millis, "local model loaded");
        Ok(Self { name, models, model, queue, timeout: DEFAULT_TIMEOUT, longest_answer: DEFAULT_ANSWER })
    }

    /// Longest wait for a whole answer, the time in the queue included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Tokens in an answer at most, where the request sets no limit.
    pub fn longest_answer(mut self, tokens: u32) -> Self {
        self.longest_answer = tokens;
        self
    }

    /// Most tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.model.context
    }

    async fn enqueue(&self, request: &ChatRequest) -> Result<Listener> {
        let deadline = Instant::now() + self.timeout;
        let (model, request, longest) = (self.model.clone(), request.clone(), self.longest_answer);
        // Tokenizing a long prompt takes a while.
        let job = tokio::task::spawn_blocking(move || Job::new(&model, &request, longest)).await;
        let job = job.map_err(|e| Error::internal("the prompt cannot be prepared").with_source(e))??;
        // Room for the whole answer: a caller that reads slowly must not hold up the worker.
        let (listener, deltas) = mpsc::channel(job.most_deltas());
        self.queue.try_send(Work { job, listener }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(ErrorKind::Overloaded, format!("provider {}: {QUEUE} requests wait already", self.name))
                    .with_retry_after(Duration::from_secs(1))
            }
            mpsc::error::TrySendError::Closed(_) => {
                Error::unavailable(format!("provider {}: its workers have ended", self.name))
            }
        })?;
        Ok(Listener { name: self.name.clone(), deltas, deadline })
    }
}

impl std::fmt::Debug for LocalProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalProvider").field("name", &self.name).field("models", &self.models).finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for LocalProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    async fn complete(&self, request: &ChatRequest) -> Result<Answer> {
        let mut listener = self.enqueue(request).await?;
        let mut assembler = Assembler::default();
        while let Some(delta) = listener.next().await? {
            assembler.push(&delta);
        }
        let answer = assembler.finish();
        match answer.finish() {
            FinishReason::Missing => {
                Err(Error::new(ErrorKind::Upstream, format!("provider {}: the answer was cut off", self.name)))
            }
            _ => Ok(answer),
        }
    }

    async fn stream(&self, request: &ChatRequest) -> Result<DeltaStream> {
        let listener = self.enqueue(request).await?;
        let deltas = stream::unfold(Some(listener), |listener| async move {
            let mut listener = listener?;
            match listener.next().await {
                Ok(delta) => delta.map(|d| (Ok(d), Some(listener))),
                Err(e) => Some((Err(e), None)),
            }
        });
        Ok(deltas.boxed())
    }

    async fn ping(&self) -> Result<()> {
        if self.queue.is_closed() {
            return Err(Error::unavailable(format!("provider {}: its workers have ended", self.name)));
        }
        Ok(())
    }
}

/// The caller's end of a generation; dropping it ends the work.
struct Listener {
    name: String,
    deltas: mpsc::Receiver<Result<Delta>>,
    deadline: Instant,
}

impl Listener {
    async fn next(&mut self) -> Result<Option<Delta>> {
        match timeout_at(self.deadline, self.deltas.recv()).await {
            Ok(delta) => delta.transpose(),
            Err(_) => {
                let what = format!("provider {}: no whole answer in time", self.name);
                Err(Error::new(ErrorKind::DeadlineExceeded, what))
            }
        }
    }
}

/// Runs until the provider is dropped. A panic in the model ends one answer, not the worker.
fn worker(model: &Model, work: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        let Some(Work { job, listener }) = work.lock().blocking_recv() else { return };
        if listener.is_closed() {
            continue;
        }
        let emit = |delta: Option<Delta>| match delta {
            Some(delta) => listener.try_send(Ok(delta)).is_ok(),
            None => !listener.is_closed(),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| job.run(model, emit)))
            .unwrap_or_else(|_| Err(Error::internal("the local model panicked")));
        if let Err(e) = outcome {
            // Nobody listens any more, or there is room: `most_deltas` leaves a place for it.
            listener.try_send(Err(e)).ok();
        }
    }
}
