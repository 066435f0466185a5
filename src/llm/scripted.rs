//! Answers by script, for tests and demos: set latency, length and failures; no model.

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

use super::stop::StopFilter;
use super::{DeltaStream, Provider, http};
use crate::config::ProviderConfig;
use crate::types::{
    Answer, Assembler, ChatRequest, Content, Delta, Error, ErrorKind, FinishReason, Message, Result, Usage,
};

/// The same messages and model get the same answer in every process, and other ones get another, so a wrong
/// hit of a cache is visible. `stop` and `max_tokens` hold.
#[derive(Debug)]
pub struct ScriptedProvider {
    name: String,
    models: Vec<String>,
    latency: Duration,
    token_latency: Duration,
    tokens: u32,
    error_rate: f64,
    failure: Failure,
    calls: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Unavailable,
    RateLimited,
    Timeout,
    Invalid,
    /// A stream ends half-way without a finish reason; a plain call fails.
    Cut,
}

impl ScriptedProvider {
    pub fn new(config: &ProviderConfig) -> Result<Self> {
        let failure = match config.error.as_deref() {
            None | Some("unavailable") => Failure::Unavailable,
            Some("rate_limited") => Failure::RateLimited,
            Some("timeout") => Failure::Timeout,
            Some("invalid") => Failure::Invalid,
            Some("cut") => Failure::Cut,
            Some(other) => {
                let known = "expected unavailable, rate_limited, timeout, invalid or cut";
                return Err(http::setting(config, "error", format!("{other:?} is not known; {known}")));
            }
        };
        if !(0.0..=1.0).contains(&config.error_rate) {
            let what = format!("{} is out of range; expected 0 to 1", config.error_rate);
            return Err(http::setting(config, "error_rate", what));
        }
        if config.tokens == 0 {
            return Err(http::setting(config, "tokens", "must be at least 1"));
        }
        Ok(Self {
            name: config.name.clone(),
            models: config.models.clone(),
            latency: config.latency,
            token_latency: config.token_latency,
            tokens: config.tokens,
            error_rate: config.error_rate,
            failure,
            calls: AtomicU64::new(0),
        })
    }

    /// Requests so far, plain and streamed, failed ones too.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts the call, waits the latency, and fails or gives the answer's pieces, already cut where it is to be cut.
    async fn begin(&self, request: &ChatRequest) -> Result<Vec<Delta>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        sleep(self.latency).await;
        let failure = fails(call, self.error_rate).then_some(self.failure);
        let error = |kind, what: &str| Err(Error::new(kind, format!("provider {}: {what}, by script", self.name)));
        match failure {
            None => Ok(script(request, self.tokens)),
            Some(Failure::Cut) => {
                let mut deltas = script(request, self.tokens);
                deltas.truncate(deltas.len() / 2);
                Ok(deltas)
            }
            Some(Failure::Unavailable) => error(ErrorKind::Unavailable, "unavailable"),
            Some(Failure::RateLimited) => error(ErrorKind::RateLimited, "rate limited")
                .map_err(|e: Error| e.with_retry_after(Duration::from_secs(1))),
            Some(Failure::Timeout) => error(ErrorKind::DeadlineExceeded, "no answer in time"),
            Some(Failure::Invalid) => error(ErrorKind::InvalidArgument, "the request is refused"),
        }
    }
}

#[async_trait]
impl Provider for ScriptedProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    async fn complete(&self, request: &ChatRequest) -> Result<Answer> {
        let deltas = self.begin(request).await?;
        sleep(self.token_latency * deltas.len().saturating_sub(1) as u32).await;
        let mut assembler = Assembler::default();
        deltas.iter().for_each(|d| assembler.push(d));
        let answer = assembler.finish();
        match answer.finish() {
            FinishReason::Missing => {
                let what = format!("provider {}: the answer was cut off, by script", self.name);
                Err(Error::new(ErrorKind::Upstream, what))
            }
            _ => Ok(answer),
        }
    }

    async fn stream(&self, request: &ChatRequest) -> Result<DeltaStream> {
        let deltas = self.begin(request).await?;
        let pause = self.token_latency;
        let paced = stream::iter(deltas.into_iter().enumerate()).then(move |(i, delta)| async move {
            if i > 0 {
                sleep(pause).await;
            }
            Ok(delta)
        });
        Ok(paced.boxed())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// Spreads the failures evenly: of the first n calls, floor(n * rate) fail.
fn fails(call: u64, rate: f64) -> bool {
    ((call + 1) as f64 * rate).floor() > (call as f64 * rate).floor()
}

/// One delta a token; the last one carries finish reason and usage.
fn script(request: &ChatRequest, tokens: u32) -> Vec<Delta> {
    let limit = request.max_answer_tokens().unwrap_or(u32::MAX);
    let mut words = Words::new(request);
    let mut stops = StopFilter::new(request.stop_sequences());
    let mut deltas = Vec::new();
    let mut finish = if limit < tokens { FinishReason::Length } else { FinishReason::Stop };
    let mut spoken = 0;
    while spoken < tokens.min(limit) {
        let (text, stopped) = stops.push(&words.next(spoken));
        spoken += 1;
        deltas.push(Delta::text(text));
        if stopped {
            finish = FinishReason::Stop;
            break;
        }
    }
    if let Some(first) = deltas.first_mut() {
        first.model = Some(request.model.clone());
    }
    if let Some(last) = deltas.last_mut() {
        last.content.get_or_insert_default().push_str(&stops.finish());
        last.finish = Some(finish);
        last.usage = Some(Usage::new(prompt_tokens(&request.messages), spoken.into()));
    }
    deltas
}

/// An endless text that follows from the request's model and messages alone.
struct Words {
    digest: blake3::Hash,
    source: blake3::OutputReader,
}

const VOCABULARY: [&str; 32] = [
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade", "kelp", "larch", "maple",
    "north", "ocean", "pine", "quartz", "river", "stone", "tide", "umber", "vale", "willow", "yarrow", "zephyr",
    "aspen", "brook", "cliff", "dune", "field", "gale", "harbor",
];

impl Words {
    fn new(request: &ChatRequest) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(request.model.as_bytes());
        for message in &request.messages {
            hasher.update(b"\0").update(message.role.as_str().as_bytes()).update(b"\0");
            hasher.update(body(message).as_bytes());
        }
        Self { digest: hasher.finalize(), source: hasher.finalize_xof() }
    }

    /// The digest first, then words.
    fn next(&mut self, place: u32) -> String {
        if place == 0 {
            return format!("scripted-{}", &self.digest.to_hex()[..12]);
        }
        let mut byte = [0];
        self.source.fill(&mut byte);
        format!(" {}", VOCABULARY[usize::from(byte[0]) % VOCABULARY.len()])
    }
}

fn body(message: &Message) -> String {
    let content = match &message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => parts.iter().map(|p| format!("{p}\0")).collect(),
    };
    match message.extra.get("tool_calls") {
        Some(calls) => format!("{content}\0{calls}"),
        None => content,
    }
}

/// Words, near enough for a script, and at least one a message.
fn prompt_tokens(messages: &[Message]) -> u64 {
    messages.iter().map(|m| body(m).split_whitespace().count().max(1) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::contract::{config, text_of};
    use crate::types::{Role, Stop};
    use tokio::time::Instant;

    fn scripted(change: impl FnOnce(&mut ProviderConfig)) -> ScriptedProvider {
        let mut config = config("scripted", None);
        change(&mut config);
        ScriptedProvider::new(&config).unwrap()
    }

    #[tokio::test]
    async fn the_answer_follows_from_the_prompt_and_nothing_else() {
        let provider = scripted(|_| {});
        let ask = async |text: &str| provider.complete(&ChatRequest::prompt("m", text)).await.unwrap();
        let first = ask("one").await;
        assert_eq!(ask("one").await, first);
        assert_ne!(ask("two").await.content(), first.content());
        let mut warm = ChatRequest::prompt("m", "one");
        warm.temperature = Some(1.0);
        assert_eq!(provider.complete(&warm).await.unwrap().content(), first.content());
        let with_system = ChatRequest::new("m", vec![Message::new(Role::System, "x"), Message::new(Role::User, "one")]);
        assert_ne!(provider.complete(&with_system).await.unwrap().content(), first.content());
        assert_eq!(first.usage, Usage::new(1, 24));
        assert_eq!(provider.calls(), 5);
    }

    #[tokio::test]
    async fn failures_come_evenly_at_the_set_rate() {
        let provider = scripted(|c| c.error_rate = 0.3);
        let mut failed = Vec::new();
        for i in 0..10 {
            if let Err(e) = provider.complete(&ChatRequest::prompt("m", "a")).await {
                assert_eq!(e.kind, ErrorKind::Unavailable);
                failed.push(i);
            }
        }
        assert_eq!(failed, [3, 6, 9]);
    }

    #[tokio::test]
    async fn each_kind_of_failure_has_its_error() {
        for (name, kind) in [
            ("unavailable", ErrorKind::Unavailable),
            ("rate_limited", ErrorKind::RateLimited),
            ("timeout", ErrorKind::DeadlineExceeded),
            ("invalid", ErrorKind::InvalidArgument),
            ("cut", ErrorKind::Upstream),
        ] {
            let provider = scripted(|c| (c.error_rate, c.error) = (1.0, Some(name.into())));
            let error = provider.complete(&ChatRequest::prompt("m", "a")).await.unwrap_err();
            assert_eq!(error.kind, kind, "{name}");
            assert_eq!(error.retry_after.is_some(), name == "rate_limited");
        }
    }

    #[tokio::test]
    async fn a_cut_stream_ends_half_way_without_a_finish_reason() {
        let provider = scripted(|c| (c.error_rate, c.error) = (1.0, Some("cut".into())));
        let stream = provider.stream(&ChatRequest::prompt("m", "a")).await.unwrap();
        let deltas: Vec<_> = stream.map(|d| d.unwrap()).collect().await;
        assert_eq!(deltas.len(), 12);
        assert!(deltas.iter().all(|d| d.finish.is_none() && d.usage.is_none()));
        assert!(text_of(&deltas).starts_with("scripted-"));
    }

    #[tokio::test(start_paused = true)]
    async fn latency_stands_before_the_first_token_and_between_tokens() {
        let ms = Duration::from_millis;
        let provider = scripted(|c| (c.latency, c.token_latency, c.tokens) = (ms(50), ms(10), 4));
        let start = Instant::now();
        let mut stream = provider.stream(&ChatRequest::prompt("m", "a")).await.unwrap();
        stream.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), ms(50));
        assert_eq!(stream.count().await, 3);
        assert_eq!(start.elapsed(), ms(80));
        provider.complete(&ChatRequest::prompt("m", "a")).await.unwrap();
        assert_eq!(start.elapsed(), ms(160));
    }

    #[tokio::test]
    async fn max_tokens_and_stop_hold() {
        let provider = scripted(|_| {});
        let mut request = ChatRequest::prompt("m", "a");
        let whole = provider.complete(&request).await.unwrap();
        request.max_tokens = Some(3);
        let short = provider.complete(&request).await.unwrap();
        assert_eq!((short.finish(), short.usage.completion_tokens), (&FinishReason::Length, 3));
        assert!(whole.content().starts_with(short.content()));
        request.max_tokens = None;
        let third = whole.content().split(' ').nth(2).unwrap().to_owned();
        request.stop = Some(Stop::One(format!(" {third}")));
        let stopped = provider.complete(&request).await.unwrap();
        assert_eq!(stopped.content(), whole.content().split(&format!(" {third}")).next().unwrap());
        assert_eq!(stopped.finish(), &FinishReason::Stop);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let refused = |change: fn(&mut ProviderConfig)| {
            let mut config = config("scripted", None);
            change(&mut config);
            ScriptedProvider::new(&config).unwrap_err().violations[0].field.clone()
        };
        assert_eq!(refused(|c| c.error_rate = f64::NAN), "providers.test.error_rate");
        assert_eq!(refused(|c| c.error = Some("odd".into())), "providers.test.error");
        assert_eq!(refused(|c| c.tokens = 0), "providers.test.tokens");
    }
}
