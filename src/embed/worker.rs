//! Two threads that turn the queue's texts into vectors, or its pairs into numbers: one tokenises, one runs the model. A batch forms while the
//! one before it computes; with nothing to wait for, a lone text starts at once.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::time::timeout;

use super::queue::{Item, Queue, Refused, Reply};
use super::tokenize::Tokenise;
use super::{Forward, Input};
use crate::types::{Embedding, Error, ErrorKind, Result, TenantId};

/// Longest a call may wait for one part of its embeddings. A backstop: callers bring their own deadlines.
const REPLY_DEADLINE: Duration = Duration::from_secs(300);
/// Longest the threads may take to finish what is queued when the worker is closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);
/// When to come back after a refusal: about one batch of long texts.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Parts of one large call that are in the queue at a time: one computes, one waits.
const PARTS_AT_ONCE: usize = 2;

/// Of a model that reads `T`: texts, or pairs of texts.
pub(super) struct Worker<T> {
    /// `embed` or `verify`; names threads and metrics.
    name: &'static str,
    queue: Arc<Queue<T>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<T: Send + Sync + 'static> Worker<T> {
    /// `capacity`: texts that may wait. `batch_tokens`: most tokens of a batch; a longer text
    /// makes a batch of its own.
    pub(super) fn start(
        name: &'static str,
        tokenizer: impl Tokenise<T>,
        model: impl Forward,
        capacity: usize,
        batch_tokens: usize,
    ) -> Result<Self> {
        let queue = Arc::new(Queue::new(name, capacity));
        let worker = Self { name, queue: queue.clone(), threads: Mutex::default() };
        let shared = queue.clone();
        worker.spawn("tokenise", move || while shared.tokenise_next(|text| tokenizer.tokenise(text)) {})?;
        worker.spawn("model", move || {
            while let Some(batch) = queue.next_batch(batch_tokens) {
                compute(name, &model, batch);
            }
        })?;
        Ok(worker)
    }

    /// See [`super::Embedder::embed`]. A call with many texts goes through in parts, so that it never fills the
    /// queue; only the first part is refused when there is no room, the others wait for it.
    pub(super) async fn call(&self, tenant: &TenantId, texts: Vec<T>) -> Result<Vec<Embedding>> {
        let part_size = (self.queue.capacity() / 4).max(1);
        let mut embeddings = Vec::with_capacity(texts.len());
        let mut replies = VecDeque::new();
        let mut texts = texts.into_iter().peekable();
        while texts.peek().is_some() {
            let part: Vec<_> = texts.by_ref().take(part_size).collect();
            let reply = if embeddings.is_empty() && replies.is_empty() {
                self.queue.push(tenant, part, || overloaded(self.name)).map_err(|why| refused(self.name, why))?
            } else {
                timeout(REPLY_DEADLINE, self.push_when_room(tenant, part)).await.map_err(|_| too_late())??
            };
            replies.push_back(reply);
            if replies.len() == PARTS_AT_ONCE
                && let Some(oldest) = replies.pop_front()
            {
                embeddings.extend(wait(oldest).await?);
            }
        }
        for reply in replies {
            embeddings.extend(wait(reply).await?);
        }
        Ok(embeddings)
    }

    /// Whether texts are taken and the threads that work on them live.
    pub(super) fn is_alive(&self) -> bool {
        self.queue.is_open() && self.threads.lock().iter().all(|thread| !thread.is_finished())
    }

    /// Refuses new texts, finishes those inside, ends the threads.
    pub(super) async fn close(&self) -> Result<()> {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        let join = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        match timeout(CLOSE_DEADLINE, join).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(_) => Err(Error::internal("an embedding thread panicked while it ended")),
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "the embedding threads did not end in time")),
        }
    }

    /// Runs `work` to its end on a new thread; a panic is counted and `work` starts again.
    fn spawn(&self, part: &str, work: impl Fn() + Send + 'static) -> Result<()> {
        let name = format!("{}-{part}", self.name);
        let thread_name = name.clone();
        let supervised = move || {
            while catch_unwind(AssertUnwindSafe(&work)).is_err() {
                metrics::counter!("reprise_embed_panics_total", "thread" => name.clone()).increment(1);
                tracing::error!(thread = %name, "panic in an embedding thread; its batch failed, the thread goes on");
            }
        };
        let thread = thread::Builder::new().name(thread_name).spawn(supervised);
        let thread = thread.map_err(|e| Error::internal("cannot start an embedding thread").with_source(e))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    async fn push_when_room(&self, tenant: &TenantId, mut part: Vec<T>) -> Result<Reply> {
        loop {
            let room = self.queue.room(); // before the look at the queue, so that no freed place is missed
            match self.queue.push(tenant, part, || overloaded(self.name)) {
                Ok(reply) => return Ok(reply),
                Err(Refused::Full(back)) => part = back,
                Err(Refused::Closed) => return Err(refused(self.name, Refused::<T>::Closed)),
            }
            let _ = timeout(RETRY_AFTER, room).await; // dead callers leave without a word: look again in any case
        }
    }
}

impl<T> Drop for Worker<T> {
    /// Callers hold the worker, so none is left: the threads end as soon as their batch does.
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn compute(name: &'static str, model: &impl Forward, batch: Vec<Item>) {
    let inputs: Vec<Input> = batch.iter().map(|item| item.tokens.input()).collect();
    let started = Instant::now();
    let result = model.forward(&inputs);
    report_batch(name, &inputs, started.elapsed());
    match result {
        Ok(vectors) if vectors.len() == batch.len() => {
            batch.into_iter().zip(vectors).for_each(|(item, vector)| item.answer(vector));
        }
        Ok(vectors) => {
            let error = Error::internal(format!("the model gave {} vectors for {} texts", vectors.len(), batch.len()));
            batch.into_iter().for_each(|item| item.fail(error.clone()));
        }
        Err(error) => batch.into_iter().for_each(|item| item.fail(error.clone())),
    }
}

async fn wait(reply: Reply) -> Result<Vec<Embedding>> {
    match timeout(REPLY_DEADLINE, reply).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::internal("an embedding thread panicked on this batch")),
        Err(_) => Err(too_late()),
    }
}

fn refused<T>(name: &str, why: Refused<T>) -> Error {
    match why {
        Refused::Full(_) => overloaded(name),
        Refused::Closed => Error::unavailable(format!("the {name} queue is shut down")),
    }
}

fn overloaded(name: &str) -> Error {
    metrics::counter!(format!("reprise_{name}_overloaded_total")).increment(1);
    Error::new(ErrorKind::Overloaded, format!("the {name} queue is full")).with_retry_after(RETRY_AFTER)
}

fn too_late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, format!("no embedding within {} s", REPLY_DEADLINE.as_secs()))
}

fn report_batch(name: &'static str, inputs: &[Input], took: Duration) {
    let tokens: usize = inputs.iter().map(|input| input.ids.len()).sum();
    metrics::histogram!(format!("reprise_{name}_batch_texts")).record(inputs.len() as f64);
    metrics::histogram!(format!("reprise_{name}_batch_tokens")).record(tokens as f64);
    metrics::histogram!(format!("reprise_{name}_forward_seconds")).record(took.as_secs_f64());
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
