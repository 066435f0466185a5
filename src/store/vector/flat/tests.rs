use super::*;
use crate::store::vector::contract::{DIM, Opened, contract_tests, key, owner, point, scope, tag, unit};
use futures::FutureExt;
use std::path::Path;

contract_tests!(opened);

async fn opened() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, flat) = open(folder.path(), "model").await;
    let store: Arc<dyn VectorStore> = Arc::new(flat);
    let closing = Arc::clone(&store);
    let cleanup = async move {
        closing.close().await.unwrap();
        sqlite.close().await;
        drop(folder);
    };
    Opened { store, cleanup: cleanup.boxed() }
}

async fn open(folder: &Path, model: &str) -> (Arc<Sqlite>, Flat) {
    let sqlite = Sqlite::open(folder).await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), model, DIM).await.unwrap();
    (sqlite, flat)
}

async fn close((sqlite, flat): (Arc<Sqlite>, Flat)) {
    flat.close().await.unwrap();
    sqlite.close().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, flat) = open(folder.path(), "model").await;
    flat.upsert((0..600).map(|n| point(n, (n % 2) as u8)).collect()).await.unwrap();
    flat.upsert(vec![Point { tags: vec![tag("a")], depends_on: vec!["faq@1".into()], ..point(0, 7) }]).await.unwrap();
    flat.delete(&[key(1), key(2)]).await.unwrap();
    let before = flat.search(&scope(1), &unit(3, DIM), 20).await.unwrap();
    close((sqlite, flat)).await;

    let (sqlite, flat) = open(folder.path(), "model").await;
    assert_eq!(flat.count(None).await.unwrap(), 598);
    assert_eq!(flat.search(&scope(1), &unit(3, DIM), 20).await.unwrap(), before);
    assert_eq!(flat.count(Some(&scope(7))).await.unwrap(), 1);
    assert_eq!(flat.delete_by_tag(&owner("acme", "support"), &tag("a")).await.unwrap(), 1, "tags are kept too");
    assert_eq!(flat.count(Some(&scope(7))).await.unwrap(), 0);
    close((sqlite, flat)).await;
}

/// As after `kill -9`: nothing is closed, and only what is in the files is left.
#[tokio::test]
async fn what_was_acknowledged_needs_no_close() {
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = open(folder.path(), "model").await;
    running.1.upsert((0..20).map(|n| point(n, 1)).collect()).await.unwrap();
    running.1.delete(&[key(3)]).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    let again = open(left.path(), "model").await;
    assert_eq!(again.1.count(None).await.unwrap(), 19);
    close(again).await;
    close(running).await;
}

#[tokio::test]
async fn vectors_of_another_model_are_not_compared_and_come_back_with_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), "first").await;
    first.1.upsert(vec![point(1, 1), point(2, 1), point(3, 1)]).await.unwrap();
    close(first).await;

    let second = open(folder.path(), "second").await;
    assert_eq!(second.1.count(None).await.unwrap(), 0);
    second.1.upsert(vec![point(1, 1)]).await.unwrap();
    assert_eq!(second.1.delete(&[key(1), key(2)]).await.unwrap(), 1, "counts its own, deletes both models'");
    close(second).await;

    let first = open(folder.path(), "first").await;
    let found = first.1.search(&scope(1), &unit(1, DIM), 10).await.unwrap();
    assert_eq!(found.iter().map(|m| m.key).collect::<Vec<_>>(), [key(3)]);
    close(first).await;
}

#[tokio::test]
async fn another_dimension_of_the_same_model_is_another_space() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), "model").await;
    first.1.upsert(vec![point(1, 1)]).await.unwrap();
    close(first).await;
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), "model", 8).await.unwrap();
    assert_eq!(flat.search(&scope(1), &unit(1, 8), 3).await.unwrap(), []);
    assert_eq!(Flat::open(Arc::clone(&sqlite), "model", 0).await.err().unwrap().kind, ErrorKind::InvalidArgument);
    close((sqlite, flat)).await;
}

#[tokio::test]
async fn expired_rows_are_swept_from_file_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    sqlite.migrate(table::COMPONENT, table::SCHEMA).await.unwrap();
    let mut writer = Writer {
        sqlite: Arc::clone(&sqlite),
        space: 1,
        index: IndexWriter::new(DIM, HashMap::new()),
        originals: Arc::new(Originals::new(Arc::clone(&sqlite), DIM)),
        packer: packer::Packer::new(1, DIM, Vec::new()),
    };
    let rotation = Rotation::new(DIM);
    let points = (0..1500).map(|n| Point { expires: UnixMillis(5), ..point(n, 1) }).chain([point(9_999, 1)]);
    let points = points.map(|point| (point.clone(), Quantised::new(&rotation, &point.vector))).collect();
    let (reply, outcome) = oneshot::channel();
    writer.commit(vec![Request { change: Change::Upsert(points), reply }]).await;
    assert_eq!(outcome.await.unwrap().unwrap(), 0);

    assert!(!writer.sweep(UnixMillis(4)).await.unwrap());
    assert_eq!(writer.index.len(), 1501, "nothing has expired yet");
    assert!(writer.sweep(UnixMillis(5)).await.unwrap(), "there is more than one sweep takes");
    assert!(!writer.sweep(UnixMillis(5)).await.unwrap());
    assert_eq!(writer.index.len(), 1);
    let stored = sqlx::query("SELECT 1 FROM vector_points").fetch_all(sqlite.reader()).await.unwrap();
    assert_eq!(stored.len(), 1);
    sqlite.close().await;
}

#[tokio::test]
async fn a_row_that_does_not_decode_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, flat) = open(folder.path(), "model").await;
    flat.upsert(vec![point(1, 1), point(2, 1)]).await.unwrap();
    let damage = "UPDATE vector_points SET vector = x'00' WHERE key = $1";
    let damaged = sqlite
        .write(move |c| Box::pin(async move { Ok(sqlx::query(damage).bind(&key(1).as_bytes()[..]).execute(c).await?) }))
        .await;
    assert_eq!(damaged.unwrap().rows_affected(), 1);
    close((sqlite, flat)).await;
    let (sqlite, flat) = open(folder.path(), "model").await;
    assert_eq!(flat.count(None).await.unwrap(), 1);
    assert_eq!(flat.delete(&[key(1)]).await.unwrap(), 1, "it can still be deleted");
    close((sqlite, flat)).await;
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, flat) = open(folder.path(), "model").await;
    flat.close().await.unwrap();
    flat.close().await.unwrap();
    assert_eq!(flat.upsert(vec![point(1, 1)]).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(flat.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    sqlite.close().await;
}

/// Enough rows that the search goes by sketches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_scope_is_searched_too_and_opens_from_its_blocks() {
    let dim = 512;
    let count = (scan::EXACT_CODES / dim) as u32 + 1500;
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), "model", dim).await.unwrap();
    let at = |n: u32| Point { vector: unit(u64::from(n), dim), ..point(n, 1) };
    flat.upsert((0..count).map(at).collect()).await.unwrap();
    flat.delete(&(0..100).map(key).collect::<Vec<_>>()).await.unwrap();
    flat.upsert(vec![at(500), Point { scope: scope(2), ..at(501) }]).await.unwrap();
    let check = async |flat: &Flat| {
        assert_eq!(flat.count(None).await.unwrap(), u64::from(count) - 100);
        for n in (100..count).step_by(97) {
            let found = flat.search(&scope(1), &unit(u64::from(n), dim), 4).await.unwrap();
            assert_eq!((found.len(), found[0].key), (4, key(n)));
            assert!((found[0].similarity.get() - 1.0).abs() < 1e-5 && found[1].similarity.get() < 0.6, "{found:?}");
        }
        let gone = flat.search(&scope(1), &unit(50, dim), 4).await.unwrap();
        assert!(gone.len() == 4 && gone[0].similarity.get() < 0.6, "{gone:?}");
        assert_eq!(flat.search(&scope(2), &unit(501, dim), 4).await.unwrap()[0].key, key(501));
        let all = flat.search(&scope(1), &unit(1, dim), usize::MAX).await.unwrap();
        assert_eq!(all.len(), count as usize - 101, "there are as many results as live rows");
    };
    check(&flat).await;
    close((Arc::clone(&sqlite), flat)).await;
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    let packed = sqlx::query("SELECT 1 FROM vector_blocks").fetch_all(sqlite.reader()).await.unwrap();
    assert_eq!(packed.len(), count as usize / blocks::ROWS);
    let flat = Flat::open(Arc::clone(&sqlite), "model", dim).await.unwrap();
    check(&flat).await;
    close((sqlite, flat)).await;
}

/// A row that was deleted, replaced or damaged after it went into a block is not brought back by the block.
#[tokio::test]
async fn blocks_and_rows_cannot_disagree_after_a_crash() {
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = open(folder.path(), "model").await;
    let count = 2 * blocks::ROWS as u32 + 100;
    running.1.upsert((0..count).map(|n| point(n, 1)).collect()).await.unwrap();
    running.1.delete(&[key(3), key(count - 1)]).await.unwrap();
    running.1.upsert(vec![Point { vector: unit(1 << 40, DIM), ..point(5, 2) }]).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    close(running).await;
    let (sqlite, flat) = open(left.path(), "model").await;
    assert_eq!(flat.count(Some(&scope(1))).await.unwrap(), u64::from(count) - 3);
    assert_eq!(flat.search(&scope(2), &unit(1 << 40, DIM), 1).await.unwrap()[0].similarity.get(), 1.0);
    for n in [3, 5, count - 1] {
        assert_ne!(flat.search(&scope(1), &unit(u64::from(n), DIM), 1).await.unwrap()[0].key, key(n));
    }
    // And a damaged block is made again.
    let damage = "UPDATE vector_blocks SET rows = x'00' WHERE first = (SELECT max(first) FROM vector_blocks)";
    sqlite.write(move |c| Box::pin(async move { Ok(sqlx::query(damage).execute(c).await?) })).await.unwrap();
    close((sqlite, flat)).await;
    let (sqlite, flat) = open(left.path(), "model").await;
    assert_eq!(flat.count(None).await.unwrap(), u64::from(count) - 2);
    assert_eq!(flat.search(&scope(1), &unit(7, DIM), 1).await.unwrap()[0].key, key(7));
    close((sqlite, flat)).await;
}

/// The first version of the tables had no blocks, and gave ids anew.
#[tokio::test]
async fn rows_of_the_first_version_are_taken_over_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    sqlite.migrate(table::COMPONENT, &table::SCHEMA[..1]).await.unwrap();
    let sql = "INSERT INTO vector_spaces VALUES (1, 'model', 48);
        INSERT INTO vector_labels VALUES ('acme support', 0, 'a', 7)";
    let row = "INSERT INTO vector_points VALUES (7, 1, $1, $2, 'acme support', 9000000000000, $3)";
    let (key, scope_id) = (key(1), scope(1));
    let vector: Vec<u8> = unit(1, DIM).iter().flat_map(|x| x.to_le_bytes()).collect();
    let old = sqlite.write(move |c| {
        Box::pin(async move {
            sqlx::raw_sql(sql).execute(&mut *c).await?;
            Ok(sqlx::query(row)
                .bind(&key.as_bytes()[..])
                .bind(&scope_id.as_bytes()[..])
                .bind(vector)
                .execute(c)
                .await?)
        })
    });
    old.await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), "model", DIM).await.unwrap();
    assert_eq!(flat.search(&scope(1), &unit(1, DIM), 1).await.unwrap()[0].key, key);
    flat.upsert(vec![point(2, 1)]).await.unwrap();
    assert_eq!(flat.delete_by_tag(&owner("acme", "support"), &tag("a")).await.unwrap(), 1);
    assert_eq!(flat.count(None).await.unwrap(), 1);
    close((sqlite, flat)).await;
}
