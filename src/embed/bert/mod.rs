//! The forward pass on the CPU, our own: BERT-family encoders over packed batches of sequences of any lengths.
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
use self::encoder::{Encoder, Share};
use self::plan::Plan;
use self::team::Team;
use self::weights::Weights;
use super::Forward;
use super::kernels::Kernels;
use crate::config::Precision;
use crate::types::{Error, ErrorKind, Result};

pub struct Bert {
    encoder: Encoder,
    state: Mutex<State>,
}

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
    /// `weights`: the bytes of `model.safetensors`. `threads`: at least one, the caller's included.
    ///
    /// Errors: [`ErrorKind::Unsupported`] for a model whose sizes or activation function the kernels do not know,
    /// [`ErrorKind::Corrupt`] when the weights do not fit `config`.
    pub fn load(
        config: BertConfig,
        pooling: Pooling,
        weights: &[u8],
        precision: Precision,
        threads: usize,
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
        let weights = Weights::load(weights, &config, precision, kernels.panel)?;
        let team = Team::new(threads)?;
        let state = State {
            plan: Plan::default(),
            arenas: (0..threads).map(|_| Arena::new()).collect(),
            scratches: (0..threads).map(|_| Mutex::new(Scratch::new(kernels.panel))).collect(),
            activations: Vec::new(),
            vectors: Vec::new(),
            team,
        };
        Ok(Self { encoder: Encoder { config, pooling, kernels, weights }, state: Mutex::new(state) })
    }

    fn check(&self, batch: &[&[u32]]) -> Result<()> {
        let (longest, words) = (self.encoder.config.longest_text(), self.encoder.config.vocab_size);
        let wrong = |ids: &&[u32]| ids.is_empty() || ids.len() > longest || ids.iter().any(|id| *id as usize >= words);
        if batch.iter().any(wrong) {
            return Err(Error::internal("a text's tokens are not ones the embedding model takes"));
        }
        Ok(())
    }
}

impl Forward for Bert {
    fn forward(&self, batch: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        self.check(batch)?;
        let (encoder, width) = (&self.encoder, self.encoder.config.hidden_size);
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
            return Err(Error::internal("the embedding model gave values that are not numbers"));
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
