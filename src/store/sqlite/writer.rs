//! The group commit: one task, one connection, one transaction for everything that is waiting.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::types::{Error, Result};

/// Most works in one commit, so that the first does not wait for ever.
const GROUP: usize = 256;

/// One work with its caller, its result type hidden.
#[async_trait]
pub(super) trait Job: Send {
    /// Whether the caller is gone.
    fn is_cancelled(&self) -> bool;
    /// Does the work; true when it is to be kept.
    async fn run(&mut self, connection: &mut SqliteConnection) -> bool;
    /// Tells the caller, once the commit is done or has failed.
    fn finish(self: Box<Self>, committed: Result<()>);
}

pub(super) fn job<T, F>(work: F, reply: oneshot::Sender<Result<T>>) -> Box<dyn Job>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    Box::new(Write { work: Some(work), outcome: None, reply })
}

/// Runs until the queue is closed and empty, then folds the log into the file.
pub(super) async fn run(
    mut connection: SqliteConnection,
    options: SqliteConnectOptions,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while let Some(first) = queue.recv().await {
        let started = Instant::now();
        let committed = commit(&mut connection, first, &mut queue, &mut group).await;
        metrics::histogram!("reprise_sqlite_commit_seconds").record(started.elapsed().as_secs_f64());
        metrics::counter!("reprise_sqlite_commits_total").increment(1);
        metrics::counter!("reprise_sqlite_writes_total").increment(group.len() as u64);
        let failed = committed.is_err();
        for job in group.drain(..) {
            job.finish(committed.clone());
        }
        if failed {
            connection = recover(connection, &options).await;
        }
    }
    if let Err(error) = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await {
        tracing::warn!(%error, "the SQLite log was not folded into its file; the next start does it");
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the SQLite file was not closed cleanly");
    }
}

/// Works go into `group` as they are done; what becomes of all of them is the result.
///
/// One savepoint stands for one work. A failure in handling a savepoint means that SQLite has rolled back the whole
/// transaction by itself (disk full, I/O error): then nothing of the group is kept.
async fn commit(
    connection: &mut SqliteConnection,
    first: Box<dyn Job>,
    queue: &mut mpsc::Receiver<Box<dyn Job>>,
    group: &mut Vec<Box<dyn Job>>,
) -> Result<()> {
    let mut next = Some(first);
    let mut before = "BEGIN IMMEDIATE; SAVEPOINT work";
    while let Some(mut job) = next.take() {
        if !job.is_cancelled() {
            let ready = sqlx::raw_sql(before).execute(&mut *connection).await;
            let kept = ready.is_ok() && job.run(connection).await;
            group.push(job);
            ready?;
            before = if kept { "RELEASE work; SAVEPOINT work" } else { "ROLLBACK TO work" };
        }
        if group.len() < GROUP {
            next = queue.try_recv().ok();
        }
    }
    if group.is_empty() {
        return Ok(());
    }
    // The last work's savepoint is still open: a COMMIT would keep what a failed work did.
    let end = if before.starts_with("ROLLBACK") { "ROLLBACK TO work; COMMIT" } else { "COMMIT" };
    sqlx::raw_sql(end).execute(&mut *connection).await?;
    Ok(())
}

/// After a failed commit: ends the transaction, if there still is one, and makes sure the connection works.
async fn recover(mut connection: SqliteConnection, options: &SqliteConnectOptions) -> SqliteConnection {
    // Without a transaction this fails, and that is as good.
    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut connection).await;
    if connection.ping().await.is_ok() {
        return connection;
    }
    match options.connect().await {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::error!(%error, "the SQLite writer could not reconnect");
            connection
        }
    }
}

struct Write<T, F> {
    work: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

#[async_trait]
impl<T, F> Job for Write<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    async fn run(&mut self, connection: &mut SqliteConnection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let outcome = AssertUnwindSafe(async move { work(connection).await })
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Error::internal("a write to the local store panicked")));
        let kept = outcome.is_ok();
        self.outcome = Some(outcome);
        kept
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let outcome = match (self.outcome, committed) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(error)) => Err(error.context("commit")),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::internal("a write to the local store was not run")),
        };
        // A caller that is gone does not want to know.
        let _ = self.reply.send(outcome);
    }
}
