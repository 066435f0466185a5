//! What Redis may evict when its memory is full.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;

/// Warns when tag sets may be evicted, which costs hits and nothing else. Servers that do not tell their policy, as managed ones do, are not judged.
pub(super) async fn warn_of_lost_tag_sets(connection: &mut MultiplexedConnection) {
    match policy(connection).await {
        Some(policy) if may_lose_tag_sets(&policy) => tracing::warn!(
            policy,
            "this maxmemory-policy lets Redis evict sets of tagged keys when its memory is full, and the entries of an \
             evicted set are not served any more, since deleting by tag would miss them; use noeviction, or volatile-ttl, \
             which prefers to evict what expires first, and a set expires after its entries"
        ),
        _ => {}
    }
}

async fn policy(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("maxmemory-policy");
    let settings: HashMap<String, String> = command.query_async(connection).await.ok()?;
    settings.into_values().next()
}

/// Everything here expires, so `volatile` policies concern tag sets too.
fn may_lose_tag_sets(policy: &str) -> bool {
    (policy.starts_with("allkeys-") || policy.starts_with("volatile-")) && policy != "volatile-ttl"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis_server::{RedisServer, free_port};

    #[tokio::test]
    async fn policies_that_may_evict_tag_sets_are_told_from_the_others() {
        for (name, may) in
            [("noeviction", false), ("volatile-ttl", false), ("volatile-lru", true), ("allkeys-lfu", true)]
        {
            let server = RedisServer::start_with(free_port(), &["--maxmemory-policy", name]);
            let client = redis::Client::open(server.url()).unwrap();
            let policy = policy(&mut client.get_multiplexed_async_connection().await.unwrap()).await;
            assert_eq!(policy.as_deref().map(|policy| (policy, may_lose_tag_sets(policy))), Some((name, may)));
        }
    }

    #[tokio::test]
    async fn a_server_that_forbids_the_question_is_not_judged() {
        let server = RedisServer::start_with(free_port(), &["--rename-command", "CONFIG", "hidden"]);
        let client = redis::Client::open(server.url()).unwrap();
        assert_eq!(policy(&mut client.get_multiplexed_async_connection().await.unwrap()).await, None);
    }
}
