//! What every [`VectorStore`] does. Each backend runs all of it through [`contract_tests!`].

use futures::FutureExt;
use futures::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use super::{Point, VectorStore};
use crate::types::{EntryKey, ErrorKind, Namespace, Owner, ScopeId, Tag, TenantId, UnixMillis};

/// Values per vector of the stores under test.
pub(super) const DIM: usize = 48;

/// A fresh, empty store, and how to take it down again.
pub(super) struct Opened {
    pub store: Arc<dyn VectorStore>,
    pub cleanup: BoxFuture<'static, ()>,
}

/// Runs one behaviour and takes the store down, also when it failed.
pub(super) async fn run<F: Future<Output = ()>>(opened: Opened, behaviour: impl FnOnce(Arc<dyn VectorStore>) -> F) {
    let outcome = AssertUnwindSafe(behaviour(opened.store)).catch_unwind().await;
    opened.cleanup.await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// One test for each behaviour, on the store that `$open` gives.
macro_rules! contract_tests {
    ($open:path) => {
        contract_tests! { @each $open:
            finds_the_true_neighbours_best_first
            a_scope_never_sees_another
            a_key_has_one_point_wherever_it_moves
            the_last_of_two_points_with_one_key_stays
            an_expired_point_is_never_returned_or_counted
            an_expired_point_takes_the_place_of_a_live_one
            deletes_by_key
            deletes_by_tag_within_the_owner
            deletes_by_document_at_any_version_within_the_owner
            owners_whose_names_run_together_are_kept_apart
            a_replaced_point_loses_its_old_tags
            refuses_what_cannot_be_compared
            gives_what_there_is_when_asked_for_more
            an_empty_scope_or_no_points_are_no_error
            takes_more_points_at_once_than_one_batch
            searches_and_upserts_go_on_together
            answers_a_ping
        }
    };
    (@each $open:path: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let opened = $open().await;
                $crate::store::vector::contract::run(opened, $crate::store::vector::contract::$name).await;
            }
        )*
    };
}
pub(super) use contract_tests;

pub(super) fn key(n: u32) -> EntryKey {
    EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub(super) fn scope(n: u8) -> ScopeId {
    ScopeId::from_bytes([n; 32])
}

pub(super) fn owner(tenant: &str, namespace: &str) -> Owner {
    Owner { tenant: TenantId::new(tenant).unwrap(), namespace: Namespace::new(namespace).unwrap() }
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

/// A random direction, the same for the same seed.
pub(super) fn unit(seed: u64, dim: usize) -> Arc<[f32]> {
    let mut random = fastrand::Rng::with_seed(seed);
    let vector: Vec<f32> = (0..dim).map(|_| (0..6).map(|_| random.f32() - 0.5).sum()).collect();
    normalise(vector)
}

fn normalise(vector: Vec<f32>) -> Arc<[f32]> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

/// A vector near another: their cosine is about 1 / sqrt(1 + spread^2).
pub(super) fn near(vector: &[f32], seed: u64, spread: f32) -> Arc<[f32]> {
    normalise(vector.iter().zip(&*unit(seed, vector.len())).map(|(x, y)| x + spread * y).collect())
}

pub(super) fn point(n: u32, scope_number: u8) -> Point {
    Point {
        key: key(n),
        scope: scope(scope_number),
        owner: owner("acme", "support"),
        vector: unit(u64::from(n), DIM),
        expires: UnixMillis::now().after(Duration::from_secs(3600)),
        tags: Vec::new(),
        depends_on: Vec::new(),
    }
}

async fn keys_in(store: &Arc<dyn VectorStore>, scope_number: u8) -> Vec<EntryKey> {
    let found = store.search(&scope(scope_number), &unit(1, DIM), 1000).await.unwrap();
    let mut keys: Vec<_> = found.iter().map(|m| m.key).collect();
    keys.sort();
    keys
}

fn sorted(numbers: impl IntoIterator<Item = u32>) -> Vec<EntryKey> {
    let mut keys: Vec<_> = numbers.into_iter().map(key).collect();
    keys.sort();
    keys
}

pub(super) async fn finds_the_true_neighbours_best_first(store: Arc<dyn VectorStore>) {
    // Clusters, so that many points are nearly as close as the best.
    let points: Vec<_> = (0..600)
        .map(|n| {
            let centre = unit(9_000 + u64::from(n % 7), DIM);
            Point { vector: near(&centre, u64::from(n), 0.3), ..point(n, 1) }
        })
        .collect();
    store.upsert(points.clone()).await.unwrap();
    for n in 0..30u64 {
        let query = near(&unit(9_000 + n % 7, DIM), 50_000 + n, 0.3);
        let dot = |v: &[f32]| v.iter().zip(&*query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let mut expected: Vec<_> = points.iter().map(|p| (dot(&p.vector), p.key)).collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0));
        let found = store.search(&scope(1), &query, 8).await.unwrap();
        assert_eq!(found.len(), 8);
        for (found, (similarity, key)) in found.iter().zip(&expected) {
            assert!((f64::from(found.similarity.get()) - similarity).abs() < 1e-5, "{found:?} {similarity}");
            // Two that differ by less than f32 can tell may come in any order.
            let tied = expected.iter().any(|e| e.1 == found.key && (e.0 - similarity).abs() < 1e-6);
            assert!(found.key == *key || tied, "query {n}: {found:?} is not {key} of {similarity}");
        }
    }
}

pub(super) async fn a_scope_never_sees_another(store: Arc<dyn VectorStore>) {
    let twin = Point { vector: unit(1, DIM), ..point(2, 2) };
    store.upsert(vec![point(1, 1), twin]).await.unwrap();
    let found = store.search(&scope(1), &unit(1, DIM), 10).await.unwrap();
    assert_eq!(found.iter().map(|m| m.key).collect::<Vec<_>>(), [key(1)]);
    assert!((found[0].similarity.get() - 1.0).abs() < 1e-5);
    assert_eq!(keys_in(&store, 2).await, [key(2)]);
    assert_eq!(store.count(Some(&scope(1))).await.unwrap(), 1);
    assert_eq!(store.count(None).await.unwrap(), 2);
}

pub(super) async fn a_key_has_one_point_wherever_it_moves(store: Arc<dyn VectorStore>) {
    store.upsert(vec![point(1, 1), point(2, 1)]).await.unwrap();
    let opposite: Arc<[f32]> = unit(1, DIM).iter().map(|x| -x).collect();
    store.upsert(vec![Point { vector: opposite, ..point(1, 1) }]).await.unwrap();
    let found = store.search(&scope(1), &unit(1, DIM), 10).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!((found[1].similarity.get() + 1.0).abs() < 1e-5, "the new vector counts: {found:?}");
    store.upsert(vec![point(1, 2)]).await.unwrap();
    assert_eq!(keys_in(&store, 1).await, [key(2)]);
    assert_eq!(keys_in(&store, 2).await, [key(1)]);
    assert_eq!(store.count(None).await.unwrap(), 2);
}

pub(super) async fn the_last_of_two_points_with_one_key_stays(store: Arc<dyn VectorStore>) {
    store.upsert(vec![point(1, 1), point(1, 2), point(1, 3)]).await.unwrap();
    assert_eq!(keys_in(&store, 1).await, []);
    assert_eq!(keys_in(&store, 3).await, [key(1)]);
    assert_eq!(store.count(None).await.unwrap(), 1);
}

pub(super) async fn an_expired_point_is_never_returned_or_counted(store: Arc<dyn VectorStore>) {
    let expired = Point { expires: UnixMillis(UnixMillis::now().0 - 1), ..point(1, 1) };
    let for_ever = Point { expires: UnixMillis(u64::MAX), ..point(2, 1) };
    store.upsert(vec![expired, for_ever]).await.unwrap();
    assert_eq!(keys_in(&store, 1).await, [key(2)]);
    assert_eq!(store.count(None).await.unwrap(), 1);
    assert_eq!(store.count(Some(&scope(1))).await.unwrap(), 1);
}

pub(super) async fn an_expired_point_takes_the_place_of_a_live_one(store: Arc<dyn VectorStore>) {
    store.upsert(vec![point(1, 1)]).await.unwrap();
    store.upsert(vec![Point { expires: UnixMillis(1), ..point(1, 1) }]).await.unwrap();
    assert_eq!(keys_in(&store, 1).await, []);
}

pub(super) async fn deletes_by_key(store: Arc<dyn VectorStore>) {
    store.upsert((0..10).map(|n| point(n, 1)).collect()).await.unwrap();
    assert_eq!(store.delete(&[key(3), key(4), key(99)]).await.unwrap(), 2);
    assert_eq!(keys_in(&store, 1).await, sorted([0, 1, 2, 5, 6, 7, 8, 9]));
    assert_eq!(store.delete(&[key(3)]).await.unwrap(), 0);
    assert_eq!(store.delete(&[]).await.unwrap(), 0);
    store.upsert(vec![point(3, 1)]).await.unwrap();
    assert_eq!(store.count(None).await.unwrap(), 9, "a deleted key can come back");
}

pub(super) async fn deletes_by_tag_within_the_owner(store: Arc<dyn VectorStore>) {
    let tagged = |n, tags: &[&str]| Point { tags: tags.iter().map(|t| tag(t)).collect(), ..point(n, 1) };
    let foreign = Point { owner: owner("other", "support"), ..tagged(3, &["a"]) };
    let neighbour = Point { owner: owner("acme", "sales"), ..tagged(4, &["a"]) };
    let like_a_document = Point { depends_on: vec!["a@1".into()], ..point(5, 1) };
    let points =
        vec![tagged(0, &["a", "b"]), tagged(1, &["b"]), tagged(2, &["A", "ab"]), foreign, neighbour, like_a_document];
    store.upsert(points).await.unwrap();
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("a")).await.unwrap(), 1);
    assert_eq!(keys_in(&store, 1).await, sorted(1..6));
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("a")).await.unwrap(), 0);
}

pub(super) async fn deletes_by_document_at_any_version_within_the_owner(store: Arc<dyn VectorStore>) {
    let made_from = |n, from: &[&str]| Point { depends_on: from.iter().map(|d| (*d).into()).collect(), ..point(n, 1) };
    let foreign = Point { owner: owner("other", "support"), ..made_from(4, &["faq@1"]) };
    let points = vec![
        made_from(0, &["faq@1"]),
        made_from(1, &["manual@3", "faq@2"]),
        made_from(2, &["faq@x@1", "faqs@1"]),
        made_from(3, &["manual@3", "an faq@1", "faq and more@1"]),
        foreign,
        Point { tags: vec![tag("faq")], ..point(5, 1) },
    ];
    store.upsert(points).await.unwrap();
    assert_eq!(store.delete_by_dependency(&owner("acme", "support"), "faq").await.unwrap(), 2);
    assert_eq!(keys_in(&store, 1).await, sorted(2..6));
    assert_eq!(store.delete_by_dependency(&owner("acme", "support"), "faq@x").await.unwrap(), 1);
    assert_eq!(keys_in(&store, 1).await, sorted(3..6));
    assert_eq!(store.delete_by_dependency(&owner("acme", "support"), "and more").await.unwrap(), 0);
    assert_eq!(store.delete_by_dependency(&owner("acme", "support"), "faq and more").await.unwrap(), 1);
}

pub(super) async fn owners_whose_names_run_together_are_kept_apart(store: Arc<dyn VectorStore>) {
    let of = |n, owner| Point { owner, tags: vec![tag("t")], ..point(n, 1) };
    store.upsert(vec![of(1, owner("a/b", "c")), of(2, owner("a", "b/c"))]).await.unwrap();
    assert_eq!(store.delete_by_tag(&owner("a/b", "c"), &tag("t")).await.unwrap(), 1);
    assert_eq!(keys_in(&store, 1).await, [key(2)]);
}

pub(super) async fn a_replaced_point_loses_its_old_tags(store: Arc<dyn VectorStore>) {
    let old = Point { tags: vec![tag("old")], depends_on: vec!["faq@1".into()], ..point(1, 1) };
    store.upsert(vec![old]).await.unwrap();
    store.upsert(vec![Point { tags: vec![tag("new")], ..point(1, 1) }]).await.unwrap();
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("old")).await.unwrap(), 0);
    assert_eq!(store.delete_by_dependency(&owner("acme", "support"), "faq").await.unwrap(), 0);
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("new")).await.unwrap(), 1);
}

pub(super) async fn refuses_what_cannot_be_compared(store: Arc<dyn VectorStore>) {
    let with = |at: usize, value: f32| {
        let mut vector = unit(1, DIM).to_vec();
        vector[at] = value;
        Arc::<[f32]>::from(vector)
    };
    let long: Arc<[f32]> = unit(1, DIM).iter().map(|x| x * 1.1).collect();
    let bad = [
        unit(1, DIM - 1),
        unit(1, DIM + 1),
        Arc::from([]),
        with(0, f32::NAN),
        with(DIM - 1, f32::INFINITY),
        with(3, f32::NEG_INFINITY),
        with(3, f32::MAX),
        [0.0; DIM].into(),
        long,
    ];
    for vector in bad {
        let error = store.search(&scope(1), &vector, 1).await.unwrap_err();
        assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::InvalidArgument, "vector"));
        let error = store.upsert(vec![point(1, 1), Point { vector, ..point(2, 1) }]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
    assert_eq!(store.count(None).await.unwrap(), 0, "nothing of a refused call is kept");
}

pub(super) async fn gives_what_there_is_when_asked_for_more(store: Arc<dyn VectorStore>) {
    store.upsert((0..3).map(|n| point(n, 1)).collect()).await.unwrap();
    assert_eq!(store.search(&scope(1), &unit(1, DIM), 3).await.unwrap().len(), 3);
    assert_eq!(store.search(&scope(1), &unit(1, DIM), 1_000_000).await.unwrap().len(), 3);
    assert_eq!(store.search(&scope(1), &unit(1, DIM), 0).await.unwrap(), []);
}

pub(super) async fn an_empty_scope_or_no_points_are_no_error(store: Arc<dyn VectorStore>) {
    assert_eq!(store.search(&scope(1), &unit(1, DIM), 5).await.unwrap(), []);
    assert_eq!(store.count(None).await.unwrap(), 0);
    assert_eq!(store.count(Some(&scope(1))).await.unwrap(), 0);
    assert_eq!(store.delete(&[key(1)]).await.unwrap(), 0);
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("a")).await.unwrap(), 0);
    store.upsert(Vec::new()).await.unwrap();
}

pub(super) async fn takes_more_points_at_once_than_one_batch(store: Arc<dyn VectorStore>) {
    store.upsert((0..700).map(|n| point(n, (n % 3) as u8)).collect()).await.unwrap();
    assert_eq!(store.count(None).await.unwrap(), 700);
    assert_eq!(store.count(Some(&scope(0))).await.unwrap(), 234);
    let keys: Vec<_> = (0..700).map(key).collect();
    assert_eq!(store.delete(&keys).await.unwrap(), 700);
}

/// Each task's own point is there as soon as its upsert has returned, whatever the others do.
pub(super) async fn searches_and_upserts_go_on_together(store: Arc<dyn VectorStore>) {
    let tasks = (0..8u32).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..25 {
                let n = task * 25 + n;
                store.upsert(vec![point(n, 1)]).await.unwrap();
                let found = store.search(&scope(1), &unit(u64::from(n), DIM), 1).await.unwrap();
                assert_eq!(found.first().map(|m| m.key), Some(key(n)));
                if n % 3 == 0 {
                    assert_eq!(store.delete(&[key(n)]).await.unwrap(), 1);
                    let found = store.search(&scope(1), &unit(u64::from(n), DIM), 1).await.unwrap();
                    assert_ne!(found.first().map(|m| m.key), Some(key(n)));
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(keys_in(&store, 1).await, sorted((0..200u32).filter(|n| n % 3 != 0)));
}

pub(super) async fn answers_a_ping(store: Arc<dyn VectorStore>) {
    store.ping().await.unwrap();
}
