//! Learns what others change in Redis, for the entries kept in process.
//!
//! One connection to every primary asks for the invalidation of all entry keys and of the keys that announce deletions
//! by tag (`CLIENT TRACKING ON BCAST`). Entries are kept and served in process only while all of these connections live:
//! when one ends, a heartbeat fails, or the primaries of the cluster change, invalidations may have been lost, and
//! everything is dropped at once.
//!
//! The cache that redis-rs brings is not used: it counts entries instead of bytes, keeps undecoded replies, and may
//! keep a reply whose invalidation arrived before it. [`Hot`] is bounded by bytes and closes that gap.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::l1::Hot;
use super::eviction;
use crate::store::redis::Target;
use crate::types::{Error, Namespace, Owner, Result, Tag, TenantId};

/// How often the connections are checked. With the limit of the check this bounds how long a change can go unnoticed
/// when a connection dies without a word.
const HEARTBEAT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);

/// The key whose change announces that the entries of a tag were deleted. Ids hold no white space.
pub(super) fn deletion_key(prefix: &str, owner: &Owner, tag: &Tag) -> String {
    format!("{prefix}:d:{}\n{}\n{tag}", owner.tenant, owner.namespace)
}

/// Of what follows the prefix in a [`deletion_key`].
fn deleted_tag(text: &str) -> Option<(Owner, Tag)> {
    let mut parts = text.splitn(3, '\n');
    let (tenant, namespace, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let owner = Owner { tenant: TenantId::new(tenant).ok()?, namespace: Namespace::new(namespace).ok()? };
    Some((owner, Tag::new(tag).ok()?))
}

/// Keeps `hot` open while all invalidations of keys under `prefix` arrive. Runs until aborted.
pub(super) fn start(target: Target, prefix: &str, hot: Arc<Hot>) -> JoinHandle<()> {
    let prefixes = Prefixes { entries: format!("{prefix}:e:"), deletions: format!("{prefix}:d:") };
    tokio::spawn(async move {
        let (mut was_up, mut is_first) = (true, true);
        loop {
            let lost = match Session::open(&target, &prefixes, &hot).await {
                Ok(session) => {
                    tracing::info!(nodes = session.connections.len(), "keeping Redis entries in process");
                    was_up = true;
                    if let (true, Some(connection)) = (std::mem::take(&mut is_first), session.connections.first()) {
                        eviction::warn_of_lost_tag_sets(&mut connection.clone()).await;
                    }
                    let lost = session.watch(&target).await;
                    session.feed.stop();
                    lost
                }
                Err(error) => error,
            };
            if std::mem::take(&mut was_up) {
                tracing::warn!(error = %lost, "no Redis entries are kept in process for now");
            }
            tokio::time::sleep(RETRY).await;
        }
    })
}

#[derive(Clone)]
struct Prefixes {
    entries: String,
    deletions: String,
}

struct Session {
    connections: Vec<MultiplexedConnection>,
    nodes: BTreeSet<(String, u16)>,
    feed: Arc<Feed>,
}

impl Session {
    async fn open(target: &Target, prefixes: &Prefixes, hot: &Arc<Hot>) -> Result<Self> {
        let feed = Arc::new(Feed {
            hot: hot.clone(),
            prefixes: prefixes.clone(),
            live: Mutex::new(true),
            ended: Notify::new(),
        });
        let (nodes, infos) = primaries(target).await?;
        let connections = try_join_all(infos.into_iter().map(|node| track(target, node, &feed))).await?;
        feed.begin();
        Ok(Self { connections, nodes, feed })
    }

    /// Returns why the session is over.
    async fn watch(&self, target: &Target) -> Error {
        let limit = (target.timeout * 2).max(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = self.feed.ended.notified() => return Error::unavailable("the connection to Redis ended"),
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            match tokio::time::timeout(limit, self.check(target)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return Error::unavailable("Redis does not answer"),
            }
        }
    }

    async fn check(&self, target: &Target) -> Result<()> {
        try_join_all(
            self.connections
                .iter()
                .cloned()
                .map(|mut connection| async move { redis::cmd("PING").query_async::<Value>(&mut connection).await }),
        )
        .await?;
        if let (true, Some(connection)) = (target.is_cluster, self.connections.first())
            && let Some(seed) = target.nodes.first()
            && topology(&mut connection.clone(), seed).await? != self.nodes
        {
            return Err(Error::unavailable("the primaries of the Redis Cluster have changed"));
        }
        Ok(())
    }
}

/// Takes invalidations to [`Hot`] while its session lives.
struct Feed {
    hot: Arc<Hot>,
    prefixes: Prefixes,
    live: Mutex<bool>,
    ended: Notify,
}

impl Feed {
    /// All connections are tracked now. If one ended meanwhile, nothing begins.
    fn begin(&self) {
        let live = self.live.lock();
        if *live {
            self.hot.open();
        }
    }

    fn stop(&self) {
        let mut live = self.live.lock();
        // A late word from a session that is over must not close the next one.
        if std::mem::replace(&mut *live, false) {
            self.hot.close();
            self.ended.notify_one();
        }
    }

    fn take(&self, push: PushInfo) {
        match (push.kind, push.data.into_iter().next()) {
            (PushKind::Disconnection, _) => self.stop(),
            (PushKind::Invalidate, Some(Value::Array(keys))) => keys.iter().for_each(|key| self.invalidate(key)),
            // FLUSHALL and FLUSHDB name no keys.
            (PushKind::Invalidate, _) => self.hot.invalidate_all(),
            _ => {}
        }
    }

    fn invalidate(&self, key: &Value) {
        let key = match key {
            Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
            Value::SimpleString(text) => Some(text.as_str()),
            _ => None,
        };
        let entry = key.and_then(|key| key.strip_prefix(&self.prefixes.entries)?.rsplit_once(':')?.1.parse().ok());
        let deletion = key.and_then(|key| deleted_tag(key.strip_prefix(&self.prefixes.deletions)?));
        match (entry, deletion) {
            (Some(key), _) => self.hot.invalidate(&key),
            (None, Some((owner, tag))) => drop(self.hot.invalidate_tagged(&owner, &tag)),
            (None, None) => self.hot.invalidate_all(),
        }
    }
}

async fn track(target: &Target, node: ConnectionInfo, feed: &Arc<Feed>) -> Result<MultiplexedConnection> {
    let listener = feed.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(target.timeout))
        .set_response_timeout(Some(target.timeout.max(HEARTBEAT)))
        .set_push_sender(move |push| {
            listener.take(push);
            Ok::<(), redis::aio::SendError>(())
        });
    let mut connection = target.client(node)?.get_multiplexed_async_connection_with_config(&config).await?;
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    command.arg("PREFIX").arg(&feed.prefixes.entries).arg("PREFIX").arg(&feed.prefixes.deletions);
    command.query_async::<Value>(&mut connection).await?;
    Ok(connection)
}

type Nodes = BTreeSet<(String, u16)>;

/// The server itself, or the primaries of the cluster as the first seed that answers knows them.
async fn primaries(target: &Target) -> Result<(Nodes, Vec<ConnectionInfo>)> {
    if !target.is_cluster {
        return Ok((Nodes::new(), target.nodes.iter().take(1).cloned().collect()));
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(target.timeout))
        .set_response_timeout(Some(target.timeout));
    let mut last = Error::unavailable("no seed node of the Redis Cluster");
    for seed in &target.nodes {
        let ask = async {
            let client = target.client(seed.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            topology(&mut connection, seed).await
        };
        match ask.await {
            Ok(nodes) if !nodes.is_empty() => {
                let infos = nodes.iter().map(|(host, port)| at(seed, host, *port)).collect();
                return Ok((nodes, infos));
            }
            Ok(_) => last = Error::unavailable("the Redis Cluster has no primaries"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Each range of slots is `[first, last, [host, port, …] of the primary, replicas…]`.
async fn topology(connection: &mut MultiplexedConnection, seed: &ConnectionInfo) -> Result<Nodes> {
    let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
    let mut nodes = Nodes::new();
    for range in &ranges {
        let Some(Value::Array(primary)) = range.get(2) else { continue };
        let Some(Value::Int(port)) = primary.get(1) else { continue };
        let host = match primary.first() {
            Some(Value::BulkString(host)) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
            Some(Value::SimpleString(host)) if !host.is_empty() => host.clone(),
            // The node does not know its own name: the one it was asked by.
            _ => host_of(seed),
        };
        nodes.insert((host, u16::try_from(*port).unwrap_or_default()));
    }
    Ok(nodes)
}

fn host_of(node: &ConnectionInfo) -> String {
    match node.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => String::new(),
    }
}

/// `seed`'s credentials and transport at another address.
fn at(seed: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let mut addr = seed.addr().clone();
    match &mut addr {
        ConnectionAddr::Tcp(own_host, own_port) | ConnectionAddr::TcpTls { host: own_host, port: own_port, .. } => {
            *own_host = host.to_owned();
            *own_port = port;
        }
        _ => {}
    }
    seed.clone().set_addr(addr)
}
