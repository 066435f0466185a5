//! Removes vectors whose entries are gone, behind everybody's back. It takes part in the order of writes: no entry is
//! put between the look at the entry store and the removal of the vector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::changes::Changes;
use crate::cache::Cache;
use crate::types::{EntryKey, Result};

/// Keys looked at in one round. Their lanes are taken one after the other, so that writers wait for a few of them only.
const BATCH: usize = 1024;
/// How long it rests when a store did not answer.
const REST: Duration = Duration::from_secs(1);
/// What is not removed by then, when the service ends, is left to the lookups after its next start.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The task that removes them; it ends with this.
pub struct Removal {
    cache: Cache,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Removal {
    pub fn start(cache: Cache, changes: Arc<Changes>) -> Self {
        let task = tokio::spawn(run(cache.clone(), changes));
        Self { cache, task: Mutex::new(Some(task)) }
    }

    /// Removes what waits, within reason.
    pub async fn close(&self) {
        self.cache.orphans().close();
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && tokio::time::timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

async fn run(cache: Cache, changes: Arc<Changes>) {
    while let Some(keys) = cache.orphans().take(BATCH).await {
        let mut lanes: BTreeMap<usize, Vec<EntryKey>> = BTreeMap::new();
        for key in keys {
            lanes.entry(Changes::lane_of(&key)).or_default().push(key);
        }
        let mut left = Vec::new();
        for keys in lanes.into_values() {
            if let Err(error) = remove(&cache, &changes, &keys).await {
                tracing::debug!(%error, "vectors without entries could not be removed");
                left.extend(keys);
            }
        }
        if !left.is_empty() && !cache.orphans().is_closed() {
            cache.orphans().add(&left);
            tokio::time::sleep(REST).await;
        }
    }
}

/// Keys of one lane.
async fn remove(cache: &Cache, changes: &Changes, keys: &[EntryKey]) -> Result<u64> {
    let Some(first) = keys.first() else { return Ok(0) };
    let _lane = changes.lane(first).await?;
    cache.remove_orphans(keys).await
}
