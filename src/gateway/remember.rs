//! Write-behind: answers are remembered after they were given, from a bounded queue, so that no store is ever in the way
//! of a reply. What waits to be written is found by exact lookups already.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::types::{Answer, Entry, EntryKey, Error, ErrorKind, FinishReason, Result};

/// Entries written at the same time; stores commit them in groups.
const WRITERS: usize = 32;

/// The write-behind queue.
pub struct Remember {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    waiting: Arc<Waiting>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    number: u64,
    entry: Arc<Entry>,
    vector: Option<Arc<[f32]>>,
    /// Embed the prompt first: the request path had no vector for it.
    embed: bool,
}

#[derive(Default)]
struct Waiting {
    entries: Mutex<HashMap<EntryKey, (u64, Arc<Entry>)>>,
    /// Counts finished jobs.
    done: watch::Sender<u64>,
    next_number: AtomicU64,
    dropped: AtomicU64,
}

impl Remember {
    /// `capacity`: entries that may wait.
    pub fn start(cache: Cache, capacity: usize) -> Self {
        let (queue, jobs) = mpsc::channel(capacity);
        let waiting = Arc::<Waiting>::default();
        let dispatcher = tokio::spawn(dispatch(cache, jobs, waiting.clone()));
        Self { queue: Mutex::new(Some(queue)), waiting, dispatcher: Mutex::new(Some(dispatcher)) }
    }

    /// Queues an entry; counts and drops it when there is no room. `vector`: of its prompt, where it is known; with
    /// `embed`, it is computed later where it is not.
    pub fn put(&self, entry: Arc<Entry>, vector: Option<Arc<[f32]>>, embed: bool) {
        let number = self.waiting.next_number.fetch_add(1, Ordering::Relaxed);
        let key = entry.key;
        self.waiting.entries.lock().insert(key, (number, entry.clone()));
        let job = Job { number, entry, embed: embed && vector.is_none(), vector };
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.try_send(job).is_ok());
        if !sent {
            self.waiting.drop_one("queue full");
            self.waiting.finish(&key, number);
        }
    }

    /// The entry of that key, if it waits to be written.
    pub fn peek(&self, key: &EntryKey) -> Option<Arc<Entry>> {
        self.waiting.entries.lock().get(key).map(|(_, entry)| entry.clone())
    }

    /// Entries that could not be remembered since start.
    pub fn dropped(&self) -> u64 {
        self.waiting.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued before this call is written, at most `limit`. False when time ran out.
    pub async fn settle(&self, limit: Duration) -> bool {
        let before = self.waiting.next_number.load(Ordering::Relaxed);
        let mut done = self.waiting.done.subscribe();
        let settled = async {
            while self.waiting.entries.lock().values().any(|(number, _)| *number < before) {
                if done.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(limit, settled).await.is_ok()
    }

    /// Takes nothing more, writes what waits, at most for `limit`. Errors: how many answers were lost.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        drop(self.queue.lock().take());
        let dispatcher = self.dispatcher.lock().take();
        let Some(mut dispatcher) = dispatcher else { return Ok(()) };
        if tokio::time::timeout(limit, &mut dispatcher).await.is_ok() {
            return Ok(());
        }
        dispatcher.abort();
        let left = self.waiting.entries.lock().len();
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("{left} answers could not be remembered before the end")))
    }
}

/// Whether an answer may be remembered at all: every choice came to its own end and says something.
pub fn is_complete(answer: &Answer) -> bool {
    !answer.choices.is_empty()
        && answer.choices.iter().all(|choice| {
            choice.finish == FinishReason::Stop
                && choice.message.tool_calls.is_empty()
                && choice.message.content.as_deref().is_some_and(|text| !text.is_empty())
                && choice.message.extra.get("refusal").is_none_or(serde_json::Value::is_null)
        })
}

async fn dispatch(cache: Cache, mut jobs: mpsc::Receiver<Job>, waiting: Arc<Waiting>) {
    let writers = Arc::new(Semaphore::new(WRITERS));
    while let Some(job) = jobs.recv().await {
        let Ok(writer) = writers.clone().acquire_owned().await else { break };
        let (cache, waiting) = (cache.clone(), waiting.clone());
        tokio::spawn(async move {
            // Removed from the waiting list even if writing panics.
            let _finished = Finished { waiting: &waiting, key: job.entry.key, number: job.number };
            if let Err(error) = write(&cache, &job).await {
                tracing::debug!(%error, "an answer could not be remembered");
                waiting.drop_one("store");
            }
            drop(writer);
        });
    }
    // All permits back: every writer is done.
    let _all = writers.acquire_many(WRITERS as u32).await;
}

async fn write(cache: &Cache, job: &Job) -> Result<()> {
    let mut vector = job.vector.clone();
    if job.embed
        && let Some(probe) = &job.entry.probe
    {
        match cache.embed(probe.prompt.clone()).await {
            Ok(embedding) => vector = embedding.is_whole().then_some(embedding.vector),
            // Still worth an exact hit.
            Err(error) => tracing::debug!(%error, "remembered without a vector"),
        }
    }
    cache.put(job.entry.clone(), vector).await
}

struct Finished<'a> {
    waiting: &'a Waiting,
    key: EntryKey,
    number: u64,
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.waiting.finish(&self.key, self.number);
    }
}

impl Waiting {
    fn finish(&self, key: &EntryKey, number: u64) {
        let mut entries = self.entries.lock();
        if entries.get(key).is_some_and(|(current, _)| *current == number) {
            entries.remove(key);
        }
        drop(entries);
        self.done.send_modify(|count| *count += 1);
    }

    fn drop_one(&self, why: &'static str) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("reprise_writes_dropped_total", "reason" => why).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Usage;
    use serde_json::json;

    #[test]
    fn only_whole_answers_are_complete() {
        let whole = Answer::text("m", "hello", Usage::default());
        assert!(is_complete(&whole));
        for finish in
            [FinishReason::Length, FinishReason::Missing, FinishReason::ContentFilter, FinishReason::ToolCalls]
        {
            let mut cut = whole.clone();
            cut.choices[0].finish = finish.clone();
            assert!(!is_complete(&cut), "{finish:?}");
        }
        assert!(!is_complete(&Answer::text("m", "", Usage::default())));
        assert!(!is_complete(&Answer::default()));
        let mut refused = whole.clone();
        refused.choices[0].message.extra.insert("refusal".into(), json!("no"));
        assert!(!is_complete(&refused));
    }
}
