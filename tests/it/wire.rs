//! Both surfaces against the real binary: good requests, and every kind of bad one.

use reprise::grpc::pb;
use reprise::grpc::pb::cache_service_client::CacheServiceClient;
use reprise::grpc::pb::chat_service_client::ChatServiceClient;
use reprise::grpc::pb::embedding_service_client::EmbeddingServiceClient;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use crate::service::{Service, chat, context, http_client};

async fn start(sets: &[&str]) -> (tempfile::TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), sets).await;
    (folder, service)
}

fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
    http_client().post(format!("{}{path}", service.http)).header("content-type", "application/json").body(body)
}

fn body(prompt: &str) -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": prompt}]}).to_string()
}

#[tokio::test]
async fn http_says_how_it_answered() {
    let (_folder, service) = start(&[]).await;
    let first = post(&service, "/v1/chat/completions", body("hello there")).send().await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["x-reprise-cache"], "miss");
    let entry = first.headers()["x-reprise-entry"].to_str().unwrap().to_owned();
    assert_eq!(entry.len(), 64);
    let first: Value = first.json().await.unwrap();
    assert_eq!(first["object"], "chat.completion");
    assert_eq!(first["choices"][0]["finish_reason"], "stop");
    assert!(first["usage"]["total_tokens"].as_u64().unwrap() > 0);
    // Another field order, other white space.
    let again = r#"{ "messages" : [ {"content":"hello there","role":"user"} ], "model":"m" }"#;
    let again = post(&service, "/v1/chat/completions", again).send().await.unwrap();
    assert_eq!(again.headers()["x-reprise-cache"], "exact");
    assert_eq!(again.headers()["x-reprise-entry"], entry.as_str());
    assert!(again.headers().contains_key("age"));
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["choices"], first["choices"]);
    let near = post(&service, "/v1/chat/completions", body("Hello there"))
        .header("x-reprise-min-similarity", "0.5")
        .send()
        .await
        .unwrap();
    assert_eq!(near.headers()["x-reprise-cache"], "semantic");
    assert!(near.headers()["x-reprise-similarity"].to_str().unwrap().parse::<f32>().unwrap() >= 0.5);
    let chat = post(&service, "/chat", r#"{"message":"hello there"}"#).send().await.unwrap();
    let chat: Value = chat.json().await.unwrap();
    assert_eq!((&chat["cached"], &chat["model_used"]), (&json!(true), &json!("m")));
    assert_eq!(chat["response"], first["choices"][0]["message"]["content"]);
}

/// The data lines of an SSE body.
fn events(body: &str) -> Vec<&str> {
    body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

#[tokio::test]
async fn a_streamed_hit_has_the_shape_of_a_live_stream() {
    let (_folder, service) = start(&[]).await;
    let request = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
                         "messages": [{"role": "user", "content": "stream it"}]})
    .to_string();
    let mut texts = Vec::new();
    for expected in ["miss", "exact"] {
        let reply = post(&service, "/v1/chat/completions", request.clone()).send().await.unwrap();
        assert_eq!(reply.headers()["x-reprise-cache"], expected);
        assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let body = reply.text().await.unwrap();
        let events = events(&body);
        assert_eq!(*events.last().unwrap(), "[DONE]");
        let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
        let finishes = chunks.iter().filter(|c| c["choices"][0]["finish_reason"] == "stop").count();
        assert_eq!(finishes, 1);
        let usage = chunks.last().unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        texts.push(chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect::<String>());
    }
    assert!(!texts[0].is_empty());
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn http_cache_control_is_understood() {
    let (_folder, service) = start(&[]).await;
    let ask = async |control: &str| {
        let reply = post(&service, "/v1/chat/completions", body("controlled")).header("cache-control", control);
        let reply = reply.send().await.unwrap();
        let cache = reply.headers().get("x-reprise-cache").map(|v| v.to_str().unwrap().to_owned());
        (reply.status().as_u16(), cache.unwrap_or_default())
    };
    assert_eq!(ask("only-if-cached").await.0, 504);
    assert_eq!(ask("no-store").await, (200, "miss".into()));
    assert_eq!(ask("only-if-cached").await.0, 504);
    assert_eq!(ask("no-cache").await, (200, "miss".into()));
    assert_eq!(ask("only-if-cached").await, (200, "exact".into()));
    assert_eq!(ask("no-cache, no-store").await, (200, "bypass".into()));
    assert_eq!(ask("max-age=60").await, (200, "exact".into()));
    assert_eq!(ask("max-age=-1").await.0, 400);
}

#[tokio::test]
async fn bad_http_requests_get_clear_errors_and_the_service_lives_on() {
    let (_folder, service) = start(&[]).await;
    let big = "x".repeat(1 << 20);
    let many: Vec<_> = (0..10_000).map(|_| json!({"role": "user", "content": "a"})).collect();
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("empty body", vec![], 400, "JSON"),
        ("not JSON", b"{".to_vec(), 400, "JSON"),
        ("bad UTF-8", b"{\"model\":\"\xff\"}".to_vec(), 400, "JSON"),
        (
            "duplicate key",
            br#"{"model":"m","model":"m","messages":[{"role":"user","content":"a"}]}"#.to_vec(),
            400,
            "model",
        ),
        ("no messages", br#"{"model":"m","messages":[]}"#.to_vec(), 400, "messages"),
        ("empty prompt", body("").into_bytes(), 400, "empty"),
        ("wrong type", br#"{"model":"m","messages":"hi"}"#.to_vec(), 400, "messages"),
        ("unknown model", br#"{"model":"nope","messages":[{"role":"user","content":"a"}]}"#.to_vec(), 404, "nope"),
        (
            "hot",
            br#"{"model":"m","temperature":9,"messages":[{"role":"user","content":"a"}]}"#.to_vec(),
            400,
            "temperature",
        ),
        ("over 1 MiB", body(&format!("{big}y")).into_bytes(), 400, "messages"),
        ("10,000 messages", json!({"model": "m", "messages": many}).to_string().into_bytes(), 400, "10000 messages"),
        ("odd part", br#"{"model":"m","messages":[{"role":"user","content":[{"text":"a"}]}]}"#.to_vec(), 400, "type"),
    ];
    for (name, bytes, status, word) in cases {
        let reply = post(&service, "/v1/chat/completions", bytes).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{name}");
        let error: Value = reply.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap_or_else(|| panic!("{name}: {error}"));
        assert!(message.contains(word), "{name}: {message}");
    }
    for (header, value) in [
        ("x-reprise-min-similarity", "NaN"),
        ("x-reprise-min-similarity", "2"),
        ("x-reprise-ttl", "-5s"),
        ("x-reprise-tenant", "two words"),
        ("x-reprise-priority", "11"),
    ] {
        let reply = post(&service, "/v1/chat/completions", body("a")).header(header, value).send().await.unwrap();
        assert_eq!(reply.status(), 400, "{header}: {value}");
    }
    let image = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]});
    for expected in ["miss", "exact"] {
        let reply = post(&service, "/v1/chat/completions", image.to_string()).send().await.unwrap();
        assert_eq!((reply.status().as_u16(), &reply.headers()["x-reprise-cache"]), (200, &expected.parse().unwrap()));
    }
    let mebibyte = post(&service, "/v1/chat/completions", body(&big)).send().await.unwrap();
    assert_eq!(mebibyte.status(), 200, "exactly 1 MiB of prompt is allowed");
}

#[tokio::test]
async fn bad_grpc_requests_name_the_field() {
    let (_folder, service) = start(&["server.tenants=[\"default\"]"]).await;
    let mut client = ChatServiceClient::new(service.channel().await);
    let cache = |controls| Some(pb::RequestContext { cache: Some(controls), ..Default::default() });
    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let cases = [
        (
            "nan",
            cache(pb::CacheControls { min_similarity: Some(f32::NAN), ..Default::default() }),
            chat("a"),
            "min_similarity",
        ),
        ("ttl", cache(pb::CacheControls { ttl: duration(-1), ..Default::default() }), chat("a"), "ttl"),
        ("tag", cache(pb::CacheControls { tags: vec!["a b".into()], ..Default::default() }), chat("a"), "tags"),
        ("priority", Some(pb::RequestContext { priority: Some(12), ..Default::default() }), chat("a"), "priority"),
        ("empty", context(), chat(""), "messages[0].content"),
        ("none", context(), Some(pb::ChatRequest::default()), "messages"),
    ];
    for (name, context, chat, field) in cases {
        let status = client.complete(pb::CompleteRequest { context, chat }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap_or_else(|| panic!("{name}: no BadRequest")).field_violations;
        assert!(violations.iter().any(|v| v.field.contains(field)), "{name}: {violations:?}");
        assert_eq!(details.error_info().unwrap().reason, "INVALID_ARGUMENT");
    }
    let stranger = Some(pb::RequestContext { tenant: "stranger".into(), ..Default::default() });
    let status = client.complete(pb::CompleteRequest { context: stranger, chat: chat("a") }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut unknown = chat("a");
    unknown.as_mut().unwrap().model = "nope".into();
    let status = client.complete(pb::CompleteRequest { context: context(), chat: unknown }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn invalid_utf8_in_a_grpc_string_is_an_error_of_that_call_alone() {
    use tonic_prost::ProstCodec;
    let (_folder, service) = start(&[]).await;
    let mut grpc = tonic::client::Grpc::new(service.channel().await);
    grpc.ready().await.unwrap();
    // CompleteRequest { chat { model: "\xff" } }, by hand.
    let bytes: &[u8] = &[0x12, 0x03, 0x0a, 0x01, 0xff];
    let request = Raw(bytes.to_vec());
    let path = "/reprise.v1.ChatService/Complete".parse().unwrap();
    let codec = ProstCodec::<Raw, pb::CompleteResponse>::default();
    let status = grpc.unary(tonic::Request::new(request), path, codec).await.unwrap_err();
    assert!(matches!(status.code(), Code::Internal | Code::InvalidArgument), "{status}");
    let mut client = ChatServiceClient::new(service.channel().await);
    client.complete(pb::CompleteRequest { context: context(), chat: chat("still here") }).await.unwrap();
}

/// A message whose encoding is given.
#[derive(Debug, Default, Clone)]
struct Raw(Vec<u8>);

impl prost::Message for Raw {
    fn encode_raw(&self, buf: &mut impl prost::bytes::BufMut) {
        buf.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl prost::bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_one_failure_to_itself() {
    let (_folder, service) = start(&[]).await;
    let mut client = ChatServiceClient::new(service.channel().await);
    let chats = ["one", "", "three", "one"].map(|p| chat(p).unwrap()).to_vec();
    let reply = client.complete_batch(pb::CompleteBatchRequest { context: context(), chats }).await.unwrap();
    let results: Vec<_> = reply.into_inner().results.into_iter().map(|r| r.result.unwrap()).collect();
    let text = |i: usize| match &results[i] {
        pb::complete_batch_result::Result::Response(r) => r.answer.as_ref().unwrap().content.clone(),
        pb::complete_batch_result::Result::Error(e) => format!("error {}", e.code),
    };
    assert_eq!(text(1), format!("error {}", Code::InvalidArgument as i32));
    assert_eq!(text(0), text(3));
    assert_ne!(text(0), text(2));
}

#[tokio::test]
async fn texts_are_embedded_whole_and_as_a_stream() {
    let (_folder, service) = start(&[]).await;
    let mut client = EmbeddingServiceClient::new(service.channel().await);
    let texts = vec!["red".to_owned(), "blue".to_owned()];
    let request = pb::EmbedRequest { context: context(), model: String::new(), texts: texts.clone() };
    let whole = client.embed(request).await.unwrap().into_inner().embeddings;
    assert_eq!(whole.len(), 2);
    assert!((whole[0].values.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3);
    let requests = texts.into_iter().enumerate().map(|(i, text)| pb::EmbedStreamRequest {
        context: context(),
        id: i as u64 + 7,
        text,
    });
    let mut stream = client.embed_stream(tokio_stream::iter(requests.collect::<Vec<_>>())).await.unwrap().into_inner();
    let mut got = std::collections::HashMap::new();
    while let Some(reply) = stream.message().await.unwrap() {
        got.insert(reply.id, reply.embedding.unwrap().values);
    }
    assert_eq!(got[&7], whole[0].values);
    assert_eq!(got[&8], whole[1].values);
}

#[tokio::test]
async fn health_readiness_metrics_and_reflection_answer() {
    let (_folder, service) = start(&[]).await;
    post(&service, "/v1/chat/completions", body("count me")).send().await.unwrap();
    let get = async |path: &str| {
        let reply = http_client().get(format!("{}{path}", service.http)).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    assert_eq!(get("/health").await.0, 200);
    let (status, ready) = get("/ready").await;
    assert_eq!(status, 200);
    for name in ["entries", "vectors", "provider:scripted"] {
        assert!(ready.contains(name), "{ready}");
    }
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("reprise_requests_total{cache=\"miss\"} 1"), "{metrics}");
    assert_eq!(get("/nowhere").await.0, 404);
    let (_, models) = get("/v1/models").await;
    assert!(models.contains("other-model"));
    let mut health = tonic_health::pb::health_client::HealthClient::new(service.channel().await);
    let request = tonic_health::pb::HealthCheckRequest { service: "reprise.v1.ChatService".into() };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving as i32);
}

#[tokio::test]
async fn what_is_stored_over_grpc_is_deleted_over_grpc() {
    let (_folder, service) = start(&[]).await;
    let mut cache = CacheServiceClient::new(service.channel().await);
    let controls = pb::CacheControls { tags: vec!["faq".into()], ..Default::default() };
    let tagged = || Some(pb::RequestContext { cache: Some(controls.clone()), ..Default::default() });
    let answer = pb::Answer { content: "42".into(), ..Default::default() };
    let store = pb::StoreRequest { context: tagged(), chat: chat("the answer?"), answer: Some(answer), usage: None };
    let stored = cache.store(store).await.unwrap().into_inner();
    assert!(stored.semantic);
    let explain = pb::ExplainRequest { context: context(), chat: chat("the answer?") };
    let why = cache.explain(explain).await.unwrap().into_inner();
    assert_eq!(why.key, stored.entry);
    assert_eq!(why.cache.unwrap().status(), pb::CacheStatus::Exact);
    assert_eq!(why.candidates[0].entry, stored.entry);
    let by_tag = pb::DeleteByTagRequest { context: context(), tag: "faq".into() };
    assert_eq!(cache.delete_by_tag(by_tag).await.unwrap().into_inner().deleted, 1);
    let delete = pb::DeleteRequest { context: context(), entry: stored.entry };
    assert!(!cache.delete(delete).await.unwrap().into_inner().deleted);
    let lookup = pb::LookupRequest { context: context(), chat: chat("the answer?") };
    let found = cache.lookup(lookup).await.unwrap().into_inner();
    assert_eq!(found.cache.unwrap().status(), pb::CacheStatus::Miss);
}
