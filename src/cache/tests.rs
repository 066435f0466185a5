//! The lookups on real embedded stores.

use std::time::Duration;

use super::*;
use crate::embed::HashEmbedder;
use crate::store::entry::l1::L1Entries;
use crate::store::entry::sqlite::SqliteEntries;
use crate::store::evidence::sqlite::SqliteEvidence;
use crate::store::sqlite::Sqlite;
use crate::store::vector::flat::Flat;
use crate::types::{
    Answer, ChatRequest, Entry, EntryKey, Namespace, Owner, ScopeId, Similarity, TenantId, UnixMillis, Usage, Usd,
};

const DIM: usize = 32;
const SCOPE: ScopeId = ScopeId::from_bytes([2; 32]);

struct Setup {
    cache: Cache,
    request: ChatRequest,
    policy: Policy,
    _folder: tempfile::TempDir,
}

impl Setup {
    /// `room`: bytes of the entry store.
    async fn new(room: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(folder.path()).await.unwrap();
        let entries = SqliteEntries::new(sqlite.clone(), room).await.unwrap();
        let judge = Judge::new(None, Languages::default()).unwrap();
        let evidence = SqliteEvidence::new(sqlite.clone()).await.unwrap();
        let vectors = Arc::new(Flat::open(sqlite, "test@1", DIM).await.unwrap());
        let entries = L1Entries::new(entries, 1 << 20);
        let cache = Cache::new(entries, vectors, Arc::new(HashEmbedder::new()), (judge, evidence));
        let policy = Policy { rule: Rule::MinSimilarity(Similarity::new(0.9).unwrap()), max_age: None };
        Self { cache, request: ChatRequest::prompt("m", "q"), policy, _folder: folder }
    }

    async fn look(&self, top_k: usize, all: bool) -> Semantic {
        let (owner, key) = (owner(), key(9_999));
        let query =
            Query { owner: &owner, key: &key, scope: &SCOPE, request: &self.request, policy: &self.policy, top_k };
        let mut found = self.cache.near(&query, &at(0.0), all).await.unwrap();
        self.cache.decide(&query, "q", &mut found, all).await.unwrap();
        found
    }

    async fn vectors(&self) -> u64 {
        self.cache.vectors.count(None).await.unwrap()
    }

    /// Vectors without entries, nearer to the query than anything at an angle of 0.1.
    async fn put_orphans(&self, numbers: std::ops::Range<u32>) {
        let point = |n| vector_point(&entry(n), at(0.1 * n as f32 / 100_000.0));
        self.cache.vectors.upsert(numbers.map(point).collect()).await.unwrap();
    }
}

fn owner() -> Owner {
    Owner { tenant: TenantId::new("t").unwrap(), namespace: Namespace::new("n").unwrap() }
}

fn key(n: u32) -> EntryKey {
    EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// The unit vector at an angle, in radians, from the query's.
fn at(angle: f32) -> Arc<[f32]> {
    let (along, across) = (angle.cos() / (DIM as f32).sqrt(), angle.sin() / (DIM as f32).sqrt());
    (0..DIM).map(|i| if i % 2 == 0 { along + across } else { along - across }).collect()
}

fn entry(n: u32) -> Entry {
    let now = UnixMillis::now();
    Entry {
        key: key(n),
        scope: SCOPE,
        owner: owner(),
        probe: None,
        answer: Answer::text("m", format!("answer {n}"), Usage::new(1, 2)).into(),
        cost: Usd::default(),
        created: now,
        expires: now.after(Duration::from_secs(3600)),
        tags: Vec::new(),
        depends_on: Vec::new(),
        source: Default::default(),
        trust: Default::default(),
    }
}

#[tokio::test]
async fn a_live_neighbour_is_found_behind_vectors_whose_entries_are_gone() {
    let setup = Setup::new(1 << 30).await;
    setup.cache.put(Arc::new(entry(500)), Some(at(0.2))).await.unwrap();
    setup.put_orphans(0..100).await;
    for all in [false, true] {
        let found = setup.look(4, all).await;
        assert_eq!(found.hit().map(|(entry, _)| entry.key), Some(key(500)), "all: {all}");
        assert_eq!(found.candidates.len(), 101, "each is judged once");
    }
}

#[tokio::test]
async fn what_is_hidden_behind_too_many_is_found_once_these_are_removed() {
    let setup = Setup::new(1 << 30).await;
    setup.cache.put(Arc::new(entry(500)), Some(at(0.2))).await.unwrap();
    setup.put_orphans(0..400).await;
    let found = setup.look(4, false).await;
    assert!(found.hit().is_none());
    assert_eq!(found.candidates.len(), 256, "the search is bounded");
    let told = setup.cache.orphans().take(1000).await.unwrap();
    assert_eq!(setup.cache.remove_orphans(&told).await.unwrap(), 256);
    assert!(setup.look(4, false).await.hit().is_some());
}

#[tokio::test]
async fn vectors_without_entries_below_the_threshold_are_not_searched_behind() {
    let setup = Setup::new(1 << 30).await;
    let far = |n: u32| vector_point(&entry(n), at(1.0 + n as f32 / 1000.0));
    setup.cache.vectors.upsert((0..100).map(far).collect()).await.unwrap();
    assert_eq!(setup.look(4, false).await.candidates.len(), 0);
    let all = setup.look(4, true).await.candidates;
    assert_eq!(all.iter().map(|c| c.verdict).collect::<Vec<_>>(), [Verdict::BelowThreshold; 4]);
}

#[tokio::test]
async fn live_entries_that_may_not_be_served_count_among_the_top_k() {
    let mut setup = Setup::new(1 << 30).await;
    for n in 0..10 {
        setup.cache.put(Arc::new(entry(n)), Some(at(0.01 * n as f32))).await.unwrap();
    }
    setup.request.max_tokens = Some(1);
    let found = setup.look(4, false).await;
    assert_eq!(found.candidates.iter().map(|c| c.verdict).collect::<Vec<_>>(), [Verdict::TooLong; 4]);
    // Two that are gone make room for two more.
    for n in 0..2 {
        assert!(setup.cache.entries.delete(&owner(), &key(n)).await.unwrap());
    }
    let verdicts: Vec<_> = setup.look(4, false).await.candidates.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [[Verdict::Gone; 2].as_slice(), &[Verdict::TooLong; 4]].concat());
}

#[tokio::test]
async fn the_vectors_of_evicted_entries_are_told_and_removed() {
    let setup = Setup::new(20_000).await;
    for n in 0..100 {
        setup.cache.put(Arc::new(entry(n)), Some(at(0.001 * n as f32))).await.unwrap();
    }
    let stats = setup.cache.entries.stats().await.unwrap();
    assert!(stats.evicted > 20, "{stats:?}");
    assert_eq!(setup.vectors().await, 100);
    let told = setup.cache.orphans().take(1000).await.unwrap();
    assert_eq!(told.len() as u64, stats.evicted);
    assert_eq!(setup.cache.remove_orphans(&told).await.unwrap(), stats.evicted);
    assert_eq!(setup.vectors().await, stats.entries);
    // What is left in process of the evicted ones would be served beside the store's bound.
    for key in told {
        assert!(setup.cache.entries.get(&key).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn the_vector_of_an_entry_that_came_back_is_kept() {
    let setup = Setup::new(1 << 30).await;
    setup.cache.put(Arc::new(entry(1)), Some(at(0.1))).await.unwrap();
    setup.put_orphans(2..3).await;
    assert_eq!(setup.cache.remove_orphans(&[key(1), key(2), key(3)]).await.unwrap(), 1);
    assert_eq!(setup.vectors().await, 1);
}
