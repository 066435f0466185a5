//! The real binary on a real Redis: what it shares between replicas, and that a Redis in trouble is never in the way.

use std::time::{Duration, Instant};

use reprise::grpc::pb;
use reprise::grpc::pb::cache_service_client::CacheServiceClient;
use serde_json::{Value, json};

use crate::redis_server::RedisServer;
use crate::service::{Service, chat, context, http_client};

async fn start(folder: &tempfile::TempDir, redis: &str) -> Service {
    let url = format!("stores.redis_url={redis}");
    Service::start(folder.path(), &["stores.entries=redis", &url]).await
}

/// Asks, and gives how it was answered.
async fn ask(service: &Service, prompt: &str) -> String {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
    let sent = http_client().post(format!("{}/v1/chat/completions", service.http)).json(&body).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    sent.headers()["x-reprise-cache"].to_str().unwrap().to_owned()
}

async fn entries_ok(service: &Service) -> bool {
    let ready = http_client().get(format!("{}/ready", service.http)).send().await.unwrap();
    assert_eq!(ready.status(), 200, "the service answers without its entry store");
    let ready: Value = ready.json().await.unwrap();
    let entries = ready["dependencies"].as_array().unwrap().iter().find(|d| d["name"] == "entries").unwrap();
    entries["ok"].as_bool().unwrap()
}

/// Asks until it is answered like this; fails after 20 seconds.
async fn until(service: &Service, prompt: &str, status: &str) {
    let patience = Instant::now() + Duration::from_secs(20);
    while ask(service, prompt).await != status {
        assert!(Instant::now() < patience, "never answered as {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn replicas_share_exact_hits_and_deletions() {
    let redis = RedisServer::start();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = redis.url();
    let (a, b) = tokio::join!(start(&one, &url), start(&two, &url));
    until(&a, "shared question", "exact").await;
    assert_eq!(ask(&b, "shared question").await, "exact", "remembered by the other replica");
    let refresh = http_client()
        .post(format!("{}/v1/chat/completions", a.http))
        .header("cache-control", "no-cache")
        .json(&json!({"model": "m", "messages": [{"role": "user", "content": "shared question"}]}));
    assert_eq!(refresh.send().await.unwrap().headers()["x-reprise-cache"], "miss");
    let mut cache = CacheServiceClient::new(a.channel().await);
    let explain = pb::ExplainRequest { context: context(), chat: chat("shared question") };
    let key = cache.explain(explain).await.unwrap().into_inner().key;
    let delete = pb::DeleteRequest { context: context(), entry: key };
    assert!(cache.delete(delete).await.unwrap().into_inner().deleted);
    // The other replica held it in process; Redis tells it.
    let mut cache = CacheServiceClient::new(b.channel().await);
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let lookup = pb::LookupRequest { context: context(), chat: chat("shared question") };
        let found = cache.lookup(lookup).await.unwrap().into_inner();
        if found.cache.unwrap().status() == pb::CacheStatus::Miss {
            break;
        }
        assert!(Instant::now() < patience, "a deleted answer is still served by the other replica");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hung_redis_delays_requests_by_no_more_than_its_timeout_and_comes_back() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let service = start(&folder, &redis.url()).await;
    until(&service, "before", "exact").await;
    redis.freeze();
    for i in 0..20 {
        let started = Instant::now();
        assert_eq!(ask(&service, &format!("while it hangs {i}")).await, "miss");
        assert!(started.elapsed() < Duration::from_millis(1500), "request {i} took {:?}", started.elapsed());
    }
    assert!(!entries_ok(&service).await, "readiness must tell the truth");
    let started = Instant::now();
    ask(&service, "and now it is skipped").await;
    assert!(started.elapsed() < Duration::from_millis(500), "a store known to be down is skipped");
    redis.thaw();
    until(&service, "after", "exact").await;
    assert!(entries_ok(&service).await);
}

#[tokio::test]
async fn a_service_starts_without_its_redis() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing listens on port 1.
    let service = start(&folder, "redis://127.0.0.1:1").await;
    assert_eq!(ask(&service, "anybody there?").await, "miss");
    assert!(!entries_ok(&service).await);
}
