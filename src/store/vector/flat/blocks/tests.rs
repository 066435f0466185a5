use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::vector::contract::{key, scope, unit};
use crate::store::vector::flat::packer::Packer;
use crate::store::vector::flat::quantise::Quantised;
use crate::store::vector::flat::rotate::Rotation;
use crate::store::vector::flat::table;
use crate::types::UnixMillis;
use std::sync::Arc;

const DIM: usize = 24;

fn row(quantised: &Quantised, id: i64) -> Row<'_> {
    Row { id, expires: UnixMillis(u64::MAX >> 1), scale: quantised.scale, codes: &quantised.codes }
}

fn encoded(ids: impl Iterator<Item = i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in ids {
        let quantised = Quantised::new(&Rotation::new(DIM), &unit(id.unsigned_abs(), DIM));
        encode(&scope(id as u8), &row(&quantised, id), &mut bytes);
    }
    bytes
}

#[test]
fn rows_come_back_as_they_were() {
    let quantised = Quantised::new(&Rotation::new(DIM), &unit(7, DIM));
    let mut seen = 0;
    assert!(decode(&encoded(7..8), DIM, |found, row| {
        seen += 1;
        assert_eq!((found, row.id, row.expires), (scope(7), 7, UnixMillis(u64::MAX >> 1)));
        assert_eq!((row.scale, row.codes), (quantised.scale, &*quantised.codes));
    }));
    assert_eq!(seen, 1);
}

#[test]
fn damaged_blocks_do_not_decode() {
    let sound = encoded(1..4);
    let size = HEAD + DIM;
    let damaged = |at: usize, bytes: &[u8]| {
        let mut block = sound.clone();
        block[at..at + bytes.len()].copy_from_slice(bytes);
        block
    };
    assert!(decode(&sound, DIM, |_, _| ()));
    assert!(decode(&[], DIM, |_, _| ()));
    for (what, block) in [
        ("cut", sound[..sound.len() - 1].to_vec()),
        ("not finite", damaged(48, &f32::NAN.to_le_bytes())),
        ("out of range", damaged(size - 1, &[0x80])),
        ("an id twice", damaged(size, &1i64.to_le_bytes())),
    ] {
        assert!(!decode(&block, DIM, |_, _| ()), "{what}");
    }
}

/// A file with rows 1 to `count` in blocks, as a store leaves it.
async fn packed(count: i64) -> (tempfile::TempDir, Arc<Sqlite>, Packer) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path()).await.unwrap();
    sqlite.migrate(table::COMPONENT, table::SCHEMA).await.unwrap();
    let insert = "INSERT INTO vector_points (space, key, scope, owner, expires, vector) VALUES (1, $1, $2, '', 9, x'')";
    let inserted = sqlite.write(move |c| {
        Box::pin(async move {
            for id in 1..=count {
                let (key, scope) = (key(id as u32), scope(id as u8));
                sqlx::query(insert).bind(&key.as_bytes()[..]).bind(&scope.as_bytes()[..]).execute(&mut *c).await?;
            }
            Ok(())
        })
    });
    inserted.await.unwrap();
    let mut packer = Packer::new(1, DIM, Vec::new());
    for id in 1..=count {
        let quantised = Quantised::new(&Rotation::new(DIM), &unit(id.unsigned_abs(), DIM));
        packer.add(&scope(id as u8), &row(&quantised, id));
        if packer.is_full() {
            packer.pack(&sqlite).await.unwrap();
        }
    }
    (folder, sqlite, packer)
}

async fn delete(sqlite: &Sqlite, packer: &mut Packer, from: i64, to: i64) {
    let sql = "DELETE FROM vector_points WHERE id BETWEEN $1 AND $2";
    let deleted = sqlite
        .write(move |c| Box::pin(async move { Ok(sqlx::query(sql).bind(from).bind(to).execute(c).await?) }))
        .await;
    assert_eq!(deleted.unwrap().rows_affected(), (to - from + 1).unsigned_abs());
    (from..=to).for_each(|id| packer.remove(id));
}

async fn loaded(sqlite: &Sqlite) -> (Vec<i64>, Vec<Extent>) {
    let mut ids = Vec::new();
    let extents = load(sqlite.reader(), 1, DIM, |_, row| ids.push(row.id)).await.unwrap().unwrap();
    (ids, extents)
}

fn extent(first: i64, last: i64, rows: usize, gone: usize) -> Extent {
    Extent { first, last, rows, gone }
}

#[tokio::test]
async fn deleted_rows_do_not_come_back_from_their_blocks() {
    let (_folder, sqlite, mut packer) = packed(2100).await;
    delete(&sqlite, &mut packer, 10, 19).await;
    delete(&sqlite, &mut packer, 2060, 2070).await;
    let (ids, extents) = loaded(&sqlite).await;
    assert_eq!(ids, (1..10).chain(20..2049).collect::<Vec<_>>());
    assert_eq!(extents, [extent(1, 1024, 1024, 10), extent(1025, 2048, 1024, 0)]);
    assert!(!packer.is_due() && packer.last() == 2048);
    sqlite.close().await;
}

#[tokio::test]
async fn blocks_of_which_much_is_gone_are_written_anew_and_joined() {
    let (_folder, sqlite, mut packer) = packed(4096).await;
    delete(&sqlite, &mut packer, 1, 700).await;
    delete(&sqlite, &mut packer, 1025, 1724).await;
    delete(&sqlite, &mut packer, 3073, 4096).await;
    while packer.is_due() {
        packer.rewrite(&sqlite).await.unwrap();
    }
    let (ids, extents) = loaded(&sqlite).await;
    assert_eq!(ids, (701..=1024).chain(1725..=3072).collect::<Vec<_>>());
    assert_eq!(extents, [extent(1, 2048, 648, 0), extent(2049, 3072, 1024, 0)]);
    assert_eq!(packer.last(), 3072);
    let gone = sqlx::query("SELECT 1 FROM vector_blocks_gone").fetch_all(sqlite.reader()).await.unwrap();
    assert_eq!(gone.len(), 0);
    let again = Packer::new(1, DIM, extents);
    assert!(!again.is_due());
    sqlite.close().await;
}

#[tokio::test]
async fn blocks_of_another_format_or_of_no_use_are_dropped() {
    let (_folder, sqlite, mut packer) = packed(1100).await;
    let count = || async { sqlx::query("SELECT 1 FROM vector_blocks").fetch_all(sqlite.reader()).await.unwrap().len() };
    sqlite.write(|c| Box::pin(prepare(c, 1))).await.unwrap();
    assert_eq!(count().await, 1, "these are in use");
    let older = "UPDATE vector_blocks SET format = 0";
    sqlite.write(move |c| Box::pin(async move { Ok(sqlx::query(older).execute(c).await?) })).await.unwrap();
    sqlite.write(|c| Box::pin(prepare(c, 1))).await.unwrap();
    assert_eq!(count().await, 0);

    let spaces = "INSERT INTO vector_spaces VALUES (1, 'a', 24), (2, 'b', 24)";
    sqlite.write(move |c| Box::pin(async move { Ok(sqlx::query(spaces).execute(c).await?) })).await.unwrap();
    sqlite.write(|c| Box::pin(async move { write(c, 1, 1, 9, b"").await })).await.unwrap();
    sqlite.write(|c| Box::pin(prepare(c, 2))).await.unwrap();
    assert_eq!(count().await, 1, "their rows are there still");
    delete(&sqlite, &mut packer, 1, 1100).await;
    sqlite.write(|c| Box::pin(prepare(c, 2))).await.unwrap();
    assert_eq!(count().await, 0);
    sqlite.close().await;
}
