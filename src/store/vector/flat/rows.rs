//! The rows of one scope. A search works on a snapshot, which costs one reference count; a writer copies what
//! it changes: one [`Block`], the sketches of one [`Chunk`], and the pointers above them.

use std::sync::Arc;

use super::kernels::BLOCK;
use super::quantise::{Row, Scale};
use super::scan;
use super::sketch::Sketches;
use crate::types::UnixMillis;

/// Blocks in a chunk, and rows.
const CHUNK_BLOCKS: usize = 32;
pub const CHUNK_ROWS: usize = CHUNK_BLOCKS * BLOCK;
/// Neighbouring chunks become one when they have no more rows than this together, so that most room is used however
/// rows come and go.
const MERGED_ROWS: usize = CHUNK_ROWS * 3 / 4;

/// In chunks by id: those of a chunk are below those of the next. Within a chunk they have no order.
#[derive(Debug, Clone)]
pub struct Rows {
    dim: usize,
    chunks: Vec<Arc<Chunk>>,
    len: usize,
    /// Whether the chunks have sketches. Once a scope is large enough for them it keeps them.
    sketched: bool,
}

/// Up to [`CHUNK_ROWS`] rows. Every block but the last is full.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// No id in it is lower.
    first: i64,
    /// No row of it has a lower [`Scale::reach`].
    least_reach: f32,
    blocks: Vec<Arc<Block>>,
    /// When the scope is sketched.
    sketches: Option<Sketches>,
}

/// Up to [`BLOCK`] rows, their codes apart from the rest so that a scan reads nothing else.
#[derive(Debug, Default)]
pub struct Block {
    /// Id in the file, and when it expires.
    pub rows: Vec<(i64, UnixMillis)>,
    pub scales: Vec<Scale>,
    /// `rows.len() * dim` codes.
    pub codes: Vec<i8>,
}

impl Rows {
    pub fn new(dim: usize) -> Self {
        Self { dim, chunks: Vec::new(), len: 0, sketched: false }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn is_sketched(&self) -> bool {
        self.sketched
    }

    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Ids and times of expiry.
    pub fn iter(&self) -> impl Iterator<Item = (i64, UnixMillis)> {
        self.chunks.iter().flat_map(|chunk| &chunk.blocks).flat_map(|block| block.rows.iter().copied())
    }

    /// Bytes held, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let block = |block: &Arc<Block>| {
            size_of::<Block>()
                + block.codes.capacity()
                + block.scales.capacity() * size_of::<Scale>()
                + block.rows.capacity() * size_of::<(i64, UnixMillis)>()
        };
        let chunk = |chunk: &Arc<Chunk>| {
            let blocks: usize = chunk.blocks.iter().map(block).sum();
            let pointers = chunk.blocks.capacity() * size_of::<Arc<Block>>();
            size_of::<Chunk>() + blocks + pointers + chunk.sketches.as_ref().map_or(0, Sketches::bytes)
        };
        self.chunks.iter().map(chunk).sum::<usize>() + self.chunks.capacity() * size_of::<Arc<Chunk>>()
    }

    /// Adds a row, whose id is above all that are there.
    pub fn push(&mut self, row: Row<'_>) {
        if !self.sketched && scan::is_sketched(self.len + 1, self.dim) {
            self.sketch();
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_ROWS) {
            self.chunks.push(Arc::new(Chunk::new(row.id, self.sketched.then(|| Sketches::new(self.dim)))));
        }
        if let Some(last) = self.chunks.last_mut() {
            Arc::make_mut(last).push(row);
            self.len += 1;
        }
    }

    /// Removes a row; false when it is not there.
    pub fn remove(&mut self, id: i64) -> bool {
        let after = self.chunks.partition_point(|chunk| chunk.first <= id);
        let Some(at) = after.checked_sub(1) else { return false };
        let Some(position) = self.chunks[at].position(id) else { return false };
        Arc::make_mut(&mut self.chunks[at]).swap_remove(position, self.dim);
        self.len -= 1;
        if self.chunks[at].len() == 0 {
            self.chunks.remove(at);
        } else if self.chunks[at].len() <= MERGED_ROWS / 2 {
            self.merge(at.saturating_sub(1));
            self.merge(at);
        }
        true
    }

    /// Gives every chunk its sketches, which later rows get too.
    fn sketch(&mut self) {
        self.sketched = true;
        self.chunks.iter_mut().for_each(|chunk| Arc::make_mut(chunk).sketch(self.dim));
    }

    /// Makes one chunk of that one and the next, if both are there and small enough.
    fn merge(&mut self, at: usize) {
        let Some([left, right]) = self.chunks.get(at..at + 2) else { return };
        if left.len() + right.len() > MERGED_ROWS {
            return;
        }
        let right = self.chunks.remove(at + 1);
        let left = Arc::make_mut(&mut self.chunks[at]);
        for block in &right.blocks {
            for i in 0..block.rows.len() {
                left.push(block.row(i, self.dim));
            }
        }
    }
}

impl Chunk {
    fn new(first: i64, sketches: Option<Sketches>) -> Self {
        Self { first, least_reach: f32::INFINITY, blocks: Vec::new(), sketches }
    }

    pub fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.rows.len())
    }

    pub fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub fn sketches(&self) -> Option<&Sketches> {
        self.sketches.as_ref()
    }

    pub fn least_reach(&self) -> f32 {
        self.least_reach
    }

    fn push(&mut self, row: Row<'_>) {
        let position = self.len();
        if position == self.blocks.len() * BLOCK {
            self.blocks.push(Arc::default());
        }
        if let Some(sketches) = &mut self.sketches {
            if position == sketches.blocks() * BLOCK {
                sketches.resize(self.blocks.len());
            }
            sketches.write(position, row.codes);
        }
        self.least_reach = self.least_reach.min(row.scale.reach);
        Arc::make_mut(&mut self.blocks[position / BLOCK]).push(row);
    }

    fn position(&self, id: i64) -> Option<usize> {
        self.blocks.iter().flat_map(|block| &block.rows).position(|&(found, _)| found == id)
    }

    /// Removes a row and moves the last one into its place.
    fn swap_remove(&mut self, position: usize, dim: usize) {
        let last = self.len() - 1;
        if position != last {
            let moved = Arc::clone(&self.blocks[last / BLOCK]);
            let row = moved.row(last % BLOCK, dim);
            Arc::make_mut(&mut self.blocks[position / BLOCK]).replace(position % BLOCK, row);
            if let Some(sketches) = &mut self.sketches {
                sketches.copy(last, position);
            }
        }
        if last.is_multiple_of(BLOCK) {
            self.blocks.pop();
            if let Some(sketches) = &mut self.sketches {
                sketches.resize(self.blocks.len());
            }
        } else {
            Arc::make_mut(&mut self.blocks[last / BLOCK]).truncate(last % BLOCK, dim);
        }
    }

    fn sketch(&mut self, dim: usize) {
        let mut sketches = Sketches::new(dim);
        sketches.resize(self.blocks.len());
        for (b, block) in self.blocks.iter().enumerate() {
            for (row, codes) in block.codes.chunks_exact(dim).enumerate() {
                sketches.write(b * BLOCK + row, codes);
            }
        }
        self.sketches = Some(sketches);
    }
}

impl Block {
    pub fn row(&self, i: usize, dim: usize) -> Row<'_> {
        let (id, expires) = self.rows[i];
        Row { id, expires, scale: self.scales[i], codes: self.codes(i, dim) }
    }

    pub fn codes(&self, i: usize, dim: usize) -> &[i8] {
        &self.codes[i * dim..(i + 1) * dim]
    }

    fn push(&mut self, row: Row<'_>) {
        let len = self.rows.len();
        if self.rows.capacity() == len {
            // Doubles, and stops at a block.
            let more = (len + 1).next_power_of_two().min(BLOCK) - len;
            self.rows.reserve_exact(more);
            self.scales.reserve_exact(more);
            self.codes.reserve_exact(more * row.codes.len());
        }
        self.rows.push((row.id, row.expires));
        self.scales.push(row.scale);
        self.codes.extend_from_slice(row.codes);
    }

    fn replace(&mut self, i: usize, row: Row<'_>) {
        let dim = row.codes.len();
        self.rows[i] = (row.id, row.expires);
        self.scales[i] = row.scale;
        self.codes[i * dim..(i + 1) * dim].copy_from_slice(row.codes);
    }

    fn truncate(&mut self, len: usize, dim: usize) {
        self.rows.truncate(len);
        self.scales.truncate(len);
        self.codes.truncate(len * dim);
    }
}

/// Keeps the room that was reserved: the copy is made to be added to.
impl Clone for Block {
    fn clone(&self) -> Self {
        let mut copy = Self {
            rows: Vec::with_capacity(self.rows.capacity()),
            scales: Vec::with_capacity(self.scales.capacity()),
            codes: Vec::with_capacity(self.codes.capacity()),
        };
        copy.rows.extend_from_slice(&self.rows);
        copy.scales.extend_from_slice(&self.scales);
        copy.codes.extend_from_slice(&self.codes);
        copy
    }
}

#[cfg(test)]
mod tests;
