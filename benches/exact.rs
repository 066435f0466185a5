//! The exact path: canonical key of a 2 KB request, exact hit in process, exact hit over gRPC beside a bare tonic echo of
//! the same bytes in the same run.
//!
//! `cargo bench --bench exact`

#![allow(clippy::unwrap_used, reason = "a bench has nobody to return an error to")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use reprise::app::App;
use reprise::config::Config;
use reprise::gateway::{Gateway, Request};
use reprise::grpc::pb;
use reprise::types::{Answer, Audience, ChatRequest, Message, Namespace, Owner, Role, Scope, TenantId, Usage};
use tokio::runtime::Runtime;

#[path = "echo/mod.rs"]
mod echo;

/// Concurrent callers of the throughput comparison.
const CALLERS: usize = 32;

fn owner() -> Owner {
    Owner { tenant: TenantId::new("bench").unwrap(), namespace: Namespace::new("bench").unwrap() }
}

/// A request of about 2 KB: a system prompt, a short conversation, a question.
fn chat() -> ChatRequest {
    let text = |words: usize| "the quick brown fox jumps over it ".repeat(words / 7);
    ChatRequest::new(
        "scripted",
        vec![
            Message::new(Role::System, text(130)),
            Message::new(Role::User, text(80)),
            Message::new(Role::Assistant, text(120)),
            Message::new(Role::User, "How do I reset my password?"),
        ],
    )
}

fn request(chat: ChatRequest) -> Request {
    Request::new("bench", owner(), chat)
}

fn key(c: &mut Criterion) {
    let (chat, owner) = (chat(), owner());
    let json = serde_json::to_vec(&chat).unwrap();
    let scope =
        Scope { owner: &owner, audience: &Audience::Shared, template: None, embedding_model: "all-MiniLM-L6-v2" };
    let mut group = c.benchmark_group("key");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function(BenchmarkId::new("identify", json.len()), |b| b.iter(|| scope.identify(black_box(&chat))));
    group.bench_function(BenchmarkId::new("parse + identify", json.len()), |b| {
        b.iter(|| {
            let value = reprise::types::json::parse_strict(black_box(&json)).unwrap();
            scope.identify(&serde_json::from_value(value).unwrap())
        })
    });
    group.finish();
}

/// A whole embedded service with the hashing embedder (the exact path never embeds) and one stored answer.
fn service(runtime: &Runtime, folder: &std::path::Path) -> App {
    runtime.block_on(async {
        let sets = [
            format!("data_dir={:?}", folder.display().to_string()),
            "server.grpc_addr=127.0.0.1:0".into(),
            "server.http_addr=127.0.0.1:0".into(),
            "embedding.model=hashed-ngrams".into(),
            r#"providers=[{name="scripted",kind="scripted",models=["scripted"]}]"#.into(),
        ];
        let config = Config::load(None, std::iter::empty(), &sets).unwrap();
        let app = App::start(config).await.unwrap();
        let answer = Answer::text("scripted", "You can reset it under Settings. ".repeat(16), Usage::new(480, 128));
        app.gateway().store(request(chat()), answer).await.unwrap();
        app
    })
}

fn in_process(c: &mut Criterion, runtime: &Runtime, gateway: &Arc<Gateway>) {
    let request = request(chat());
    c.bench_function("exact hit in process", |b| {
        b.to_async(runtime).iter(|| async { gateway.complete(request.clone()).await.unwrap() })
    });
}

/// Requests per second of `CALLERS` callers that each send one request after the other over their own connection.
fn throughput<C, F>(
    runtime: &Runtime,
    clients: &[C],
    requests: u64,
    call: impl Fn(C) -> F + Clone + Send + Sync,
) -> Duration
where
    C: Clone,
    F: Future<Output = ()> + Send,
{
    runtime.block_on(async {
        let started = Instant::now();
        let each = requests.div_ceil(clients.len() as u64);
        futures::future::join_all(clients.iter().map(|client| {
            let call = call.clone();
            async move {
                for _ in 0..each {
                    call(client.clone()).await;
                }
            }
        }))
        .await;
        started.elapsed()
    })
}

fn over_grpc(c: &mut Criterion, runtime: &Runtime, app: &App) {
    let channels = |addr: SocketAddr, runtime: &Runtime| {
        runtime.block_on(futures::future::join_all((0..CALLERS).map(|_| async move {
            tonic::transport::Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
        })))
    };
    let hit = pb::CompleteRequest {
        context: Some(pb::RequestContext { tenant: "bench".into(), namespace: "bench".into(), ..Default::default() }),
        chat: Some(wire_chat()),
    };
    let service: Vec<_> =
        channels(app.grpc_addr(), runtime).into_iter().map(pb::chat_service_client::ChatServiceClient::new).collect();
    let reply = runtime.block_on(service[0].clone().complete(hit.clone())).unwrap().into_inner();
    let cache = reply.completion.as_ref().unwrap().cache.as_ref().unwrap();
    assert_eq!(cache.status(), pb::CacheStatus::Exact, "the bench must measure exact hits");

    // The echo carries a request and a reply of the same sizes.
    let payload = hit.encode_to_vec();
    let echo_addr = runtime.block_on(echo::serve(reply.encode_to_vec()));
    let echo: Vec<_> = channels(echo_addr, runtime).into_iter().map(echo::Client::new).collect();

    let mut group = c.benchmark_group("over gRPC, 1 caller");
    group.bench_function("echo", |b| {
        b.to_async(runtime).iter(|| {
            let (client, payload) = (echo[0].clone(), payload.clone());
            async move { client.echo(payload).await }
        })
    });
    group.bench_function("exact hit", |b| {
        b.to_async(runtime).iter(|| {
            let (mut client, hit) = (service[0].clone(), hit.clone());
            async move { client.complete(hit).await.unwrap() }
        })
    });
    group.finish();

    let mut group = c.benchmark_group("over gRPC, 32 callers");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("echo", |b| {
        b.iter_custom(|n| {
            throughput(runtime, &echo, n, |client| {
                let payload = payload.clone();
                async move { drop(client.echo(payload).await) }
            })
        })
    });
    group.bench_function("exact hit", |b| {
        b.iter_custom(|n| {
            throughput(runtime, &service, n, |mut client| {
                let hit = hit.clone();
                async move { drop(client.complete(hit).await.unwrap()) }
            })
        })
    });
    group.finish();
}

fn wire_chat() -> pb::ChatRequest {
    let role = |role: Role| match role {
        Role::System => pb::Role::System,
        Role::User => pb::Role::User,
        _ => pb::Role::Assistant,
    };
    let chat = chat();
    let messages = chat.messages.iter().map(|m| pb::Message {
        role: role(m.role).into(),
        content: m.text().unwrap(),
        ..Default::default()
    });
    pb::ChatRequest { model: "scripted".into(), messages: messages.collect(), ..Default::default() }
}

fn exact(c: &mut Criterion) {
    key(c);
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let app = service(&runtime, folder.path());
    in_process(c, &runtime, app.gateway());
    over_grpc(c, &runtime, &app);
    runtime.block_on(app.stop()).unwrap();
}

criterion_group!(benches, exact);
criterion_main!(benches);
