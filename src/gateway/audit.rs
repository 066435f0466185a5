//! Finding out whether hits were right: callers report them, and a share of them is asked again upstream, after the reply, and
//! the two answers are compared. In shadow mode every answer is fresh, so every would-be hit is compared.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::admit::Admitted;
use super::answer::within;
use super::changes::Changed;
use super::found::Hit;
use super::remember::is_complete;
use crate::cache::Rule;
use crate::cache::decide::compare::compare;
use crate::embed::Embedder;
use crate::store::evidence::LabelSource;
use crate::types::{Answer, HitId, Owner, Result, Similarity, TenantId, UnixMillis, UseCache, WrongRate};

/// Audits under way at the same time; beyond it a hit is not audited.
const AT_ONCE: usize = 4;
/// Longest wait for answers on their way into the stores, before an entry is deleted.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Two answers of at least this cosine that no guard tells apart say the same, and two below the other do not. What lies between
/// is no evidence. Set by what answers to one question and to neighbouring ones look like, not fitted.
const AGREE: f32 = 0.85;
const DIFFER: f32 = 0.5;

/// What audits share.
pub(super) struct Audits {
    places: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// False when that hit had been reported before: each counts once.
    pub counted: bool,
    /// Whether an entry was deleted for it.
    pub deleted: bool,
}

impl Audits {
    pub fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), stopping: CancellationToken::new() }
    }

    pub fn close(&self) {
        self.stopping.cancel();
    }
}

impl Gateway {
    /// Takes in that a hit was right or wrong. A wrong one's entry is deleted, its two prompts do not meet again for 90 days, and the bound of
    /// its namespace tightens.
    pub async fn report(&self, owner: &Owner, hit: &HitId, right: bool) -> Result<Reported> {
        self.check_tenant(&owner.tenant)?;
        self.label(owner, hit, right, LabelSource::Report, None).await
    }

    /// Asks again upstream for a share of the hits, in the background.
    pub(super) fn audit(&self, admitted: &Admitted, hit: &Hit) {
        let may = admitted.request.controls.use_cache != UseCache::OnlyIfCached;
        let share = admitted.settings.audit_share;
        if hit.id().and_then(|id| id.risk).is_none() || !may || fastrand::f64() >= share {
            return;
        }
        let Some(place) = self.place_for_audit() else { return };
        let Ok(provider) = self.inner.directory.provider(&admitted.request.chat.model).cloned() else { return };
        let mut chat = admitted.request.chat.clone();
        (chat.stream, chat.stream_options) = (None, None);
        let (gateway, owner, hit) = (self.clone(), admitted.request.owner.clone(), hit.clone());
        let rate = rate(admitted);
        let stopping = self.inner.audits.stopping.clone();
        tokio::spawn(async move {
            let _place = place;
            let audit = async {
                let limit = Instant::now() + gateway.inner.config.server.request_timeout;
                match within(limit, provider.complete(&chat)).await {
                    Ok(fresh) => {
                        gateway.inner.account.audited(gateway.cost(&chat.model, &fresh.usage));
                        gateway.judge_answers(&owner, &hit, &fresh, rate).await;
                    }
                    Err(error) => {
                        metrics::counter!("reprise_audits_total", "result" => "failed").increment(1);
                        tracing::debug!(%error, "an audit got no answer");
                    }
                }
            };
            stopping.run_until_cancelled(audit).await;
        });
    }

    /// Compares what would have been served with what was, in the background.
    pub(super) fn compare_shadowed(&self, admitted: &Admitted, hit: &Hit, fresh: &Arc<Answer>) {
        if hit.near.is_none() {
            return;
        }
        let Some(place) = self.place_for_audit() else { return };
        let (gateway, owner) = (self.clone(), admitted.request.owner.clone());
        let (hit, fresh, rate) = (hit.clone(), fresh.clone(), rate(admitted));
        let stopping = self.inner.audits.stopping.clone();
        tokio::spawn(async move {
            let _place = place;
            stopping.run_until_cancelled(gateway.judge_answers(&owner, &hit, &fresh, rate)).await;
        });
    }

    /// A hit that finds no place is not compared: nothing waits for an audit.
    fn place_for_audit(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.inner.audits.places.clone().try_acquire_owned().ok();
        if place.is_none() {
            metrics::counter!("reprise_audits_total", "result" => "skipped").increment(1);
        }
        place
    }

    async fn judge_answers(&self, owner: &Owner, hit: &Hit, fresh: &Answer, rate: Option<WrongRate>) {
        let Some(id) = hit.id().filter(|id| id.risk.is_some()) else { return };
        if !is_complete(fresh) {
            metrics::counter!("reprise_audits_total", "result" => "unclear").increment(1);
            return;
        }
        let embedder = self.inner.cache.embedder().as_ref();
        let same = say_the_same(embedder, &owner.tenant, hit.entry.answer.content(), fresh.content()).await;
        let result = match same {
            Ok(Some(true)) => "right",
            Ok(Some(false)) => "wrong",
            Ok(None) => "unclear",
            Err(_) => "failed",
        };
        metrics::counter!("reprise_audits_total", "result" => result).increment(1);
        let Ok(Some(right)) = same else { return };
        if let Err(error) = self.label(owner, &id, right, LabelSource::Audit, rate).await {
            tracing::debug!(%error, "what an audit found was not kept");
        }
    }

    /// Deletes the answer that a hit gave, unless another stands in its place by now.
    async fn forget(&self, owner: &Owner, hit: &HitId) -> Result<bool> {
        let cache = &self.inner.cache;
        self.inner.remember.settle(SETTLE_LIMIT).await;
        let _lane = self.inner.changes.lane(&hit.entry).await?;
        match cache.entries.get(&hit.entry).await? {
            Some(entry) if HitId::version_of(entry.created) == hit.version => {
                self.inner.changes.note(Changed::Key(owner.clone(), hit.entry));
                cache.delete(owner, &hit.entry).await
            }
            _ => Ok(false),
        }
    }

    async fn label(
        &self,
        owner: &Owner,
        hit: &HitId,
        right: bool,
        source: LabelSource,
        rate: Option<WrongRate>,
    ) -> Result<Reported> {
        let cache = &self.inner.cache;
        let settings = self.inner.config.cache_of(owner.namespace.as_str());
        let rate = match rate {
            Some(rate) => Some(rate),
            None if settings.min_similarity.is_none() => Some(WrongRate::new(settings.max_wrong_rate)?),
            None => None,
        };
        let counted = cache.learn(owner, hit, (right, source, UnixMillis::now()), rate).await?;
        // Learned first: what fails behind it must not bring the pair together again.
        let deleted = !right && self.forget(owner, hit).await?;
        Ok(Reported { counted, deleted })
    }
}

/// The bound that a request is held against.
fn rate(admitted: &Admitted) -> Option<WrongRate> {
    match admitted.policy.rule {
        Rule::MaxWrongRate(rate) => Some(rate),
        Rule::MinSimilarity(_) => None,
    }
}

/// Whether two answers say the same; `None` where that cannot be told.
async fn say_the_same(embedder: &dyn Embedder, tenant: &TenantId, a: &str, b: &str) -> Result<Option<bool>> {
    let compared = compare(a, b);
    if compared.same {
        return Ok(Some(true));
    }
    if a.trim().is_empty() || b.trim().is_empty() {
        return Ok(None);
    }
    let embedded = embedder.embed(tenant, vec![a.to_owned(), b.to_owned()]).await?;
    let [a, b] = embedded.as_slice() else { return Ok(None) };
    if !(a.is_whole() && b.is_whole()) {
        return Ok(None);
    }
    Ok(match Similarity::between(&a.vector, &b.vector).get() {
        _ if !compared.guards.is_empty() => Some(false),
        cosine if cosine >= AGREE => Some(true),
        cosine if cosine < DIFFER => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::HashEmbedder;

    #[tokio::test]
    async fn answers_are_told_apart_only_where_it_is_plain() {
        let (embedder, tenant) = (HashEmbedder::new(), TenantId::new("t").unwrap());
        let same = async |a: &str, b: &str| say_the_same(&embedder, &tenant, a, b).await.unwrap();
        assert_eq!(same("It takes 3 days.", "it takes 3  days").await, Some(true));
        assert_eq!(same("It takes 3 days to arrive.", "It takes 5 days to arrive.").await, Some(false));
        assert_eq!(same("Paris lies on the Seine", "Bread needs flour, water and salt").await, Some(false));
        assert_eq!(same("", "Paris").await, None);
        assert_eq!(same("the shop opens at nine", "at nine the shop opens its doors again").await, None);
    }
}
