//! An embedder that remembers the vectors of recent texts, so that a repeated text costs no forward pass.

use async_trait::async_trait;
use std::sync::Arc;

use super::{Embedder, EmbeddingModel};
use crate::types::{Embedding, Error, Result, TenantId};

/// What an entry takes besides its vector, about: key, embedding, and the map's own.
const OVERHEAD: usize = 160;

/// Vectors by text, of one model. Bounded by bytes; what is asked for often stays (TinyLFU).
///
/// All tenants share it: a vector depends on nothing but the text, and only one who has the text can ask for it.
pub struct Memo {
    inner: Arc<dyn Embedder>,
    known: moka::sync::Cache<blake3::Hash, Embedding>,
}

impl Memo {
    /// `max_bytes`: memory for vectors, about 1.7 KB each at 384 values; 0 remembers nothing.
    pub fn new(inner: Arc<dyn Embedder>, max_bytes: u64) -> Self {
        let weight = |_: &blake3::Hash, embedding: &Embedding| {
            u32::try_from(embedding.vector.len() * size_of::<f32>() + OVERHEAD).unwrap_or(u32::MAX)
        };
        Self { inner, known: moka::sync::Cache::builder().max_capacity(max_bytes).weigher(weight).build() }
    }
}

#[async_trait]
impl Embedder for Memo {
    fn model(&self) -> &EmbeddingModel {
        self.inner.model()
    }

    /// Embeds only the texts that are not known.
    async fn embed(&self, tenant: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>> {
        let keys: Vec<_> = texts.iter().map(|text| blake3::hash(text.as_bytes())).collect();
        let mut found: Vec<_> = keys.iter().map(|key| self.known.get(key)).collect();
        let unknown: Vec<_> =
            texts.into_iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(text, _)| text).collect();
        metrics::counter!("reprise_embed_memo_total", "found" => "yes").increment((keys.len() - unknown.len()) as u64);
        metrics::counter!("reprise_embed_memo_total", "found" => "no").increment(unknown.len() as u64);
        if !unknown.is_empty() {
            let mut embedded = self.inner.embed(tenant, unknown).await?.into_iter();
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                let embedding = embedded.next().ok_or_else(|| Error::internal("the embedder gave too few vectors"))?;
                self.known.insert(*key, embedding.clone());
                *found = Some(embedding);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HashEmbedder, contract};
    use super::*;
    use parking_lot::Mutex;
    use std::time::Duration;

    /// Notes what it is asked to embed.
    struct Noted(HashEmbedder, Mutex<Vec<String>>);

    #[async_trait]
    impl Embedder for Noted {
        fn model(&self) -> &EmbeddingModel {
            self.0.model()
        }

        async fn embed(&self, tenant: &TenantId, texts: Vec<String>) -> Result<Vec<Embedding>> {
            self.1.lock().extend(texts.iter().cloned());
            self.0.embed(tenant, texts).await
        }
    }

    async fn asked_for(max_bytes: u64, calls: &[&[&str]]) -> Vec<String> {
        let noted = Arc::new(Noted(HashEmbedder::new(), Mutex::default()));
        let memo = Memo::new(noted.clone(), max_bytes);
        for texts in calls {
            let tenant = TenantId::new("tenant").unwrap();
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            let plain = HashEmbedder::new().embed(&tenant, texts.clone()).await.unwrap();
            assert_eq!(memo.embed(&tenant, texts).await.unwrap(), plain);
            memo.known.run_pending_tasks();
        }
        noted.1.lock().clone()
    }

    #[tokio::test]
    async fn a_known_text_is_not_embedded_again_and_keeps_its_place_among_others() {
        let asked = asked_for(1 << 20, &[&["a", "b"], &["b", "c", "a", "d"], &["d"], &[]]).await;
        assert_eq!(asked, ["a", "b", "c", "d"]);
    }

    #[tokio::test]
    async fn without_memory_every_text_is_embedded() {
        assert_eq!(asked_for(0, &[&["a"], &["a"]]).await, ["a", "a"]);
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let memo = Memo::new(Arc::new(HashEmbedder::new()), 20_000);
        let tenant = TenantId::new("tenant").unwrap();
        memo.embed(&tenant, (0..500).map(|i| i.to_string()).collect()).await.unwrap();
        memo.known.run_pending_tasks();
        assert!(memo.known.weighted_size() <= 20_000 && memo.known.entry_count() > 5);
    }

    #[tokio::test]
    async fn a_memo_keeps_the_contract_of_its_embedder() {
        // Without memory: the contract counts on calls that take time.
        contract::run(|places| Arc::new(Memo::new(Arc::new(HashEmbedder::with(places, Duration::from_millis(5))), 0)))
            .await;
    }
}
