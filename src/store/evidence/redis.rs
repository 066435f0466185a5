//! Evidence in Redis or a Redis Cluster.
//!
//! ```text
//! <prefix>:l:{<owner>}   list of labels as JSON, newest first
//! <prefix>:r:{<owner>}   set of the hits that have a label, so that each counts once
//! <prefix>:b:{<owner>}   sorted set of blocked pairs by the time their block ends
//! ```
//!
//! The hash tag keeps what belongs to one owner in one slot. All of it expires when nothing was added for a long time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::{BLOCKED, Evidence, EvidenceStore, LABELS, Label};
use crate::store::redis::Connection;
use crate::types::{Error, ErrorKind, Owner, PairId, Result, UnixMillis};

/// How long what is known of an owner outlives its last label.
const KEPT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Hits that are known to have a label; beyond it, which of them is forgotten is left to chance.
const KNOWN: usize = 4 * LABELS;

pub struct RedisEvidence {
    connection: Arc<Connection>,
    prefix: String,
    timeout: Duration,
    add: Script,
    block: Script,
}

impl RedisEvidence {
    /// Shares the settings and the connection of the entries.
    pub(crate) fn new(connection: Arc<Connection>, prefix: &str, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            connection,
            prefix: prefix.to_owned(),
            timeout,
            add: Script::new(
                "if redis.call('SADD', KEYS[2], ARGV[2]) == 0 then return 0 end
                 if redis.call('SCARD', KEYS[2]) > tonumber(ARGV[4]) then
                   redis.call('SPOP', KEYS[2])
                   redis.call('SADD', KEYS[2], ARGV[2])
                 end
                 redis.call('LPUSH', KEYS[1], ARGV[1])
                 redis.call('LTRIM', KEYS[1], 0, ARGV[3] - 1)
                 redis.call('PEXPIRE', KEYS[1], ARGV[5])
                 redis.call('PEXPIRE', KEYS[2], ARGV[5])
                 return 1",
            ),
            block: Script::new(
                "redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
                 redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
                 redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[4])
                 redis.call('PEXPIRE', KEYS[1], ARGV[5])
                 return 1",
            ),
        })
    }

    fn key(&self, kind: char, owner: &Owner) -> String {
        let owner = blake3::hash(format!("{} {}", owner.tenant, owner.namespace).as_bytes()).to_hex();
        format!("{}:{kind}:{{{}}}", self.prefix, &owner[..32])
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::DeadlineExceeded, format!("Redis did not answer within {:?}", self.timeout)))
        })
    }
}

#[async_trait]
impl EvidenceStore for RedisEvidence {
    async fn add(&self, owner: &Owner, label: &Label) -> Result<bool> {
        let mut connection = self.connection.get()?;
        let body =
            serde_json::to_string(label).map_err(|e| Error::internal("a label cannot be encoded").with_source(e))?;
        let mut call = self.add.prepare_invoke();
        call.key(self.key('l', owner)).key(self.key('r', owner));
        call.arg(body).arg(format!("{}{}{}", label.entry, label.pair, label.source.as_str()));
        call.arg(LABELS).arg(KNOWN).arg(millis(KEPT));
        self.within(async { Ok(call.invoke_async::<u8>(&mut connection).await? == 1) }).await
    }

    async fn block(&self, owner: &Owner, pair: PairId, until: UnixMillis) -> Result<()> {
        let mut connection = self.connection.get()?;
        let mut call = self.block.prepare_invoke();
        call.key(self.key('b', owner)).arg(pair.to_string()).arg(until.0);
        call.arg(UnixMillis::now().0).arg(BLOCKED).arg(millis(KEPT));
        self.within(async { Ok(call.invoke_async::<u8>(&mut connection).await.map(drop)?) }).await
    }

    async fn read(&self, owner: &Owner) -> Result<Evidence> {
        let mut connection = self.connection.get()?;
        let (labels, blocked) = (self.key('l', owner), self.key('b', owner));
        let call = async {
            let mut pipeline = redis::pipe();
            pipeline.cmd("LRANGE").arg(labels).arg(0).arg(LABELS - 1);
            pipeline.cmd("ZRANGE").arg(blocked).arg(format!("({}", UnixMillis::now().0)).arg("+inf").arg("BYSCORE");
            Ok(pipeline.query_async::<(Vec<String>, Vec<String>)>(&mut connection).await?)
        };
        let (labels, blocked) = self.within(call).await?;
        let corrupt = |e| Error::new(ErrorKind::Corrupt, "stored evidence does not decode").with_source(e);
        Ok(Evidence {
            labels: labels.iter().map(|body| serde_json::from_str(body).map_err(corrupt)).collect::<Result<_>>()?,
            blocked: blocked.iter().map(|pair| pair.parse()).collect::<Result<_>>()?,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
