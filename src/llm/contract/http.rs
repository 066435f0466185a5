//! The providers behind HTTP, against a server that misbehaves.

use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

use super::upstream::{Behaviour, Upstream};
use super::*;
use crate::test_tls::Authority;
use crate::types::{Error, ErrorKind};

/// A provider of that kind, and the server it talks to.
async fn with_server(kind: &str) -> (Arc<dyn Provider>, Upstream) {
    let upstream = Upstream::start().await;
    let provider = connect(&config(kind, Some(&upstream.base_url())), None).await.unwrap();
    (provider, upstream)
}

async fn keeps_the_contract(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    answers_alike(&*provider).await;
    let before = upstream.requests();
    serves_callers_side_by_side(provider).await;
    assert_eq!(upstream.requests(), before + 6);
    assert_eq!(upstream.disconnects(), 0);
}

async fn bytes_cut_anywhere_spell_the_same(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    let text = "Grüße, 汉字 and 😀 to all";
    upstream.set(Behaviour { text: Some(text.into()), ..Behaviour::default() });
    let request = chat("a");
    let whole = provider.complete(&request).await.unwrap();
    assert_eq!(whole.content(), text);
    for (split, line_end) in [(1, "\n"), (3, "\r\n"), (7, "\r"), (64, "\n")] {
        let behaviour = Behaviour { text: Some(text.into()), split: Some(split), line_end, ..Behaviour::default() };
        upstream.set(Behaviour { no_done: split == 7, ..behaviour });
        assert_eq!(assembled(&streamed(&*provider, &request).await.unwrap()), whole, "{split} {line_end:?}");
    }
}

async fn tool_calls_are_the_same_streamed_and_whole(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    let tool_calls = vec![("weather".to_owned(), json!({"city": "Oslo"})), ("time".to_owned(), json!({"zone": "CET"}))];
    upstream.set(Behaviour { tool_calls, ..Behaviour::default() });
    let whole = provider.complete(&chat("a")).await.unwrap();
    assert_eq!(whole.finish(), &FinishReason::ToolCalls);
    let calls = &whole.choices[0].message.tool_calls;
    assert_eq!(calls[0]["function"], json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}));
    assert_eq!(calls[1]["id"], "call_1");
    assert_eq!(whole.choices[0].message.content, None);
    assert_eq!(assembled(&streamed(&*provider, &chat("a")).await.unwrap()), whole);
}

async fn statuses_become_kinds_with_the_providers_words(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    for (status, expected) in [
        (400, ErrorKind::InvalidArgument),
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (408, ErrorKind::DeadlineExceeded),
        (409, ErrorKind::RateLimited),
        (413, ErrorKind::InvalidArgument),
        (422, ErrorKind::InvalidArgument),
        (429, ErrorKind::RateLimited),
        (500, ErrorKind::Upstream),
        (502, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (504, ErrorKind::DeadlineExceeded),
        (529, ErrorKind::Unavailable),
        (302, ErrorKind::Upstream),
    ] {
        let retry_after = (status == 429).then(|| "7".to_owned());
        upstream.set(Behaviour { status: Some(status), retry_after, ..Behaviour::default() });
        for error in both_errors(&*provider).await {
            assert_eq!(error.kind, expected, "{status}");
            assert!(error.message.contains("told to fail"), "{error}");
            assert_eq!(error.retry_after, (status == 429).then_some(Duration::from_secs(7)));
            assert_eq!(error.message.contains("API key"), matches!(status, 401 | 403), "{error}");
        }
    }
    upstream.set(Behaviour { status: Some(503), ..Behaviour::default() });
    assert_eq!(provider.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    upstream.set(Behaviour { status: Some(404), ..Behaviour::default() });
    provider.ping().await.unwrap();
}

async fn error_bodies_are_read_in_part(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    let error_body = "é".repeat(1 << 20);
    upstream.set(Behaviour { status: Some(500), error_body, ..Behaviour::default() });
    for error in both_errors(&*provider).await {
        assert!(error.message.len() < 300 && error.message.contains("éé…"), "{} bytes", error.message.len());
    }
}

async fn malformed_answers_are_the_upstreams_fault(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    for body in ["", "{", "<html>", "[]", "{}", "{\"choices\": 3, \"content\": 3}"] {
        upstream.set(Behaviour { raw_body: Some(body.into()), ..Behaviour::default() });
        let error = provider.complete(&chat("a")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Upstream, "{body:?}: {error}");
        assert!(error.message.starts_with("provider test: "), "{error}");
    }
}

async fn a_stream_that_breaks_ends_in_an_error(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    upstream.set(Behaviour { reset_after: Some(2), ..Behaviour::default() });
    let (deltas, error) = until_error(&*provider).await;
    assert_eq!(text_of(&deltas), "You said: ");
    assert_eq!(error.unwrap().kind, ErrorKind::Unavailable);

    let error_body = r#"{"type":"error","error":{"type":"overloaded_error","message":"too busy"}}"#.to_owned();
    upstream.set(Behaviour { error_after: Some(1), error_body, ..Behaviour::default() });
    let (deltas, error) = until_error(&*provider).await;
    assert_eq!(text_of(&deltas), "You ");
    let error = error.unwrap();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "provider test: too busy"));
}

async fn a_stream_that_just_ends_has_no_finish_reason(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    upstream.set(Behaviour { end_after: Some(2), ..Behaviour::default() });
    let (deltas, error) = until_error(&*provider).await;
    assert!(error.is_none());
    assert_eq!(text_of(&deltas), "You said: ");
    assert_eq!(assembled(&deltas).finish(), &FinishReason::Missing);
}

async fn dropping_closes_the_connection(kind: &str) {
    let (provider, upstream) = with_server(kind).await;
    upstream.set(Behaviour { hang: true, ..Behaviour::default() });
    let waiting = tokio::spawn({
        let provider = provider.clone();
        async move { provider.complete(&chat("a")).await }
    });
    upstream.until(|u| u.open() == 1).await;
    waiting.abort();
    upstream.until(|u| u.open() == 0 && u.disconnects() == 1).await;

    let token_latency = Duration::from_millis(20);
    let text = Some("word ".repeat(1000));
    upstream.set(Behaviour { token_latency, text, ..Behaviour::default() });
    let mut stream = provider.stream(&chat("a")).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(upstream.open(), 1);
    drop(stream);
    upstream.until(|u| u.open() == 0 && u.disconnects() == 2).await;
}

async fn silence_runs_into_the_timeout(kind: &str) {
    let upstream = Upstream::start().await;
    let mut config = config(kind, Some(&upstream.base_url()));
    config.timeout = Duration::from_millis(150);
    let provider = connect(&config, None).await.unwrap();
    upstream.set(Behaviour { hang: true, ..Behaviour::default() });
    for error in both_errors(&*provider).await {
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
    }
    upstream.set(Behaviour { token_latency: Duration::from_secs(60), ..Behaviour::default() });
    let (deltas, error) = until_error(&*provider).await;
    assert_eq!((text_of(&deltas).as_str(), error.unwrap().kind), ("You ", ErrorKind::DeadlineExceeded));
}

async fn a_server_that_is_not_there_is_unavailable(kind: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = connect(&config(kind, Some(&format!("http://127.0.0.1:{port}"))), None).await.unwrap();
    for error in both_errors(&*provider).await {
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("cannot be reached") && error.message.contains("refused"), "{error}");
        assert!(!error.message.contains(&port.to_string()), "the URL may hold credentials: {error}");
    }
    assert_eq!(provider.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
}

async fn the_key_is_sent_and_never_told(kind: &str) {
    let upstream = Upstream::start().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"sk-secret\n").unwrap();
    let mut config = config(kind, Some(&upstream.base_url()));
    config.api_key_file = Some(file.path().to_owned());
    let provider = connect(&config, None).await.unwrap();
    provider.complete(&chat("a")).await.unwrap();
    let headers = upstream.last().headers;
    match kind {
        "openai" => assert_eq!(headers["authorization"], "Bearer sk-secret"),
        _ => assert_eq!(
            (&headers["x-api-key"], &headers["anthropic-version"]),
            (&"sk-secret".parse().unwrap(), &"2023-06-01".parse().unwrap())
        ),
    }
    let error_body = r#"{"error":{"message":"bad key sk-secret"}}"#.to_owned();
    upstream.set(Behaviour { status: Some(401), error_body, ..Behaviour::default() });
    for error in both_errors(&*provider).await {
        let refused = "provider test refused the API key that is configured for it: bad key [key] (HTTP 401)";
        assert_eq!(error.message, refused);
        assert!(!format!("{error:?}").contains("sk-secret"));
    }
    let debug = match kind {
        "openai" => format!("{:?}", crate::llm::openai::OpenAiProvider::new(&config).unwrap()),
        _ => format!("{:?}", crate::llm::anthropic::AnthropicProvider::new(&config).unwrap()),
    };
    assert!(debug.contains("[set]") && !debug.contains("secret"), "{debug}");
}

async fn a_ca_of_ones_own_is_trusted_when_it_is_named(kind: &str) {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(authority.issue("127.0.0.1").server()).await;
    let mut config = config(kind, Some(&upstream.base_url()));
    config.ca_file = Some(authority.ca());
    answers_alike(&*connect(&config, None).await.unwrap()).await;

    // Neither the CAs of the system nor another one of that name will do.
    for other in [None, Some(Authority::new())] {
        config.ca_file = other.as_ref().map(Authority::ca);
        let provider = match connect(&config, None).await {
            Ok(provider) => provider,
            // On a machine without any.
            Err(error) => {
                assert!(other.is_none() && error.message.contains("No CA certificates"), "{error}");
                continue;
            }
        };
        let errors = both_errors(&*provider).await.into_iter().chain(provider.ping().await.err());
        for error in errors {
            assert_eq!(error.kind, ErrorKind::Unavailable);
            let advice = "not signed by a CA that is trusted here; if it should be, name the PEM file of its CA in \
                          providers.test.ca_file";
            assert!(error.message.contains(advice), "{error}");
        }
    }
}

async fn a_certificate_for_another_name_is_refused(kind: &str) {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(authority.issue("llm.internal").server()).await;
    let mut config = config(kind, Some(&upstream.base_url()));
    config.ca_file = Some(authority.ca());
    for error in both_errors(&*connect(&config, None).await.unwrap()).await {
        assert!(error.message.contains("for another name") && error.message.contains("llm.internal"), "{error}");
    }
    assert_eq!(upstream.requests(), 0, "nothing is sent to it, no key either");
}

async fn both_errors(provider: &dyn Provider) -> [Error; 2] {
    let request = chat("a");
    [provider.complete(&request).await.unwrap_err(), provider.stream(&request).await.err().unwrap()]
}

/// What a stream gives, and the error that ends it. Nothing may come after an error.
async fn until_error(provider: &dyn Provider) -> (Vec<Delta>, Option<Error>) {
    let mut stream = provider.stream(&chat("a b c d")).await.unwrap();
    let mut deltas = Vec::new();
    while let Some(next) = stream.next().await {
        match next {
            Ok(delta) => deltas.push(delta),
            Err(error) => {
                assert!(stream.next().await.is_none());
                return (deltas, Some(error));
            }
        }
    }
    (deltas, None)
}

macro_rules! for_both {
    ($($name:ident)*) => {
        mod openai { $(#[tokio::test] async fn $name() { super::$name("openai").await })* }
        mod anthropic { $(#[tokio::test] async fn $name() { super::$name("anthropic").await })* }
    };
}

for_both! {
    keeps_the_contract
    bytes_cut_anywhere_spell_the_same
    tool_calls_are_the_same_streamed_and_whole
    statuses_become_kinds_with_the_providers_words
    error_bodies_are_read_in_part
    malformed_answers_are_the_upstreams_fault
    a_stream_that_breaks_ends_in_an_error
    a_stream_that_just_ends_has_no_finish_reason
    dropping_closes_the_connection
    silence_runs_into_the_timeout
    a_server_that_is_not_there_is_unavailable
    the_key_is_sent_and_never_told
    a_ca_of_ones_own_is_trusted_when_it_is_named
    a_certificate_for_another_name_is_refused
}

#[tokio::test]
async fn unknown_fields_pass_both_ways_untouched() {
    let (provider, upstream) = with_server("openai").await;
    let extra = json!({"x_flag": {"deep": [1, 2.5, null]}, "x_name": "abc"});
    upstream.set(Behaviour { extra: extra.as_object().unwrap().clone(), ..Behaviour::default() });
    let body = json!({"model": "test-model", "reasoning_effort": "low", "logit_bias": {"5": -100},
        "messages": [{"role": "user", "name": "bo", "content": [{"type": "text", "text": "hi", "cache": true}]}]});
    let request: ChatRequest = serde_json::from_value(body.clone()).unwrap();
    let whole = provider.complete(&request).await.unwrap();
    assert_eq!(upstream.last().body, body);
    let deltas = streamed(&*provider, &request).await.unwrap();
    let mut sent = body;
    sent["stream"] = json!(true);
    sent["stream_options"] = json!({"include_usage": true});
    assert_eq!(upstream.last().body, sent);
    for answer in [whole.clone(), assembled(&deltas)] {
        let choice = &answer.choices[0];
        for map in [&answer.extra, &choice.extra, &choice.message.extra, &answer.usage.extra] {
            assert_eq!(Value::Object(map.clone()), extra);
        }
    }
}

#[tokio::test]
async fn a_server_that_answers_a_stream_in_one_piece_is_understood() {
    let (provider, upstream) = with_server("openai").await;
    let whole = provider.complete(&chat("a")).await.unwrap();
    let one_piece = axum::Router::new().fallback(|| async {
        axum::Json(json!({"model": "test-model", "usage": {"prompt_tokens": 6, "completion_tokens": 3},
            "choices": [{"message": {"role": "assistant", "content": "You said: a"}, "finish_reason": "stop"}]}))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, one_piece).await });
    let provider = connect(&config("openai", Some(&base)), None).await.unwrap();
    assert_eq!(assembled(&streamed(&*provider, &chat("a")).await.unwrap()), whole);
    drop(upstream);
}

#[tokio::test]
async fn a_base_url_with_or_without_its_version_reaches_anthropic() {
    let upstream = Upstream::start().await;
    let with = upstream.base_url();
    let without = with.trim_end_matches("v1").to_owned();
    for base in [with, without] {
        let provider = connect(&config("anthropic", Some(&base)), None).await.unwrap();
        provider.complete(&chat("a")).await.unwrap();
        assert_eq!(upstream.last().path, "/v1/messages");
    }
}
