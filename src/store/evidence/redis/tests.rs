//! On a real server.

use super::super::contract;
use super::*;
use crate::config::Stores;
use crate::store::entry::redis::RedisEntries;
use crate::store::redis_server::RedisServer;

async fn evidence(url: String) -> Arc<RedisEvidence> {
    let settings = Stores { redis_url: url, timeout: Duration::from_millis(500), ..Stores::default() };
    let entries = RedisEntries::connect(&settings).await.unwrap();
    RedisEvidence::new(entries.connection(), "test", settings.timeout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_meets_the_contract_and_replicas_share_it() {
    let server = RedisServer::start();
    let kept = contract::run(&*evidence(server.url()).await).await;
    let other = evidence(server.url()).await;
    assert_eq!(other.read(&contract::owner("kept")).await.unwrap(), kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_is_an_error_in_time() {
    let store = evidence("redis://127.0.0.1:1".into()).await;
    let started = std::time::Instant::now();
    assert!(store.read(&contract::owner("n")).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(3));
}
