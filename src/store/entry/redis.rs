//! Entries in Redis or a Redis Cluster (7.0 or later, or Valkey).
//!
//! Keys fall into [`BUCKETS`] buckets by their first byte, and the bucket is the hash tag of every Redis key, so that
//! an entry and the tag sets it is in share a slot and change together:
//!
//! ```text
//! <prefix>:e:{<bucket>}:<entry key>   hash: b = body, o = owner, t = ids of its tags; expires with the entry
//! <prefix>:t:{<bucket>}:<tag id>      sorted set of entry keys by time of expiry; a tag id hashes owner and tag
//! <prefix>:d:<owner and tag>          set and deleted at once when a tag is deleted: who keeps its entries hears of it
//! ```
//!
//! Deleting by tag reads one small set per bucket and never scans. A member whose entry is gone or has lost the tag
//! is harmless: deletion looks at the entry itself. Members leave with the deletion, or by the first put after they expired,
//! or with the set, which expires after its last member.
//!
//! A Redis that evicts may lose a set and keep its entries, which deletion would miss. So an entry is only read while
//! each of its tag sets names it: one that could not be deleted by its tag is a miss, until it is put again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisError, Script, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::l1::{Coherence, Hot};
use super::{EntryStats, EntryStore, decode, encode};
use crate::config::{Stores, tls};
use crate::store::breaker::bulk_limit;
use crate::store::redis::{Connection, Target};
use crate::types::{Entry, EntryKey, Error, ErrorKind, Owner, Result, Tag, UnixMillis};

mod eviction;
mod tags;
mod tracking;

use tags::tag_id;

/// More than the nodes a cluster may have; a deletion by tag asks each once.
const BUCKETS: u8 = 64;
/// Clocks may differ by this much without a live entry leaving its tags.
const SLACK: Duration = Duration::from_secs(60);
/// Redis cannot take any number as a time to live.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Hints of use under way at the same time; beyond it they are dropped.
const TOUCHES_AT_ONCE: usize = 32;
/// How Redis refuses writes while it answers reads: out of memory, a replica, cannot save, has too few replicas.
const NO_WRITES: [&str; 4] = ["OOM", "READONLY", "MISCONF", "NOREPLICAS"];

pub struct RedisEntries {
    connection: Arc<Connection>,
    prefix: String,
    timeout: Duration,
    delete: Script,
    deletion: Script,
    touches: Arc<Semaphore>,
    hot: Arc<Hot>,
    tracking: tokio::task::JoinHandle<()>,
}

impl RedisEntries {
    /// Connects in the background: that Redis is down is no error here. Until it is up, calls fail at once.
    ///
    /// Errors: `InvalidArgument` when an address is malformed.
    pub async fn connect(settings: &Stores) -> Result<Arc<Self>> {
        let target = Target::of(settings)?;
        let hot = Hot::new(settings.l1_bytes, Coherence::Reported);
        let prefix = settings.redis_prefix.clone();
        let tracking = tracking::start(target.clone(), &prefix, hot.clone());
        Ok(Arc::new(Self {
            connection: Arc::new(Connection::open(target)?),
            prefix,
            timeout: settings.timeout,
            delete: Script::new(
                "if redis.call('HGET', KEYS[1], 'o') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
                 return 0",
            ),
            deletion: tags::deletion_script(),
            touches: Arc::new(Semaphore::new(TOUCHES_AT_ONCE)),
            hot,
            tracking,
        }))
    }

    /// The connection, for others that keep things where the entries are.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// What [`super::l1::L1Entries::with`] needs to stay true to what others write.
    pub fn hot(&self) -> Arc<Hot> {
        self.hot.clone()
    }

    fn entry_key(&self, key: &EntryKey) -> String {
        format!("{}:e:{{{}}}:{key}", self.prefix, key.as_bytes()[0] % BUCKETS)
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::DeadlineExceeded, format!("Redis did not answer within {limit:?}")))
        })
    }
}

#[async_trait]
impl EntryStore for RedisEntries {
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        let mut connection = self.connection.get()?;
        let call = async {
            let mut command = redis::cmd("HMGET");
            command.arg(self.entry_key(key)).arg("b").arg("t");
            let found: (Option<Vec<u8>>, Option<String>) = command.query_async(&mut connection).await?;
            let (Some(body), tag_ids) = found else { return Ok(None) };
            let tag_ids = tag_ids.unwrap_or_default();
            let deletable = tag_ids.is_empty() || self.is_deletable(&mut connection, key, &tag_ids).await?;
            if !deletable {
                metrics::counter!("reprise_redis_undeletable_total").increment(1);
            }
            Ok(deletable.then_some(body))
        };
        let Some(body) = self.within(self.timeout, call).await? else { return Ok(None) };
        let entry = decode(&body)?;
        Ok((!entry.is_expired(UnixMillis::now())).then(|| Arc::new(entry)))
    }

    async fn put(&self, entry: Arc<Entry>) -> Result<()> {
        let now = UnixMillis::now();
        if entry.is_expired(now) {
            return Ok(());
        }
        let left = entry.expires.since(now).min(FOREVER);
        let (key, bucket) = (self.entry_key(&entry.key), entry.key.as_bytes()[0] % BUCKETS);
        let tag_ids: Vec<_> = entry.tags.iter().map(|tag| tag_id(&entry.owner, tag)).collect();
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("HSET").arg(&key).arg("b").arg(encode(&entry)?);
        pipe.arg("o").arg(owner_id(&entry.owner)).arg("t").arg(tag_ids.join(",")).ignore();
        pipe.cmd("PEXPIRE").arg(&key).arg(millis(left)).ignore();
        for tag_id in &tag_ids {
            let set = self.tag_set(bucket, tag_id);
            let past = now.0.saturating_sub(millis(SLACK));
            pipe.cmd("ZREMRANGEBYSCORE").arg(&set).arg("-inf").arg(past).ignore();
            pipe.cmd("ZADD").arg(&set).arg(now.after(left).0).arg(&entry.key.as_bytes()[..]).ignore();
            // GT alone leaves a set without an expiry as it is.
            for when in ["NX", "GT"] {
                pipe.cmd("PEXPIRE").arg(&set).arg(millis(left + SLACK)).arg(when).ignore();
            }
        }
        let mut connection = self.connection.get()?;
        self.within(self.timeout, async { Ok(pipe.query_async::<()>(&mut connection).await?) }).await
    }

    async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        let mut connection = self.connection.get()?;
        let mut call = self.delete.key(self.entry_key(key));
        call.arg(owner_id(owner));
        self.within(self.timeout, async { Ok(call.invoke_async::<bool>(&mut connection).await?) }).await
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        self.within(bulk_limit(self.timeout), self.delete_tagged(owner, tag)).await
    }

    /// What Redis evicts depends on it, and it hears nothing of what is served from memory.
    fn touch(&self, key: &EntryKey) {
        let Ok(permit) = self.touches.clone().try_acquire_owned() else { return };
        let (Ok(runtime), Ok(mut connection)) = (Handle::try_current(), self.connection.get()) else { return };
        let (key, limit) = (self.entry_key(key), self.timeout);
        runtime.spawn(async move {
            let mut command = redis::cmd("TOUCH");
            // A hint: whether it arrived does not matter.
            let _ = tokio::time::timeout(limit, command.arg(key).query_async::<Value>(&mut connection)).await;
            drop(permit);
        });
    }

    /// Of the whole database, tag sets and what others keep there included: an exact count would cost every request.
    async fn stats(&self) -> Result<EntryStats> {
        let (mut one, mut other) = (self.connection.get()?, self.connection.get()?);
        let call = async {
            let (mut info, size) = (redis::cmd("INFO"), redis::cmd("DBSIZE"));
            info.arg("memory").arg("stats");
            let (info, entries) =
                tokio::try_join!(info.query_async::<Value>(&mut one), size.query_async::<u64>(&mut other))?;
            let (bytes, evicted) = (sum(&info, "used_memory_dataset:"), sum(&info, "evicted_keys:"));
            Ok(EntryStats { entries, bytes, evicted })
        };
        self.within(self.timeout, call).await
    }

    async fn ping(&self) -> Result<()> {
        let mut connection = self.connection.get()?;
        let call = async {
            let answer = redis::cmd("PING").query_async::<Value>(&mut connection).await;
            if answer.as_ref().is_err_and(|error| !error.is_io_error()) {
                self.connection.renew();
            }
            Ok(answer.map(drop)?)
        };
        self.within(self.timeout, call).await
    }

    async fn close(&self) -> Result<()> {
        self.tracking.abort();
        self.hot.close();
        self.connection.close();
        Ok(())
    }
}

impl Drop for RedisEntries {
    fn drop(&mut self) {
        self.tracking.abort();
        self.connection.close();
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        let kind = match error.kind() {
            _ if error.is_timeout() => ErrorKind::DeadlineExceeded,
            _ if refuses_writes(&error) => ErrorKind::FailedPrecondition,
            redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse => ErrorKind::Corrupt,
            redis::ErrorKind::InvalidClientConfig => ErrorKind::InvalidArgument,
            _ => ErrorKind::Unavailable,
        };
        let what = match tls::certificate_problem(&error, "stores.redis_ca_file") {
            Some(problem) => format!("Redis: {problem}"),
            None => "Redis".into(),
        };
        Error::new(kind, what).with_source(error)
    }
}

fn refuses_writes(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| NO_WRITES.contains(&error.code())))
}

/// Ids hold no white space, so this is unambiguous.
fn owner_id(owner: &Owner) -> String {
    format!("{}\n{}", owner.tenant, owner.namespace)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Adds up one number of `INFO`'s reply: a text, or in a cluster a map of nodes to texts.
fn sum(info: &Value, name: &str) -> u64 {
    let in_text = |text: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0);
    match info {
        Value::BulkString(bytes) => in_text(&String::from_utf8_lossy(bytes)),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => in_text(text),
        Value::Map(nodes) => nodes.iter().map(|(_, info)| sum(info, name)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
