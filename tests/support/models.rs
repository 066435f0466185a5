//! Model files for tests, shared by all of them on a machine. Included with `#[path]`, because unit tests, the
//! integration tests and the benches each are crates of their own.
//!
//! The folder is `REPRISE_TEST_MODELS`, else `$XDG_CACHE_HOME/reprise/models`, else `~/.cache/reprise/models`. What
//! is missing there is fetched once, through the manifest.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

/// Folder of a model of the manifest, or `None`, with a printed reason, where its files cannot be had: the test
/// then has to return early.
pub fn find_or_pull(name: &str) -> Option<PathBuf> {
    // One look per model and process: a machine without network should fail once, not once per test.
    static SEEN: LazyLock<Mutex<HashMap<String, Option<PathBuf>>>> = LazyLock::new(Mutex::default);
    let mut seen = SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(found) = seen.get(name) {
        return found.clone();
    }
    let settings = reprise::config::Models { dir: Some(folder()), ..Default::default() };
    let found = reprise::models::locate(name, &settings, &folder())
        .or_else(|_| reprise::models::pull_blocking(name, &settings, &folder(), &reprise::models::Stderr::new()));
    let found = found.inspect_err(|error| eprintln!("SKIPPED, model {name} is not there: {error}")).ok();
    seen.insert(name.to_owned(), found.clone());
    found
}

fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("REPRISE_TEST_MODELS")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("reprise/models")))
        .or_else(|| Some(variable("HOME")?.join(".cache/reprise/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("reprise-models"))
}
