//! What every evidence store must do. Each backend runs all of it, on a store that holds nothing yet.

use std::time::Duration;

use super::{BLOCKED, Evidence, EvidenceStore, LABELS, Label, LabelSource};
use crate::types::{EntryKey, Namespace, Owner, PairId, TenantId, UnixMillis};

pub fn owner(namespace: &str) -> Owner {
    Owner { tenant: TenantId::new("t").unwrap(), namespace: Namespace::new(namespace).unwrap() }
}

fn label(n: u64, right: bool) -> Label {
    Label {
        entry: EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()),
        pair: PairId::new("cached", &n.to_string()),
        risk: 1.0 / (n as f64 + 3.0),
        judge: "verifier@12".into(),
        right,
        source: LabelSource::Audit,
        at: UnixMillis(1_700_000_000_000 + n),
    }
}

/// Runs the whole suite; gives what the owner `kept` is left with.
pub async fn run(store: &dyn EvidenceStore) -> Evidence {
    nothing_is_known_at_first(store).await;
    labels_come_back_newest_first_and_once(store).await;
    owners_are_apart(store).await;
    the_newest_labels_are_kept(store).await;
    blocks_end(store).await;
    let kept = owner("kept");
    store.add(&kept, &label(1, true)).await.unwrap();
    store.add(&kept, &Label { source: LabelSource::Report, ..label(1, false) }).await.unwrap();
    store.block(&kept, label(1, false).pair, later()).await.unwrap();
    let found = store.read(&kept).await.unwrap();
    assert_eq!((found.labels.len(), found.blocked.len()), (2, 1), "one of each source");
    found
}

fn later() -> UnixMillis {
    UnixMillis::now().after(Duration::from_secs(3600))
}

async fn nothing_is_known_at_first(store: &dyn EvidenceStore) {
    assert_eq!(store.read(&owner("none")).await.unwrap(), Evidence::default());
}

async fn labels_come_back_newest_first_and_once(store: &dyn EvidenceStore) {
    let own = owner("order");
    for (n, right) in [(1, true), (2, false), (3, true)] {
        assert!(store.add(&own, &label(n, right)).await.unwrap());
    }
    // The first word on a hit stands, so that a repeated report does not count twice.
    assert!(!store.add(&own, &label(2, true)).await.unwrap());
    let found = store.read(&own).await.unwrap().labels;
    assert_eq!(found, [label(3, true), label(2, false), label(1, true)]);
}

async fn owners_are_apart(store: &dyn EvidenceStore) {
    let (one, other) = (owner("one"), owner("other"));
    store.add(&one, &label(1, true)).await.unwrap();
    store.block(&one, label(1, true).pair, later()).await.unwrap();
    assert_eq!(store.read(&other).await.unwrap(), Evidence::default());
    assert!(store.add(&other, &label(1, true)).await.unwrap(), "known for another owner only");
}

async fn the_newest_labels_are_kept(store: &dyn EvidenceStore) {
    let own = owner("many");
    for n in 0..LABELS as u64 + 20 {
        store.add(&own, &label(n, true)).await.unwrap();
    }
    let found = store.read(&own).await.unwrap().labels;
    assert_eq!(found.len(), LABELS);
    assert_eq!((found[0].clone(), found[LABELS - 1].clone()), (label(LABELS as u64 + 19, true), label(20, true)));
}

async fn blocks_end(store: &dyn EvidenceStore) {
    let own = owner("blocks");
    let pair = |n: usize| PairId::new("a", &n.to_string());
    store.block(&own, pair(0), later()).await.unwrap();
    store.block(&own, pair(1), UnixMillis(1)).await.unwrap();
    assert_eq!(store.read(&own).await.unwrap().blocked, [pair(0)].into());
    // Blocked again, it is blocked at least as long as it was.
    store.block(&own, pair(0), UnixMillis(1)).await.unwrap();
    assert_eq!(store.read(&own).await.unwrap().blocked, [pair(0)].into());
    const { assert!(BLOCKED > 100) };
}
