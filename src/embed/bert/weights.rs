//! The weights as the forward pass reads them: linear layers in panels, query, key and value as one layer, the query
//! scaled beforehand. Done once, when the model is loaded.

use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

use super::aligned::Aligned;
use super::config::BertConfig;
use crate::config::Precision;
use crate::embed::kernels::Panel;
use crate::types::{Error, ErrorKind, Result};

/// Rows of a panel that are multiplied in one go. With 16 columns that is 24 KiB of f32, which stays in the first-level
/// cache while the rows of activations pass by.
pub const BLOCK: usize = 384;

pub struct Weights {
    /// One row per token of the vocabulary.
    pub words: Table,
    /// One row per position, the embedding of token type 0 added; rows before a text's first position are left out.
    pub positions: Vec<f32>,
    pub embedded: Norm,
    pub layers: Vec<Layer>,
}

pub struct Layer {
    /// Query, key and value side by side; the query is divided by the square root of the size of a head.
    pub qkv: Linear,
    pub attended: Linear,
    pub attention_norm: Norm,
    pub up: Linear,
    pub down: Linear,
    pub output_norm: Norm,
}

/// A linear layer in panels: `panel` columns lie together, row after row.
pub struct Linear {
    pub depth: usize,
    pub width: usize,
    pub bias: Vec<f32>,
    panel: usize,
    weights: Table,
}

pub struct Norm {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// Values in the precision they are kept in.
pub enum Table {
    F32(Aligned<f32>),
    /// See [`Panel::Bf16`].
    Bf16(Aligned<u16>),
}

impl Weights {
    /// `file`: the bytes of `model.safetensors`. `panel`: columns that lie together.
    ///
    /// Errors: [`ErrorKind::Corrupt`] when the file does not parse or does not fit `config`.
    pub fn load(file: &[u8], config: &BertConfig, precision: Precision, panel: usize) -> Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(file, &Device::Cpu).map_err(corrupt)?;
        let source = Source { tensors, precision, panel };
        let hidden = config.hidden_size;
        let types = source.matrix("embeddings.token_type_embeddings.weight", None, hidden)?;
        let all_positions =
            source.matrix("embeddings.position_embeddings.weight", Some(config.max_position_embeddings), hidden)?;
        let positions = &all_positions[config.first_position() * hidden..];
        let positions = positions.iter().zip(types[..hidden].iter().cycle()).map(|(p, t)| p + t).collect();
        let words = source.matrix("embeddings.word_embeddings.weight", Some(config.vocab_size), hidden)?;
        Ok(Self {
            words: Table::new(&words, precision, panel),
            positions,
            embedded: source.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.num_hidden_layers).map(|n| Layer::load(&source, config, n)).collect::<Result<_>>()?,
        })
    }
}

impl Layer {
    fn load(source: &Source, config: &BertConfig, number: usize) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let scale = 1.0 / (config.head_size() as f32).sqrt();
        let parts = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        let [query, key, value] = parts.map(|part| source.linear(&part, hidden, hidden));
        let mut qkv = query?;
        qkv.0.iter_mut().chain(&mut qkv.1).for_each(|x| *x *= scale);
        for (weight, bias) in [key?, value?] {
            qkv.0.extend(weight);
            qkv.1.extend(bias);
        }
        let linear = |part: &str, depth, width| {
            source.linear(&name(part), depth, width).and_then(|parts| source.pack(parts, depth, width))
        };
        Ok(Self {
            qkv: source.pack(qkv, hidden, 3 * hidden)?,
            attended: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: source.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: linear("intermediate.dense", hidden, inner)?,
            down: linear("output.dense", inner, hidden)?,
            output_norm: source.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}

impl Linear {
    pub fn panels(&self) -> usize {
        self.width / self.panel
    }

    /// Rows of a panel from `row` on, up to [`BLOCK`].
    pub fn block(&self, panel: usize, row: usize) -> Block {
        let start = (panel * self.depth + row) * self.panel;
        let depth = BLOCK.min(self.depth - row);
        let (weights, bytes) = self.weights.at(start, depth * self.panel);
        Block { depth, weights, bytes }
    }
}

/// Some rows of one panel.
#[derive(Clone, Copy)]
pub struct Block {
    pub depth: usize,
    pub weights: Panel,
    pub bytes: usize,
}

impl Block {
    pub fn start(&self) -> *const u8 {
        match self.weights {
            Panel::F32(weights) => weights.cast(),
            Panel::Bf16(weights) => weights.cast(),
        }
    }
}

impl Table {
    /// Rows of a multiple of `panel` values.
    fn new(values: &[f32], precision: Precision, panel: usize) -> Self {
        match precision {
            Precision::F32 => {
                let mut table = Aligned::new(values.len());
                table.copy_from_slice(values);
                Self::F32(table)
            }
            Precision::Bf16 => {
                let mut table = Aligned::new(values.len());
                for (row, values) in table.chunks_exact_mut(panel).zip(values.chunks_exact(panel)) {
                    let (first, second) = values.split_at(panel / 2);
                    for (pair, (first, second)) in row.chunks_exact_mut(2).zip(first.iter().zip(second)) {
                        pair.copy_from_slice(&[first, second].map(|x| half::bf16::from_f32(*x).to_bits()));
                    }
                }
                Self::Bf16(table)
            }
        }
    }

    /// Where `len` values from `start` on lie, and how many bytes they are.
    pub fn at(&self, start: usize, len: usize) -> (Panel, usize) {
        match self {
            Self::F32(values) => (Panel::F32(values[start..start + len].as_ptr()), len * size_of::<f32>()),
            Self::Bf16(values) => (Panel::Bf16(values[start..start + len].as_ptr()), len * size_of::<u16>()),
        }
    }
}

/// The tensors of a file, by name.
struct Source {
    tensors: HashMap<String, Tensor>,
    precision: Precision,
    panel: usize,
}

impl Source {
    /// Values of a tensor of that many. Files name tensors with and without the prefix of the model's kind.
    fn values(&self, name: &str, count: Option<usize>) -> Result<Vec<f32>> {
        let prefixed = ["", "bert.", "roberta."].iter().find_map(|prefix| self.tensors.get(&format!("{prefix}{name}")));
        let tensor = prefixed.ok_or_else(|| misfit(format!("has no tensor {name}")))?;
        if count.is_some_and(|count| count != tensor.elem_count()) {
            return Err(misfit(format!("tensor {name} is of shape {:?}, not what config.json says", tensor.dims())));
        }
        tensor.flatten_all().and_then(|t| t.to_dtype(DType::F32)).and_then(|t| t.to_vec1()).map_err(corrupt)
    }

    fn matrix(&self, name: &str, rows: Option<usize>, width: usize) -> Result<Vec<f32>> {
        let values = self.values(name, rows.map(|rows| rows * width))?;
        if values.is_empty() || !values.len().is_multiple_of(width) {
            return Err(misfit(format!("tensor {name} does not have rows of {width}")));
        }
        Ok(values)
    }

    /// Weights, one row per output, and biases.
    fn linear(&self, name: &str, depth: usize, width: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let weights = self.values(&format!("{name}.weight"), Some(depth * width))?;
        Ok((weights, self.values(&format!("{name}.bias"), Some(width))?))
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let part = |part| self.values(&format!("{name}.{part}"), Some(width));
        Ok(Norm { scale: part("weight")?, shift: part("bias")? })
    }

    fn pack(&self, (weights, bias): (Vec<f32>, Vec<f32>), depth: usize, width: usize) -> Result<Linear> {
        let panel = self.panel;
        let mut packed = Vec::with_capacity(weights.len());
        for columns in weights.chunks_exact(panel * depth) {
            for row in 0..depth {
                packed.extend(columns.iter().skip(row).step_by(depth));
            }
        }
        Ok(Linear { depth, width, bias, panel, weights: Table::new(&packed, self.precision, panel) })
    }
}

fn misfit(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("model.safetensors {what}"))
}

fn corrupt(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "model.safetensors does not fit config.json").with_source(error)
}
