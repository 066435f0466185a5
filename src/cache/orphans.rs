//! Vectors whose entries are gone: an entry store that evicts tells of them, and lookups meet them. Their keys wait here,
//! out of everybody's way, until they are removed.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Cache;
use crate::types::{EntryKey, Result};

/// Keys that wait at most, 2 MiB of them; beyond it they are dropped and counted. A lookup that meets the vector of a
/// dropped one tells of it again.
const CAPACITY: usize = 1 << 16;

#[derive(Default)]
pub struct Orphans {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    keys: HashSet<EntryKey>,
    closed: bool,
}

impl Orphans {
    /// Never waits.
    pub fn add(&self, keys: &[EntryKey]) {
        let mut waiting = self.waiting.lock();
        let room = CAPACITY.saturating_sub(waiting.keys.len());
        waiting.keys.extend(keys.iter().take(room));
        metrics::counter!("reprise_orphans_dropped_total").increment(keys.len().saturating_sub(room) as u64);
        self.more.notify_one();
    }

    /// Waits until there are some, and gives up to `most` of them; `None` once it is closed and empty. For one taker.
    pub async fn take(&self, most: usize) -> Option<Vec<EntryKey>> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let taken: Vec<_> = waiting.keys.iter().take(most).copied().collect();
                for key in &taken {
                    waiting.keys.remove(key);
                }
                if !taken.is_empty() || waiting.closed {
                    return Some(taken).filter(|taken| !taken.is_empty());
                }
            }
            self.more.notified().await;
        }
    }

    /// The taker gets what is there, and then `None`.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.more.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }
}

impl Cache {
    pub fn orphans(&self) -> &Orphans {
        &self.orphans
    }

    /// Removes the vectors of those keys that have no entry (any more); gives how many there were. An entry that is put
    /// meanwhile may lose its vector, unless the caller keeps its writers away.
    pub async fn remove_orphans(&self, keys: &[EntryKey]) -> Result<u64> {
        let mut gone = Vec::with_capacity(keys.len());
        for key in keys {
            if self.body(key).await?.is_none() {
                gone.push(*key);
            }
        }
        let removed = self.vectors.delete(&gone).await?;
        metrics::counter!("reprise_orphans_removed_total").increment(removed);
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<u32>) -> Vec<EntryKey> {
        numbers.map(|n| EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
    }

    #[tokio::test]
    async fn a_key_told_twice_waits_once_and_what_is_too_much_is_dropped() {
        let orphans = Orphans::default();
        orphans.add(&keys(0..3));
        orphans.add(&keys(1..4));
        let mut taken = orphans.take(3).await.unwrap();
        taken.extend(orphans.take(3).await.unwrap());
        taken.sort_unstable();
        let mut expected = keys(0..4);
        expected.sort_unstable();
        assert_eq!(taken, expected);
        orphans.add(&keys(0..CAPACITY as u32 + 10));
        assert_eq!(orphans.take(usize::MAX).await.unwrap().len(), CAPACITY);
    }

    #[tokio::test]
    async fn the_taker_waits_for_more_and_ends_when_it_is_closed() {
        let orphans = std::sync::Arc::new(Orphans::default());
        let taker = tokio::spawn({
            let orphans = orphans.clone();
            async move { (orphans.take(9).await, orphans.take(9).await) }
        });
        tokio::task::yield_now().await;
        orphans.add(&keys(0..1));
        tokio::task::yield_now().await;
        orphans.close();
        assert_eq!(taker.await.unwrap(), (Some(keys(0..1)), None));
    }
}
