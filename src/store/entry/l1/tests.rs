use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

use super::super::contract::{entry, get, key, owner, put, tag, tagged};
use super::super::guarded::GuardedEntries;
use super::*;
use crate::types::ErrorKind;

/// A map whose reads and writes can be held up, and made to fail after they took effect.
#[derive(Default)]
struct Backend {
    entries: Mutex<HashMap<EntryKey, Arc<Entry>>>,
    reads: AtomicUsize,
    touches: AtomicUsize,
    hold: Mutex<Option<Arc<Semaphore>>>,
    fail_with: Mutex<Option<ErrorKind>>,
}

impl Backend {
    async fn wait(&self) -> Result<()> {
        let hold = self.hold.lock().clone();
        if let Some(hold) = hold {
            hold.acquire().await.unwrap().forget();
        }
        match *self.fail_with.lock() {
            Some(kind) => Err(Error::new(kind, "made to fail")),
            None => Ok(()),
        }
    }

    /// From now on calls take effect and then wait for a permit.
    fn hold(&self) -> Arc<Semaphore> {
        let hold = Arc::new(Semaphore::new(0));
        *self.hold.lock() = Some(hold.clone());
        hold
    }
}

#[async_trait]
impl EntryStore for Backend {
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let found = self.entries.lock().get(key).cloned();
        self.wait().await?;
        Ok(found)
    }

    async fn put(&self, entry: Arc<Entry>) -> Result<()> {
        self.entries.lock().insert(entry.key, entry);
        self.wait().await
    }

    async fn delete(&self, _: &Owner, key: &EntryKey) -> Result<bool> {
        let found = self.entries.lock().remove(key).is_some();
        self.wait().await?;
        Ok(found)
    }

    async fn delete_by_tag(&self, _: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        let mut gone = Vec::new();
        self.entries.lock().retain(|key, entry| {
            let hit = entry.tags.contains(tag);
            gone.extend(hit.then_some(*key));
            !hit
        });
        self.wait().await?;
        Ok(gone)
    }

    fn touch(&self, _: &EntryKey) {
        self.touches.fetch_add(1, Ordering::Relaxed);
    }

    async fn stats(&self) -> Result<EntryStats> {
        Ok(EntryStats::default())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn layered() -> (Arc<Backend>, Arc<L1Entries>) {
    let backend = Arc::new(Backend::default());
    (backend.clone(), L1Entries::new(backend, 1 << 20))
}

fn text(entry: Option<Entry>) -> Option<String> {
    entry.and_then(|e| e.answer.choices[0].message.content.clone())
}

async fn spin() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hit_asks_nobody_and_a_miss_is_kept() {
    let (backend, store) = layered();
    put(&*store, &entry(1, "x")).await;
    put(&*backend, &entry(2, "y")).await;
    for _ in 0..5 {
        assert_eq!(text(get(&*store, 1).await).as_deref(), Some("x"));
        assert_eq!(text(get(&*store, 2).await).as_deref(), Some("y"));
    }
    assert_eq!(backend.reads.load(Ordering::Relaxed), 1);
    assert_eq!(backend.touches.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_reader_overtaken_by_a_put_does_not_keep_the_old_entry() {
    let (backend, store) = layered();
    put(&*backend, &entry(1, "old")).await;
    let hold = backend.hold();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { get(&*store, 1).await }
    });
    spin().await;
    *backend.hold.lock() = None;
    put(&*store, &entry(1, "new")).await;
    hold.add_permits(1);
    assert_eq!(text(reader.await.unwrap()).as_deref(), Some("old"));
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("new"));
}

#[tokio::test]
async fn a_reader_overtaken_by_a_deletion_does_not_bring_the_entry_back() {
    for by_tag in [false, true] {
        let (backend, store) = layered();
        put(&*backend, &tagged(1, &["a"])).await;
        let hold = backend.hold();
        let reader = tokio::spawn({
            let store = store.clone();
            async move { get(&*store, 1).await }
        });
        spin().await;
        *backend.hold.lock() = None;
        if by_tag {
            assert_eq!(store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap(), [key(1)]);
        } else {
            assert!(store.delete(&owner("t", "n"), &key(1)).await.unwrap());
        }
        hold.add_permits(1);
        assert!(reader.await.unwrap().is_some());
        assert_eq!(get(&*store, 1).await, None, "by tag: {by_tag}");
    }
}

#[tokio::test]
async fn of_two_writers_at_once_the_one_the_store_took_last_is_served() {
    let (backend, store) = layered();
    let hold = backend.hold();
    let writers: Vec<_> = ["first", "second"]
        .map(|text| {
            let store = store.clone();
            tokio::spawn(async move { put(&*store, &entry(1, text)).await })
        })
        .into();
    spin().await;
    let last = text(backend.entries.lock().get(&key(1)).map(|e| (**e).clone()));
    *backend.hold.lock() = None;
    hold.add_permits(2);
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(text(get(&*store, 1).await), last);
    assert_eq!(text(get(&*store, 1).await), last);
}

#[tokio::test]
async fn a_put_whose_caller_hung_up_is_seen_all_the_same() {
    let (backend, store) = layered();
    put(&*store, &entry(1, "old")).await;
    let hold = backend.hold();
    let caller = tokio::spawn({
        let store = store.clone();
        async move { put(&*store, &entry(1, "new")).await }
    });
    spin().await;
    caller.abort();
    *backend.hold.lock() = None;
    hold.add_permits(1);
    spin().await;
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("new"));
}

#[tokio::test]
async fn after_a_write_of_unknown_outcome_the_store_behind_is_asked() {
    let (backend, store) = layered();
    put(&*store, &entry(1, "old")).await;
    put(&*store, &tagged(2, &["a"])).await;
    *backend.fail_with.lock() = Some(ErrorKind::DeadlineExceeded);
    store.put(Arc::new(entry(1, "new"))).await.unwrap_err();
    store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap_err();
    *backend.fail_with.lock() = None;
    // Both took effect.
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("new"));
    assert_eq!(get(&*store, 2).await, None);
    // And for a while nothing is kept: another one may take effect late.
    put(&*backend, &entry(1, "late")).await;
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("late"));
}

#[tokio::test]
async fn a_write_the_store_refused_does_no_harm() {
    for kind in [ErrorKind::FailedPrecondition, ErrorKind::Overloaded] {
        let (backend, store) = layered();
        put(&*store, &entry(2, "kept")).await;
        *backend.fail_with.lock() = Some(kind);
        store.put(Arc::new(entry(1, "x"))).await.unwrap_err();
        *backend.fail_with.lock() = None;
        get(&*store, 1).await;
        get(&*store, 1).await;
        get(&*store, 2).await;
        assert_eq!(backend.reads.load(Ordering::Relaxed), 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn writes_while_the_store_is_known_to_be_down_do_no_harm() {
    let backend = Arc::new(Backend::default());
    let guarded = GuardedEntries::new(backend.clone(), "entry store", Duration::from_secs(1));
    let store = L1Entries::new(guarded.clone(), 1 << 20);
    put(&*backend, &entry(1, "kept")).await;
    get(&*store, 1).await;
    *backend.fail_with.lock() = Some(ErrorKind::Unavailable);
    for n in 10..15 {
        guarded.get(&key(n)).await.unwrap_err();
    }
    assert!(!guarded.is_up());
    store.put(Arc::new(entry(2, "x"))).await.unwrap_err();
    store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap_err();
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("kept"), "what was kept is still served");
    *backend.fail_with.lock() = None;
    while !guarded.is_up() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    put(&*store, &entry(3, "y")).await;
    let reads = backend.reads.load(Ordering::Relaxed);
    assert_eq!(text(get(&*store, 3).await).as_deref(), Some("y"));
    assert_eq!(backend.reads.load(Ordering::Relaxed), reads, "and what is written is kept at once");
}

#[tokio::test]
async fn memory_is_bounded_by_bytes() {
    let (backend, store) = layered();
    for n in 0..2000 {
        put(&*store, &entry(n, &"x".repeat(2000))).await;
    }
    backend.entries.lock().clear();
    let mut held = 0;
    for n in 0..2000 {
        held += usize::from(get(&*store, n).await.is_some());
    }
    assert!(held > 100 && held * 2000 <= 1 << 20, "{held} entries of 2,000 bytes in 1 MiB");
}

#[tokio::test]
async fn reported_coherence_serves_only_while_changes_are_reported() {
    let backend = Arc::new(Backend::default());
    let hot = Hot::new(1 << 20, Coherence::Reported);
    let store = L1Entries::with(backend.clone(), hot.clone());
    put(&*store, &entry(1, "one")).await;
    let reads = |n: usize| {
        let (backend, store) = (backend.clone(), store.clone());
        async move {
            backend.reads.store(0, Ordering::Relaxed);
            for _ in 0..3 {
                assert!(get(&*store, 1).await.is_some());
            }
            assert_eq!(backend.reads.load(Ordering::Relaxed), n);
        }
    };
    reads(3).await;
    hot.open();
    reads(1).await;
    reads(0).await;
    put(&*backend, &entry(1, "two")).await;
    hot.invalidate(&key(1));
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("two"));
    hot.invalidate_all();
    reads(1).await;
    hot.close();
    reads(3).await;
    hot.open();
    reads(1).await;
}

#[tokio::test]
async fn a_reader_overtaken_by_a_lost_connection_keeps_nothing() {
    let backend = Arc::new(Backend::default());
    let hot = Hot::new(1 << 20, Coherence::Reported);
    hot.open();
    let store = L1Entries::with(backend.clone(), hot.clone());
    put(&*backend, &entry(1, "old")).await;
    let hold = backend.hold();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { get(&*store, 1).await }
    });
    spin().await;
    *backend.hold.lock() = None;
    hot.close();
    put(&*backend, &entry(1, "new")).await;
    hot.open();
    hold.add_permits(1);
    assert_eq!(text(reader.await.unwrap()).as_deref(), Some("old"));
    assert_eq!(text(get(&*store, 1).await).as_deref(), Some("new"));
}

#[tokio::test]
async fn a_deletion_by_tag_takes_entries_that_the_store_behind_has_dropped() {
    let (backend, store) = layered();
    for n in 0..3 {
        put(&*store, &tagged(n, &["a"])).await;
    }
    put(&*store, &tagged(3, &["b"])).await;
    put(&*store, &Entry { owner: owner("other", "n"), ..tagged(4, &["a"]) }).await;
    // As an eviction does: nobody is told.
    backend.entries.lock().retain(|gone, _| *gone == key(0));
    let mut expected = [key(0), key(1), key(2)];
    expected.sort_unstable();
    assert_eq!(store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap(), expected);
    for n in 0..5 {
        assert_eq!(get(&*store, n).await.is_some(), n >= 3, "entry {n}");
    }
}
