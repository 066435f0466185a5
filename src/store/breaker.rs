//! Leaves a dependency alone while it is down.
//!
//! ```text
//! ## Up => Down       `THRESHOLD` calls in a row fail or run out of time
//! ## Down => Down     calls fail at once; a background probe, one at a time, asks every second
//! ## Down => Up       a probe succeeds
//! ```
//!
//! Requests never do the probing, so none of them pays for finding out.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::types::{Error, ErrorKind, Result};

/// Failures in a row that open the breaker.
const THRESHOLD: u32 = 5;
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Deletions by tag or document, counts and batches may rightly take longer than a single call: how many times, and
/// how long at most.
const BULK: u32 = 25;
const BULK_AT_MOST: Duration = Duration::from_secs(30);

type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// For work on many things at once, where a single call may take `limit`.
pub fn bulk_limit(limit: Duration) -> Duration {
    limit.saturating_mul(BULK).min(BULK_AT_MOST).max(limit)
}

/// The cause of an error of a call that was not made, because the store is down: nothing can come of it.
#[derive(Debug)]
pub struct NotCalled;

impl std::fmt::Display for NotCalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("is down and was not asked")
    }
}

impl std::error::Error for NotCalled {}

pub struct Breaker {
    name: &'static str,
    limit: Duration,
    probe: Probe,
    down: AtomicBool,
    /// In a row.
    failures: AtomicU32,
}

impl Breaker {
    /// `name` names the store in logs and metrics; `limit` is the longest a call, or a probe, may take.
    pub fn new(
        name: &'static str,
        limit: Duration,
        probe: impl Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let breaker = Self { name, limit, probe: Box::new(probe), down: false.into(), failures: 0.into() };
        breaker.report(true);
        Arc::new(breaker)
    }

    /// For a store that answers `ping` when it works.
    pub fn guarding<S: ?Sized + Send + Sync + 'static>(
        name: &'static str,
        limit: Duration,
        store: &Arc<S>,
        ping: for<'s> fn(&'s S) -> BoxFuture<'s, Result<()>>,
    ) -> Arc<Self> {
        let store = store.clone();
        Self::new(name, limit, move || {
            let store = store.clone();
            Box::pin(async move { ping(&store).await })
        })
    }

    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// `work`, within the limit. Errors: those of `work`; `DeadlineExceeded`; `Unavailable` at once while down.
    pub async fn call<T>(self: &Arc<Self>, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.call_within(self.limit, work).await
    }

    /// The same with more time, for work on many things at once.
    pub async fn call_bulk<T>(self: &Arc<Self>, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.call_within(bulk_limit(self.limit), work).await
    }

    async fn call_within<T>(self: &Arc<Self>, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.is_up() {
            let error = Error::unavailable(format!("the {}", self.name)).with_source(NotCalled);
            return Err(error.with_retry_after(PROBE_EVERY));
        }
        let watch = Watch { breaker: self, started: Instant::now(), limit };
        let outcome = within(self.name, limit, work).await;
        std::mem::forget(watch);
        match &outcome {
            Err(error) if is_failure(error.kind) => self.failed(),
            // Any other answer, an error of the request included, shows that the store works.
            _ if self.failures.load(Ordering::Relaxed) > 0 => self.failures.store(0, Ordering::Relaxed),
            _ => {}
        }
        outcome
    }

    // ## Up => Down
    fn failed(self: &Arc<Self>) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // A call may be dropped after its runtime has ended, and then there is nobody left to probe.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if failures < THRESHOLD || self.down.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(store = self.name, failures, "store is down, going on without it");
        self.report(false);
        let breaker = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(PROBE_EVERY).await;
                let Some(breaker) = breaker.upgrade() else { return };
                // A panic must not end the only probing there is.
                let probe = AssertUnwindSafe(async { (breaker.probe)().await }).catch_unwind();
                let outcome = within(breaker.name, breaker.limit, async {
                    probe.await.unwrap_or_else(|_| Err(Error::internal("the probe panicked")))
                });
                if outcome.await.is_ok() {
                    return breaker.recovered();
                }
            }
        });
    }

    // ## Down => Up
    fn recovered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.down.store(false, Ordering::Relaxed);
        tracing::info!(store = self.name, "store is up again");
        self.report(true);
    }

    fn report(&self, up: bool) {
        metrics::gauge!("reprise_store_up", "store" => self.name).set(if up { 1.0 } else { 0.0 });
    }
}

/// A caller that gives up before the limit hides a hanging store; one that waited half of it is a sign.
struct Watch<'b> {
    breaker: &'b Arc<Breaker>,
    started: Instant,
    limit: Duration,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.started.elapsed() >= self.limit / 2 {
            self.breaker.failed();
        }
    }
}

async fn within<T>(name: &str, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("the {name} did not answer within {limit:?}")))
    })
}

/// `Overloaded` is not among them: a full queue is no outage. Nor is `FailedPrecondition`, which a store that takes no
/// writes answers them with (disk full, out of memory, read-only): it can still be read.
fn is_failure(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const LIMIT: Duration = Duration::from_millis(200);

    /// A breaker whose probe succeeds when `healthy` is set, and how often it was asked.
    fn breaker() -> (Arc<Breaker>, Arc<AtomicBool>, Arc<AtomicUsize>) {
        let (healthy, probes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (asked, count) = (healthy.clone(), probes.clone());
        let breaker = Breaker::new("test store", LIMIT, move || {
            count.fetch_add(1, Ordering::Relaxed);
            let up = asked.load(Ordering::Relaxed);
            Box::pin(async move { if up { Ok(()) } else { std::future::pending().await } })
        });
        (breaker, healthy, probes)
    }

    async fn fail(breaker: &Arc<Breaker>, kind: ErrorKind) -> ErrorKind {
        breaker.call::<()>(async move { Err(Error::new(kind, "x")) }).await.unwrap_err().kind
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_five_failures_in_a_row_and_then_answers_at_once() {
        let (breaker, ..) = breaker();
        for _ in 0..4 {
            assert_eq!(fail(&breaker, ErrorKind::Unavailable).await, ErrorKind::Unavailable);
        }
        assert_eq!(breaker.call(async { Ok(7) }).await.unwrap(), 7);
        for _ in 0..4 {
            fail(&breaker, ErrorKind::Unavailable).await;
        }
        assert!(breaker.is_up());
        let hung = breaker.call::<()>(std::future::pending()).await.unwrap_err();
        assert_eq!(hung.kind, ErrorKind::DeadlineExceeded);
        assert!(!breaker.is_up());
        let before = Instant::now();
        let skipped = breaker.call::<()>(async { panic!("must not run") }).await.unwrap_err();
        assert_eq!((skipped.kind, before.elapsed()), (ErrorKind::Unavailable, Duration::ZERO));
        assert!(std::error::Error::source(&skipped).is_some_and(|source| source.is::<NotCalled>()));
        assert_eq!(skipped.to_string(), "the test store: is down and was not asked");
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_closes_it_again() {
        let (breaker, healthy, probes) = breaker();
        for _ in 0..20 {
            fail(&breaker, ErrorKind::Internal).await;
        }
        tokio::time::sleep(Duration::from_millis(5_900)).await;
        // One every second, and 200 ms for each to run out of time.
        assert_eq!(probes.load(Ordering::Relaxed), 5);
        assert!(!breaker.is_up());
        healthy.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert!(breaker.is_up());
        let asked = probes.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(probes.load(Ordering::Relaxed), asked);
        assert_eq!(breaker.call(async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(fail(&breaker, ErrorKind::Internal).await, ErrorKind::Internal);
        assert!(breaker.is_up(), "failures from before the outage still count");
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_the_request_and_a_full_queue_do_not_open_it() {
        let (breaker, ..) = breaker();
        let of_requests = [ErrorKind::InvalidArgument, ErrorKind::Corrupt];
        for kind in [ErrorKind::Overloaded, ErrorKind::FailedPrecondition].into_iter().chain(of_requests) {
            for _ in 0..10 {
                assert_eq!(fail(&breaker, kind).await, kind);
            }
        }
        assert!(breaker.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_give_up_on_a_hanging_store_open_it_and_impatient_ones_do_not() {
        let (breaker, ..) = breaker();
        for _ in 0..10 {
            let call = breaker.call::<()>(std::future::pending());
            assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
        }
        assert!(breaker.is_up());
        for _ in 0..5 {
            let call = breaker.call::<()>(std::future::pending());
            assert!(tokio::time::timeout(Duration::from_millis(150), call).await.is_err());
        }
        assert!(!breaker.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_panics_counts_as_failed_and_the_next_one_is_made() {
        let probes = Arc::new(AtomicUsize::new(0));
        let count = probes.clone();
        let breaker = Breaker::new("test store", LIMIT, move || match count.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("made to panic before it is a future"),
            1 => Box::pin(async { panic!("made to panic") }),
            _ => Box::pin(async { Ok(()) }),
        });
        for _ in 0..5 {
            fail(&breaker, ErrorKind::Unavailable).await;
        }
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!((breaker.is_up(), probes.load(Ordering::Relaxed)), (false, 2));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((breaker.is_up(), probes.load(Ordering::Relaxed)), (true, 3));
    }

    #[test]
    fn work_on_many_things_has_25_times_as_long_within_reason() {
        let limits = [200, 2_000, 60_000].map(Duration::from_millis).map(bulk_limit);
        assert_eq!(limits, [5, 30, 60].map(Duration::from_secs));
    }

    #[tokio::test(start_paused = true)]
    async fn probing_ends_with_the_breaker() {
        let (breaker, _, probes) = breaker();
        for _ in 0..5 {
            fail(&breaker, ErrorKind::Unavailable).await;
        }
        drop(breaker);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(probes.load(Ordering::Relaxed), 0);
    }
}
