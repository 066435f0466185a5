//! Which rows are in blocks on disk, which are not yet, and which blocks have to be written anew.

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::{self, Extent, ROWS};
use super::quantise::Row;
use crate::store::sqlite::Sqlite;
use crate::types::{Result, ScopeId};

/// A block is written anew when one in so many of its rows is gone.
const GONE_PART: usize = 4;

pub struct Packer {
    space: i64,
    dim: usize,
    /// Encoded rows that are in no block yet, by id.
    waiting: BTreeMap<i64, Vec<u8>>,
    /// By first id.
    blocks: BTreeMap<i64, Extent>,
    /// First ids of blocks to be written anew.
    due: BTreeSet<i64>,
}

impl Packer {
    pub fn new(space: i64, dim: usize, blocks: Vec<Extent>) -> Self {
        let mut packer = Self { space, dim, waiting: BTreeMap::new(), blocks: BTreeMap::new(), due: BTreeSet::new() };
        blocks.into_iter().for_each(|block| packer.keep(block));
        packer
    }

    /// The last id that is in a block or was.
    pub fn last(&self) -> i64 {
        self.blocks.last_key_value().map_or(i64::MIN, |(_, block)| block.last)
    }

    /// A committed row, whose id is above all others.
    pub fn add(&mut self, scope: &ScopeId, row: &Row<'_>) {
        let mut encoded = Vec::new();
        blocks::encode(scope, row, &mut encoded);
        self.waiting.insert(row.id, encoded);
    }

    /// A row that is gone from the file.
    pub fn remove(&mut self, id: i64) {
        if self.waiting.remove(&id).is_some() {
            return;
        }
        if let Some((_, block)) = self.blocks.range_mut(..=id).next_back()
            && id <= block.last
        {
            block.gone += 1;
            if block.gone * GONE_PART >= block.rows {
                self.due.insert(block.first);
            }
        }
    }

    /// Whether the waiting rows fill a block.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= ROWS
    }

    /// Whether a block should be written anew.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Puts waiting rows into a block.
    pub async fn pack(&mut self, sqlite: &Sqlite) -> Result<()> {
        let mut ids = self.waiting.keys().take(ROWS).copied();
        let Some(first) = ids.next() else { return Ok(()) };
        let last = ids.next_back().unwrap_or(first);
        let rows: Vec<&[u8]> = self.waiting.range(first..=last).map(|(_, row)| row.as_slice()).collect();
        let (count, rows) = (rows.len(), rows.concat());
        let space = self.space;
        sqlite.write(move |c| Box::pin(async move { blocks::write(c, space, first, last, &rows).await })).await?;
        self.waiting = self.waiting.split_off(&(last + 1));
        self.keep(Extent { first, last, rows: count, gone: 0 });
        Ok(())
    }

    /// Writes one of the blocks anew that should be.
    pub async fn rewrite(&mut self, sqlite: &Sqlite) -> Result<()> {
        // One that fails is as good as before, and is not tried again until more of it is gone.
        let Some(first) = self.due.pop_first() else { return Ok(()) };
        let (space, dim) = (self.space, self.dim);
        let (last, block) = sqlite.write(move |c| Box::pin(blocks::rewrite(c, space, dim, first))).await?;
        let covered: Vec<i64> = self.blocks.range(first..=last).map(|(&first, _)| first).collect();
        for first in covered {
            self.blocks.remove(&first);
            self.due.remove(&first);
        }
        if let Some(block) = block {
            self.keep(block);
        }
        Ok(())
    }

    fn keep(&mut self, block: Extent) {
        if block.gone * GONE_PART >= block.rows {
            self.due.insert(block.first);
        }
        self.blocks.insert(block.first, block);
    }
}
