//! A GGUF file: a llama-architecture model with its tokenizer and its chat template.

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use super::template::Template;
use super::tokens::Tokens;
use crate::types::{Error, ErrorKind, Result};

/// Everything that answers requests, loaded. `weights` are never run themselves: each generation runs a clone, which
/// shares the tensors and has a cache of its own.
pub struct Model {
    pub weights: ModelWeights,
    pub tokens: Tokens,
    pub template: Template,
    /// Most tokens of prompt and answer together: what the model was trained for, as far as candle goes.
    pub context: usize,
}

impl Model {
    /// Errors say which file, and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(path).map_err(|e| e.context(format!("model {}", path.display())))
    }

    fn read(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::new(ErrorKind::NotFound, "cannot be read").with_source(e);
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut magic = [0; 4];
        let is_gguf = reader.read_exact(&mut magic).is_ok() && &magic == b"GGUF";
        if !is_gguf {
            return Err(Error::new(ErrorKind::Corrupt, "is not a GGUF file"));
        }
        reader.rewind().map_err(io)?;
        let corrupt = |e: candle_core::Error| Error::new(ErrorKind::Corrupt, format!("is not a whole GGUF file: {e}"));
        let mut file = Content::read(&mut reader).map_err(corrupt)?;

        let architecture = text(&file, "general.architecture").unwrap_or_default();
        if architecture != "llama" {
            let what = format!("is of architecture {architecture:?}; only \"llama\" can be run");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let template = text(&file, "tokenizer.chat_template")
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "has no chat template"))?;
        let context = number(&file, "llama.context_length").map_or(MAX_SEQ_LEN, |n| (n as usize).min(MAX_SEQ_LEN));
        let tokens = Tokens::from_gguf(&mut file)?;
        let weights = weights(file, &mut reader).map_err(corrupt)?;
        Ok(Self { weights, tokens, template: Template::new(template)?, context })
    }
}

/// candle has vector instructions for most quantized types; these it multiplies number by number, about 3 times
/// slower. They are requantized to 8 bits while loading, which costs them no more than 1/254 of a block's range.
const SLOW: [GgmlDType; 4] = [GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_1];

fn weights(file: Content, reader: &mut BufReader<File>) -> candle_core::Result<ModelWeights> {
    if !file.tensor_infos.values().any(|t| SLOW.contains(&t.ggml_dtype)) {
        return ModelWeights::from_gguf(file, reader, &Device::Cpu);
    }
    let mut tensors = Vec::with_capacity(file.tensor_infos.len());
    for (name, info) in &file.tensor_infos {
        let mut tensor = file.tensor(reader, name, &Device::Cpu)?;
        if SLOW.contains(&info.ggml_dtype) {
            tensor = QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)?;
        }
        tensors.push((name.as_str(), tensor));
    }
    // `ModelWeights` is only made from a file, so it gets one in memory.
    let metadata: Vec<_> = file.metadata.iter().filter(|(k, _)| !k.starts_with("tokenizer.")).collect();
    let metadata: Vec<_> = metadata.into_iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut faster = Cursor::new(Vec::new());
    let by_name: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    gguf_file::write(&mut faster, &metadata, &by_name)?;
    drop(tensors);
    faster.set_position(0);
    let file = Content::read(&mut faster)?;
    ModelWeights::from_gguf(file, &mut faster, &Device::Cpu)
}

pub fn text(file: &Content, key: &str) -> Option<String> {
    file.metadata.get(key)?.to_string().ok().cloned()
}

pub fn texts(file: &Content, key: &str) -> Option<Vec<String>> {
    file.metadata.get(key)?.to_vec().ok()?.iter().map(|v| v.to_string().ok().cloned()).collect()
}

pub fn number(file: &Content, key: &str) -> Option<u32> {
    unsigned(file.metadata.get(key)?)
}

pub fn numbers(file: &Content, key: &str) -> Option<Vec<u32>> {
    file.metadata.get(key)?.to_vec().ok()?.iter().map(unsigned).collect()
}

pub fn flag(file: &Content, key: &str) -> Option<bool> {
    file.metadata.get(key)?.to_bool().ok()
}

/// Writers disagree on the width and the sign of the same number.
fn unsigned(value: &Value) -> Option<u32> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n),
        Value::U64(n) => n.try_into().ok(),
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> Error {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        match Model::load(&path) {
            Ok(_) => panic!("loaded {} bytes", bytes.len()),
            Err(e) => e,
        }
    }

    #[test]
    fn what_is_no_model_is_refused_with_its_path() {
        let html = refused(b"<html>not found</html>");
        assert_eq!(html.kind, ErrorKind::Corrupt);
        assert!(html.message.contains("m.gguf") && html.message.ends_with("is not a GGUF file"), "{html}");
        assert_eq!(refused(b"").kind, ErrorKind::Corrupt);
        assert_eq!(refused(b"GGUF\x03\0\0\0\xff\xff").kind, ErrorKind::Corrupt);
        let missing = Model::load(Path::new("nowhere/m.gguf")).err().unwrap();
        assert_eq!(missing.kind, ErrorKind::NotFound);
    }

    #[test]
    fn other_architectures_are_named() {
        // Version 3, no tensors, one string: general.architecture = bert.
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        for (i, text) in ["general.architecture", "bert"].iter().enumerate() {
            if i == 1 {
                bytes.extend(8u32.to_le_bytes());
            }
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let error = refused(&bytes);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("\"bert\""), "{error}");
    }
}
