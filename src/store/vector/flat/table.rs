//! The rows on disk: plain SQL over the shared SQLite file. Tags, documents and keys live here only, and the vectors as they
//! came; memory has no need of them.

use futures::{Stream, StreamExt};
use rusqlite::{Connection, OptionalExtension};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};
use std::fmt::Write as _;
use std::sync::Arc;

use super::originals::Original;
use crate::store::vector::{Point, document_id, owner_text};
use crate::types::{EntryKey, Owner, Result, ScopeId, UnixMillis};

/// The component's name and its schema, step by step (see [`crate::store::sqlite::Sqlite::migrate`]).
///
/// A space is one embedding model and dimension; vectors of different spaces are never compared. A vector is its
/// values as little-endian f32, so that reading it is a copy.
///
/// Since version 2 an id is never given twice: a row that is written anew gets a new one. Blocks ([`super::blocks`]) hold
/// what memory needs of many rows together; `vector_blocks_gone` lists rows of blocks that are no longer there.
pub const COMPONENT: &str = "vectors";
pub const SCHEMA: &[&str] = &[
    "
    CREATE TABLE vector_spaces (
        id INTEGER PRIMARY KEY, model TEXT NOT NULL, dim INTEGER NOT NULL, UNIQUE (model, dim)
    ) STRICT;
    CREATE TABLE vector_points (
        id INTEGER PRIMARY KEY, space INTEGER NOT NULL, key BLOB NOT NULL, scope BLOB NOT NULL, owner TEXT NOT NULL,
        expires INTEGER NOT NULL, vector BLOB NOT NULL, UNIQUE (key, space)
    ) STRICT;
    CREATE INDEX vector_points_expires ON vector_points (expires);
    CREATE TABLE vector_labels (
        owner TEXT NOT NULL, kind INTEGER NOT NULL, label TEXT NOT NULL, point INTEGER NOT NULL,
        PRIMARY KEY (owner, kind, label, point)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX vector_labels_point ON vector_labels (point);
    CREATE TRIGGER vector_points_deleted AFTER DELETE ON vector_points BEGIN
        DELETE FROM vector_labels WHERE point = old.id;
    END;
    CREATE TRIGGER vector_points_replaced AFTER UPDATE ON vector_points BEGIN
        DELETE FROM vector_labels WHERE point = old.id;
    END;
",
    "
    DROP TRIGGER vector_points_deleted;
    DROP TRIGGER vector_points_replaced;
    DROP INDEX vector_points_expires;
    ALTER TABLE vector_points RENAME TO vector_points_1;
    CREATE TABLE vector_points (
        id INTEGER PRIMARY KEY AUTOINCREMENT, space INTEGER NOT NULL, key BLOB NOT NULL, scope BLOB NOT NULL,
        owner TEXT NOT NULL, expires INTEGER NOT NULL, vector BLOB NOT NULL, UNIQUE (key, space)
    ) STRICT;
    INSERT INTO vector_points SELECT id, space, key, scope, owner, expires, vector FROM vector_points_1;
    DROP TABLE vector_points_1;
    CREATE INDEX vector_points_expires ON vector_points (expires);
    CREATE TABLE vector_blocks (
        space INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, format INTEGER NOT NULL,
        rows BLOB NOT NULL, PRIMARY KEY (space, first)
    ) STRICT;
    CREATE INDEX vector_blocks_last ON vector_blocks (space, last);
    CREATE TABLE vector_blocks_gone (
        space INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (space, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER vector_points_deleted AFTER DELETE ON vector_points BEGIN
        DELETE FROM vector_labels WHERE point = old.id;
        INSERT OR IGNORE INTO vector_blocks_gone SELECT old.space, old.id
            WHERE old.id <= (SELECT max(last) FROM vector_blocks WHERE space = old.space);
    END;
    CREATE TRIGGER vector_points_changed AFTER UPDATE ON vector_points BEGIN
        DELETE FROM vector_labels WHERE point = old.id;
        INSERT OR IGNORE INTO vector_blocks_gone SELECT old.space, old.id
            WHERE old.id <= (SELECT max(last) FROM vector_blocks WHERE space = old.space);
    END;
",
];

/// What a label of a point is. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    Tag = 0,
    Document = 1,
}

/// A deleted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub id: i64,
    pub space: i64,
    pub scope: ScopeId,
    pub expires: UnixMillis,
}

/// A stored row.
#[derive(Debug)]
pub struct Stored {
    pub id: i64,
    pub scope: ScopeId,
    pub expires: UnixMillis,
    pub vector: Arc<[f32]>,
}

/// The id of a model's space, which is made when it is not there, and how many rows other spaces hold.
pub async fn space(connection: &mut SqliteConnection, model: &str, dim: i64) -> Result<(i64, u64)> {
    let sql = "INSERT INTO vector_spaces (model, dim) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(model).bind(dim).execute(&mut *connection).await?;
    let sql = "SELECT id FROM vector_spaces WHERE model = $1 AND dim = $2";
    let id: i64 = sqlx::query(sql).bind(model).bind(dim).fetch_one(&mut *connection).await?.try_get(0)?;
    let sql = "SELECT count(*) FROM vector_points WHERE space <> $1";
    let others: i64 = sqlx::query(sql).bind(id).fetch_one(connection).await?.try_get(0)?;
    Ok((id, others.unsigned_abs()))
}

/// The rows of a space that are live and whose ids are above `after`, lowest id first; `None` for one that does not decode.
pub fn above(
    pool: &SqlitePool,
    space: i64,
    dim: usize,
    after: i64,
    now: UnixMillis,
) -> impl Stream<Item = Result<Option<Stored>>> {
    let sql = "SELECT id, scope, expires, vector FROM vector_points
        WHERE id > $1 AND space = $2 AND +expires > $3 ORDER BY id";
    let rows = sqlx::query(sql).bind(after).bind(space).bind(to_stored(now)).fetch(pool);
    rows.map(move |row| {
        let row = row?;
        let (scope, vector) = (row.try_get::<&[u8], _>(1)?.try_into(), decode(row.try_get(3)?, dim));
        let (Ok(scope), Some(vector)) = (scope, vector) else { return Ok(None) };
        let (id, expires) = (row.try_get(0)?, from_stored(row.try_get(2)?));
        Ok(Some(Stored { id, scope: ScopeId::from_bytes(scope), expires, vector }))
    })
}

/// Keys and vectors of rows, in the order asked for; `None` for one that is gone, or does not decode.
pub fn by_ids(connection: &Connection, ids: &[i64], dim: usize) -> Result<Vec<Option<Original>>> {
    let mut statement = connection.prepare_cached("SELECT key, vector FROM vector_points WHERE id = ?1")?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let row = statement.query_row([id], |row| {
            let key = row.get_ref(0)?.as_blob()?.try_into().ok().map(EntryKey::from_bytes);
            let vector = decode(row.get_ref(1)?.as_blob()?, dim);
            Ok(key.zip(vector).map(|(key, vector)| Original { key, vector }))
        });
        found.push(row.optional()?.flatten());
    }
    Ok(found)
}

/// Writes points with different keys, each in place of a row with its key; the labels of that one go with it (by
/// trigger). Gives their ids, in order, each above all that were given before, and the rows that made place.
pub async fn insert(connection: &mut SqliteConnection, space: i64, points: &[&Point]) -> Result<(Vec<i64>, Vec<Gone>)> {
    let keys = format!("[\"{}\"]", joined(points.iter().map(|point| point.key), "\",\""));
    let sql = "DELETE FROM vector_points WHERE space = $1 AND key IN (SELECT unhex(value) FROM json_each($2))
        RETURNING id, space, scope, expires";
    let replaced = gone(sqlx::query(sql).bind(space).bind(keys).fetch_all(&mut *connection).await?)?;
    let mut ids = Vec::with_capacity(points.len());
    for point in points {
        ids.push(insert_one(connection, space, point).await?);
    }
    Ok((ids, replaced))
}

async fn insert_one(connection: &mut SqliteConnection, space: i64, point: &Point) -> Result<i64> {
    let owner = owner_text(&point.owner);
    let sql = "INSERT INTO vector_points (space, key, scope, owner, expires, vector) VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING id";
    let id: i64 = sqlx::query(sql)
        .bind(space)
        .bind(&point.key.as_bytes()[..])
        .bind(&point.scope.as_bytes()[..])
        .bind(&owner)
        .bind(to_stored(point.expires))
        .bind(encode(&point.vector))
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let tags = point.tags.iter().map(|tag| (Label::Tag, tag.as_str()));
    let documents = point.depends_on.iter().map(|dependency| (Label::Document, document_id(dependency)));
    for (kind, label) in tags.chain(documents) {
        let sql =
            "INSERT INTO vector_labels (owner, kind, label, point) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(&owner).bind(kind as i64).bind(label).bind(id).execute(&mut *connection).await?;
    }
    Ok(id)
}

/// Deletes a key's rows, in all spaces: an answer that must go must not come back with an earlier model.
pub async fn delete(connection: &mut SqliteConnection, key: &EntryKey) -> Result<Vec<Gone>> {
    let sql = "DELETE FROM vector_points WHERE key = $1 RETURNING id, space, scope, expires";
    gone(sqlx::query(sql).bind(&key.as_bytes()[..]).fetch_all(connection).await?)
}

/// Deletes an owner's rows with that label, in all spaces.
pub async fn delete_labelled(
    connection: &mut SqliteConnection,
    owner: &Owner,
    kind: Label,
    label: &str,
) -> Result<Vec<Gone>> {
    let sql = "DELETE FROM vector_points
        WHERE id IN (SELECT point FROM vector_labels WHERE owner = $1 AND kind = $2 AND label = $3)
        RETURNING id, space, scope, expires";
    let query = sqlx::query(sql).bind(owner_text(owner)).bind(kind as i64).bind(label);
    gone(query.fetch_all(connection).await?)
}

/// Deletes up to `limit` expired rows, in all spaces.
pub async fn delete_expired(connection: &mut SqliteConnection, now: UnixMillis, limit: i64) -> Result<Vec<Gone>> {
    let sql = "DELETE FROM vector_points
        WHERE id IN (SELECT id FROM vector_points WHERE expires <= $1 LIMIT $2) RETURNING id, space, scope, expires";
    gone(sqlx::query(sql).bind(to_stored(now)).bind(limit).fetch_all(connection).await?)
}

fn gone(rows: Vec<SqliteRow>) -> Result<Vec<Gone>> {
    let mut gone = Vec::with_capacity(rows.len());
    for row in rows {
        // A row whose scope does not decode was never loaded.
        if let Ok(scope) = row.try_get::<&[u8], _>(2)?.try_into() {
            let (id, space, expires) = (row.try_get(0)?, row.try_get(1)?, from_stored(row.try_get(3)?));
            gone.push(Gone { id, space, scope: ScopeId::from_bytes(scope), expires });
        }
    }
    Ok(gone)
}

fn joined(values: impl Iterator<Item = impl std::fmt::Display>, between: &str) -> String {
    let mut text = String::new();
    for value in values {
        if !text.is_empty() {
            text.push_str(between);
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{value}");
    }
    text
}

fn encode(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// `None` when it is not `dim` finite values.
pub fn decode(bytes: &[u8], dim: usize) -> Option<Arc<[f32]>> {
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != dim || !rest.is_empty() {
        return None;
    }
    let vector: Arc<[f32]> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    vector.iter().all(|x| x.is_finite()).then_some(vector)
}

/// SQLite's integers are signed; a time past its range is one that never comes.
pub fn to_stored(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

pub fn from_stored(time: i64) -> UnixMillis {
    UnixMillis(u64::try_from(time).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_comes_back_bit_for_bit() {
        let vector = [1.5, -0.0, f32::MIN_POSITIVE, -1.0e-40];
        let back = decode(&encode(&vector), 4).unwrap();
        assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), vector.map(f32::to_bits));
    }

    #[test]
    fn bytes_that_are_no_vector_of_that_dimension_are_refused() {
        assert_eq!(decode(&encode(&[1.0, 0.0]), 3), None);
        assert_eq!(decode(&[0; 9], 2), None);
        assert_eq!(decode(&encode(&[f32::NAN, 0.0]), 2), None);
    }

    #[test]
    fn a_time_past_the_range_of_sqlite_stays_in_the_future() {
        assert_eq!(from_stored(to_stored(UnixMillis(u64::MAX))), UnixMillis(i64::MAX as u64));
        assert_eq!(from_stored(to_stored(UnixMillis(12))), UnixMillis(12));
    }
}
