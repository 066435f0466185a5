//! The Hugging Face hub as a source, through `hf-hub`, which has no timeouts of its own.

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::net::{Net, Watch};
use super::progress::Progress;
use crate::types::{Error, Result};

/// A repository at a revision; call [`Net::probe_hub`] before.
pub(super) struct HubRepo<'a> {
    pub repo: &'a str,
    pub revision: &'a str,
}

impl HubRepo<'_> {
    /// Downloads one file of `size` bytes below `scratch` and says where it lies. The bytes are not checked.
    pub(super) fn fetch(
        &self,
        path: &str,
        size: u64,
        scratch: &Path,
        net: &Net,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let repo = Repo::with_revision(self.repo.to_owned(), RepoType::Model, self.revision.to_owned());
        let (path, endpoint) = (path.to_owned(), net.hub.trim_end_matches('/').to_owned());
        let (cache, count) = (scratch.join("hub"), Arc::new(AtomicU64::new(0)));
        let counter = Counter(count.clone());
        let (send, receive) = mpsc::channel();
        // A thread of its own, left behind if it stands still: its calls cannot be interrupted.
        let download = move || {
            let api = ApiBuilder::from_env().with_endpoint(endpoint).with_cache_dir(cache).with_progress(false);
            let result = api.build().and_then(|api| api.repo(repo).download_with_progress(&path, counter));
            let _ = send.send(result);
        };
        thread::Builder::new().name("models-hub".into()).spawn(download).map_err(|e| {
            Error::internal("cannot start the download thread").with_source(e) //
        })?;
        progress.begin(&format!("{} from {}", self.repo, net.hub), size);
        let mut watch = Watch::new(net.answer, net.stall);
        let result = loop {
            match receive.recv_timeout(Duration::from_millis(100)) {
                Ok(result) => break result.map_err(explain),
                Err(RecvTimeoutError::Disconnected) => break Err(Error::unavailable("the client of the hub panicked")),
                Err(RecvTimeoutError::Timeout) => {
                    let bytes = count.load(Ordering::Relaxed);
                    progress.reached(bytes);
                    if let Err(error) = watch.check(bytes) {
                        break Err(error);
                    }
                }
            }
        };
        progress.end();
        result
    }
}

struct Counter(Arc<AtomicU64>);

impl hf_hub::api::Progress for Counter {
    fn init(&mut self, _size: usize, _name: &str) {}
    fn update(&mut self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    fn finish(&mut self) {}
}

/// One line, without the URLs that redirects carry signatures in.
fn explain(error: ApiError) -> Error {
    match error {
        ApiError::RequestError(error) => Error::unavailable(format!("the request failed ({error})")),
        other => Error::unavailable(other.to_string()),
    }
}
