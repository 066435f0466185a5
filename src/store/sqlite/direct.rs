//! Reads on a thread of the blocking pool, with a connection that stays in that thread while it works. The pool of
//! `sqlx` hands each row over from a thread of its own, which costs more than reading a small row.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BUSY_WAIT, PRAGMAS, READERS, closed, kind_of};
use crate::types::{Error, ErrorKind, Result};

/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 16;

pub struct Direct {
    file: PathBuf,
    permits: Arc<Semaphore>,
    /// Open connections that nobody uses.
    idle: Mutex<Vec<Connection>>,
}

impl Direct {
    pub fn new(file: PathBuf) -> Self {
        Self { file, permits: Arc::new(Semaphore::new(READERS as usize)), idle: Mutex::default() }
    }

    /// Waits until there are fewer than [`READERS`] others. A read that was begun goes on when its caller leaves.
    pub async fn begin(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())
    }

    /// On the caller's thread: `work` sees the file as it is at one moment.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let snapshot = connection.unchecked_transaction()?;
        let value = work(&connection)?;
        drop(snapshot);
        // Asked under the lock: what is pushed after the store was closed would stay open.
        let mut idle = self.idle.lock();
        if !self.permits.is_closed() {
            idle.push(connection);
        }
        Ok(value)
    }

    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        for (name, value) in PRAGMAS {
            connection.pragma_update(None, name, value)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    /// Closes what is idle now, and the rest when its reader is done.
    pub fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let kind = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => kind_of(u32::try_from(failure.extended_code).ok()),
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                ErrorKind::Corrupt
            }
            _ => ErrorKind::Internal,
        };
        Error::new(kind, "SQLite").with_source(error)
    }
}
