//! From the file to memory, when the store opens: the blocks, then the rows that are in none yet.

use std::collections::HashMap;
use std::pin::pin;

use futures::TryStreamExt;

use super::packer::Packer;
use super::quantise::{Quantised, Row};
use super::rotate::Rotation;
use super::rows::Rows;
use super::{blocks, table};
use crate::store::sqlite::Sqlite;
use crate::types::{Result, ScopeId, UnixMillis};

pub struct Loaded {
    pub scopes: HashMap<ScopeId, Rows>,
    pub packer: Packer,
    /// Stored rows that do not decode, and were left out.
    pub broken: u64,
}

/// Reads the live rows of a space. Rows that are in no block are put into blocks on the way, as far as they fill any:
/// all of them when the blocks were dropped.
pub async fn load(sqlite: &Sqlite, space: i64, rotation: &Rotation, now: UnixMillis) -> Result<Loaded> {
    let dim = rotation.dim();
    sqlite.write(move |c| Box::pin(blocks::prepare(c, space))).await?;
    let mut scopes = Scopes { dim, now, scopes: HashMap::new() };
    let found = blocks::load(sqlite.reader(), space, dim, |scope, row| scopes.push(scope, row)).await?;
    let found = match found {
        Some(found) => found,
        None => {
            tracing::warn!("a block of packed vectors does not decode; all blocks are made again");
            scopes.scopes.clear();
            sqlite.write(move |c| Box::pin(blocks::clear(c, space))).await?;
            Vec::new()
        }
    };
    let mut packer = Packer::new(space, dim, found);
    let mut broken = 0;
    let mut rows = pin!(table::above(sqlite.reader(), space, dim, packer.last(), now));
    while let Some(row) = rows.try_next().await? {
        let Some(stored) = row else {
            broken += 1;
            continue;
        };
        let Quantised { scale, codes } = Quantised::new(rotation, &stored.vector);
        let row = Row { id: stored.id, expires: stored.expires, scale, codes: &codes };
        scopes.push(stored.scope, row);
        packer.add(&stored.scope, &row);
        if packer.is_full() {
            packer.pack(sqlite).await?;
        }
    }
    Ok(Loaded { scopes: scopes.scopes, packer, broken })
}

struct Scopes {
    dim: usize,
    now: UnixMillis,
    scopes: HashMap<ScopeId, Rows>,
}

impl Scopes {
    fn push(&mut self, scope: ScopeId, row: Row<'_>) {
        if row.expires > self.now {
            self.scopes.entry(scope).or_insert_with(|| Rows::new(self.dim)).push(row);
        }
    }
}
