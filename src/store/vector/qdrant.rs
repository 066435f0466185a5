//! `qdrant`: a Qdrant server or cluster as the vector store, over gRPC. For past about a million vectors, or several
//! replicas of this service.
//!
//! - `client`: calls, each within the configured time;
//! - `collection`: the collection, made when it is not there;
//! - `payload`: points and filters in Qdrant's terms;
//! - `batch`: upserts that wait together go in one request.

mod batch;
mod client;
mod collection;
mod payload;

use async_trait::async_trait;
use parking_lot::Mutex;
use qdrant_client::qdrant::{
    CountPointsBuilder, DeletePointsBuilder, Filter, PayloadIncludeSelector, PointsIdsList,
    QuantizationSearchParamsBuilder, QueryPointsBuilder, ScoredPoint, SearchParamsBuilder,
};
use std::sync::Arc;
use tokio::task::JoinHandle;

use super::{Match, Point, VectorStore, check_points, check_vector};
use crate::config::Stores;
use crate::types::{EntryKey, Error, Owner, Result, ScopeId, Similarity, Tag, UnixMillis};
use batch::{Batcher, Queue};
use client::Client;
use collection::Collection;

/// Points named in one request, at most.
const KEYS_PER_REQUEST: usize = 1000;
/// How many more candidates the quantised search takes than it returns, before it rescores them.
const OVERSAMPLING: f64 = 2.0;

/// A collection on a Qdrant server.
///
/// Expired points are filtered by the server and deleted now and then. An upsert or delete returns when it is applied
/// (`wait = true`), so that it is visible to searches. The collection has no global HNSW graph, only one per scope:
/// the server scans small scopes exactly and searches large ones through their graph.
pub struct Qdrant {
    client: Arc<Client>,
    dim: usize,
    quantization: bool,
    upserts: Mutex<Option<Queue>>,
    batcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Qdrant {
    /// Does not wait for the server: the collection is looked for, or made, in the background. Must be called within
    /// a Tokio runtime.
    ///
    /// Errors: `InvalidArgument` when the settings cannot be used: a malformed URL, or an API key that is not set.
    pub fn new(config: &Stores, model_id: &str, dim: usize) -> Result<Self> {
        let api_key = match &config.qdrant_api_key_env {
            Some(name) => Some(std::env::var(name).map_err(|_| {
                Error::invalid("stores.qdrant_api_key_env", format!("the environment variable {name} is not set"))
            })?),
            None => None,
        };
        let collection = Collection {
            name: collection::name(&config.qdrant_collection, model_id, dim),
            dim,
            quantization: config.qdrant_quantization,
        };
        let client = Arc::new(Client::new(&config.qdrant_url, api_key, config.timeout, collection)?);
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::internal("the Qdrant store needs a Tokio runtime").with_source(e))?;
        client.prepare();
        let (upserts, batcher) = Batcher::new(Arc::clone(&client));
        Ok(Self {
            client,
            dim,
            quantization: config.qdrant_quantization,
            upserts: Mutex::new(Some(upserts)),
            batcher: tokio::sync::Mutex::new(Some(runtime.spawn(batcher.run()))),
        })
    }

    /// The name of the collection on the server.
    pub fn collection(&self) -> &str {
        &self.client.collection.name
    }

    /// Deletes what matches; gives how many live points matched just before.
    async fn delete_matching(&self, filter: Filter) -> Result<u64> {
        let count = self.count_matching(filter.clone()).await?;
        let request = DeletePointsBuilder::new(self.collection()).points(filter).wait(true);
        self.client.call_bulk(|qdrant| qdrant.delete_points(request)).await?;
        Ok(count)
    }

    async fn count_matching(&self, mut filter: Filter) -> Result<u64> {
        filter.must.push(payload::is_live(UnixMillis::now()));
        let request = CountPointsBuilder::new(self.collection()).filter(filter).exact(true);
        let counted = self.client.call_bulk(|qdrant| qdrant.count(request)).await?;
        Ok(counted.result.map_or(0, |result| result.count))
    }
}

#[async_trait]
impl VectorStore for Qdrant {
    async fn search(&self, scope: &ScopeId, vector: &[f32], k: usize) -> Result<Vec<Match>> {
        check_vector(vector, self.dim)?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let filter = Filter::must([payload::in_scope(scope), payload::is_live(UnixMillis::now())]);
        let mut request = QueryPointsBuilder::new(self.collection())
            .query(vector.to_vec())
            .filter(filter)
            .limit(k as u64)
            .with_payload(PayloadIncludeSelector { fields: vec![payload::KEY.into()] });
        if self.quantization {
            let rescore = QuantizationSearchParamsBuilder::default().rescore(true).oversampling(OVERSAMPLING);
            request = request.params(SearchParamsBuilder::default().quantization(rescore));
        }
        let found = self.client.call(|qdrant| qdrant.query(request)).await?;
        Ok(found.result.iter().filter_map(to_match).collect())
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<()> {
        check_points(&points, self.dim)?;
        let queue = self.upserts.lock().clone().ok_or_else(batch::closed)?;
        queue.upsert(points).await
    }

    async fn delete(&self, keys: &[EntryKey]) -> Result<u64> {
        let mut count = 0;
        for keys in keys.chunks(KEYS_PER_REQUEST) {
            let ids: Vec<_> = keys.iter().map(payload::point_id).collect();
            count += self.count_matching(Filter::must([payload::has_id(ids.clone())])).await?;
            let request = DeletePointsBuilder::new(self.collection()).points(PointsIdsList { ids }).wait(true);
            self.client.call_bulk(|qdrant| qdrant.delete_points(request)).await?;
        }
        Ok(count)
    }

    async fn delete_by_tag(&self, owner: &Owner, tag: &Tag) -> Result<u64> {
        self.delete_matching(Filter::must([payload::of_owner(owner), payload::has_tag(tag)])).await
    }

    async fn delete_by_dependency(&self, owner: &Owner, document: &str) -> Result<u64> {
        self.delete_matching(Filter::must([payload::of_owner(owner), payload::has_document(document)])).await
    }

    async fn count(&self, scope: Option<&ScopeId>) -> Result<u64> {
        self.count_matching(Filter::must(scope.map(payload::in_scope))).await
    }

    /// Fails as well when nothing can be written any more.
    async fn ping(&self) -> Result<()> {
        if self.upserts.lock().as_ref().is_none_or(Queue::is_closed) {
            return Err(batch::closed());
        }
        self.client.call(|qdrant| qdrant.health_check()).await?;
        Ok(())
    }

    /// Sends what is queued.
    async fn close(&self) -> Result<()> {
        drop(self.upserts.lock().take());
        match self.batcher.lock().await.take() {
            Some(batcher) => batcher.await.map_err(|e| Error::internal("the Qdrant batcher ended").with_source(e)),
            None => Ok(()),
        }
    }
}

/// `None`, with a log line, for a point that is not one of ours.
fn to_match(point: &ScoredPoint) -> Option<Match> {
    let key = payload::key_of(point);
    if key.is_none() {
        tracing::warn!("a point in the Qdrant collection has no key of ours, and is left out");
    }
    Some(Match { key: key?, similarity: Similarity::from_dot(point.score) })
}

#[cfg(test)]
mod tests;
