//! The buffers of a forward pass, kept from batch to batch: in steady state nothing is allocated but the vectors that are
//! given out.

use super::aligned::Aligned;
use super::config::BertConfig;
use super::plan::Group;
use super::weights::BLOCK;

/// Rows of attention scores that are computed at a time.
pub const SCORE_ROWS: usize = 24;

/// Activations of one group.
pub struct Arena {
    hidden: Aligned<f32>,
    sum: Aligned<f32>,
    context: Aligned<f32>,
    wide: Aligned<f32>,
}

/// Where an arena's buffers lie. Several threads write to one arena, each to parts that no other touches between two
/// barriers.
#[derive(Clone, Copy)]
pub struct Activations {
    /// What goes from layer to layer, `(tokens, width)`.
    pub hidden: *mut f32,
    /// Before a layer norm, `(tokens, width)`.
    pub sum: *mut f32,
    /// What the heads gathered, `(tokens, width)`.
    pub context: *mut f32,
    /// Query, key and value, `(tokens, 3 width)`; later the inner layer, `(tokens, inner)`.
    pub wide: *mut f32,
}

// SAFETY: only addresses; the forward pass says who may write where.
unsafe impl Send for Activations {}
// SAFETY: as above.
unsafe impl Sync for Activations {}

impl Arena {
    pub fn new() -> Self {
        let empty = || Aligned::new(0);
        Self { hidden: empty(), sum: empty(), context: empty(), wide: empty() }
    }

    /// Buffers with room for a group of that many tokens.
    pub fn activations(&mut self, config: &BertConfig, tokens: usize) -> Activations {
        let width = config.hidden_size;
        for buffer in [&mut self.hidden, &mut self.sum, &mut self.context] {
            buffer.reserve(tokens * width);
        }
        self.wide.reserve(tokens * config.intermediate_size.max(3 * width));
        let [hidden, sum, context, wide] =
            [&mut self.hidden, &mut self.sum, &mut self.context, &mut self.wide].map(|buffer| buffer.as_mut_ptr());
        Activations { hidden, sum, context, wide }
    }
}

/// Buffers of one thread.
pub struct Scratch {
    /// A block of a panel, widened.
    pub panel: Aligned<f32>,
    /// The keys of one head, in panels.
    pub keys: Aligned<f32>,
    /// `(SCORE_ROWS, tokens of a sequence, padded to whole panels)`.
    pub scores: Aligned<f32>,
    pub pair: PairScratch,
}

/// What a head needs for one pair of texts.
#[derive(Default)]
pub struct PairScratch {
    /// Sums, then means, of the rows of each text.
    pub means: [Vec<f32>; 2],
    pub features: Vec<f32>,
    pub hidden: Vec<f32>,
}

impl Scratch {
    pub fn new(panel: usize) -> Self {
        Self {
            panel: Aligned::new(BLOCK * panel),
            keys: Aligned::new(0),
            scores: Aligned::new(0),
            pair: PairScratch::default(),
        }
    }

    /// Makes room for the longest sequence of a group.
    pub fn reserve(&mut self, group: &Group, head_size: usize, panel: usize) {
        let longest = group.sequences.iter().map(|sequence| sequence.len).max().unwrap_or(0);
        let padded = longest.next_multiple_of(panel);
        self.keys.reserve(padded * head_size);
        self.scores.reserve(padded * SCORE_ROWS);
    }
}
