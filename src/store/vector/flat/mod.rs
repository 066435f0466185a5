//! `flat`: the embedded vector store, an exact index of our own. Vectors live in memory, grouped by scope, and in the
//! shared SQLite file.
//!
//! - [`kernels`]: dot products in 8 bits and in f32 (public for the benches);
//! - `quantise`: vectors to 8 bits, and what that loses at most;
//! - `rows`: the rows of one scope, as snapshots;
//! - `scan`: the search of one scope;
//! - `index`: all scopes, and where each key is;
//! - `table`: the rows on disk;
//! - `writer`: the task that changes both.

mod index;
pub mod kernels;
mod quantise;
mod rows;
mod scan;
mod table;
mod writer;

use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Match, Point, VectorStore, check_points, check_vector};
use crate::store::sqlite::Sqlite;
use crate::types::{EntryKey, Error, ErrorKind, Owner, Result, ScopeId, Tag, UnixMillis};
use index::{Index, IndexWriter};
use table::Label;
use writer::{Change, Request, Writer};

/// Largest dimension; the 8-bit sums stay within 32 bits.
const MAX_DIM: usize = 65_536;
/// Codes that are scanned on the caller's own thread, about 0.5 ms; larger scopes go to a blocking thread.
const INLINE_CODES: usize = 8 << 20;
/// Changes waiting for the writer; beyond it callers wait, and are refused after [`QUEUE_WAIT`].
const QUEUE: usize = 1024;
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for a change to be committed.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// The embedded vector store. Its searches give exactly what a scan in f32 would.
pub struct Flat {
    dim: usize,
    index: Arc<Index>,
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
        let mut index = IndexWriter::new();
        let insert = |scope, row| index.insert(scope, row);
        let broken = table::load(sqlite.reader(), space, dim, UnixMillis::now(), insert).await?;
        if others > 0 {
            tracing::info!(vectors = others, "vectors of other embedding models are ignored until they expire");
        }
        if broken > 0 {
            tracing::warn!(vectors = broken, "stored vectors that do not decode are left out");
        }
        tracing::debug!(vectors = index.len(), elapsed = ?started.elapsed(), "vectors loaded");
        let (changes, queue) = mpsc::channel(QUEUE);
        let shared = Arc::clone(index.index());
        let writer = Writer { sqlite: Arc::clone(&sqlite), space, index };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self {
            dim,
            index: shared,
            scans: Arc::new(Semaphore::new(cores)),
            sqlite,
            changes: Mutex::new(Some(changes)),
            writer: tokio::sync::Mutex::new(Some(tokio::spawn(writer.run(queue)))),
        })
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
        check_vector(vector, self.dim)?;
        let Some(rows) = self.index.rows(scope).filter(|_| k > 0) else { return Ok(Vec::new()) };
        let now = UnixMillis::now();
        if rows.len() * self.dim <= INLINE_CODES {
            return Ok(scan::search(&rows, vector, k, now));
        }
        // The caller's budget for the lookup bounds this wait: it drops the call.
        let permit = Arc::clone(&self.scans).acquire_owned().await.map_err(|_| closed())?;
        let vector: Arc<[f32]> = vector.into();
        let scan = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            scan::search(&rows, &vector, k, now)
        });
        scan.await.map_err(|e| Error::internal("a vector scan ended abnormally").with_source(e))
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<()> {
        check_points(&points, self.dim)?;
        if !points.is_empty() {
            self.change(Change::Upsert(points)).await?;
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
