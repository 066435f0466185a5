//! What callers changed by hand, and when: deletions and stored corrections. An answer whose request came before such a
//! change may not be remembered after it, however late its provider answered.

use moka::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use crate::types::{Entry, EntryKey, Error, Owner, Result, Tag};

/// How long a change is known; longer than any request and its write can take.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// Changes known at once.
const KNOWN: u64 = 1 << 20;

/// Keys share so many locks for their writes.
const LANES: usize = 64;

/// Longest wait for the writes before one's own.
const LANE_LIMIT: Duration = Duration::from_secs(10);

/// The changes of the last hour, and the order of writes to each key.
pub struct Changes {
    clock: AtomicU64,
    known: Cache<Changed, u64>,
    lanes: Vec<Mutex<()>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Changed {
    /// By its owner: a stranger who knows a key changes nothing.
    Key(Owner, EntryKey),
    Tag(Owner, Tag),
}

impl Changes {
    pub fn new() -> Self {
        Self {
            clock: AtomicU64::new(1),
            known: Cache::builder().max_capacity(KNOWN).time_to_live(KNOWN_FOR).build(),
            lanes: (0..LANES).map(|_| Mutex::default()).collect(),
        }
    }

    /// The moment a request comes, to be given back with its answer.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Notes a change. To be called before the stores are changed.
    pub fn note(&self, changed: Changed) {
        self.known.insert(changed, self.clock.fetch_add(1, Ordering::AcqRel) + 1);
    }

    /// Whether a change since `as_of` concerns an entry.
    pub fn outdates(&self, entry: &Entry, as_of: u64) -> bool {
        self.last(&entry.key, &entry.owner, &entry.tags) > as_of
    }

    /// When a change last concerned an entry of that key and those tags; 0 for never.
    pub fn last(&self, key: &EntryKey, owner: &Owner, tags: &[Tag]) -> u64 {
        let of_tags = tags.iter().filter_map(|tag| self.known.get(&Changed::Tag(owner.clone(), tag.clone())));
        of_tags.chain(self.known.get(&Changed::Key(owner.clone(), *key))).max().unwrap_or(0)
    }

    /// The right to write that key, until it is dropped. Errors: `Unavailable` when others hold it for too long.
    pub async fn lane(&self, key: &EntryKey) -> Result<MutexGuard<'_, ()>> {
        let lane = &self.lanes[Self::lane_of(key)];
        timeout(LANE_LIMIT, lane.lock()).await.map_err(|_| busy())
    }

    /// Keys with the same number share a lane.
    pub fn lane_of(key: &EntryKey) -> usize {
        usize::from(key.as_bytes()[0]) % LANES
    }

    /// The right to write any key.
    pub async fn all_lanes(&self) -> Result<Vec<MutexGuard<'_, ()>>> {
        let all = async {
            let mut held = Vec::with_capacity(LANES);
            for lane in &self.lanes {
                held.push(lane.lock().await);
            }
            held
        };
        timeout(LANE_LIMIT, all).await.map_err(|_| busy())
    }
}

fn busy() -> Error {
    Error::unavailable("the stores are too slow to change anything now").with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Namespace, TenantId};

    #[test]
    fn only_a_later_change_of_the_same_thing_outdates() {
        let changes = Changes::new();
        let owner = |t: &str| Owner { tenant: TenantId::new(t).unwrap(), namespace: Namespace::new("n").unwrap() };
        let (key, tag) = (EntryKey::from_bytes([1; 32]), Tag::new("doc").unwrap());
        let before = changes.now();
        changes.note(Changed::Tag(owner("t"), tag.clone()));
        let since = |owner: &Owner, tags: &[Tag]| changes.last(&key, owner, tags) > before;
        assert!(since(&owner("t"), std::slice::from_ref(&tag)));
        assert!(!since(&owner("other"), std::slice::from_ref(&tag)));
        assert!(!since(&owner("t"), &[]));
        let after = changes.now();
        assert!(changes.last(&key, &owner("t"), &[tag]) <= after, "a request that comes later is not concerned");
        changes.note(Changed::Key(owner("other"), key));
        assert!(changes.last(&key, &owner("t"), &[]) <= after);
        changes.note(Changed::Key(owner("t"), key));
        assert!(changes.last(&key, &owner("t"), &[]) > after);
    }
}
