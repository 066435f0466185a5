//! The process: what survives `kill -9`, how it drains, what it says when it cannot start.

use std::time::Duration;

use reprise::grpc::pb;
use reprise::grpc::pb::cache_service_client::CacheServiceClient;
use reprise::grpc::pb::chat_service_client::ChatServiceClient;

use crate::service::{BINARY, Service, chat, context};

#[tokio::test]
async fn every_acknowledged_store_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &[]).await;
    let channel = service.channel().await;
    let store = |i: usize| {
        let mut client = CacheServiceClient::new(channel.clone());
        async move {
            let answer = pb::Answer { content: format!("answer {i}"), ..Default::default() };
            let request = pb::StoreRequest {
                context: context(),
                chat: chat(&format!("question number {i}")),
                answer: Some(answer),
                usage: None,
            };
            client.store(request).await.ok().map(|_| i)
        }
    };
    let acknowledged = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let writers = (0..8).map(|w| {
        let (acknowledged, store) = (acknowledged.clone(), &store);
        async move {
            for i in (w..4000).step_by(8) {
                match store(i).await {
                    Some(i) => acknowledged.lock().push(i),
                    None => break,
                }
            }
        }
    });
    let writing = futures::future::join_all(writers);
    let killing = async {
        while acknowledged.lock().len() < 300 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service.kill().await;
    };
    tokio::join!(writing, killing);
    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    assert!(acknowledged.len() >= 300);

    let service = Service::start(folder.path(), &[]).await;
    let mut client = CacheServiceClient::new(service.channel().await);
    for i in &acknowledged {
        let request = pb::LookupRequest { context: context(), chat: chat(&format!("question number {i}")) };
        let found = client.lookup(request).await.unwrap().into_inner();
        assert_eq!(found.cache.unwrap().status(), pb::CacheStatus::Exact, "question {i} was lost");
        assert_eq!(found.answer.unwrap().content, format!("answer {i}"));
    }
    let stats = client.stats(pb::StatsRequest { context: context() }).await.unwrap().into_inner();
    assert!(stats.vectors >= acknowledged.len() as u64, "{} vectors of {}", stats.vectors, acknowledged.len());
}

#[tokio::test]
async fn sigterm_lets_a_running_stream_end_and_keeps_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let slow = r#"providers=[{name="scripted",kind="scripted",models=["m"],tokens=20,token_latency="50ms"}]"#;
    let service = Service::start(folder.path(), &[slow]).await;
    let mut client = ChatServiceClient::new(service.channel().await);
    let request = pb::StreamCompleteRequest { context: context(), chat: chat("tell me slowly") };
    let mut stream = client.stream_complete(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    service.terminate();
    let mut last = None;
    while let Some(message) = stream.message().await.unwrap() {
        last = Some(message);
    }
    assert!(matches!(last.unwrap().event, Some(pb::stream_complete_response::Event::Final(_))));
    drop((stream, client));
    assert!(service.ended().await.success());

    let service = Service::start(folder.path(), &[]).await;
    let mut client = CacheServiceClient::new(service.channel().await);
    let request = pb::LookupRequest { context: context(), chat: chat("tell me slowly") };
    let found = client.lookup(request).await.unwrap().into_inner();
    assert_eq!(found.cache.unwrap().status(), pb::CacheStatus::Exact);
}

#[tokio::test]
async fn a_second_service_on_the_same_data_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _service = Service::start(folder.path(), &[]).await;
    let second = tokio::process::Command::new(BINARY)
        .args([
            "serve",
            "--grpc-addr",
            "127.0.0.1:0",
            "--http-addr",
            "127.0.0.1:0",
            "--set",
            "embedding.model=hashed-ngrams",
        ])
        .args(["--set", r#"providers=[{name="s",kind="scripted",models=["m"]}]"#, "--data-dir"])
        .arg(folder.path())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), second).await.unwrap().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another"), "{said}");
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = tokio::process::Command::new(BINARY)
        .args(["serve", "--grpc-addr", &addr, "--data-dir"])
        .arg(folder.path())
        .args(["--set", "embedding.model=hashed-ngrams"])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output).await.unwrap().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&addr) && said.contains("server.grpc_addr"), "{said}");
}
