//! What every provider promises, checked for each backend: `openai` and `anthropic` against a server of their
//! protocol over real HTTP, `local` with the model where its file is at hand, `scripted` as it is.

mod http;
mod local;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use std::sync::Arc;

use super::http::{Endpoint, KeyHeader};
use super::{Provider, connect};
use crate::config::ProviderConfig;
use crate::types::{Answer, Assembler, ChatRequest, Delta, FinishReason, Message, Result, Role, Stop};

#[path = "../../tests/support/upstream.rs"]
mod upstream;

/// Settings of a provider as a file would give them, with every default.
pub fn config(kind: &str, base_url: Option<&str>) -> ProviderConfig {
    let config = serde_json::json!({"name": "test", "kind": kind, "models": ["test-model"], "base_url": base_url});
    serde_json::from_value(config).unwrap()
}

pub fn endpoint() -> Endpoint {
    let key = KeyHeader { header: AUTHORIZATION, prefix: "Bearer " };
    Endpoint::new(&config("openai", None), "http://127.0.0.1:9/v1", &key, HeaderMap::new()).unwrap()
}

pub fn text_of(deltas: &[Delta]) -> String {
    deltas.iter().filter_map(|d| d.content.as_deref()).collect()
}

fn chat(text: &str) -> ChatRequest {
    let system = Message::new(Role::System, "Answer in one short sentence.");
    ChatRequest::new("test-model", vec![system, Message::new(Role::User, text)])
}

async fn streamed(provider: &dyn Provider, request: &ChatRequest) -> Result<Vec<Delta>> {
    provider.stream(request).await?.try_collect().await
}

fn assembled(deltas: &[Delta]) -> Answer {
    let mut assembler = Assembler::default();
    deltas.iter().for_each(|d| assembler.push(d));
    assembler.finish()
}

/// Holds for every backend.
async fn answers_alike(provider: &dyn Provider) {
    let request = chat("What is the capital of France?");
    let whole = provider.complete(&request).await.unwrap();
    let deltas = streamed(provider, &request).await.unwrap();
    assert_eq!(assembled(&deltas), whole, "the stream spells another answer");

    assert!(!whole.content().is_empty());
    assert_eq!(whole.finish(), &FinishReason::Stop);
    assert_eq!(whole.model, "test-model");
    assert!(whole.usage.prompt_tokens > 0 && whole.usage.completion_tokens > 0, "{:?}", whole.usage);
    assert!(deltas.len() > 2, "an answer of several tokens comes in pieces");
    assert_eq!(deltas.iter().filter(|d| d.usage.is_some()).count(), 1);
    assert_eq!(deltas.iter().filter(|d| d.finish.is_some()).count(), 1);
    assert_eq!(provider.models(), ["test-model"]);
    provider.ping().await.unwrap();
}

/// Holds for every backend: callers do not disturb each other.
async fn serves_callers_side_by_side(provider: Arc<dyn Provider>) {
    let ask = |text: &'static str| {
        let provider = provider.clone();
        async move {
            let mut request = chat(text);
            request.max_tokens = Some(8);
            (provider.complete(&request).await.unwrap(), assembled(&streamed(&*provider, &request).await.unwrap()))
        }
    };
    let (a, b) = tokio::join!(ask("Name a colour."), ask("Count to three."));
    let alone = ask("Name a colour.").await;
    assert_eq!(a.0, a.1);
    assert_eq!(b.0, b.1);
    assert_eq!(alone, a);
    assert_ne!(a.0.content(), b.0.content());
}

/// Holds where the backend decides itself when an answer ends.
async fn limits_hold(provider: &dyn Provider) {
    let mut request = chat("What is the capital of France?");
    let whole = provider.complete(&request).await.unwrap();

    request.max_tokens = Some(3);
    for short in [provider.complete(&request).await.unwrap(), assembled(&streamed(provider, &request).await.unwrap())] {
        assert_eq!((short.finish(), short.usage.completion_tokens), (&FinishReason::Length, 3));
        assert!(whole.content().starts_with(short.content()) && !short.content().is_empty());
    }

    // From the middle of one word to the middle of the next: no token begins or ends there.
    request.max_tokens = None;
    let space = whole.content().match_indices(' ').nth(1).unwrap().0;
    let stop = &whole.content()[space - 2..space + 3];
    request.stop = Some(Stop::Many(vec!["never said".into(), stop.into()]));
    let before = whole.content().split(stop).next().unwrap();
    let deltas = streamed(provider, &request).await.unwrap();
    assert_eq!(text_of(&deltas), before);
    let stopped = provider.complete(&request).await.unwrap();
    assert_eq!((stopped.content(), stopped.finish()), (before, &FinishReason::Stop));
    assert!(stopped.usage.completion_tokens < whole.usage.completion_tokens);
}

#[tokio::test]
async fn scripted_keeps_the_contract() {
    let provider = connect(&config("scripted", None), None).await.unwrap();
    answers_alike(&*provider).await;
    limits_hold(&*provider).await;
    serves_callers_side_by_side(provider).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_scripted_stream_says_nothing_more() {
    let mut config = config("scripted", None);
    config.token_latency = std::time::Duration::from_secs(3600);
    let provider = connect(&config, None).await.unwrap();
    let mut stream = provider.stream(&chat("a")).await.unwrap();
    assert!(stream.next().await.is_some());
    let start = tokio::time::Instant::now();
    drop(stream);
    assert!(start.elapsed().is_zero());
}

#[tokio::test]
async fn settings_that_a_kind_needs_are_named_when_they_are_missing() {
    type Change = fn(&mut ProviderConfig);
    let base = Some("http://127.0.0.1:1/v1");
    let cases: [(&str, Option<&str>, Change, &str); 10] = [
        ("openai", None, |_| {}, "base_url"),
        ("openai", Some("localhost:80"), |_| {}, "base_url"),
        ("openai", Some("ftp://x/v1"), |_| {}, "base_url"),
        ("openai", base, |c| c.models.clear(), "models"),
        ("openai", base, |c| c.timeout = std::time::Duration::ZERO, "timeout"),
        ("openai", base, |c| c.api_key_file = Some("no/such/key".into()), "api_key_file"),
        ("openai", Some("https://h/v1"), |c| c.ca_file = Some("no/such/ca".into()), "ca_file"),
        ("anthropic", None, |_| {}, "api_key_env"),
        ("scripted", None, |c| c.models = vec![" ".into()], "models"),
        ("local", None, |_| {}, "kind"),
    ];
    for (kind, base, change, field) in cases {
        let mut config = config(kind, base);
        change(&mut config);
        let error = connect(&config, None).await.err().unwrap();
        assert_eq!(error.violations[0].field, format!("providers.test.{field}"), "{kind}: {error}");
    }
}
