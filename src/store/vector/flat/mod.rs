//! `flat`: the embedded vector store. What a search compares lives in memory, grouped by scope; the vectors as they
//! came, and their keys, in the shared SQLite file, of which a search reads a few rows.
//!
//! A search, by falling number of rows:
//!
//! 1. in a scope of more than [`scan::EXACT_CODES`] codes, 1-bit sketches of all rows leave some hundreds (`sieve`);
//! 2. 8-bit codes, with proven limits for each cosine, leave about as many as asked for (`scan`);
//! 3. f32 dot products of those decide (`originals`).
//!
//! In smaller scopes the result is exactly that of a scan in f32. In larger ones it is too for neighbours with a cosine of at least 0.85,
//! but for one in millions, and approximate for those further away.
//!
//! - [`kernels`]: the inner loops (public for the benches);
//! - `rotate`, `quantise`, `sketch`: vectors to 8 bits and to 1 bit a value, and what that loses;
//! - `rows`: the rows of one scope, as snapshots; `index`: all scopes;
//! - `best`, `scan`, `sieve`, `originals`: the search;
//! - `table`: the rows on disk; `blocks`, `packer`: the same packed, to open fast; `load`: from disk to memory;
//! - `writer`: the task that changes all of them.

mod best;
mod blocks;
mod index;
pub mod kernels;
mod load;
mod originals;
mod packer;
mod quantise;
mod rotate;
mod rows;
mod scan;
mod sieve;
mod sketch;
mod table;
#[cfg(test)]
mod testing;
mod writer;

use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Match, Point, VectorStore, check_points, check_vector};
use crate::store::sqlite::Sqlite;
use crate::types::{EntryKey, Error, ErrorKind, Owner, Result, ScopeId, Tag, UnixMillis};
use index::{Index, IndexWriter};
use load::Loaded;
use originals::Originals;
use quantise::Quantised;
use rotate::Rotation;
use rows::Rows;
use scan::{Candidate, Query};
use table::Label;
use writer::{Change, Request, Writer};

/// Largest dimension; the 8-bit sums stay within 32 bits.
const MAX_DIM: usize = 65_536;
/// Bytes that are scanned on the caller's own thread, about 0.5 ms; larger scopes go to a blocking thread.
const INLINE_BYTES: usize = 8 << 20;
/// Vectors that are rounded to codes before others get their turn, some 0.1 ms' work.
const QUANTISED: usize = 32;
/// A row may be replaced or go while a search runs. A search that saw one which is no longer in the file starts again,
/// so often at most.
const ATTEMPTS: usize = 4;
/// Changes waiting for the writer; beyond it callers wait, and are refused after [`QUEUE_WAIT`].
const QUEUE: usize = 1024;
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for a change to be committed.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// The embedded vector store.
pub struct Flat {
    rotation: Arc<Rotation>,
    index: Arc<Index>,
    originals: Arc<Originals>,
    /// Large scans that run at once: one per core.
    scans: Arc<Semaphore>,
    sqlite: Arc<Sqlite>,
    changes: Mutex<Option<mpsc::Sender<Request>>>,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Flat {
    /// Reads the live vectors of that model into memory and starts the writer. Vectors of other models, or of the
    /// same with another dimension, stay in the file until they expire, and are never compared.
    ///
    /// Errors: `FailedPrecondition` when the file was written by a newer version; else those of [`Sqlite`].
    pub async fn open(sqlite: Arc<Sqlite>, model_id: &str, dim: usize) -> Result<Self> {
        let stored_dim = i64::try_from(dim).ok().filter(|_| (1..=MAX_DIM).contains(&dim));
        let stored_dim =
            stored_dim.ok_or_else(|| Error::invalid("dim", format!("{dim} is not from 1 to {MAX_DIM}")))?;
        let started = Instant::now();
        sqlite.migrate(table::COMPONENT, table::SCHEMA).await?;
        let model = model_id.to_owned();
        let (space, others) =
            sqlite.write(move |c| Box::pin(async move { table::space(c, &model, stored_dim).await })).await?;
        let rotation = Arc::new(Rotation::new(dim));
        let Loaded { scopes, packer, broken } = load::load(&sqlite, space, &rotation, UnixMillis::now()).await?;
        let index = IndexWriter::new(dim, scopes);
        let originals = Arc::new(Originals::new(Arc::clone(&sqlite), dim));
        if others > 0 {
            tracing::info!(vectors = others, "vectors of other embedding models are ignored until they expire");
        }
        if broken > 0 {
            tracing::warn!(vectors = broken, "stored vectors that do not decode are left out");
        }
        tracing::debug!(vectors = index.len(), elapsed = ?started.elapsed(), "vectors loaded");
        let (changes, queue) = mpsc::channel(QUEUE);
        let shared = Arc::clone(index.index());
        let writer = Writer { sqlite: Arc::clone(&sqlite), space, index, originals: Arc::clone(&originals), packer };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self {
            rotation,
            index: shared,
            originals,
            scans: Arc::new(Semaphore::new(cores)),
            sqlite,
            changes: Mutex::new(Some(changes)),
            writer: tokio::sync::Mutex::new(Some(tokio::spawn(writer.run(queue)))),
        })
    }

    /// Bytes of memory that the rows take, beside the cache of whole vectors and what the allocator adds.
    pub fn memory(&self) -> usize {
        self.index.bytes()
    }

    /// Rows of a scope that may be among the best `k` for a query.
    async fn candidates(&self, rows: Arc<Rows>, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        let now = UnixMillis::now();
        let bits = if scan::is_sketched(rows.len(), rows.dim()) { 1 } else { 8 };
        if rows.len() * rows.dim() / 8 * bits <= INLINE_BYTES {
            return Ok(scan::candidates(&rows, &Query::new(&self.rotation, vector), k, now));
        }
        // The caller's budget for the lookup bounds this wait: it drops the call.
        let permit = Arc::clone(&self.scans).acquire_owned().await.map_err(|_| closed())?;
        let query = Query::new(&self.rotation, vector);
        let scan = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            scan::candidates(&rows, &query, k, now)
        });
        scan.await.map_err(|e| Error::internal("a vector scan ended abnormally").with_source(e))
    }

    /// Hands a change to the writer and waits until it is committed and visible.
    async fn change(&self, change: Change) -> Result<u64> {
        let changes = self.changes.lock().clone().ok_or_else(closed)?;
        let (reply, outcome) = oneshot::channel();
        match changes.send_timeout(Request { change, reply }, QUEUE_WAIT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let error = Error::new(ErrorKind::Overloaded, "the vector store has too many changes waiting");
                return Err(error.with_retry_after(Duration::from_secs(1)));
            }
        }
        drop(changes);
        match tokio::time::timeout(COMMIT_WAIT, outcome).await {
            Ok(outcome) => outcome.map_err(|_| closed())?,
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "the vector store did not commit in time")),
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the vector store is closed")
}

#[async_trait]
impl VectorStore for Flat {
    async fn search(&self, scope: &ScopeId, vector: &[f32], k: usize) -> Result<Vec<Match>> {
        check_vector(vector, self.rotation.dim())?;
        let mut matches = Vec::new();
        for _ in 0..ATTEMPTS {
            let Some(rows) = self.index.rows(scope).filter(|_| k > 0) else { return Ok(Vec::new()) };
            let candidates = self.candidates(rows, vector, k).await?;
            let settled = self.originals.settle(&candidates, vector, k).await?;
            matches = settled.matches;
            if !settled.missing {
                break;
            }
            // The writer may be about to change memory as it did the file.
            tokio::task::yield_now().await;
        }
        Ok(matches)
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<()> {
        check_points(&points, self.rotation.dim())?;
        // The last of those with one key.
        let last: HashMap<_, _> = points.iter().enumerate().map(|(i, point)| (point.key, i)).collect();
        let mut quantised = Vec::with_capacity(last.len());
        for (i, point) in points.into_iter().enumerate() {
            if last.get(&point.key) == Some(&i) {
                let codes = Quantised::new(&self.rotation, &point.vector);
                quantised.push((point, codes));
            }
            if i % QUANTISED == QUANTISED - 1 {
                tokio::task::yield_now().await;
            }
        }
        if !quantised.is_empty() {
            self.change(Change::Upsert(quantised)).await?;
        }
        Ok(())
    }

    async fn delete(&self, keys: &[EntryKey]) -> Result<u64> {
        if keys.is_empty() { Ok(0) } else { self.change(Change::Delete(keys.to_vec())).await }
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<u64> {
        self.change(Change::DeleteLabelled(owner.clone(), Label::Tag, tag.as_str().to_owned())).await
    }

    async fn delete_by_dependency(&self, owner: &Owner, document: &str) -> Result<u64> {
        self.change(Change::DeleteLabelled(owner.clone(), Label::Document, document.to_owned())).await
    }

    async fn count(&self, scope: Option<&ScopeId>) -> Result<u64> {
        Ok(self.index.count(scope, UnixMillis::now()) as u64)
    }

    async fn ping(&self) -> Result<()> {
        if self.changes.lock().as_ref().is_none_or(mpsc::Sender::is_closed) {
            return Err(closed());
        }
        sqlx::query("SELECT 1").execute(self.sqlite.reader()).await?;
        Ok(())
    }

    /// Commits what is queued. The SQLite file stays open: others live in it too.
    async fn close(&self) -> Result<()> {
        drop(self.changes.lock().take());
        match self.writer.lock().await.take() {
            Some(writer) => writer.await.map_err(|e| Error::internal("the vector writer ended").with_source(e)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
