//! One generation: the prompt through the model, then token after token until something ends it.

use candle_core::{Device, Tensor};
use candle_transformers::generation::LogitsProcessor;
use candle_transformers::models::quantized_llama::ModelWeights;
use std::collections::HashMap;

use super::gguf::Model;
use super::tokens::Utf8;
use crate::llm::stop::StopFilter;
use crate::types::{ChatRequest, Delta, Error, FinishReason, Result, Usage};

/// Tokens of the prompt in one forward pass. Smaller: a caller that hangs up is noticed sooner, and attention needs
/// less memory. Larger: fewer passes.
const PREFILL: usize = 32;

/// A request in the model's own terms.
pub struct Job {
    model: String,
    prompt: Vec<u32>,
    limit: usize,
    stops: Vec<String>,
    /// 0 is greedy.
    temperature: f64,
    top_p: Option<f64>,
    seed: u64,
    presence_penalty: f32,
    frequency_penalty: f32,
}

impl Job {
    /// Checks the request, renders the template and counts tokens: nothing slower than that.
    ///
    /// Without a temperature decoding is greedy: the same prompt gets the same answer. `longest`: tokens in the answer
    /// when the request sets no limit.
    pub fn new(model: &Model, request: &ChatRequest, longest: u32) -> Result<Self> {
        refuse_unsupported(request)?;
        let prompt = model.tokens.encode(&model.template.render(request, &model.tokens)?)?;
        if prompt.len() >= model.context {
            let what = format!("the prompt has {} tokens; the model's context has {}", prompt.len(), model.context);
            return Err(Error::invalid("messages", what));
        }
        let limit = request.max_answer_tokens().unwrap_or(longest) as usize;
        Ok(Self {
            model: request.model.clone(),
            limit: limit.min(model.context - prompt.len()),
            prompt,
            stops: request.stop_sequences().to_vec(),
            temperature: request.temperature.unwrap_or(0.0),
            top_p: request.top_p,
            seed: request.seed.map_or_else(|| fastrand::u64(..), |s| s as u64),
            presence_penalty: request.presence_penalty.unwrap_or(0.0) as f32,
            frequency_penalty: request.frequency_penalty.unwrap_or(0.0) as f32,
        })
    }

    /// Most deltas that [`Job::run`] emits.
    pub fn most_deltas(&self) -> usize {
        self.limit + 2
    }

    /// Generates, and hands every piece to `emit` until that says `false`: then nobody listens, and it stops.
    pub fn run(&self, model: &Model, mut emit: impl FnMut(Option<Delta>) -> bool) -> Result<()> {
        let failed = |e: candle_core::Error| Error::internal(format!("the local model failed: {e}"));
        let mut weights = model.weights.clone();
        let mut sampler = LogitsProcessor::new(self.seed, Some(self.temperature), self.top_p);
        let mut said: HashMap<u32, u32> = HashMap::new();
        let (mut utf8, mut stops) = (Utf8::default(), StopFilter::new(&self.stops));
        let mut spoken = 0;
        let mut logits = None;
        for (i, chunk) in self.prompt.chunks(PREFILL).enumerate() {
            // An empty piece asks whether anybody still listens.
            if !emit(None) {
                return Ok(());
            }
            logits = Some(forward(&mut weights, chunk, i * PREFILL).map_err(failed)?);
        }
        let mut logits = logits.ok_or_else(|| Error::invalid("messages", "the prompt has no tokens"))?;
        let finish = loop {
            self.penalize(&mut logits, &said).map_err(failed)?;
            let token = sampler.sample(&logits).map_err(failed)?;
            spoken += 1;
            if model.tokens.is_end(token) {
                break FinishReason::Stop;
            }
            let (text, stopped) = stops.push(&utf8.push(model.tokens.bytes(token)));
            if stopped {
                self.end(text, FinishReason::Stop, spoken, &mut emit);
                return Ok(());
            }
            if !emit((!text.is_empty()).then(|| self.piece(text))) {
                return Ok(());
            }
            if spoken >= self.limit {
                break FinishReason::Length;
            }
            *said.entry(token).or_default() += 1;
            logits = forward(&mut weights, &[token], self.prompt.len() + spoken - 1).map_err(failed)?;
        };
        let (rest, stopped) = stops.push(utf8.finish());
        let rest = if stopped { rest } else { rest + &stops.finish() };
        self.end(rest, finish, spoken, &mut emit);
        Ok(())
    }

    fn piece(&self, text: String) -> Delta {
        Delta { model: Some(self.model.clone()), ..Delta::text(text) }
    }

    fn end(&self, text: String, finish: FinishReason, spoken: usize, emit: &mut impl FnMut(Option<Delta>) -> bool) {
        let usage = Usage::new(self.prompt.len() as u64, spoken as u64);
        emit(Some(Delta { finish: Some(finish), usage: Some(usage), ..self.piece(text) }));
    }

    /// OpenAI's formula: each token loses `presence_penalty` once and `frequency_penalty` for every time it was said.
    fn penalize(&self, logits: &mut Tensor, said: &HashMap<u32, u32>) -> candle_core::Result<()> {
        if said.is_empty() || (self.presence_penalty == 0.0 && self.frequency_penalty == 0.0) {
            return Ok(());
        }
        let mut values = logits.to_vec1::<f32>()?;
        for (token, times) in said {
            if let Some(value) = values.get_mut(*token as usize) {
                *value -= self.presence_penalty + self.frequency_penalty * *times as f32;
            }
        }
        *logits = Tensor::new(values, &Device::Cpu)?;
        Ok(())
    }
}

fn refuse_unsupported(request: &ChatRequest) -> Result<()> {
    let refuse = |field: &str, what: &str| Err(Error::invalid(field, format!("the local model has no {what}")));
    if request.n.is_some_and(|n| n > 1) {
        return refuse("n", "way to give several choices");
    }
    if request.logprobs == Some(true) {
        return refuse("logprobs", "log probabilities");
    }
    let none = request.tool_choice.as_ref().and_then(|c| c.as_str()) == Some("none");
    if request.has_tools() && !none {
        return refuse("tools", "tools");
    }
    let format = request.response_format.as_ref().and_then(|f| f.get("type")).and_then(|t| t.as_str());
    if format.is_some_and(|f| f != "text") {
        return refuse("response_format", "response format but text");
    }
    Ok(())
}

/// Logits of the token that follows `tokens`, which stand at `position`; shape: (vocabulary).
fn forward(weights: &mut ModelWeights, tokens: &[u32], position: usize) -> candle_core::Result<Tensor> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    weights.forward(&input, position)?.squeeze(0)
}
