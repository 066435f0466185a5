//! The one task that changes the index: first the file, then memory, in the same order for both.
//!
//! Whatever is queued when a commit ends goes into the next one. A caller that gives up waiting leaves its change
//! either whole or undone, in the file and in memory alike.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::index::IndexWriter;
use super::rows::Row;
use super::table::{self, Gone, Label};
use crate::store::sqlite::Sqlite;
use crate::store::vector::Point;
use crate::types::{EntryKey, Owner, Result, UnixMillis};

/// Changes in one commit, at most.
const GROUP: usize = 256;
/// Expired rows are hidden at once; their room is given free at this pace.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_AGAIN: Duration = Duration::from_millis(100);
const SWEEP_ROWS: i64 = 1000;

#[derive(Debug)]
pub enum Change {
    Upsert(Vec<Point>),
    Delete(Vec<EntryKey>),
    DeleteLabelled(Owner, Label, String),
}

/// A change with its caller, who is told how many live points it deleted.
pub struct Request {
    pub change: Change,
    pub reply: oneshot::Sender<Result<u64>>,
}

pub struct Writer {
    pub sqlite: Arc<Sqlite>,
    pub space: i64,
    pub index: IndexWriter,
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut group = Vec::with_capacity(GROUP);
        loop {
            tokio::select! {
                taken = queue.recv_many(&mut group, GROUP) => {
                    if taken == 0 {
                        return;
                    }
                    self.commit(std::mem::take(&mut group)).await;
                }
                _ = sweep.tick() => match self.sweep(UnixMillis::now()).await {
                    Ok(true) => sweep.reset_after(SWEEP_AGAIN),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "expired vectors were not swept; the next sweep tries again"),
                },
            }
            metrics::gauge!("reprise_vector_points").set(self.index.len() as f64);
        }
    }

    pub(super) async fn commit(&mut self, mut group: Vec<Request>) {
        group.retain(|request| !request.reply.is_closed());
        if group.is_empty() {
            return;
        }
        let (changes, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|r| (r.change, r.reply)).unzip();
        let changes = Arc::new(changes);
        let (work, space) = (Arc::clone(&changes), self.space);
        match self.sqlite.write(move |c| write(c, space, work)).await {
            Ok(deleted) => {
                let now = UnixMillis::now();
                for ((change, gone), reply) in changes.iter().zip(deleted).zip(replies) {
                    let count = self.apply(change, &gone, now);
                    // A caller that is gone does not want to know.
                    let _ = reply.send(Ok(count));
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Does in memory what is committed in the file; gives the number of live points that were deleted.
    fn apply(&mut self, change: &Change, gone: &[Gone], now: UnixMillis) -> u64 {
        if let Change::Upsert(points) = change {
            for point in points {
                let row = Row { key: point.key, expires: point.expires, vector: Arc::clone(&point.vector) };
                self.index.insert(point.scope, row);
            }
        }
        let mut count = 0;
        for gone in gone.iter().filter(|gone| gone.space == self.space) {
            self.index.remove(&gone.key);
            count += u64::from(gone.expires > now);
        }
        count
    }

    /// Removes some of the expired rows; true when there may be more.
    pub(super) async fn sweep(&mut self, now: UnixMillis) -> Result<bool> {
        let gone = self.sqlite.write(move |c| Box::pin(table::delete_expired(c, now, SWEEP_ROWS))).await?;
        for gone in gone.iter().filter(|gone| gone.space == self.space) {
            self.index.remove(&gone.key);
        }
        metrics::counter!("reprise_vector_expired_total").increment(gone.len() as u64);
        Ok(i64::try_from(gone.len()).is_ok_and(|n| n == SWEEP_ROWS))
    }
}

/// Carries out the changes in order; gives the rows that each one deleted.
fn write(
    connection: &mut SqliteConnection,
    space: i64,
    changes: Arc<Vec<Change>>,
) -> BoxFuture<'_, Result<Vec<Vec<Gone>>>> {
    Box::pin(async move {
        let mut deleted = Vec::with_capacity(changes.len());
        for change in changes.iter() {
            let mut gone = Vec::new();
            match change {
                Change::Upsert(points) => {
                    for point in points {
                        table::insert(connection, space, point).await?;
                    }
                }
                Change::Delete(keys) => {
                    for key in keys {
                        gone.extend(table::delete(connection, key).await?);
                    }
                }
                Change::DeleteLabelled(owner, kind, label) => {
                    gone = table::delete_labelled(connection, owner, *kind, label).await?;
                }
            }
            deleted.push(gone);
        }
        Ok(deleted)
    })
}
