//! What memory needs of many rows together, in the SQLite file: read in large pieces, a million rows open in the time that takes.
//!
//! Blocks repeat what `vector_points` holds, and change in the same transactions, so the two cannot disagree:
//!
//! - rows with ids up to the last of the newest block are in blocks, or listed as gone (by the triggers of
//!   [`super::table`]);
//! - newer rows are not in blocks yet. When there are [`ROWS`] of them they become one;
//! - a block of which a part is gone is written anew without it, together with the next one if both are small.
//!
//! Blocks of another format are dropped, and made again from the rows.

use sqlx::{Row as _, SqliteConnection, SqlitePool};
use std::collections::HashSet;

use super::quantise::{Row, Scale};
use super::table::{from_stored, to_stored};
use crate::types::{Error, ErrorKind, Result, ScopeId};

/// Names the layout below, the rotation and the rounding to codes. To be counted up when any of them changes.
const FORMAT: i64 = 1;

/// Rows in a block: about 450 KB at 384 values.
pub const ROWS: usize = 1024;

/// Blocks read at once.
const AT_ONCE: i64 = 4;

/// A block as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub first: i64,
    pub last: i64,
    /// Rows in it, and how many of them are gone.
    pub rows: usize,
    pub gone: usize,
}

/// A record: id, scope, expiry, scale, error, reach, then the codes; numbers are little-endian.
const HEAD: usize = 8 + 32 + 8 + 3 * 4;

pub fn encode(scope: &ScopeId, row: &Row<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&row.id.to_le_bytes());
    out.extend_from_slice(scope.as_bytes());
    out.extend_from_slice(&to_stored(row.expires).to_le_bytes());
    for value in [row.scale.scale, row.scale.error, row.scale.reach] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend(row.codes.iter().map(|code| code.cast_unsigned()));
}

/// Hands the rows of a block to `each`. False when the block does not decode.
fn decode(bytes: &[u8], dim: usize, mut each: impl FnMut(ScopeId, Row<'_>)) -> bool {
    let mut codes = vec![0; dim];
    let mut last = i64::MIN;
    bytes.len().is_multiple_of(HEAD + dim)
        && bytes.chunks_exact(HEAD + dim).all(|record| {
            let Some((id, rest)) = record.split_first_chunk() else { return false };
            let Some((scope, rest)) = rest.split_first_chunk() else { return false };
            let Some((expires, rest)) = rest.split_first_chunk() else { return false };
            let Some((scales, rest)) = rest.split_first_chunk::<12>() else { return false };
            let id = i64::from_le_bytes(*id);
            let value = |at: usize| f32::from_le_bytes([scales[at], scales[at + 1], scales[at + 2], scales[at + 3]]);
            let scale = Scale { scale: value(0), error: value(4), reach: value(8) };
            codes.iter_mut().zip(rest).for_each(|(code, byte)| *code = byte.cast_signed());
            let ordered = std::mem::replace(&mut last, id) < id;
            let sound = [scale.scale, scale.error, scale.reach].iter().all(|x| x.is_finite());
            if !ordered || !sound || codes.contains(&i8::MIN) {
                return false;
            }
            let expires = from_stored(i64::from_le_bytes(*expires));
            each(ScopeId::from_bytes(*scope), Row { id, expires, scale, codes: &codes });
            true
        })
}

/// Drops a space's blocks when one has another format, and those of spaces that have no rows.
pub async fn prepare(connection: &mut SqliteConnection, space: i64) -> Result<()> {
    let sql = "SELECT 1 FROM vector_blocks WHERE space = $1 AND format <> $2 LIMIT 1";
    if sqlx::query(sql).bind(space).bind(FORMAT).fetch_optional(&mut *connection).await?.is_some() {
        tracing::info!("the packed vectors have another format, and are made again");
        clear(connection, space).await?;
    }
    let sql = "SELECT id FROM vector_spaces s WHERE EXISTS (SELECT 1 FROM vector_blocks b WHERE b.space = s.id)
        AND NOT EXISTS (SELECT 1 FROM vector_points p WHERE p.space = s.id)";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        clear(connection, row.try_get(0)?).await?;
    }
    Ok(())
}

/// Drops the blocks of a space.
pub async fn clear(connection: &mut SqliteConnection, space: i64) -> Result<()> {
    sqlx::query("DELETE FROM vector_blocks WHERE space = $1").bind(space).execute(&mut *connection).await?;
    sqlx::query("DELETE FROM vector_blocks_gone WHERE space = $1").bind(space).execute(&mut *connection).await?;
    Ok(())
}

/// Hands every row of a space's blocks that is not gone to `each`, lowest id first; gives the blocks. `None` when one
/// does not decode.
pub async fn load(
    pool: &SqlitePool,
    space: i64,
    dim: usize,
    mut each: impl FnMut(ScopeId, Row<'_>),
) -> Result<Option<Vec<Extent>>> {
    let gone = gone(pool, space, i64::MIN, i64::MAX).await?;
    let sql = "SELECT first, last, rows FROM vector_blocks WHERE space = $1 AND first > $2 ORDER BY first LIMIT $3";
    let mut extents: Vec<Extent> = Vec::new();
    loop {
        // One stream of all would read many ahead, megabytes of them.
        let before = extents.last().map_or(i64::MIN, |extent| extent.first);
        let blocks = sqlx::query(sql).bind(space).bind(before).bind(AT_ONCE).fetch_all(pool).await?;
        if blocks.is_empty() {
            return Ok(Some(extents));
        }
        for block in blocks {
            let (first, last) = (block.try_get(0)?, block.try_get(1)?);
            let mut extent = Extent { first, last, rows: 0, gone: 0 };
            let mut ordered = extents.last().is_none_or(|before| before.last < first);
            let decoded = decode(block.try_get(2)?, dim, |scope, row| {
                extent.rows += 1;
                ordered &= (first..=last).contains(&row.id);
                if gone.contains(&row.id) {
                    extent.gone += 1;
                } else if ordered {
                    each(scope, row);
                }
            });
            if !decoded || !ordered {
                return Ok(None);
            }
            extents.push(extent);
        }
    }
}

/// Writes a new block, of encoded rows whose ids go from `first` to `last`.
pub async fn write(connection: &mut SqliteConnection, space: i64, first: i64, last: i64, rows: &[u8]) -> Result<()> {
    let sql = "INSERT INTO vector_blocks (space, first, last, format, rows) VALUES ($1, $2, $3, $4, $5)";
    sqlx::query(sql).bind(space).bind(first).bind(last).bind(FORMAT).bind(rows).execute(connection).await?;
    Ok(())
}

/// Writes the block that begins with `first` anew without the rows that are gone, together with the next one if there
/// is room. Gives the last id it covered, and what stands in its place, if anything is left.
pub async fn rewrite(
    connection: &mut SqliteConnection,
    space: i64,
    dim: usize,
    first: i64,
) -> Result<(i64, Option<Extent>)> {
    let sql = "SELECT last, rows FROM vector_blocks WHERE space = $1 AND first >= $2 ORDER BY first LIMIT 2";
    let blocks = sqlx::query(sql).bind(space).bind(first).fetch_all(&mut *connection).await?;
    let (mut rows, mut last, mut count) = (Vec::new(), first, 0);
    for block in &blocks {
        let end: i64 = block.try_get(0)?;
        let gone = gone(&mut *connection, space, last, end).await?;
        let mut left = Vec::new();
        let mut left_count = 0;
        let decoded = decode(block.try_get(1)?, dim, |scope, row| {
            if !gone.contains(&row.id) {
                encode(&scope, &row, &mut left);
                left_count += 1;
            }
        });
        if !decoded {
            return Err(Error::new(ErrorKind::Corrupt, "a block of packed vectors does not decode"));
        }
        if count > 0 && count + left_count > ROWS {
            break;
        }
        rows.extend(left);
        (last, count) = (end, count + left_count);
    }
    let sql = "DELETE FROM vector_blocks WHERE space = $1 AND first BETWEEN $2 AND $3";
    sqlx::query(sql).bind(space).bind(first).bind(last).execute(&mut *connection).await?;
    // Also those between the blocks: rows that expired before they could get into one.
    let sql = "DELETE FROM vector_blocks_gone WHERE space = $1 AND id <= $3
        AND id > (SELECT coalesce(max(last), 0) FROM vector_blocks WHERE space = $1 AND last < $2)";
    sqlx::query(sql).bind(space).bind(first).bind(last).execute(&mut *connection).await?;
    if count == 0 {
        return Ok((last, None));
    }
    write(connection, space, first, last, &rows).await?;
    Ok((last, Some(Extent { first, last, rows: count, gone: 0 })))
}

/// Ids from `first` to `last` that are in blocks but no longer rows. They come as texts of many: a row of its own for each
/// would take longer than the blocks.
async fn gone<'c>(executor: impl sqlx::SqliteExecutor<'c>, space: i64, first: i64, last: i64) -> Result<HashSet<i64>> {
    let sql = "SELECT group_concat(id, ' ') FROM vector_blocks_gone WHERE space = $1 AND id BETWEEN $2 AND $3
        GROUP BY id / 10000";
    let texts = sqlx::query(sql).bind(space).bind(first).bind(last).fetch_all(executor).await?;
    let mut ids = HashSet::new();
    for text in &texts {
        ids.extend(text.try_get::<&str, _>(0)?.split(' ').filter_map(|id| id.parse::<i64>().ok()));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
