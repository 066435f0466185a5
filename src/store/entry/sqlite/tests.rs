use super::super::contract::{self, entry, get, key, owner, put, tag, tagged};
use super::super::guarded::GuardedEntries;
use super::super::l1::L1Entries;
use super::*;

async fn store(max_bytes: u64) -> (tempfile::TempDir, Arc<Sqlite>, Arc<SqliteEntries>) {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(dir.path()).await.unwrap();
    let store = SqliteEntries::new(sqlite.clone(), max_bytes).await.unwrap();
    (dir, sqlite, store)
}

async fn execute(sqlite: &Sqlite, sql: &'static str) {
    sqlite.write(move |conn| Box::pin(async move { Ok(sqlx::query(sql).execute(conn).await?) })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_it_meets_the_contract() {
    let (_dir, _, store) = store(1 << 30).await;
    contract::run(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarded_it_meets_the_contract() {
    let (_dir, _, store) = store(1 << 30).await;
    contract::run(GuardedEntries::new(store, "entry store", Duration::from_secs(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_its_l1_it_meets_the_contract() {
    let (_dir, _, store) = store(1 << 30).await;
    contract::run(L1Entries::new(GuardedEntries::new(store, "entry store", Duration::from_secs(2)), 64 << 20)).await;
}

#[tokio::test]
async fn reopened_it_holds_what_it_held() {
    let (dir, sqlite, store) = store(1 << 20).await;
    let kept = tagged(1, &["a"]);
    put(&*store, &kept).await;
    put(&*store, &entry(2, "y")).await;
    let stats = store.stats().await.unwrap();
    store.close().await.unwrap();
    sqlite.close().await;

    let sqlite = Sqlite::open(dir.path()).await.unwrap();
    let store = SqliteEntries::new(sqlite, 1 << 20).await.unwrap();
    assert_eq!(store.stats().await.unwrap(), stats);
    assert_eq!(get(&*store, 1).await, Some(kept));
    assert_eq!(store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap(), [key(1)]);
}

#[tokio::test]
async fn the_bound_holds_and_the_least_recently_used_go_first() {
    const MAX: u64 = 100_000;
    let (_dir, sqlite, store) = store(MAX).await;
    let text = "x".repeat(1000);
    for n in 0..60 {
        put(&*store, &entry(n, &text)).await;
    }
    // All were used long ago, but for the first, which was read since.
    execute(&sqlite, "UPDATE entries SET used = used - 3600000 + id").await;
    assert!(get(&*store, 0).await.is_some());
    store.tidy().await.unwrap();
    let mut most = 0;
    for n in 60..100 {
        put(&*store, &entry(n, &text)).await;
        most = most.max(store.stats().await.unwrap().bytes);
    }
    assert!(most <= MAX && most > MAX * 9 / 10, "at most {most} bytes");
    assert!(get(&*store, 0).await.is_some());
    assert!(get(&*store, 1).await.is_none());
    assert!(get(&*store, 99).await.is_some());
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.entries + stats.evicted, 100);
    let real: (i64, i64) =
        sqlx::query_as("SELECT count(*), sum(length(body)) FROM entries").fetch_one(sqlite.reader()).await.unwrap();
    assert_eq!((real.0.unsigned_abs(), real.1.unsigned_abs()), (stats.entries, stats.bytes));
}

#[tokio::test]
async fn one_entry_may_fill_the_store_and_a_larger_one_is_refused() {
    let (_dir, _, store) = store(10_000).await;
    put(&*store, &entry(1, "small")).await;
    put(&*store, &entry(2, &"x".repeat(9_500))).await;
    assert!(get(&*store, 2).await.is_some());
    let refused = store.put(Arc::new(entry(3, &"x".repeat(10_000)))).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    assert!(get(&*store, 2).await.is_some());
}

#[tokio::test]
async fn what_has_expired_is_swept_with_its_tags_before_anything_live_is_evicted() {
    let (_dir, sqlite, store) = store(20_000).await;
    for n in 0..10 {
        put(&*store, &tagged(n, &["a", "b"])).await;
    }
    execute(&sqlite, "UPDATE entries SET expires = 1 WHERE id > 3").await;
    put(&*store, &entry(20, &"x".repeat(15_000))).await;
    assert_eq!(store.stats().await.unwrap().evicted, 0);
    store.tidy().await.unwrap();
    assert_eq!(store.stats().await.unwrap().entries, 4);
    let tags: i64 = sqlx::query_scalar("SELECT count(*) FROM entry_tags").fetch_one(sqlite.reader()).await.unwrap();
    assert_eq!(tags, 6);
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_corrupt_and_not_a_miss() {
    let (_dir, sqlite, store) = store(1 << 20).await;
    put(&*store, &entry(1, "x")).await;
    execute(&sqlite, "UPDATE entries SET body = x'7b'").await;
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn after_its_file_is_closed_it_says_unavailable() {
    let (_dir, sqlite, store) = store(1 << 20).await;
    sqlite.close().await;
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(store.put(Arc::new(entry(1, "x"))).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(store.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
}

/// Prints numbers rather than judging them: they depend on the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured() {
    use std::time::Instant;
    let (_dir, _, bare) = store(1 << 30).await;
    let l1 = L1Entries::new(bare.clone(), 64 << 20);
    let text = "x".repeat(1500);
    let started = Instant::now();
    for n in 0..500 {
        put(&*bare, &entry(n, &text)).await;
    }
    let one = 500.0 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let writers = (0..64u64).map(|w| {
        let (store, text) = (bare.clone(), text.clone());
        tokio::spawn(async move {
            for n in 0..50 {
                put(&*store, &entry(1000 + w * 50 + n, &text)).await;
            }
        })
    });
    futures::future::join_all(writers).await;
    let many = 3200.0 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    for n in 0..500 {
        assert!(bare.get(&key(n)).await.unwrap().is_some());
    }
    let read = started.elapsed() / 500;
    put(&*l1, &entry(1, &text)).await;
    let started = Instant::now();
    for _ in 0..100_000 {
        assert!(l1.get(&key(1)).await.unwrap().is_some());
    }
    let hit = started.elapsed() / 100_000;
    println!("acknowledged puts/s: {one:.0} by 1 writer, {many:.0} by 64; SQLite get {read:?}; L1 hit {hit:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_puts_and_leaves_reads_alone() {
    let (_dir, sqlite, store) = store(1 << 30).await;
    let store = GuardedEntries::new(store, "entry store", Duration::from_secs(2));
    put(&*store, &entry(1, "kept")).await;
    // A file that may not grow fails as a disk that is full does.
    execute(&sqlite, "PRAGMA max_page_count = 1").await;
    for n in 10..20 {
        let error = store.put(Arc::new(entry(n, &"x".repeat(100_000)))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    }
    assert!(store.is_up());
    assert!(get(&*store, 1).await.is_some());
    assert!(store.delete(&owner("t", "n"), &key(1)).await.unwrap(), "room can be made");
}
