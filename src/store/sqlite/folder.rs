//! Whose data folder this is: one process at a time, and only files that we made.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::Path;

use crate::types::{Error, ErrorKind, Result};

pub(super) const DATABASE: &str = "reprise.db";
const LOCK: &str = "reprise.lock";

/// SQL that marks a database file as ours (`RPRS`).
pub(super) const MARK: &str = "PRAGMA application_id = 0x52505253";
const APPLICATION_ID: u32 = 0x5250_5253;

/// The operating system takes it back when the process ends, however it ends.
pub(super) struct Lock {
    _file: File,
}

#[derive(Debug, PartialEq)]
pub(super) enum State {
    New,
    Ours,
}

/// Creates the folder when it is missing, and takes it for this process.
pub(super) fn lock(data_dir: &Path) -> Result<Lock> {
    let denied = |e: std::io::Error| {
        precondition(format!("the data folder {} cannot be written", data_dir.display())).with_source(e)
    };
    std::fs::create_dir_all(data_dir).map_err(denied)?;
    let path = data_dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(denied)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => {
            let text = format!("the data folder {} is in use by another process", data_dir.display());
            Err(precondition(text))
        }
        Err(TryLockError::Error(e)) => Err(denied(e)),
    }
}

/// Reads the header, without SQLite: it would change a file that is not ours.
pub(super) fn check(path: &Path) -> Result<State> {
    let unreadable = |e| precondition(format!("{} cannot be read", path.display())).with_source(e);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(State::New),
        Err(e) => return Err(unreadable(e)),
    };
    let mut header = Vec::with_capacity(100);
    file.by_ref().take(100).read_to_end(&mut header).map_err(unreadable)?;
    if header.is_empty() {
        return Ok(State::New);
    }
    // Offsets: sqlite.org/fileformat.html, section 1.3.
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} is not a database file", path.display())));
    }
    if header[68..72] != APPLICATION_ID.to_be_bytes() {
        return Err(precondition(format!("{} is a database of another program", path.display())));
    }
    Ok(State::Ours)
}

fn precondition(text: String) -> Error {
    Error::new(ErrorKind::FailedPrecondition, text)
}
