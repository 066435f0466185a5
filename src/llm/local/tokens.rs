//! The tokenizer inside a GGUF file: text to tokens, and tokens back to bytes.

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use std::collections::HashSet;
use tokenizers::pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence};
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use super::gguf;
use crate::types::{Error, ErrorKind, Result};

/// Names of tokens that end a turn in the chat formats around; they count where the vocabulary has them as
/// control tokens.
const END_OF_TURN: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "</s>"];

/// `tokenizer.ggml.token_type`: llama.cpp's `llama_token_type`.
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;

pub struct Tokens {
    tokenizer: Tokenizer,
    /// Bytes of each token by id; none for control tokens.
    pieces: Vec<Vec<u8>>,
    control: Vec<String>,
    ends: HashSet<u32>,
    pub bos: Option<String>,
    pub eos: Option<String>,
    /// Whether a prompt must begin with `bos` even where the template leaves it out.
    pub add_bos: bool,
}

impl Tokens {
    pub fn from_gguf(file: &mut Content) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::Unsupported, what);
        let pre = gguf::text(file, "tokenizer.ggml.pre").unwrap_or_else(|| "default".into());
        let pre_tokenizer = pre_tokenizer(&pre)
            .ok_or_else(|| bad(format!("its tokenizer splits text by rules ({pre:?}) that are not known here")))?;
        if matches!(pre.as_str(), "llama-bpe" | "llama-v3") {
            // candle knows the rules under this name only.
            file.metadata.insert("tokenizer.ggml.pre".into(), Value::String("llama3".into()));
        }
        let mut tokenizer =
            Tokenizer::from_gguf(file).map_err(|e| bad(format!("its tokenizer cannot be read: {e}")))?;
        if let Some(pre_tokenizer) = pre_tokenizer {
            tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
        }
        let names = gguf::texts(file, "tokenizer.ggml.tokens").unwrap_or_default();
        let kinds = gguf::numbers(file, "tokenizer.ggml.token_type").unwrap_or_default();
        let kind = |id: usize| kinds.get(id).copied().unwrap_or(NORMAL);
        let is_control = |id: usize| kind(id) == CONTROL;
        let piece = |(id, name): (usize, &String)| match kind(id) {
            NORMAL => bytes_of(name),
            CONTROL => Vec::new(),
            _ => name.clone().into_bytes(),
        };
        let pieces = names.iter().enumerate().map(piece).collect();
        let id_of = |key: &str| gguf::number(file, &format!("tokenizer.ggml.{key}"));
        let name_of = |id: u32| names.get(id as usize).cloned();
        let mut ends: HashSet<_> =
            ["eos_token_id", "eot_token_id", "eom_token_id"].into_iter().filter_map(id_of).collect();
        let control: Vec<_> = names.iter().enumerate().filter(|(id, _)| is_control(*id)).collect();
        ends.extend(control.iter().filter(|(_, n)| END_OF_TURN.contains(&n.as_str())).map(|(id, _)| *id as u32));
        Ok(Self {
            tokenizer,
            pieces,
            ends,
            control: control.into_iter().map(|(_, name)| name.clone()).collect(),
            bos: id_of("bos_token_id").and_then(name_of),
            eos: id_of("eos_token_id").and_then(name_of),
            add_bos: gguf::flag(file, "tokenizer.ggml.add_bos_token").unwrap_or(false),
        })
    }

    /// Tokens of a prompt in the model's chat format, in which control tokens are spelled out.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode_fast(text, false);
        Ok(encoded.map_err(|e| Error::internal(format!("the prompt cannot be tokenized: {e}")))?.get_ids().to_vec())
    }

    /// The bytes that a token adds to the text; they may be part of a character.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], Vec::as_slice)
    }

    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The text with no control token spelled in it, so that no message can end its turn and begin one in another
    /// role: a zero-width space parts the first character from the rest.
    pub fn disarm(&self, text: String) -> String {
        self.control.iter().fold(text, |text, name| match name.chars().next() {
            Some(first) if text.contains(name.as_str()) => {
                let at = first.len_utf8();
                text.replace(name.as_str(), &format!("{}\u{200b}{}", &name[..at], &name[at..]))
            }
            _ => text,
        })
    }
}

/// How text is split before merging, by llama.cpp's names for the rules. `Some(None)`: candle's own choice is right.
fn pre_tokenizer(name: &str) -> Option<Option<PreTokenizerWrapper>> {
    let gpt2 = || PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
    match name {
        // Each digit by itself, then GPT-2's rules; candle takes GPT-2's alone, with a space put before the text.
        "smollm" | "starcoder" | "refact" | "command-r" => {
            Some(Some(Sequence::new(vec![Digits::new(true).into(), gpt2()]).into()))
        }
        "default" | "gpt-2" | "gpt2" => Some(Some(gpt2())),
        "qwen2" | "llama3" | "llama-bpe" | "llama-v3" | "smaug-bpe" | "lfm2" => Some(None),
        _ => None,
    }
}

/// A token's name back to bytes. GPT-2 names bytes that do not print by characters from U+0100 on, in order.
fn bytes_of(name: &str) -> Vec<u8> {
    let prints = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=0xffu32).filter(|b| !prints(*b)).map(|b| b as u8).collect();
    let mut bytes = Vec::with_capacity(name.len());
    for c in name.chars() {
        match u32::from(c) {
            b if b <= 0xff && prints(b) => bytes.push(b as u8),
            n => match n.checked_sub(0x100).and_then(|place| hidden.get(place as usize)) {
                Some(byte) => bytes.push(*byte),
                None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            },
        }
    }
    bytes
}

/// Bytes to text, piece by piece, with no character ever cut.
#[derive(Debug, Default)]
pub struct Utf8 {
    rest: Vec<u8>,
}

impl Utf8 {
    /// The characters that are whole now. Bytes that can never become one turn into U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        while done < self.rest.len() {
            match std::str::from_utf8(&self.rest[done..]) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.rest.len();
                }
                Err(e) => {
                    text.push_str(&String::from_utf8_lossy(&self.rest[done..done + e.valid_up_to()]));
                    done += e.valid_up_to();
                    let Some(bad) = e.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += bad;
                }
            }
        }
        self.rest.drain(..done);
        text
    }

    /// What is left when no more bytes come: half a character is no text, and is replaced.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.rest).is_empty() { "" } else { "\u{fffd}" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_tokens_spell_their_bytes() {
        assert_eq!(bytes_of("ĠHello"), b" Hello");
        assert_eq!(bytes_of("ĊĊ"), b"\n\n");
        assert_eq!(bytes_of("Ã©"), "é".as_bytes());
        assert_eq!(bytes_of("ł"), [0xa0]);
        assert_eq!(bytes_of("Ń"), [0xad]);
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_comes_back_whole(text in "[a-zé汉😀]{0,16}", size in 1usize..4) {
            let mut utf8 = Utf8::default();
            let mut out: String = text.as_bytes().chunks(size).map(|c| utf8.push(c)).collect();
            out.push_str(utf8.finish());
            prop_assert_eq!(out, text);
        }

        #[test]
        fn any_bytes_give_what_a_lossy_reading_gives(bytes in prop::collection::vec(any::<u8>(), 0..24), size in 1usize..4) {
            let mut utf8 = Utf8::default();
            let mut out: String = bytes.chunks(size).map(|c| utf8.push(c)).collect();
            out.push_str(utf8.finish());
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
