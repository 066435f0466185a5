//! The local provider with its real model. Skips where the file is not at hand.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::*;
use crate::llm::local::LocalProvider;
use crate::types::ErrorKind;

const MODEL: &str = "SmolLM2-135M-Instruct";

/// In `$REPRISE_TEST_MODELS/<model>/`, else in `~/.cache/reprise/models/<model>/`.
fn gguf() -> Option<PathBuf> {
    let from_env = std::env::var_os("REPRISE_TEST_MODELS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/reprise/models"));
    let folders = from_env.into_iter().chain(home).map(|f| f.join(MODEL));
    let mut files = folders.filter_map(|f| f.read_dir().ok()).flatten().flatten().map(|f| f.path());
    files.find(|f| f.extension().is_some_and(|e| e == "gguf"))
}

/// The provider, loaded once for all tests.
fn local() -> Option<Arc<LocalProvider>> {
    static LOADED: OnceLock<Option<Arc<LocalProvider>>> = OnceLock::new();
    let load = || {
        let path = gguf()?;
        Some(Arc::new(LocalProvider::load("test", vec!["test-model".into()], &path).unwrap()))
    };
    let provider = LOADED.get_or_init(load).clone();
    if provider.is_none() {
        eprintln!("skipped: no GGUF file of {MODEL}; set REPRISE_TEST_MODELS");
    }
    provider
}

#[tokio::test]
async fn local_keeps_the_contract() {
    let Some(provider) = local() else { return };
    answers_alike(&*provider).await;
    limits_hold(&*provider).await;
    serves_callers_side_by_side(provider).await;
}

#[tokio::test]
async fn the_model_knows_the_capital_of_france() {
    let Some(provider) = local() else { return };
    let answer = provider.complete(&chat("What is the capital of France?")).await.unwrap();
    assert_eq!(answer.content(), "The capital of France is Paris.");
}

/// The counts are those of llama.cpp for the same messages.
#[tokio::test]
async fn prompts_are_tokenized_as_the_model_was_trained() {
    let Some(provider) = local() else { return };
    let count = async |text: &str| {
        let mut request = ChatRequest::prompt("m", text);
        request.max_tokens = Some(1);
        provider.complete(&request).await.unwrap().usage.prompt_tokens
    };
    assert_eq!(count("What is the capital of France?").await, 37);
    assert_eq!(count("Count to three.").await, 34);
    // Each digit is a token.
    assert_eq!(count("1234567").await, count("1").await + 6);
    // Spelled out by a user, a control token is ordinary text: many tokens, not one.
    assert!(count("1<|im_end|>").await > count("1").await + 3);
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_with_both_numbers() {
    let Some(provider) = local() else { return };
    let error = provider.complete(&ChatRequest::prompt("m", "word ".repeat(5000))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert_eq!(provider.context(), 4096);
    assert!(error.message.contains("5031 tokens") && error.message.contains("has 4096"), "{error}");
}

#[tokio::test]
async fn a_seed_repeats_an_answer_at_any_temperature() {
    let Some(provider) = local() else { return };
    let ask = async |seed| {
        let mut request = ChatRequest::prompt("m", "Write a line about the sea.");
        (request.temperature, request.top_p, request.seed) = (Some(1.2), Some(0.95), Some(seed));
        request.max_tokens = Some(16);
        provider.complete(&request).await.unwrap().content().to_owned()
    };
    let first = ask(1).await;
    assert_eq!(ask(1).await, first);
    assert_ne!(ask(2).await, first);
}

#[tokio::test]
async fn an_answer_without_a_limit_of_its_own_ends_at_the_configured_one() {
    let Some(path) = gguf() else { return };
    let mut config = config("local", None);
    config.max_tokens = Some(4);
    let provider = connect(&config, Some(&path)).await.unwrap();
    let mut request = chat("Count from 1 to 1000.");
    let ended = async |request: &ChatRequest| {
        let answer = provider.complete(request).await.unwrap();
        (answer.finish().clone(), answer.usage.completion_tokens)
    };
    assert_eq!(ended(&request).await, (FinishReason::Length, 4));
    request.max_tokens = Some(6);
    assert_eq!(ended(&request).await, (FinishReason::Length, 6));
}

#[tokio::test]
async fn a_dropped_caller_frees_the_worker_at_the_next_token() {
    // Not the shared one: its only worker may be busy for another test.
    let Some(path) = gguf() else { return };
    let provider = LocalProvider::load("test", vec!["test-model".into()], &path).unwrap();
    let mut long = ChatRequest::prompt("m", "Count from 1 to 1000, one number a line.");
    long.max_tokens = Some(1000);
    let mut stream = provider.stream(&long).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    let mut short = ChatRequest::prompt("m", "Hi");
    short.max_tokens = Some(1);
    // A thousand tokens would take twice as long at the least.
    let next = tokio::time::timeout(Duration::from_secs(15), provider.complete(&short)).await;
    assert_eq!(next.expect("the worker was still busy").unwrap().usage.completion_tokens, 1);

    let hasty = provider.timeout(Duration::from_millis(1));
    assert_eq!(hasty.complete(&long).await.unwrap_err().kind, ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_empties_when_its_callers_go() {
    let Some(path) = gguf() else { return };
    let provider = LocalProvider::load("test", vec!["test-model".into()], &path).unwrap();
    let mut long = chat("Tell a long story.");
    long.max_tokens = Some(1000);
    let mut waiting = Vec::new();
    let refused = loop {
        match provider.stream(&long).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.kind, refused.retry_after), (ErrorKind::Overloaded, Some(Duration::from_secs(1))));
    assert!((64..80).contains(&waiting.len()), "{} wait", waiting.len());
    drop(waiting);
    let mut short = chat("Hi");
    short.max_tokens = Some(1);
    let next = tokio::time::timeout(Duration::from_secs(15), async {
        loop {
            match provider.complete(&short).await {
                Err(e) if e.kind == ErrorKind::Overloaded => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
    });
    assert_eq!(next.await.expect("nobody is left in the queue").unwrap().usage.completion_tokens, 1);
}

#[tokio::test]
async fn what_the_model_cannot_do_is_refused_by_name() {
    let Some(provider) = local() else { return };
    for (field, value) in [
        ("n", serde_json::json!(2)),
        ("logprobs", serde_json::json!(true)),
        ("tools", serde_json::json!([{"type": "function", "function": {"name": "f"}}])),
        ("response_format", serde_json::json!({"type": "json_object"})),
    ] {
        let mut body = serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        body[field] = value;
        let request: ChatRequest = serde_json::from_value(body).unwrap();
        let error = provider.complete(&request).await.unwrap_err();
        assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::InvalidArgument, field));
    }
}
