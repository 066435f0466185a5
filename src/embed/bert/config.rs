//! What `config.json` and `1_Pooling/config.json` say of a model.

use serde::Deserialize;

use crate::types::{Error, ErrorKind, Result};

/// Sizes of a model of the BERT family.
#[derive(Debug, Clone, Deserialize)]
pub struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Added to the variance in layer norms.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f32,
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
    #[serde(default)]
    pub model_type: String,
    #[serde(default)]
    pub pad_token_id: usize,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    Cls,
}

impl BertConfig {
    /// Errors: [`ErrorKind::Corrupt`] when it does not parse, [`ErrorKind::Unsupported`] for a model of another kind.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let config: Self =
            serde_json::from_slice(json).map_err(|e| Error::new(ErrorKind::Corrupt, "config.json").with_source(e))?;
        let heads = config.num_attention_heads;
        if heads == 0 || config.hidden_size == 0 || !config.hidden_size.is_multiple_of(heads) {
            let message = format!("config.json: {heads} attention heads for a width of {}", config.hidden_size);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if config.first_position() >= config.max_position_embeddings {
            return Err(Error::new(ErrorKind::Corrupt, "config.json: no positions are left for a text"));
        }
        if config.position_embedding_type != "absolute" {
            let message = format!("position embeddings of type {:?}", config.position_embedding_type);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(config)
    }

    /// The position of a text's first token: models after RoBERTa count from behind the padding's.
    pub fn first_position(&self) -> usize {
        if self.model_type.contains("roberta") { self.pad_token_id + 1 } else { 0 }
    }

    /// Longest text, in tokens, that there are positions for.
    pub fn longest_text(&self) -> usize {
        self.max_position_embeddings - self.first_position()
    }

    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

impl Pooling {
    /// Reads `1_Pooling/config.json` of sentence-transformers.
    ///
    /// Errors: [`ErrorKind::Unsupported`] for a pooling other than these: vectors would be plausible and useless.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(default)]
        #[derive(Default)]
        struct Modes {
            pooling_mode_mean_tokens: bool,
            pooling_mode_cls_token: bool,
            pooling_mode_max_tokens: bool,
        }
        let name = "1_Pooling/config.json";
        let modes: Modes =
            serde_json::from_slice(json).map_err(|e| Error::new(ErrorKind::Corrupt, name).with_source(e))?;
        match (modes.pooling_mode_mean_tokens, modes.pooling_mode_cls_token, modes.pooling_mode_max_tokens) {
            (true, false, false) => Ok(Self::Mean),
            (false, true, false) => Ok(Self::Cls),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("{name} asks for other than mean or CLS pooling"))),
        }
    }
}

fn gelu() -> String {
    "gelu".into()
}

fn epsilon() -> f32 {
    1e-12
}

fn absolute() -> String {
    "absolute".into()
}
