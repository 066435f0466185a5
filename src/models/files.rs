//! Files of a model on disk: checked by size and sha256, put in place whole or not at all.

use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use super::manifest::File;
use crate::types::{Error, Result};

/// What a file on disk is, compared with the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    Good,
    Missing,
    WrongSize {
        /// Bytes it has.
        actual: u64,
    },
    WrongHash {
        /// sha256 it has, in hex.
        actual: String,
    },
}

/// Compares size and hash; an unreadable file is an error.
pub fn check(path: &Path, wanted: &File) -> Result<FileState> {
    let state = check_size(path, wanted);
    if state != FileState::Good {
        return Ok(state);
    }
    let actual = sha256_of(path)?;
    Ok(if actual == wanted.sha256 { FileState::Good } else { FileState::WrongHash { actual } })
}

/// Compares the size alone, which is what a start-up can afford.
pub fn check_size(path: &Path, wanted: &File) -> FileState {
    match fs::metadata(path) {
        Ok(data) if data.is_file() && data.len() == wanted.size => FileState::Good,
        Ok(data) if data.is_file() => FileState::WrongSize { actual: data.len() },
        _ => FileState::Missing,
    }
}

/// Copies `from` to `to` if it is the wanted file. A crash at any moment leaves either the whole file under its
/// name or nothing. `scratch`: a folder on the same file system as `to`.
pub fn place(from: &Path, to: &Path, wanted: &File, scratch: &Path) -> Result<()> {
    let half = scratch.join(format!("{}.half", wanted.sha256));
    let mut output = fs::File::create(&half).map_err(|e| failed("create", &half, e))?;
    let actual = copy_hashed(from, &mut output).map_err(|e| failed("copy", from, e))?;
    output.sync_all().map_err(|e| failed("write", &half, e))?;
    if actual != (wanted.size, wanted.sha256.clone()) {
        let _ = fs::remove_file(&half); // the scratch folder goes in any case
        let message = format!("{} is another file: {} bytes, sha256 {}", wanted.name, actual.0, actual.1);
        return Err(Error::unavailable(format!("{message}; expected {} bytes, {}", wanted.size, wanted.sha256)));
    }
    let parent = to.parent().unwrap_or(scratch);
    fs::create_dir_all(parent).map_err(|e| failed("create", parent, e))?;
    fs::rename(&half, to).map_err(|e| failed("write", to, e))?;
    // The rename itself must survive a power cut; where folders cannot be opened, it is atomic all the same.
    if let Ok(folder) = fs::File::open(parent) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// sha256 in lower-case hex.
pub fn sha256_of(path: &Path) -> Result<String> {
    let (_, hash) = copy_hashed(path, &mut std::io::sink()).map_err(|e| failed("read", path, e))?;
    Ok(hash)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot {what} {}", path.display())).with_source(error)
}

/// Gives size and sha256 of what was copied.
fn copy_hashed(from: &Path, output: &mut impl Write) -> std::io::Result<(u64, String)> {
    let mut input = fs::File::open(from)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = input.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        output.write_all(&buffer[..read])?;
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
    Ok((size, hex(&hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sha256 of "abc", from FIPS 180-4.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn abc() -> File {
        File { name: "abc".into(), size: 3, sha256: ABC.into() }
    }

    #[test]
    fn a_file_is_told_apart_by_presence_size_and_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        assert_eq!(check(&path, &abc()).unwrap(), FileState::Missing);
        fs::write(&path, "abcd").unwrap();
        assert_eq!(check(&path, &abc()).unwrap(), FileState::WrongSize { actual: 4 });
        fs::write(&path, "abd").unwrap();
        assert!(matches!(check(&path, &abc()).unwrap(), FileState::WrongHash { .. }));
        assert_eq!(check_size(&path, &abc()), FileState::Good);
        fs::write(&path, "abc").unwrap();
        assert_eq!(check(&path, &abc()).unwrap(), FileState::Good);
    }

    #[test]
    fn only_the_wanted_bytes_reach_the_final_name() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("deep/abc"));
        fs::write(&from, "abd").unwrap();
        let error = place(&from, &to, &abc(), dir.path()).unwrap_err();
        assert!(error.message.contains("another file"), "{error}");
        assert!(!to.exists());
        fs::write(&from, "abc").unwrap();
        place(&from, &to, &abc(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "abc");
        assert!(!dir.path().join(format!("{ABC}.half")).exists());
    }
}
