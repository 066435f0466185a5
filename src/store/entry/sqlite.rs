//! Entries in the local SQLite file.
//!
//! Triggers keep the tags and the totals in step with the entries, so that no path can forget them. Expired rows are
//! never served and swept in the background; when bodies outgrow their room, the least recently used go, in the same
//! commit as the put that needs it. Reads note recency in memory, and it is written in batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::{Row, SqliteConnection};
use tokio::task::JoinHandle;

use super::{EntryStats, EntryStore, OnEvicted, decode, encode};
use crate::store::sqlite::Sqlite;
use crate::types::{Entry, EntryKey, Error, ErrorKind, Owner, Result, Tag, UnixMillis};

const SCHEMA: &[&str] = &["
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        namespace TEXT NOT NULL,
        expires INTEGER NOT NULL,
        used INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX entries_expires ON entries (expires);
    CREATE INDEX entries_used ON entries (used);
    CREATE TABLE entry_tags (
        tenant TEXT NOT NULL,
        namespace TEXT NOT NULL,
        tag TEXT NOT NULL,
        id INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, tag, id)
    ) WITHOUT ROWID;
    CREATE INDEX entry_tags_id ON entry_tags (id);
    CREATE TABLE entry_totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
    INSERT INTO entry_totals VALUES (0, 0);
    CREATE TRIGGER entries_inserted AFTER INSERT ON entries BEGIN
        UPDATE entry_totals SET entries = entries + 1, bytes = bytes + new.bytes;
    END;
    CREATE TRIGGER entries_replaced AFTER UPDATE OF body ON entries BEGIN
        DELETE FROM entry_tags WHERE id = old.id;
        UPDATE entry_totals SET bytes = bytes + new.bytes - old.bytes;
    END;
    CREATE TRIGGER entries_deleted AFTER DELETE ON entries BEGIN
        DELETE FROM entry_tags WHERE id = old.id;
        UPDATE entry_totals SET entries = entries - 1, bytes = bytes - old.bytes;
    END;
"];

/// How often expired rows are swept and recency is written.
const MAINTENANCE: Duration = Duration::from_secs(5);
/// Most expired rows that go in one commit, and commits in one round: other writers wait meanwhile.
const SWEEP_ROWS: i64 = 500;
const SWEEP_COMMITS: usize = 8;
/// Recency is kept no finer than this.
const RECENCY: Duration = Duration::from_secs(60);
/// Entries with recency waiting to be written; beyond it the hint is dropped.
const RECENT: usize = 20_000;

pub struct SqliteEntries {
    sqlite: Arc<Sqlite>,
    max_bytes: u64,
    /// Never less than the bytes held, so that most puts need not ask.
    bytes_at_most: Arc<AtomicU64>,
    evicted: AtomicU64,
    hear: Mutex<Option<OnEvicted>>,
    recent: Mutex<HashMap<EntryKey, UnixMillis>>,
    maintenance: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteEntries {
    /// `max_bytes` bounds the bytes of bodies. Starts the background sweep, which ends with the store.
    pub async fn new(sqlite: Arc<Sqlite>, max_bytes: u64) -> Result<Arc<Self>> {
        sqlite.migrate("entries", SCHEMA).await?;
        let store = Arc::new(Self {
            sqlite,
            max_bytes,
            bytes_at_most: Arc::default(),
            evicted: AtomicU64::default(),
            hear: Mutex::default(),
            recent: Mutex::default(),
            maintenance: Mutex::default(),
        });
        store.bytes_at_most.store(store.stats().await?.bytes, Ordering::Relaxed);
        *store.maintenance.lock() = Some(tokio::spawn(maintain(Arc::downgrade(&store))));
        Ok(store)
    }

    fn tell_evicted(&self, keys: &[EntryKey]) {
        self.evicted.fetch_add(keys.len() as u64, Ordering::Relaxed);
        metrics::counter!("reprise_entries_evicted_total").increment(keys.len() as u64);
        let hear = self.hear.lock().clone();
        if let Some(hear) = hear.filter(|_| !keys.is_empty()) {
            hear(keys);
        }
    }

    /// One round of the background work: bounded sweep of expired rows, recency.
    async fn tidy(&self) -> Result<()> {
        self.write_recency().await?;
        for _ in 0..SWEEP_COMMITS {
            let now = millis(UnixMillis::now());
            let swept = self.sqlite.write(move |conn| Box::pin(sweep(conn, now))).await?;
            metrics::counter!("reprise_entries_expired_total").increment(swept);
            if swept < SWEEP_ROWS.unsigned_abs() {
                break;
            }
        }
        Ok(())
    }

    async fn write_recency(&self) -> Result<()> {
        let recent = std::mem::take(&mut *self.recent.lock());
        if recent.is_empty() {
            return Ok(());
        }
        let uses: Vec<_> = recent.into_iter().map(|(key, used)| (key.to_string(), used.0)).collect();
        let uses =
            serde_json::to_string(&uses).map_err(|e| Error::internal("recency cannot be encoded").with_source(e))?;
        self.sqlite
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE entries SET used = use.value ->> 1 FROM json_each($1) AS use
                               WHERE entries.key = unhex(use.value ->> 0)";
                    sqlx::query(sql).bind(uses).execute(conn).await?;
                    Ok(())
                })
            })
            .await
    }
}

#[async_trait]
impl EntryStore for SqliteEntries {
    async fn get(&self, key: &EntryKey) -> Result<Option<Arc<Entry>>> {
        let now = UnixMillis::now();
        let row = sqlx::query("SELECT used, body FROM entries WHERE key = $1 AND expires > $2")
            .bind(&key.as_bytes()[..])
            .bind(millis(now))
            .fetch_optional(self.sqlite.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let entry = decode(row.try_get(1)?)?;
        let used = UnixMillis(row.try_get::<i64, _>(0)?.unsigned_abs());
        if now.since(used) > RECENCY {
            self.touch(key);
        }
        Ok(Some(Arc::new(entry)))
    }

    async fn put(&self, entry: Arc<Entry>) -> Result<()> {
        let now = UnixMillis::now();
        if entry.is_expired(now) {
            return Ok(());
        }
        let body = encode(&entry)?;
        let bytes = body.len() as u64;
        if bytes > self.max_bytes {
            let text = format!("an entry of {bytes} bytes does not fit into a store of {} bytes", self.max_bytes);
            return Err(Error::new(ErrorKind::FailedPrecondition, text));
        }
        let (bytes_at_most, max_bytes) = (self.bytes_at_most.clone(), self.max_bytes);
        let evicted = self
            .sqlite
            .write(move |conn| {
                Box::pin(async move {
                    insert(conn, &entry, body, now).await?;
                    // Works run one after the other, so nothing comes between these lines.
                    let held = bytes_at_most.load(Ordering::Relaxed).saturating_add(bytes);
                    bytes_at_most.store(held, Ordering::Relaxed);
                    if held <= max_bytes {
                        return Ok(Vec::new());
                    }
                    let evicted = make_room(conn, max_bytes, &entry.key, now).await?;
                    bytes_at_most.store(totals(conn).await?.bytes, Ordering::Relaxed);
                    Ok(evicted)
                })
            })
            .await
            // What make_room did may have been undone: let the next put look again.
            .inspect_err(|_| self.bytes_at_most.store(u64::MAX, Ordering::Relaxed))?;
        self.tell_evicted(&evicted);
        Ok(())
    }

    async fn delete(&self, owner: &Owner, key: &EntryKey) -> Result<bool> {
        let (owner, key, now) = (owner.clone(), *key, millis(UnixMillis::now()));
        self.sqlite
            .write(move |conn| {
                Box::pin(async move {
                    let sql =
                        "DELETE FROM entries WHERE key = $1 AND tenant = $2 AND namespace = $3 RETURNING expires > $4";
                    let live: Option<bool> = sqlx::query_scalar(sql)
                        .bind(&key.as_bytes()[..])
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(now)
                        .fetch_optional(conn)
                        .await?;
                    Ok(live == Some(true))
                })
            })
            .await
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        let (owner, tag) = (owner.clone(), tag.clone());
        self.sqlite
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "DELETE FROM entries WHERE id IN
                                   (SELECT id FROM entry_tags WHERE tenant = $1 AND namespace = $2 AND tag = $3)
                               RETURNING key";
                    let keys: Vec<Vec<u8>> = sqlx::query_scalar(sql)
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(tag.as_str())
                        .fetch_all(conn)
                        .await?;
                    keys.iter().map(|key| key_of(key)).collect()
                })
            })
            .await
    }

    fn touch(&self, key: &EntryKey) {
        let mut recent = self.recent.lock();
        if recent.len() < RECENT || recent.contains_key(key) {
            recent.insert(*key, UnixMillis::now());
        }
    }

    fn on_evicted(&self, hear: OnEvicted) {
        *self.hear.lock() = Some(hear);
    }

    async fn stats(&self) -> Result<EntryStats> {
        let mut conn = self.sqlite.reader().acquire().await?;
        Ok(EntryStats { evicted: self.evicted.load(Ordering::Relaxed), ..totals(&mut conn).await? })
    }

    async fn ping(&self) -> Result<()> {
        // Through the writer: a store that cannot commit does not work.
        self.sqlite.write(|conn| Box::pin(async move { totals(conn).await.map(drop) })).await
    }

    /// The file itself stays open: it is shared, and whoever opened it closes it.
    async fn close(&self) -> Result<()> {
        if let Some(task) = self.maintenance.lock().take() {
            task.abort();
        }
        self.write_recency().await
    }
}

async fn insert(conn: &mut SqliteConnection, entry: &Entry, body: Vec<u8>, now: UnixMillis) -> Result<()> {
    let sql = "INSERT INTO entries (key, tenant, namespace, expires, used, bytes, body)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT (key) DO UPDATE SET tenant = $2, namespace = $3, expires = $4, used = $5, bytes = $6, body = $7
               RETURNING id";
    let id: i64 = sqlx::query_scalar(sql)
        .bind(&entry.key.as_bytes()[..])
        .bind(entry.owner.tenant.as_str())
        .bind(entry.owner.namespace.as_str())
        .bind(millis(entry.expires))
        .bind(millis(now))
        .bind(i64::try_from(body.len()).unwrap_or(i64::MAX))
        .bind(body)
        .fetch_one(&mut *conn)
        .await?;
    for tag in &entry.tags {
        sqlx::query("INSERT OR IGNORE INTO entry_tags VALUES ($1, $2, $3, $4)")
            .bind(entry.owner.tenant.as_str())
            .bind(entry.owner.namespace.as_str())
            .bind(tag.as_str())
            .bind(id)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Deletes what has expired, then the least recently used, until a little less than `max_bytes` is held: the slack
/// keeps the next puts from coming here. `newest` stays. Gives the keys of what was deleted before its time.
async fn make_room(
    conn: &mut SqliteConnection,
    max_bytes: u64,
    newest: &EntryKey,
    now: UnixMillis,
) -> Result<Vec<EntryKey>> {
    let goal = max_bytes - max_bytes / 32;
    let mut evicted = Vec::new();
    loop {
        let held = totals(conn).await?.bytes;
        if held <= if evicted.is_empty() { max_bytes } else { goal } {
            return Ok(evicted);
        }
        if sweep(conn, millis(now)).await? > 0 {
            continue;
        }
        // Of the 256 oldest, as many as it takes.
        let sql = "DELETE FROM entries WHERE id IN (
                       SELECT id FROM (
                           SELECT id, sum(bytes) OVER (ORDER BY used, id) - bytes AS before
                           FROM (SELECT id, used, bytes FROM entries WHERE key <> $2 ORDER BY used, id LIMIT 256)
                       ) WHERE before < $1)
                   RETURNING key";
        let need = i64::try_from(held - goal).unwrap_or(i64::MAX);
        let gone: Vec<Vec<u8>> =
            sqlx::query_scalar(sql).bind(need).bind(&newest.as_bytes()[..]).fetch_all(&mut *conn).await?;
        if gone.is_empty() {
            return Ok(evicted);
        }
        for key in &gone {
            evicted.push(key_of(key)?);
        }
    }
}

async fn sweep(conn: &mut SqliteConnection, now: i64) -> Result<u64> {
    let sql = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires <= $1 LIMIT $2)";
    Ok(sqlx::query(sql).bind(now).bind(SWEEP_ROWS).execute(conn).await?.rows_affected())
}

async fn totals(conn: &mut SqliteConnection) -> Result<EntryStats> {
    let row = sqlx::query("SELECT entries, bytes FROM entry_totals").fetch_one(conn).await?;
    let (entries, bytes) = (row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?);
    Ok(EntryStats { entries: entries.unsigned_abs(), bytes: bytes.unsigned_abs(), evicted: 0 })
}

async fn maintain(store: Weak<SqliteEntries>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(MAINTENANCE).await;
        let Some(store) = store.upgrade() else { return };
        let outcome = store.tidy().await;
        if let Err(error) = &outcome
            && !failing
        {
            tracing::warn!(%error, "expired entries cannot be swept");
        }
        failing = outcome.is_err();
    }
}

/// SQLite's integers are signed; a time beyond them means "never".
fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn key_of(bytes: &[u8]) -> Result<EntryKey> {
    let bytes = bytes.try_into().map_err(|_| Error::new(ErrorKind::Corrupt, "a stored key is not 32 bytes long"))?;
    Ok(EntryKey::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
