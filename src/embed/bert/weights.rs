//! The weights as the forward pass reads them: linear layers in panels, query, key and value as one layer, the query
//! scaled beforehand. Done once, when the model is loaded.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

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
    /// What the tokens of a second text have on top: the embedding of token type 1, less that of type 0. Empty where the
    /// model knows one type.
    pub second: Vec<f32>,
    pub embedded: Norm,
    pub layers: Vec<Layer>,
}

/// What makes one number of a pair of texts: a layer with GELU over the pair's features, and one over that.
pub struct Head {
    pub dense: Linear,
    pub score: Vec<f32>,
    pub bias: f32,
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
        let source = Source::new(file, precision, panel)?;
        let hidden = config.hidden_size;
        let types = source.matrix("embeddings.token_type_embeddings.weight", None, hidden)?;
        let all_positions =
            source.matrix("embeddings.position_embeddings.weight", Some(config.max_position_embeddings), hidden)?;
        let positions = &all_positions[config.first_position() * hidden..];
        let positions = positions.iter().zip(types[..hidden].iter().cycle()).map(|(p, t)| p + t).collect();
        let second = types[hidden..].iter().zip(&types).map(|(second, first)| second - first).take(hidden).collect();
        let words = source.matrix("embeddings.word_embeddings.weight", Some(config.vocab_size), hidden)?;
        Ok(Self {
            words: Table::new(&words, precision, panel),
            positions,
            second,
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

impl Head {
    /// Of a model that was trained on pairs: `verifier.dense` over `features` values, `verifier.score` over what that gives.
    pub fn load(file: &[u8], features: usize, precision: Precision, panel: usize) -> Result<Self> {
        let source = Source::new(file, precision, panel)?;
        let score = source.values("verifier.score.weight", None)?;
        let width = score.len();
        if width == 0 || !width.is_multiple_of(panel) {
            return Err(misfit(format!("has a head of {width} values, not of a multiple of {panel}")));
        }
        let dense = source.pack(source.linear("verifier.dense", features, width)?, features, width)?;
        let bias = source.values("verifier.score.bias", Some(1))?[0];
        Ok(Self { dense, score, bias })
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
struct Source<'a> {
    tensors: SafeTensors<'a>,
    precision: Precision,
    panel: usize,
}

impl<'a> Source<'a> {
    fn new(file: &'a [u8], precision: Precision, panel: usize) -> Result<Self> {
        let tensors = SafeTensors::deserialize(file)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "model.safetensors does not parse").with_source(e))?;
        Ok(Self { tensors, precision, panel })
    }

    /// Values of a tensor of that many. Files name tensors with and without the prefix of the model's kind.
    fn values(&self, name: &str, count: Option<usize>) -> Result<Vec<f32>> {
        let tensor = self.tensor(name).ok_or_else(|| misfit(format!("has no tensor {name}")))?;
        if count.is_some_and(|count| count != tensor.shape().iter().product::<usize>()) {
            return Err(misfit(format!("tensor {name} is of shape {:?}, not what config.json says", tensor.shape())));
        }
        if tensor.dtype() == Dtype::I8 {
            return self.scaled(name, &tensor);
        }
        numbers(&tensor).ok_or_else(|| misfit(format!("tensor {name} is of type {:?}", tensor.dtype())))
    }

    fn tensor(&self, name: &str) -> Option<TensorView<'a>> {
        ["", "bert.", "roberta."].iter().find_map(|prefix| self.tensors.tensor(&format!("{prefix}{name}")).ok())
    }

    /// Values of a matrix in 8 bits, each row with a factor of its own in the tensor `name.scale`.
    fn scaled(&self, name: &str, tensor: &TensorView) -> Result<Vec<f32>> {
        let scales = self.tensor(&format!("{name}.scale")).and_then(|scales| numbers(&scales)).unwrap_or_default();
        let [rows, width] = *tensor.shape() else { return Err(misfit(format!("tensor {name} is no matrix"))) };
        if scales.len() != rows || width == 0 {
            return Err(misfit(format!("tensor {name} has {rows} rows, and {} scales", scales.len())));
        }
        let rows = tensor.data().chunks_exact(width).zip(scales);
        Ok(rows.flat_map(|(row, scale)| row.iter().map(move |code| f32::from(code.cast_signed()) * scale)).collect())
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

/// `None` for a type that weights do not come in.
fn numbers(tensor: &TensorView) -> Option<Vec<f32>> {
    let (halves, words) = (tensor.data().as_chunks::<2>().0, tensor.data().as_chunks::<4>().0);
    match tensor.dtype() {
        Dtype::F32 => Some(words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Dtype::F16 => Some(halves.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()),
        Dtype::BF16 => Some(halves.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect()),
        _ => None,
    }
}
