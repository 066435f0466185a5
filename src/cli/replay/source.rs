//! The file a replay reads twice.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::rows::Rows;
use crate::cli::failure::Failure;

/// A file that can be read again from its start. Standard input is kept in a temporary file meanwhile.
pub(super) struct Source {
    path: PathBuf,
    /// Bytes in it.
    pub size: u64,
    temporary: bool,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::failed(format!("cannot read {}: {e}", path.display()));
        if path != Path::new("-") {
            let size = File::open(path).and_then(|file| file.metadata()).map_err(failed)?;
            if size.is_dir() {
                return Err(Failure::failed(format!("{} is a folder", path.display())));
            }
            return Ok(Self { path: path.to_owned(), size: size.len(), temporary: false });
        }
        let path = std::env::temp_dir().join(format!("reprise-replay-{}.jsonl", uuid::Uuid::now_v7()));
        let mut source = Self { path, size: 0, temporary: true };
        let mut file = private(&source.path).map_err(failed)?;
        source.size = io::copy(&mut io::stdin().lock(), &mut file).map_err(failed)?;
        Ok(source)
    }

    pub(super) fn rows(&self) -> Result<Rows<BufReader<File>>, Failure> {
        let file = File::open(&self.path);
        let file = file.map_err(|e| Failure::failed(format!("cannot read {}: {e}", self.path.display())))?;
        Ok(Rows::new(BufReader::with_capacity(1 << 16, file)))
    }
}

/// A new file that nobody else may read: it holds prompts.
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.temporary {
            // Left behind at worst, in the folder for such files.
            let _ = fs::remove_file(&self.path);
        }
    }
}
