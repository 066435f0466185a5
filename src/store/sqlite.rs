//! The one SQLite file everything embedded lives in: entries, vectors, ledger.
//!
//! Reads go through a small pool, or, where many small rows are read at once, through [`Sqlite::read`]. Writes are queued to one task with one connection, which commits everything that
//! is waiting in one transaction (group commit). The file is in WAL mode with `synchronous = NORMAL`: what was
//! committed survives `kill -9` of the process; a power cut may take the last commits, but never the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::types::{Error, ErrorKind, Result};

mod direct;
mod folder;
mod writer;

use direct::Direct;
use writer::Job;

/// Connections for reads; each has a thread of its own.
const READERS: u32 = 4;
/// Writes waiting for the writer; beyond it callers wait, and are refused after [`QUEUE_WAIT`].
const QUEUE: usize = 4096;
/// Shorter than callers wait, so that they learn why.
const QUEUE_WAIT: Duration = Duration::from_secs(1);
/// Longest a read waits for a connection of the pool.
const ACQUIRE_WAIT: Duration = Duration::from_secs(5);
/// Another connection may hold the file's lock for a moment (a checkpoint, a backup by hand).
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Of every connection. A cache in KiB when negative; the operating system caches the file as well.
const PRAGMAS: [(&str, &str); 3] = [("cache_size", "-16384"), ("mmap_size", "1073741824"), ("temp_store", "MEMORY")];

/// An open data folder. Dropping it without [`Sqlite::close`] loses nothing that was acknowledged.
pub struct Sqlite {
    reader: SqlitePool,
    direct: Arc<Direct>,
    writes: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<folder::Lock>>,
}

impl Sqlite {
    /// Opens `reprise.db` in `data_dir`; creates both when they are missing.
    ///
    /// Errors: `FailedPrecondition` when the folder cannot be written, another process uses it, or the file was
    /// made by something else; `Corrupt` when the file is damaged.
    pub async fn open(data_dir: &Path) -> Result<Arc<Self>> {
        let lock = folder::lock(data_dir)?;
        let file = data_dir.join(folder::DATABASE);
        if folder::check(&file)? == folder::State::New {
            mark_as_ours(&file).await.map_err(|e| opening(&file, e))?;
        }
        let options = options(&file);
        let connection = options.connect().await.map_err(|e| opening(&file, e.into()))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_WAIT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.clone().pragma("query_only", "ON"))
            .await
            .map_err(|e| opening(&file, e.into()))?;
        let (writes, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(writer::run(connection, options, queue));
        let sqlite = Self {
            reader,
            direct: Arc::new(Direct::new(file.clone())),
            writes: Mutex::new(Some(writes)),
            writer: tokio::sync::Mutex::new(Some(writer)),
            lock: Mutex::new(Some(lock)),
        };
        sqlite
            .write(|conn| {
                Box::pin(async move {
                    let sql = "CREATE TABLE IF NOT EXISTS components (name TEXT PRIMARY KEY, version INTEGER NOT NULL)";
                    sqlx::query(sql).execute(conn).await?;
                    Ok(())
                })
            })
            .await
            .map_err(|e| opening(&file, e))?;
        Ok(Arc::new(sqlite))
    }

    /// For reads only; a write through it fails.
    pub fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Runs `work` on a thread for blocking work, where it reads without a change of thread for each row; it sees the file
    /// as it is at one moment. A caller that leaves does not end it.
    ///
    /// Errors: what `work` gives; `Unavailable` when closed.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
    {
        let direct = Arc::clone(&self.direct);
        let permit = direct.begin().await?;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            direct.read(work)
        });
        read.await.map_err(|e| Error::internal("a read of the local store ended abnormally").with_source(e))?
    }

    /// Runs `work` in the next group commit and returns after the commit.
    ///
    /// Each work is a unit: when it fails (or panics), what it did is undone and its neighbours in the same commit
    /// are kept. It must not begin or end transactions itself, nor wait for anything but its connection: all writers
    /// wait for it. A caller that is gone before its work began gets nothing written; after that the work
    /// is carried out whether its caller waits or not.
    ///
    /// Errors: what `work` gives; `Overloaded` when the queue stays full; `Unavailable` when closed.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let queue = self.writes.lock().clone().ok_or_else(closed)?;
        let (reply, outcome) = oneshot::channel();
        let job = writer::job(work, reply);
        match queue.send_timeout(job, QUEUE_WAIT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let error = Error::new(ErrorKind::Overloaded, "the local store has too many writes waiting");
                return Err(error.with_retry_after(Duration::from_secs(1)));
            }
        }
        drop(queue);
        outcome.await.map_err(|_| closed())?
    }

    /// Brings the tables of one component up to date: `steps[n]` is the SQL that takes its schema from version `n` to
    /// `n + 1`, so the first one creates the tables, and released steps never change. Gives the version it had before.
    ///
    /// Errors: `FailedPrecondition` when the file was written by a newer version.
    pub async fn migrate(&self, component: &'static str, steps: &'static [&'static str]) -> Result<usize> {
        self.write(move |conn| {
            Box::pin(async move {
                let row = sqlx::query("SELECT version FROM components WHERE name = $1")
                    .bind(component)
                    .fetch_optional(&mut *conn)
                    .await?;
                let found = match row {
                    Some(row) => usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX),
                    None => 0,
                };
                let Some(missing) = steps.get(found..) else {
                    let text = format!(
                        "the data folder holds {component} of version {found}, and this program knows up to version {}; \
                         use the newer program, or another data folder",
                        steps.len()
                    );
                    return Err(Error::new(ErrorKind::FailedPrecondition, text));
                };
                for step in missing {
                    sqlx::raw_sql(*step).execute(&mut *conn).await?;
                }
                if !missing.is_empty() {
                    let sql = "INSERT INTO components VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET version = $2";
                    let version = i64::try_from(steps.len()).unwrap_or(i64::MAX);
                    sqlx::query(sql).bind(component).bind(version).execute(&mut *conn).await?;
                }
                Ok(found)
            })
        })
        .await
    }

    /// Commits what is queued, folds the log into the file, closes it and gives the folder free. Later calls fail
    /// with `Unavailable`; closing again does nothing.
    pub async fn close(&self) {
        drop(self.writes.lock().take());
        self.direct.close();
        self.reader.close().await;
        if let Some(writer) = self.writer.lock().await.take()
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the SQLite writer ended abnormally");
        }
        drop(self.lock.lock().take());
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let kind = match &error {
            sqlx::Error::Database(database) => kind_of(database.code().and_then(|code| code.parse().ok())),
            sqlx::Error::PoolTimedOut => ErrorKind::Overloaded,
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => ErrorKind::Unavailable,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => ErrorKind::Corrupt,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, "SQLite").with_source(error)
    }
}

/// Of an extended result code, as SQLite numbers them; the low byte is the primary code (sqlite.org/rescode.html).
fn kind_of(code: Option<u32>) -> ErrorKind {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READONLY: u32 = 8;
    const IOERR: u32 = 10;
    const CORRUPT: u32 = 11;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    const NOTADB: u32 = 26;
    match code.map(|code| code & 0xff) {
        Some(CORRUPT | NOTADB) => ErrorKind::Corrupt,
        Some(BUSY | LOCKED | IOERR | CANTOPEN) => ErrorKind::Unavailable,
        // Concerns writes alone, and undoes them: what is there can be read.
        Some(READONLY | FULL) => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Internal,
    }
}

fn options(file: &Path) -> SqliteConnectOptions {
    let options =
        PRAGMAS.iter().fold(SqliteConnectOptions::new(), |options, &(name, value)| options.pragma(name, value));
    options
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_WAIT)
        // Without it the log keeps the size of its largest moment.
        .pragma("journal_size_limit", "67108864")
        .thread_name(|n| format!("sqlite-{n}"))
        .disable_statement_logging()
}

/// Writes our mark into a new file before WAL mode is on, so that it stands in the file's first bytes.
async fn mark_as_ours(file: &Path) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).disable_statement_logging();
    let mut connection = options.connect().await?;
    sqlx::raw_sql(folder::MARK).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

fn opening(file: &Path, error: Error) -> Error {
    error.context(format!("cannot open {}", PathBuf::from(file).display()))
}

fn closed() -> Error {
    Error::unavailable("the local store is closed")
}

#[cfg(test)]
mod tests;
