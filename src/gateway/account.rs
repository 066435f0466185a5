//! What was answered and what it cost: counters for `Stats`, and metrics.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use super::admit::Admitted;
use super::{Gateway, Stats, Summary};
use crate::types::{Answer, CacheStatus, Error, Price, Usage, Usd};

pub(super) struct Account {
    started: Instant,
    by_status: [AtomicU64; 5],
    errors: AtomicU64,
    money: Mutex<Money>,
}

#[derive(Default)]
struct Money {
    spent: Usd,
    saved: Usd,
}

impl Account {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            by_status: Default::default(),
            errors: AtomicU64::new(0),
            money: Mutex::default(),
        }
    }

    /// The counters; what the stores hold is filled in by the caller.
    pub fn stats(&self) -> Stats {
        let count = |status| self.by_status[index(status)].load(Ordering::Relaxed);
        let money = self.money.lock();
        Stats {
            exact_hits: count(CacheStatus::Exact),
            semantic_hits: count(CacheStatus::Semantic),
            misses: count(CacheStatus::Miss),
            bypasses: count(CacheStatus::Bypass),
            stale_hits: count(CacheStatus::Stale),
            errors: self.errors.load(Ordering::Relaxed),
            spent: money.spent,
            saved: money.saved,
            uptime: self.started.elapsed(),
            ..Stats::default()
        }
    }

    pub fn answered(&self, status: CacheStatus, latency: Duration) {
        self.by_status[index(status)].fetch_add(1, Ordering::Relaxed);
        metrics::counter!("reprise_requests_total", "cache" => status.as_str()).increment(1);
        metrics::histogram!("reprise_request_seconds", "cache" => status.as_str()).record(latency.as_secs_f64());
    }

    /// A call that no caller asked for.
    pub fn audited(&self, cost: Usd) {
        self.paid(cost, Usd::default());
    }

    fn paid(&self, cost: Usd, saved: Usd) {
        let mut money = self.money.lock();
        money.spent += cost;
        money.saved += saved;
    }

    pub fn failed(&self, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("reprise_request_errors_total", "kind" => error.kind.as_str()).increment(1);
    }
}

impl Gateway {
    /// Closes the books on a request that was answered.
    pub(super) fn settle_account(
        &self,
        admitted: &Admitted,
        answer: &Answer,
        status: CacheStatus,
        (cost, saved): (Usd, Usd),
    ) -> Summary {
        let latency = admitted.started.elapsed();
        let account = &self.inner.account;
        account.answered(status, latency);
        account.paid(cost, saved);
        let tokens = |kind, count| metrics::counter!("reprise_tokens_total", "type" => kind).increment(count);
        if !status.is_hit() {
            tokens("prompt", answer.usage.prompt_tokens);
            tokens("completion", answer.usage.completion_tokens);
        }
        tracing::debug!(
            request_id = %admitted.request.id, owner = %admitted.request.owner, cache = %status,
            latency_ms = latency.as_secs_f64() * 1e3, "answered"
        );
        Summary {
            model: answer.model.clone(),
            finish: answer.finish().clone(),
            usage: answer.usage.clone(),
            cost,
            saved,
            latency,
        }
    }

    /// What an answer of `model` costs; zero for a model without a price.
    pub(super) fn cost(&self, model: &str, usage: &Usage) -> Usd {
        let price = self.inner.config.prices.get(model);
        price.map_or(Usd::default(), |p| Price { input: p.input, output: p.output }.cost(usage))
    }
}

fn index(status: CacheStatus) -> usize {
    match status {
        CacheStatus::Exact => 0,
        CacheStatus::Semantic => 1,
        CacheStatus::Miss => 2,
        CacheStatus::Bypass => 3,
        CacheStatus::Stale => 4,
    }
}
