//! Write-behind: answers are remembered after they were given, from a bounded queue, so that no store is ever in the way
//! of a reply. What waits to be written is found by exact lookups already.
//!
//! Answers are worked on in parallel, but the writes of one key happen one after the other, the newest wins, and none
//! of them undoes a deletion or a `Store` that came after its request: [`super::changes`] knows of those.

use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::changes::Changes;
use crate::cache::Cache;
use crate::types::{Answer, Entry, EntryKey, Error, ErrorKind, FinishReason, Result};

/// Entries worked on at the same time; stores commit them in groups.
const WRITERS: usize = 32;

/// The write-behind queue.
pub struct Remember {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    shared: Arc<Shared>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    number: u64,
    /// When its request came, on the clock of [`Changes`].
    as_of: u64,
    entry: Arc<Entry>,
    vector: Option<Arc<[f32]>>,
    /// Embed the prompt first: the request path had no vector for it.
    embed: bool,
}

struct Shared {
    changes: Arc<Changes>,
    waiting: Mutex<Waiting>,
    /// Counts finished jobs.
    done: watch::Sender<u64>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    next_number: u64,
    /// Jobs that are not finished.
    numbers: BTreeSet<u64>,
    by_key: HashMap<EntryKey, Newest>,
}

/// What is known of a key while jobs of it wait.
struct Newest {
    entry: Arc<Entry>,
    as_of: u64,
    jobs: usize,
    /// Number of the newest job that was written.
    written: u64,
}

impl Remember {
    /// `capacity`: entries that may wait.
    pub fn start(cache: Cache, capacity: usize, changes: Arc<Changes>) -> Self {
        let (queue, jobs) = mpsc::channel(capacity);
        let (waiting, done) = (Mutex::default(), watch::Sender::default());
        let shared = Arc::new(Shared { changes, waiting, done, dropped: AtomicU64::new(0) });
        let dispatcher = tokio::spawn(dispatch(cache, jobs, shared.clone()));
        Self { queue: Mutex::new(Some(queue)), shared, dispatcher: Mutex::new(Some(dispatcher)) }
    }

    /// Queues the answer to a request that came at `as_of`; counts and drops it when there is no room. `vector`: of its
    /// prompt, where it is known; with `embed`, it is computed later where it is not.
    pub fn put(&self, entry: Arc<Entry>, as_of: u64, vector: Option<Arc<[f32]>>, embed: bool) {
        let key = entry.key;
        let number = self.shared.waiting.lock().add(&entry, as_of);
        let job = Job { number, as_of, entry, embed: embed && vector.is_none(), vector };
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.try_send(job).is_ok());
        if !sent {
            self.shared.drop_one("queue full");
            self.shared.finish(&key, number);
        }
    }

    /// The entry of that key, if it waits to be written and nothing has happened since that outdates it.
    pub fn peek(&self, key: &EntryKey) -> Option<Arc<Entry>> {
        let waiting = self.shared.waiting.lock();
        let newest = waiting.by_key.get(key)?;
        (!self.shared.changes.outdates(&newest.entry, newest.as_of)).then(|| newest.entry.clone())
    }

    /// Entries that could not be remembered since start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued before this call is written, at most `limit`. False when time ran out.
    pub async fn settle(&self, limit: Duration) -> bool {
        let mut done = self.shared.done.subscribe();
        let before = self.shared.waiting.lock().next_number + 1;
        let settled = async {
            while self.shared.waiting.lock().numbers.first().is_some_and(|oldest| *oldest < before) {
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
        let left = self.shared.waiting.lock().numbers.len();
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

async fn dispatch(cache: Cache, mut jobs: mpsc::Receiver<Job>, shared: Arc<Shared>) {
    let writers = Arc::new(Semaphore::new(WRITERS));
    while let Some(job) = jobs.recv().await {
        let Ok(writer) = writers.clone().acquire_owned().await else { break };
        let (cache, shared) = (cache.clone(), shared.clone());
        tokio::spawn(async move {
            // Taken off the list even if writing panics.
            let _finished = Finished { shared: &shared, key: job.entry.key, number: job.number };
            if let Err(error) = write(&cache, &shared, &job).await {
                tracing::debug!(%error, "an answer could not be remembered");
                shared.drop_one("store");
            }
            drop(writer);
        });
    }
    // All permits back: every writer is done.
    let _all = writers.acquire_many(WRITERS as u32).await;
}

async fn write(cache: &Cache, shared: &Shared, job: &Job) -> Result<()> {
    let mut vector = job.vector.clone();
    if job.embed
        && let Some(probe) = &job.entry.probe
    {
        match cache.embed(&job.entry.owner.tenant, probe.prompt.clone()).await {
            Ok(embedding) => vector = embedding.is_whole().then_some(embedding.vector),
            // Still worth an exact hit.
            Err(error) => tracing::debug!(%error, "remembered without a vector"),
        }
    }
    let key = job.entry.key;
    let _lane = shared.changes.lane(&key).await?;
    let overtaken = shared.waiting.lock().by_key.get(&key).is_some_and(|newest| newest.written > job.number);
    if overtaken || shared.changes.outdates(&job.entry, job.as_of) {
        return Ok(());
    }
    cache.put(job.entry.clone(), vector).await?;
    if let Some(newest) = shared.waiting.lock().by_key.get_mut(&key) {
        newest.written = job.number;
    }
    Ok(())
}

struct Finished<'a> {
    shared: &'a Shared,
    key: EntryKey,
    number: u64,
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.shared.finish(&self.key, self.number);
    }
}

impl Waiting {
    /// Gives the new job's number; numbers start at 1.
    fn add(&mut self, entry: &Arc<Entry>, as_of: u64) -> u64 {
        self.next_number += 1;
        self.numbers.insert(self.next_number);
        let new = || Newest { entry: entry.clone(), as_of, jobs: 0, written: 0 };
        let newest = self.by_key.entry(entry.key).or_insert_with(new);
        (newest.entry, newest.as_of) = (entry.clone(), as_of);
        newest.jobs += 1;
        self.next_number
    }
}

impl Shared {
    fn finish(&self, key: &EntryKey, number: u64) {
        let mut waiting = self.waiting.lock();
        waiting.numbers.remove(&number);
        if let Some(newest) = waiting.by_key.get_mut(key) {
            newest.jobs -= 1;
            if newest.jobs == 0 {
                waiting.by_key.remove(key);
            }
        }
        drop(waiting);
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
