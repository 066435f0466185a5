use super::*;

async fn with_table(dir: &Path) -> Arc<Sqlite> {
    let sqlite = Sqlite::open(dir).await.unwrap();
    sqlite.migrate("test", &["CREATE TABLE t (n INTEGER PRIMARY KEY)"]).await.unwrap();
    sqlite
}

async fn insert(sqlite: &Sqlite, n: i64) -> Result<()> {
    sqlite
        .write(move |conn| {
            Box::pin(async move {
                sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(conn).await?;
                Ok(())
            })
        })
        .await
}

async fn numbers(sqlite: &Sqlite) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM t ORDER BY n").fetch_all(sqlite.reader()).await.unwrap()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("an error").kind
}

#[tokio::test]
async fn what_was_written_is_read_at_once_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/here");
    let sqlite = with_table(&folder).await;
    insert(&sqlite, 7).await.unwrap();
    assert_eq!(numbers(&sqlite).await, [7]);
    sqlite.close().await;
    sqlite.close().await;
    assert_eq!(kind(insert(&sqlite, 8).await), ErrorKind::Unavailable);
    let sqlite = with_table(&folder).await;
    assert_eq!(numbers(&sqlite).await, [7]);
}

#[tokio::test]
async fn a_direct_read_sees_what_was_committed_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    let count = |c: &rusqlite::Connection| Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?);
    for n in 0..3 {
        insert(&sqlite, n).await.unwrap();
        assert_eq!(sqlite.read(count).await.unwrap(), n + 1);
    }
    let write = sqlite.read(|c| Ok(c.execute("INSERT INTO t VALUES (9)", [])?)).await;
    assert_eq!(kind(write), ErrorKind::FailedPrecondition);
    let many = futures::future::join_all((0..20).map(|_| sqlite.read(count))).await;
    assert!(many.into_iter().all(|read| read.unwrap() == 3));
    sqlite.close().await;
    assert_eq!(kind(sqlite.read(count).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_direct_read_that_fails_or_panics_does_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    for _ in 0..2 * READERS {
        assert_eq!(kind(sqlite.read::<(), _>(|_| Err(Error::internal("on purpose"))).await), ErrorKind::Internal);
        assert_eq!(kind(sqlite.read::<(), _>(|_| panic!("on purpose")).await), ErrorKind::Internal);
        let broken = sqlite.read(|c| Ok(c.execute("SELECT 1 FROM nowhere", [])?)).await;
        assert_eq!(kind(broken), ErrorKind::Internal);
    }
    let one = sqlite.read(|c| Ok(c.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?)).await;
    assert_eq!(one.unwrap(), 1);
}

#[tokio::test]
async fn the_file_is_in_wal_mode_with_normal_synchronisation() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(dir.path()).await.unwrap();
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(sqlite.reader()).await.unwrap();
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(sqlite.reader()).await.unwrap();
    assert_eq!((mode.as_str(), synchronous), ("wal", 1));
}

#[tokio::test]
async fn a_failed_or_panicking_write_is_undone_and_its_neighbours_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    // All are queued before the writer's task runs for the first time: they share one commit.
    let all = (0..60).map(|n| {
        let sqlite = sqlite.clone();
        async move {
            sqlite
                .write(move |conn| {
                    Box::pin(async move {
                        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut *conn).await?;
                        match n % 3 {
                            0 => Ok(n),
                            1 => Err(Error::invalid("n", "refused")),
                            _ => panic!("a bug"),
                        }
                    })
                })
                .await
        }
    });
    let outcomes = futures::future::join_all(all).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match n % 3 {
            0 => assert_eq!(outcome.unwrap(), n as i64),
            1 => assert_eq!(kind(outcome), ErrorKind::InvalidArgument),
            _ => assert_eq!(kind(outcome), ErrorKind::Internal),
        }
    }
    assert_eq!(numbers(&sqlite).await, (0..60).step_by(3).collect::<Vec<i64>>());
    // The last in its group failed: a following write must not bring it back.
    insert(&sqlite, 100).await.unwrap();
    assert_eq!(numbers(&sqlite).await.len(), 21);
}

#[tokio::test]
async fn a_group_whose_transaction_is_lost_fails_as_a_whole_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    let lost = sqlite.write(|conn| {
        Box::pin(async move {
            // What SQLite does by itself when the disk is full.
            sqlx::raw_sql("ROLLBACK").execute(conn).await?;
            Ok(())
        })
    });
    let (first, lost, third) = tokio::join!(insert(&sqlite, 1), lost, insert(&sqlite, 3));
    assert_eq!([kind(first), kind(lost), kind(third)], [ErrorKind::Internal; 3]);
    insert(&sqlite, 4).await.unwrap();
    assert_eq!(numbers(&sqlite).await, [4]);
}

#[tokio::test]
async fn a_caller_gone_before_its_turn_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    let (entered, inside) = oneshot::channel();
    let (release, wait) = oneshot::channel::<()>();
    let busy = tokio::spawn({
        let sqlite = sqlite.clone();
        async move {
            sqlite
                .write(|_| {
                    Box::pin(async move {
                        entered.send(()).unwrap();
                        wait.await.unwrap();
                        Ok(())
                    })
                })
                .await
        }
    });
    inside.await.unwrap();
    {
        let mut gone = Box::pin(insert(&sqlite, 1));
        assert!(futures::poll!(&mut gone).is_pending());
    }
    release.send(()).unwrap();
    busy.await.unwrap().unwrap();
    insert(&sqlite, 2).await.unwrap();
    assert_eq!(numbers(&sqlite).await, [2]);
}

#[tokio::test]
async fn closing_commits_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    let mut writes: Vec<_> = (0..10).map(|n| Box::pin(insert(&sqlite, n))).collect();
    for write in &mut writes {
        assert!(futures::poll!(write).is_pending());
    }
    sqlite.close().await;
    for write in writes {
        write.await.unwrap();
    }
    assert_eq!(numbers(&*with_table(dir.path()).await).await.len(), 10);
}

#[tokio::test]
async fn two_services_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Sqlite::open(dir.path()).await.unwrap();
    let error = Sqlite::open(dir.path()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    first.close().await;
    Sqlite::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_our_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(folder::DATABASE);
    std::fs::write(&file, "some text, long enough for a header. ".repeat(10)).unwrap();
    assert_eq!(kind(Sqlite::open(dir.path()).await), ErrorKind::Corrupt);
    std::fs::remove_file(&file).unwrap();

    let mut other = SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (n)").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let before = std::fs::read(&file).unwrap();
    assert_eq!(kind(Sqlite::open(dir.path()).await), ErrorKind::FailedPrecondition);
    assert_eq!(std::fs::read(&file).unwrap(), before);

    std::fs::write(dir.path().join("plain"), "").unwrap();
    assert_eq!(kind(Sqlite::open(&dir.path().join("plain/folder")).await), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn a_damaged_file_is_called_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    sqlite.close().await;
    let file = dir.path().join(folder::DATABASE);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100..].fill(0xAA);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(kind(Sqlite::open(dir.path()).await), ErrorKind::Corrupt);
}

#[tokio::test]
async fn schema_steps_run_once_and_a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    const TWO: &[&str] =
        &["CREATE TABLE t (n INTEGER PRIMARY KEY)", "ALTER TABLE t ADD COLUMN m; INSERT INTO t VALUES (1, 2)"];
    assert_eq!(sqlite.migrate("test", TWO).await.unwrap(), 1);
    assert_eq!(sqlite.migrate("test", TWO).await.unwrap(), 2);
    assert_eq!(numbers(&sqlite).await, [1]);
    assert_eq!(kind(sqlite.migrate("test", &TWO[..1]).await), ErrorKind::FailedPrecondition);
    assert_eq!(sqlite.migrate("other", &["CREATE TABLE o (n)"]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_reader_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = with_table(dir.path()).await;
    let refused = sqlx::query("INSERT INTO t VALUES (1)").execute(sqlite.reader()).await;
    assert!(refused.is_err());
}
