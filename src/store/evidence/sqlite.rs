//! Evidence in the local SQLite file.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;

use super::{BLOCKED, Evidence, EvidenceStore, LABELS, Label, LabelSource};
use crate::store::sqlite::Sqlite;
use crate::types::{EntryKey, Error, ErrorKind, Owner, PairId, Result, UnixMillis};

const SCHEMA: &[&str] = &["
    CREATE TABLE evidence_labels (
        id INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        namespace TEXT NOT NULL,
        entry BLOB NOT NULL,
        pair BLOB NOT NULL,
        risk REAL NOT NULL,
        judge TEXT NOT NULL,
        is_right INTEGER NOT NULL,
        source TEXT NOT NULL,
        at INTEGER NOT NULL,
        UNIQUE (tenant, namespace, entry, pair, source)
    );
    CREATE INDEX evidence_labels_owner ON evidence_labels (tenant, namespace, id);
    CREATE TABLE evidence_blocked (
        tenant TEXT NOT NULL,
        namespace TEXT NOT NULL,
        pair BLOB NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, pair)
    ) WITHOUT ROWID;
"];

pub struct SqliteEvidence {
    sqlite: Arc<Sqlite>,
}

impl SqliteEvidence {
    /// Errors: as those of [`Sqlite::migrate`].
    pub async fn new(sqlite: Arc<Sqlite>) -> Result<Arc<Self>> {
        sqlite.migrate("evidence", SCHEMA).await?;
        Ok(Arc::new(Self { sqlite }))
    }
}

#[async_trait]
impl EvidenceStore for SqliteEvidence {
    async fn add(&self, owner: &Owner, label: &Label) -> Result<bool> {
        let (owner, label) = (owner.clone(), label.clone());
        self.sqlite
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "INSERT INTO evidence_labels (tenant, namespace, entry, pair, risk, judge, is_right, source, at)
                               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
                    let added = sqlx::query(sql)
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(label.entry.as_bytes().as_slice())
                        .bind(label.pair.as_bytes().as_slice())
                        .bind(label.risk)
                        .bind(label.judge)
                        .bind(label.right)
                        .bind(label.source.as_str())
                        .bind(i64::try_from(label.at.0).unwrap_or(i64::MAX))
                        .execute(&mut *conn)
                        .await?;
                    let sql = "DELETE FROM evidence_labels WHERE tenant = $1 AND namespace = $2 AND id <=
                               (SELECT id FROM evidence_labels WHERE tenant = $1 AND namespace = $2
                                ORDER BY id DESC LIMIT 1 OFFSET $3)";
                    sqlx::query(sql)
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(LABELS as i64)
                        .execute(&mut *conn)
                        .await?;
                    Ok(added.rows_affected() > 0)
                })
            })
            .await
    }

    async fn block(&self, owner: &Owner, pair: PairId, until: UnixMillis) -> Result<()> {
        let owner = owner.clone();
        self.sqlite
            .write(move |conn| {
                Box::pin(async move {
                    let sql =
                        "DELETE FROM evidence_blocked WHERE tenant = $1 AND namespace = $2 AND (until <= $3 OR pair IN
                               (SELECT pair FROM evidence_blocked WHERE tenant = $1 AND namespace = $2
                                ORDER BY until DESC LIMIT -1 OFFSET $4))";
                    sqlx::query(sql)
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(i64::try_from(UnixMillis::now().0).unwrap_or(i64::MAX))
                        .bind(BLOCKED as i64 - 1)
                        .execute(&mut *conn)
                        .await?;
                    let sql = "INSERT INTO evidence_blocked VALUES ($1, $2, $3, $4)
                               ON CONFLICT (tenant, namespace, pair) DO UPDATE SET until = max(until, excluded.until)";
                    sqlx::query(sql)
                        .bind(owner.tenant.as_str())
                        .bind(owner.namespace.as_str())
                        .bind(pair.as_bytes().as_slice())
                        .bind(i64::try_from(until.0).unwrap_or(i64::MAX))
                        .execute(&mut *conn)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn read(&self, owner: &Owner) -> Result<Evidence> {
        let sql = "SELECT entry, pair, risk, judge, is_right, source, at FROM evidence_labels
                   WHERE tenant = $1 AND namespace = $2 ORDER BY id DESC LIMIT $3";
        let labels = sqlx::query(sql)
            .bind(owner.tenant.as_str())
            .bind(owner.namespace.as_str())
            .bind(LABELS as i64)
            .fetch_all(self.sqlite.reader())
            .await?;
        let sql = "SELECT pair FROM evidence_blocked WHERE tenant = $1 AND namespace = $2 AND until > $3";
        let blocked = sqlx::query(sql)
            .bind(owner.tenant.as_str())
            .bind(owner.namespace.as_str())
            .bind(i64::try_from(UnixMillis::now().0).unwrap_or(i64::MAX))
            .fetch_all(self.sqlite.reader())
            .await?;
        Ok(Evidence {
            labels: labels.iter().map(label).collect::<Result<_>>()?,
            blocked: blocked.iter().map(|row| pair(row.try_get(0)?)).collect::<Result<_>>()?,
        })
    }
}

fn label(row: &sqlx::sqlite::SqliteRow) -> Result<Label> {
    let entry: &[u8] = row.try_get(0)?;
    Ok(Label {
        entry: EntryKey::from_bytes(entry.try_into().map_err(|_| corrupt())?),
        pair: pair(row.try_get(1)?)?,
        risk: row.try_get(2)?,
        judge: row.try_get(3)?,
        right: row.try_get(4)?,
        source: match row.try_get::<&str, _>(5)? {
            "report" => LabelSource::Report,
            "audit" => LabelSource::Audit,
            _ => return Err(corrupt()),
        },
        at: UnixMillis(u64::try_from(row.try_get::<i64, _>(6)?).unwrap_or(0)),
    })
}

fn pair(bytes: &[u8]) -> Result<PairId> {
    Ok(PairId::from_bytes(bytes.try_into().map_err(|_| corrupt())?))
}

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "stored evidence does not decode")
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    #[tokio::test]
    async fn it_meets_the_contract_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(folder.path()).await.unwrap();
        let kept = contract::run(&*SqliteEvidence::new(sqlite.clone()).await.unwrap()).await;
        sqlite.close().await;
        let sqlite = Sqlite::open(folder.path()).await.unwrap();
        let again = SqliteEvidence::new(sqlite).await.unwrap();
        assert_eq!(again.read(&contract::owner("kept")).await.unwrap(), kept);
    }
}
