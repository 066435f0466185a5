//! The door: who may come in, what they ask for in full, and what the cache may do for them.

use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::cacheability::{self, Cacheability};
use super::{Gateway, Request};
use crate::cache::{Policy, Query, Rule};
use crate::config::Cache as Settings;
use crate::types::{
    CacheControls, EntryKey, Error, ErrorKind, Probe, Result, Scope, ScopeId, Similarity, TenantId, WrongRate,
};

/// A request that was let in, with everything that is known of it before any lookup.
pub(super) struct Admitted {
    /// Its model is never empty.
    pub request: Request,
    pub settings: Settings,
    pub key: EntryKey,
    pub scope: ScopeId,
    pub probe: Option<Probe>,
    pub allowed: Cacheability,
    pub policy: Policy,
    pub started: Instant,
    /// The same moment on the clock of [`super::changes`].
    pub as_of: u64,
    pub deadline: Instant,
    /// A place among the requests worked on at once; `None` where no work upstream can follow.
    _place: Option<OwnedSemaphorePermit>,
}

impl Admitted {
    pub fn query(&self) -> Query<'_> {
        Query {
            owner: &self.request.owner,
            key: &self.key,
            scope: &self.scope,
            request: &self.request.chat,
            policy: &self.policy,
            top_k: self.settings.top_k,
        }
    }
}

impl Gateway {
    /// Lets in a request that may go upstream: bounded in number, and its model must be served.
    pub(super) fn admit(&self, request: Request) -> Result<Admitted> {
        self.check_tenant(&request.owner.tenant)?;
        let place = self.inner.places.clone().try_acquire_owned().map_err(|_| {
            let limit = self.inner.config.limits.max_concurrent;
            Error::new(ErrorKind::Overloaded, format!("{limit} requests are being worked on already"))
                .with_retry_after(Duration::from_secs(1))
        })?;
        let admitted = self.identify(request, Some(place))?;
        self.inner.directory.provider(&admitted.request.chat.model)?;
        Ok(admitted)
    }

    /// Lets in a request that concerns the cache alone.
    pub(super) fn admit_to_cache(&self, request: Request) -> Result<Admitted> {
        self.check_tenant(&request.owner.tenant)?;
        self.identify(request, None)
    }

    pub(super) fn check_tenant(&self, tenant: &TenantId) -> Result<()> {
        let served = &self.inner.config.server.tenants;
        if served.is_empty() || served.iter().any(|t| t == tenant.as_str()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PermissionDenied, format!("tenant {tenant} is not served here")))
    }

    fn identify(&self, mut request: Request, place: Option<OwnedSemaphorePermit>) -> Result<Admitted> {
        let (started, as_of) = (Instant::now(), self.inner.changes.now());
        let config = &self.inner.config;
        request.chat.model = self.inner.directory.model(&request.chat.model)?;
        request.chat.validate(config.limits.max_messages, config.limits.max_prompt_bytes)?;
        if request.controls.ttl == Some(Duration::ZERO) {
            return Err(Error::invalid("ttl", "must be positive; use no_store to remember nothing"));
        }
        let settings = config.cache_of(request.owner.namespace.as_str());
        let audience = cacheability::audience(&request, &settings);
        let scope = Scope {
            owner: &request.owner,
            audience: &audience,
            template: request.template.as_deref(),
            embedding_model: &self.embedding_model().id,
        };
        let (key, scope) = scope.identify(&request.chat);
        let probe = request.chat.probe();
        let allowed = cacheability::cacheability(&request, &settings, probe.is_some());
        let policy = Policy { rule: rule(&request.controls, &settings)?, max_age: request.controls.max_age };
        let own_limit = started + config.server.request_timeout;
        let deadline = request.deadline.map_or(own_limit, |asked| asked.min(own_limit));
        if deadline <= started {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline had passed when the request came"));
        }
        Ok(Admitted { request, settings, key, scope, probe, allowed, policy, started, as_of, deadline, _place: place })
    }
}

/// The nearest word holds: the request's before the namespace's; and in one place, a similarity before a rate.
fn rule(asked: &CacheControls, settings: &Settings) -> Result<Rule> {
    Ok(match (asked.min_similarity, asked.max_wrong_rate, settings.min_similarity) {
        (Some(lowest), _, _) => Rule::MinSimilarity(lowest),
        (None, Some(rate), _) => Rule::MaxWrongRate(rate),
        (None, None, Some(lowest)) => Rule::MinSimilarity(Similarity::new(lowest)?),
        (None, None, None) => Rule::MaxWrongRate(WrongRate::new(settings.max_wrong_rate)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_decides_how_hits_are_decided() {
        let (low, high) = (Similarity::new(0.5).unwrap(), WrongRate::new(0.2).unwrap());
        let asked =
            |min_similarity, max_wrong_rate| CacheControls { min_similarity, max_wrong_rate, ..Default::default() };
        let by_rate = Settings::default();
        let by_similarity = Settings { min_similarity: Some(0.9), ..Settings::default() };
        let default = Rule::MaxWrongRate(WrongRate::new(0.01).unwrap());
        assert_eq!(rule(&asked(None, None), &by_rate).unwrap(), default);
        assert_eq!(rule(&asked(None, Some(high)), &by_rate).unwrap(), Rule::MaxWrongRate(high));
        assert_eq!(rule(&asked(Some(low), Some(high)), &by_rate).unwrap(), Rule::MinSimilarity(low));
        assert_eq!(rule(&asked(None, Some(high)), &by_similarity).unwrap(), Rule::MaxWrongRate(high));
        assert_eq!(
            rule(&asked(None, None), &by_similarity).unwrap(),
            Rule::MinSimilarity(Similarity::new(0.9).unwrap())
        );
    }
}
