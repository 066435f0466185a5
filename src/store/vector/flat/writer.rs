//! The one task that changes the index: first the file, then memory, in the same order for both.
//!
//! Whatever is queued when a commit ends goes into the next one. A caller that gives up waiting leaves its change
//! either whole or undone, in the file and in memory alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::index::IndexWriter;
use super::originals::{Original, Originals};
use super::packer::Packer;
use super::quantise::{Quantised, Row};
use super::rows::Rows;
use super::table::{self, Gone, Label};
use crate::store::sqlite::Sqlite;
use crate::store::vector::Point;
use crate::types::{EntryKey, Owner, Result, ScopeId, UnixMillis};

/// Changes in one commit, at most.
const GROUP: usize = 256;
/// Expired rows are hidden at once; their room is given free at this pace.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_AGAIN: Duration = Duration::from_millis(100);
const SWEEP_ROWS: i64 = 1000;
/// Rows that are changed in memory at once, some 0.1 ms' work.
const EDIT_ROWS: usize = 256;

#[derive(Debug)]
pub enum Change {
    /// Points with different keys.
    Upsert(Vec<(Point, Quantised)>),
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
    pub originals: Arc<Originals>,
    pub packer: Packer,
}

/// What a change did to the file: ids of the new rows, in order, and the rows that went.
struct Outcome {
    ids: Vec<i64>,
    gone: Vec<Gone>,
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
                    self.pack().await;
                }
                () = std::future::ready(()), if self.packer.is_due() => {
                    if let Err(error) = self.packer.rewrite(&self.sqlite).await {
                        tracing::warn!(%error, "packed vectors were not cleaned of those that are gone");
                    }
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
            Ok(outcomes) => {
                let now = UnixMillis::now();
                for ((change, outcome), reply) in changes.iter().zip(outcomes).zip(replies) {
                    let count = self.apply(change, outcome, now).await;
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
    async fn apply(&mut self, change: &Change, outcome: Outcome, now: UnixMillis) -> u64 {
        let Change::Upsert(points) = change else { return self.remove(outcome.gone, now).await };
        let mut scopes: HashMap<ScopeId, Edit<'_>> = HashMap::new();
        for (id, (point, quantised)) in outcome.ids.into_iter().zip(points) {
            let row = Row { id, expires: point.expires, scale: quantised.scale, codes: &quantised.codes };
            self.packer.add(&point.scope, &row);
            self.originals.keep(id, Original { key: point.key, vector: Arc::clone(&point.vector) });
            scopes.entry(point.scope).or_default().pushed.push(row);
        }
        for gone in outcome.gone {
            self.packer.remove(gone.id);
            self.originals.forget(gone.id);
            scopes.entry(gone.scope).or_default().removed.push(gone.id);
        }
        for (scope, edit) in scopes {
            self.edit(scope, edit).await;
        }
        0
    }

    async fn remove(&mut self, gone: Vec<Gone>, now: UnixMillis) -> u64 {
        let mut count = 0;
        let mut scopes: HashMap<ScopeId, Edit<'_>> = HashMap::new();
        for gone in gone.into_iter().filter(|gone| gone.space == self.space) {
            self.packer.remove(gone.id);
            self.originals.forget(gone.id);
            scopes.entry(gone.scope).or_default().removed.push(gone.id);
            count += u64::from(gone.expires > now);
        }
        for (scope, edit) in scopes {
            self.edit(scope, edit).await;
        }
        count
    }

    /// In one piece when it is small, so that a search sees a row or the one in its place; else in pieces, so that
    /// others get their turn.
    async fn edit(&mut self, scope: ScopeId, edit: Edit<'_>) {
        let (mut pushed, mut removed) = (edit.pushed.chunks(EDIT_ROWS), edit.removed.chunks(EDIT_ROWS));
        loop {
            let (pushed, removed) = (pushed.next(), removed.next());
            if pushed.is_none() && removed.is_none() {
                break;
            }
            self.index.update(scope, |rows: &mut Rows| {
                pushed.unwrap_or_default().iter().for_each(|&row| rows.push(row));
                removed.unwrap_or_default().iter().for_each(|&id| {
                    // Rows that had expired when the store was opened are not in memory.
                    rows.remove(id);
                });
            });
            tokio::task::yield_now().await;
        }
    }

    /// Removes some of the expired rows; true when there may be more.
    pub(super) async fn sweep(&mut self, now: UnixMillis) -> Result<bool> {
        let gone = self.sqlite.write(move |c| Box::pin(table::delete_expired(c, now, SWEEP_ROWS))).await?;
        let count = gone.len();
        self.remove(gone, now).await;
        metrics::counter!("reprise_vector_expired_total").increment(count as u64);
        Ok(i64::try_from(count).is_ok_and(|n| n == SWEEP_ROWS))
    }

    /// Puts new rows into blocks on disk. What fails is tried again after the next change; until then, opening takes
    /// longer.
    async fn pack(&mut self) {
        while self.packer.is_full() {
            if let Err(error) = self.packer.pack(&self.sqlite).await {
                return tracing::warn!(%error, "vectors were not packed");
            }
        }
    }
}

/// Changes of one scope.
#[derive(Default)]
struct Edit<'a> {
    pushed: Vec<Row<'a>>,
    removed: Vec<i64>,
}

/// Carries out the changes in order; gives what became of each.
fn write(
    connection: &mut SqliteConnection,
    space: i64,
    changes: Arc<Vec<Change>>,
) -> BoxFuture<'_, Result<Vec<Outcome>>> {
    Box::pin(async move {
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes.iter() {
            let mut outcome = Outcome { ids: Vec::new(), gone: Vec::new() };
            match change {
                Change::Upsert(points) => {
                    let points: Vec<_> = points.iter().map(|(point, _)| point).collect();
                    (outcome.ids, outcome.gone) = table::insert(connection, space, &points).await?;
                }
                Change::Delete(keys) => {
                    for key in keys {
                        outcome.gone.extend(table::delete(connection, key).await?);
                    }
                }
                Change::DeleteLabelled(owner, kind, label) => {
                    outcome.gone = table::delete_labelled(connection, owner, *kind, label).await?;
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}
