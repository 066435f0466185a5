//! The forward pass of one group of sequences, by one thread or by several.
//!
//! All tokens of the group lie in one matrix, `(tokens, width)`; there is no padding. Linear layers and norms work on all
//! rows alike, attention on one sequence and head at a time.

use std::ops::Range;

use super::arena::{Activations, PairScratch, SCORE_ROWS, Scratch};
use super::config::{BertConfig, Pooling};
use super::plan::{Group, Sequence};
use super::team::Barrier;
use super::weights::{BLOCK, Block, Head, Linear, Norm, Weights};
use crate::embed::Input;
use crate::embed::kernels::{Kernels, LayerNorm, Onto, Panel, Product};

/// Up to this many rows, bfloat16 weights are widened as they are multiplied; for more rows it is cheaper to widen a
/// block once.
const WIDEN_AT_ONCE: usize = 24;
/// Up to this many rows, weights come too slowly by themselves and are asked for one block ahead.
const FETCH_AHEAD: usize = 48;

pub struct Encoder {
    pub config: BertConfig,
    pub output: Output,
    pub kernels: Kernels,
    pub weights: Weights,
}

/// What becomes of the rows of a sequence.
pub enum Output {
    /// One unit vector.
    Vector(Pooling),
    /// One number for a pair of texts.
    Score(Head),
}

impl Output {
    /// Values for each sequence of a model of that width.
    pub fn width(&self, width: usize) -> usize {
        match self {
            Self::Vector(_) => width,
            Self::Score(_) => 1,
        }
    }
}

/// One thread's part in a pass.
#[derive(Clone, Copy)]
pub struct Share<'a> {
    pub rank: usize,
    /// Threads that work on this group.
    pub of: usize,
    /// Where they wait for one another; not used by one alone.
    pub barrier: &'a Barrier,
}

impl Share<'_> {
    /// This thread's part of `count` things.
    fn of(&self, count: usize) -> Range<usize> {
        count * self.rank / self.of..count * (self.rank + 1) / self.of
    }

    /// This thread's part of `count` things, taken one by one: a thread whose core is slow, or taken from it for a while,
    /// takes fewer. Ask once between two calls of [`Share::done`].
    fn take(&self, count: usize) -> impl Iterator<Item = usize> {
        let mut own = 0..count;
        std::iter::from_fn(move || match self.of {
            1 => own.next(),
            _ => Some(self.barrier.take()).filter(|taken| *taken < count),
        })
    }

    /// Returns when all have done their part of the step.
    fn done(&self) {
        if self.of > 1 {
            self.barrier.wait();
        }
    }
}

/// One linear layer over all tokens of a group.
struct Step<'a> {
    layer: &'a Linear,
    tokens: usize,
    from: *const f32,
    to: *mut f32,
    /// What is added to the result, laid out alike.
    residual: Option<*const f32>,
    gelu: bool,
}

impl Encoder {
    /// Writes what becomes of a group's sequences to `out`, `(sequences of the batch, width of the output)`, each at its place
    /// in the batch.
    ///
    /// # Safety
    /// `at` has room for the group; `out` for the batch. Where several threads share a group, all call this with
    /// the same arguments but for rank and scratch, and nothing else touches `at` and those places of `out` meanwhile. Every id is
    /// below the size of the vocabulary, and no sequence longer than there are positions.
    pub unsafe fn encode(
        &self,
        batch: &[Input],
        group: &Group,
        at: Activations,
        out: *mut f32,
        share: Share,
        scratch: &mut Scratch,
    ) {
        let (tokens, width) = (group.tokens, self.config.hidden_size);
        scratch.reserve(group, self.config.head_size(), self.kernels.panel);
        // SAFETY: each thread writes its own columns, rows or heads in each step, and reads what others wrote only after a
        // barrier. The sizes of all buffers are as the layers' are, which loading has checked.
        unsafe {
            self.look_up(batch, group, at.sum, share);
            self.norm(&self.weights.embedded, tokens, at, share);
            share.done();
            for layer in &self.weights.layers {
                let step = |layer, from, to| Step { layer, tokens, from, to, residual: None, gelu: false };
                self.linear(step(&layer.qkv, at.hidden, at.wide), share, scratch);
                share.done();
                self.attention(group, at, share, scratch);
                share.done();
                let residual = Some(at.hidden.cast_const());
                self.linear(Step { residual, ..step(&layer.attended, at.context, at.sum) }, share, scratch);
                share.done();
                self.norm(&layer.attention_norm, tokens, at, share);
                share.done();
                self.linear(Step { gelu: true, ..step(&layer.up, at.hidden, at.wide) }, share, scratch);
                share.done();
                self.linear(Step { residual, ..step(&layer.down, at.wide, at.sum) }, share, scratch);
                share.done();
                self.norm(&layer.output_norm, tokens, at, share);
                share.done();
            }
            for sequence in &group.sequences[share.of(group.sequences.len())] {
                let rows = std::slice::from_raw_parts(at.hidden.add(sequence.start * width), sequence.len * width);
                match &self.output {
                    Output::Vector(pooling) => {
                        pool(*pooling, rows, std::slice::from_raw_parts_mut(out.add(sequence.index * width), width));
                    }
                    Output::Score(head) => {
                        let second = batch[sequence.index].second;
                        *out.add(sequence.index) = self.score(head, rows, second, share.barrier, scratch);
                    }
                }
            }
        }
    }

    /// Embeddings of this thread's rows: word and position (with token type) added.
    unsafe fn look_up(&self, batch: &[Input], group: &Group, to: *mut f32, share: Share) {
        let (width, own) = (self.config.hidden_size, share.of(group.tokens));
        for sequence in &group.sequences {
            let rows = sequence.start.max(own.start)..(sequence.start + sequence.len).min(own.end);
            for row in rows {
                let position = row - sequence.start;
                let Input { ids, second } = batch[sequence.index];
                let id = ids[position] as usize;
                // SAFETY: passed on to the caller.
                unsafe {
                    let to = to.add(row * width);
                    match self.weights.words.at(id * width, width).0 {
                        Panel::F32(word) => to.copy_from_nonoverlapping(word, width),
                        Panel::Bf16(word) => (self.kernels.widen)(word, to, width),
                    }
                    let sum = std::slice::from_raw_parts_mut(to, width);
                    let embedding = &self.weights.positions[position * width..][..width];
                    sum.iter_mut().zip(embedding).for_each(|(sum, p)| *sum += p);
                    if position >= second {
                        sum.iter_mut().zip(&self.weights.second).for_each(|(sum, t)| *sum += t);
                    }
                }
            }
        }
    }

    /// Layer norm of this thread's rows, from `sum` to `hidden`.
    unsafe fn norm(&self, norm: &Norm, tokens: usize, at: Activations, share: Share) {
        let (width, own) = (self.config.hidden_size, share.of(tokens));
        // SAFETY: passed on to the caller.
        unsafe {
            (self.kernels.layer_norm)(&LayerNorm {
                rows: own.len(),
                width,
                from: at.sum.add(own.start * width),
                to: at.hidden.add(own.start * width),
                scale: norm.scale.as_ptr(),
                shift: norm.shift.as_ptr(),
                epsilon: self.config.layer_norm_eps,
            });
        }
    }

    /// This thread's panels of a linear layer.
    unsafe fn linear(&self, step: Step, share: Share, scratch: &mut Scratch) {
        let layer = step.layer;
        let mut panels = share.take(layer.panels()).peekable();
        while let Some(panel) = panels.next() {
            for row in (0..layer.depth).step_by(BLOCK) {
                let mut next = || match row + BLOCK {
                    row if row < layer.depth => Some(layer.block(panel, row)),
                    _ => panels.peek().map(|panel| layer.block(*panel, 0)),
                };
                let next = if step.tokens <= FETCH_AHEAD { next() } else { None };
                // SAFETY: passed on to the caller; panel and row are the layer's.
                unsafe { self.block(&step, panel, row, next, scratch) };
            }
        }
    }

    /// All tokens times the rows of a panel from `row` on, up to [`BLOCK`]; meanwhile, what comes next is fetched.
    unsafe fn block(&self, step: &Step, panel: usize, row: usize, next: Option<Block>, scratch: &mut Scratch) {
        let (layer, panel_width) = (step.layer, self.kernels.panel);
        let (block, column) = (layer.block(panel, row), panel * panel_width);
        // SAFETY: passed on to the caller; columns and rows are within the layer's.
        unsafe {
            let bias = layer.bias.as_ptr().add(column);
            let onto = match step.residual {
                _ if row > 0 => Onto::Output,
                Some(residual) => Onto::BiasAndRows(bias, residual.add(column)),
                None => Onto::Bias(bias),
            };
            let mut product = Product {
                rows: step.tokens,
                depth: block.depth,
                a: step.from.add(row),
                a_stride: layer.depth,
                b: block.weights,
                b_stride: panel_width,
                c: step.to.add(column),
                c_stride: layer.width,
                onto,
                gelu: step.gelu && row + block.depth == layer.depth,
                next: next.map_or(std::ptr::null(), |block| block.start()),
                next_bytes: next.map_or(0, |block| block.bytes),
            };
            if let (Panel::Bf16(weights), true) = (block.weights, step.tokens > WIDEN_AT_ONCE) {
                let widened = scratch.panel.as_mut_ptr();
                (self.kernels.widen)(weights, widened, block.depth * panel_width);
                product.b = Panel::F32(widened);
            }
            (self.kernels.product)(&product);
        }
    }

    /// This thread's heads, of all sequences.
    unsafe fn attention(&self, group: &Group, at: Activations, share: Share, scratch: &mut Scratch) {
        let heads = self.config.num_attention_heads;
        for item in share.take(group.sequences.len() * heads) {
            // SAFETY: passed on to the caller.
            unsafe { self.head(&group.sequences[item / heads], item % heads, at, scratch) };
        }
    }

    /// softmax(Q K') V of one head and sequence; Q comes scaled.
    unsafe fn head(&self, sequence: &Sequence, head: usize, at: Activations, scratch: &mut Scratch) {
        let (width, size, panel, len) =
            (self.config.hidden_size, self.config.head_size(), self.kernels.panel, sequence.len);
        let padded = len.next_multiple_of(panel);
        let (keys, scores) = (scratch.keys.as_mut_ptr(), scratch.scores.as_mut_ptr());
        // SAFETY: passed on to the caller; `Scratch::reserve` has made room.
        unsafe {
            let query = at.wide.add(sequence.start * 3 * width + head * size);
            let (key, value) = (query.add(width), query.add(2 * width));
            transpose(key, 3 * width, len, size, panel, keys);
            for first in (0..len).step_by(SCORE_ROWS) {
                let rows = SCORE_ROWS.min(len - first);
                let product = Product {
                    rows,
                    depth: size,
                    a: query.add(first * 3 * width),
                    a_stride: 3 * width,
                    b: Panel::F32(keys),
                    b_stride: panel,
                    c: scores,
                    c_stride: padded,
                    onto: Onto::Nothing,
                    gelu: false,
                    next: std::ptr::null(),
                    next_bytes: 0,
                };
                for column in (0..padded).step_by(panel) {
                    let b = Panel::F32(keys.add(column * size));
                    (self.kernels.product)(&Product { b, c: scores.add(column), ..product });
                }
                for row in 0..rows {
                    (self.kernels.softmax)(scores.add(row * padded), len, padded);
                }
                let context = at.context.add((sequence.start + first) * width + head * size);
                for column in (0..size).step_by(panel) {
                    (self.kernels.product)(&Product {
                        depth: len,
                        a: scores,
                        a_stride: padded,
                        b: Panel::F32(value.add(column)),
                        b_stride: 3 * width,
                        c: context.add(column),
                        c_stride: width,
                        ..product
                    });
                }
            }
        }
    }
}

impl Encoder {
    /// The head's number for the rows of a pair of which those from `second` on are the second text's. Its features are the
    /// first row, the mean of all, and of the means of both texts the difference's magnitude and the product.
    fn score(&self, head: &Head, rows: &[f32], second: usize, barrier: &Barrier, scratch: &mut Scratch) -> f32 {
        let width = self.config.hidden_size;
        let texts = rows.split_at(second * width);
        let mut pair = std::mem::take(&mut scratch.pair);
        let PairScratch { means: [first, other], features, hidden } = &mut pair;
        sum(texts.0, width, first);
        sum(texts.1, width, other);
        features.clear();
        features.extend_from_slice(&rows[..width]);
        let all = rows.len() as f32 / width as f32;
        features.extend(first.iter().zip(&*other).map(|(a, b)| (a + b) / all));
        first.iter_mut().for_each(|x| *x /= second as f32);
        other.iter_mut().for_each(|x| *x /= all - second as f32);
        features.extend(first.iter().zip(&*other).map(|(a, b)| (a - b).abs()));
        features.extend(first.iter().zip(&*other).map(|(a, b)| a * b));
        hidden.resize(head.score.len(), 0.0);
        let (from, to) = (features.as_ptr(), hidden.as_mut_ptr());
        let step = Step { layer: &head.dense, tokens: 1, from, to, residual: None, gelu: true };
        // SAFETY: one row of features, as many as the layer's depth, and room for its width; nobody else works on them.
        unsafe { self.linear(step, Share { rank: 0, of: 1, barrier }, scratch) };
        let score = hidden.iter().zip(&head.score).map(|(x, weight)| x * weight).sum::<f32>() + head.bias;
        scratch.pair = pair;
        score
    }
}

fn sum(rows: &[f32], width: usize, to: &mut Vec<f32>) {
    to.clear();
    to.resize(width, 0.0);
    rows.chunks_exact(width).for_each(|row| to.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
}

/// Keys as panels of columns: `size` rows of `panel` keys, then the next panel's. What lies behind the last key is 0.
unsafe fn transpose(keys: *const f32, stride: usize, len: usize, size: usize, panel: usize, to: *mut f32) {
    for first in (0..len).step_by(panel) {
        for column in 0..panel {
            let key = first + column;
            for row in 0..size {
                // SAFETY: passed on to the caller.
                unsafe {
                    let x = if key < len { *keys.add(key * stride + row) } else { 0.0 };
                    *to.add(first * size + row * panel + column) = x;
                }
            }
        }
    }
}

/// One unit vector from the rows of a sequence. Sum and mean point the same way, so the mean needs no division.
fn pool(pooling: Pooling, rows: &[f32], vector: &mut [f32]) {
    let mut rows = rows.chunks_exact(vector.len());
    if let Some(first) = rows.next() {
        vector.copy_from_slice(first);
    }
    if pooling == Pooling::Mean {
        for row in rows {
            vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}
