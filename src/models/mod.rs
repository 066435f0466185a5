//! Model files: which there are, where they can be had, and that they are the right ones.
//!
//! A model is a folder `<models.dir>/<name>/` with the files that `models/manifest.toml` names. Nothing is used
//! before its size and sha256 were seen to match, and a crash never leaves half a file under its final name.

mod files;
mod hub;
mod manifest;
mod net;
mod progress;
mod pull;
#[cfg(test)]
mod pull_tests;
mod wheel;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config;
use crate::types::{Error, ErrorKind, Result};

pub use files::{FileState, hex, sha256_of};
pub use manifest::{File, Manifest, Model, Purpose, Source};
pub use progress::{Progress, Silent, Stderr};

/// Fetches what is missing of a model and gives its folder. Files that are there are checked first, so a second
/// call costs one pass over them and no network.
///
/// Errors: [`ErrorKind::NotFound`] for an unknown name, [`ErrorKind::Unavailable`] when every source failed, and
/// [`ErrorKind::FailedPrecondition`] when files are missing and `models.offline` is set; the message says what was
/// tried and what helps. When the future is dropped, the download goes on in the background.
pub async fn pull(
    name: &str,
    settings: &config::Models,
    data_dir: &Path,
    progress: Arc<dyn Progress>,
) -> Result<PathBuf> {
    let (name, settings, data_dir) = (name.to_owned(), settings.clone(), data_dir.to_owned());
    let work = move || pull_blocking(&name, &settings, &data_dir, &*progress);
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("the download stopped").with_source(e))?
}

/// The same for callers without a runtime.
pub fn pull_blocking(
    name: &str,
    settings: &config::Models,
    data_dir: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let manifest = Manifest::builtin()?;
    let model = manifest.model(name)?;
    let dir = dir(name, settings, data_dir);
    let net = net::Net::from_env();
    let local = settings.local_dir.as_deref();
    pull::Pull { dir: &dir, local, offline: settings.offline, net: &net, progress }.run(model)?;
    Ok(dir)
}

/// The folder of a model whose files are all there, by their sizes; does not read them.
///
/// Errors: [`ErrorKind::NotFound`] for an unknown name, [`ErrorKind::FailedPrecondition`] when files are missing.
pub fn locate(name: &str, settings: &config::Models, data_dir: &Path) -> Result<PathBuf> {
    let manifest = Manifest::builtin()?;
    let dir = dir(name, settings, data_dir);
    let files = &manifest.model(name)?.files;
    let missing = files.iter().find(|file| files::check_size(&dir.join(&file.name), file) != FileState::Good);
    match missing {
        None => Ok(dir),
        Some(file) => Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("model {name}: {} is not whole in {}; run `reprise models pull {name}`", file.name, dir.display()),
        )),
    }
}

/// Reads every file of a model and compares it with the manifest.
pub fn verify(name: &str, settings: &config::Models, data_dir: &Path) -> Result<Vec<(File, FileState)>> {
    let manifest = Manifest::builtin()?;
    let dir = dir(name, settings, data_dir);
    let files = &manifest.model(name)?.files;
    files.iter().map(|file| Ok((file.clone(), files::check(&dir.join(&file.name), file)?))).collect()
}

/// Every model of the manifest, and whether its files are there (by their sizes).
pub fn list(settings: &config::Models, data_dir: &Path) -> Result<Vec<Listed>> {
    let listed = |model: Model| {
        let dir = dir(&model.name, settings, data_dir);
        let present = model.files.iter().all(|file| files::check_size(&dir.join(&file.name), file) == FileState::Good);
        Listed { model, dir, present }
    };
    Ok(Manifest::builtin()?.models.into_iter().map(listed).collect())
}

#[derive(Debug, Clone)]
pub struct Listed {
    pub model: Model,
    pub dir: PathBuf,
    pub present: bool,
}

/// Where a model's files belong, there or not.
pub fn dir(name: &str, settings: &config::Models, data_dir: &Path) -> PathBuf {
    settings.dir.clone().unwrap_or_else(|| data_dir.join("models")).join(name)
}
