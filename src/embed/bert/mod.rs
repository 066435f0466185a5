//! The forward pass on the CPU, our own: BERT-family encoders over packed batches of sequences of any lengths, be they texts
//! or pairs of texts.
//!
//! - [`config`]: what the model's files say of it;
//! - [`weights`]: the weights, laid out once for the kernels;
//! - [`plan`]: who of the threads does what;
//! - [`team`]: the threads, and how they wait for one another;
//! - [`encoder`]: the layers, in the order in which they are computed;
//! - [`arena`], [`aligned`]: the buffers.

mod aligned;
mod arena;
pub mod config;
mod encoder;
mod plan;
mod team;
mod weights;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::arena::{Activations, Arena, Scratch};
use self::config::{BertConfig, Pooling};
use self::encoder::{Encoder, Output, Share};
use self::plan::Plan;
use self::team::Team;
use self::weights::{Head, Weights};
use super::kernels::Kernels;
use super::{Cores, Forward, Input};
use crate::config::Precision;
use crate::types::{Error, ErrorKind, Result};

pub struct Bert {
    encoder: Encoder,
    cores: Cores,
    state: Mutex<State>,
}

/// What a model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A unit vector for each text.
    Embedder(Pooling),
    /// One number for each pair of texts.
    Verifier,
}

/// Features that a verifier's head reads, for each value of the model's width.
const FEATURES: usize = 4;

/// What a pass needs besides the weights. Locked for the whole of it: passes come from one thread, one after the other.
struct State {
    team: Team,
    plan: Plan,
    /// By rank.
    arenas: Vec<Arena>,
    scratches: Vec<Mutex<Scratch>>,
    activations: Vec<Activations>,
    vectors: Vec<f32>,
}

impl Bert {
    /// `weights`: the bytes of `model.safetensors`. `threads`: at least one, the caller's included. Passes of models with the
    /// same `cores` take turns.
    ///
    /// Errors: [`ErrorKind::Unsupported`] for a model whose sizes or activation function the kernels do not know,
    /// [`ErrorKind::Corrupt`] when the weights do not fit `config`.
    pub fn load(
        config: BertConfig,
        kind: Kind,
        weights: &[u8],
        precision: Precision,
        (threads, cores): (usize, Cores),
        kernels: Kernels,
    ) -> Result<Self> {
        if config.hidden_act != "gelu" {
            let message = format!("a model with the activation function {:?}", config.hidden_act);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let multiples = [config.head_size(), config.hidden_size, config.intermediate_size];
        if multiples.iter().any(|size| *size == 0 || !size.is_multiple_of(kernels.panel)) {
            let message = format!("a model whose sizes {multiples:?} are not multiples of {}", kernels.panel);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let output = match kind {
            Kind::Embedder(pooling) => Output::Vector(pooling),
            Kind::Verifier => {
                Output::Score(Head::load(weights, FEATURES * config.hidden_size, precision, kernels.panel)?)
            }
        };
        let weights = Weights::load(weights, &config, precision, kernels.panel)?;
        if kind == Kind::Verifier && weights.second.len() != config.hidden_size {
            return Err(Error::new(ErrorKind::Corrupt, "model.safetensors: a verifier needs two token types"));
        }
        let team = Team::new(threads)?;
        let state = State {
            plan: Plan::default(),
            arenas: (0..threads).map(|_| Arena::new()).collect(),
            scratches: (0..threads).map(|_| Mutex::new(Scratch::new(kernels.panel))).collect(),
            activations: Vec::new(),
            vectors: Vec::new(),
            team,
        };
        Ok(Self { encoder: Encoder { config, output, kernels, weights }, cores, state: Mutex::new(state) })
    }

    fn check(&self, batch: &[Input]) -> Result<()> {
        let (longest, words) = (self.encoder.config.longest_text(), self.encoder.config.vocab_size);
        let is_pairs = matches!(self.encoder.output, Output::Score(_));
        let wrong = |input: &Input| {
            let len = input.ids.len();
            let divided = if is_pairs { 0 < input.second && input.second < len } else { input.second == len };
            len == 0 || len > longest || !divided || input.ids.iter().any(|id| *id as usize >= words)
        };
        if batch.iter().any(wrong) {
            return Err(Error::internal("a text's tokens are not ones the model takes"));
        }
        Ok(())
    }
}

impl Forward for Bert {
    fn forward(&self, batch: &[Input]) -> Result<Vec<Arc<[f32]>>> {
        self.check(batch)?;
        let encoder = &self.encoder;
        let width = encoder.output.width(encoder.config.hidden_size);
        let _turn = self.cores.turn();
        let mut state = self.state.lock();
        let State { team, plan, arenas, scratches, activations, vectors } = &mut *state;
        plan.make(batch, team.size());
        let most_tokens = plan.groups().first().map_or(0, |group| group.tokens);
        activations.clear();
        activations.extend(arenas.iter_mut().map(|arena| arena.activations(&encoder.config, most_tokens)));
        vectors.resize(vectors.len().max(batch.len() * width), 0.0);

        let to = Vectors(vectors.as_mut_ptr());
        let (groups, together, size) = (plan.groups(), plan.is_together(), team.size());
        let next = AtomicUsize::new(0);
        team.run(&|rank, barrier| {
            let mut scratch = scratches[rank].lock();
            if together {
                let share = Share { rank, of: size, barrier };
                // SAFETY: `check` has seen to the tokens; the buffers were made for the largest group; all threads are
                // here, in the same group.
                unsafe { encoder.encode(batch, &groups[0], activations[0], to.get(), share, &mut scratch) };
                return;
            }
            let share = Share { rank: 0, of: 1, barrier };
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                // SAFETY: as above, but this thread is alone with the group and its own activations.
                unsafe { encoder.encode(batch, group, activations[rank], to.get(), share, &mut scratch) };
            }
        });
        let vectors = &vectors[..batch.len() * width];
        // Weights of another model can pass every check of shapes and still give NaN: never let that be stored.
        if vectors.iter().any(|x| !x.is_finite()) {
            return Err(Error::internal("the model gave values that are not numbers"));
        }
        Ok(vectors.chunks_exact(width).map(Arc::from).collect())
    }
}

/// Where the vectors go; each thread writes those of its own sequences.
#[derive(Clone, Copy)]
struct Vectors(*mut f32);

// SAFETY: only an address; `Encoder::encode` says who may write where.
unsafe impl Sync for Vectors {}

impl Vectors {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
mod tests;
