//! What is known of each owner's hits, kept in process: which risks may be served, and which pairs must not meet.
//!
//! Labels and blocked pairs come from the store that the replicas share, and are read again every few seconds; what this replica
//! adds counts at once. The traffic is each replica's own: it sees a fair sample of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Cache;
use super::decide::bound::{Calibration, Labelled, Served, Traffic, max_risk};
use super::decide::{Judge, Rule};
use crate::store::evidence::{Evidence, EvidenceStore, Label, LabelSource};
use crate::types::{HitId, Owner, PairId, Result, UnixMillis, WrongRate};

/// How old what is known may be, before it is read again in the background.
const FRESH: Duration = Duration::from_secs(10);
/// Longest a read for that may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Owners whose evidence is kept in process.
const OWNERS: u64 = 10_000;
/// How long a reported pair stays apart.
const BLOCK: Duration = Duration::from_secs(90 * 24 * 3600);

/// Evidence of all owners. Cheap to clone.
#[derive(Clone)]
pub struct Bounds {
    store: Arc<dyn EvidenceStore>,
    owners: moka::sync::Cache<Owner, Arc<State>>,
    /// Risks of other judges say nothing about this one's.
    judge: Arc<str>,
}

#[derive(Default)]
struct State {
    known: ArcSwapOption<Known>,
    is_reading: AtomicBool,
    traffic: Mutex<Traffic>,
}

/// What was known of an owner at a moment.
#[derive(Debug)]
pub struct Known {
    pub calibration: Calibration,
    pub blocked: HashSet<PairId>,
    /// Labels that count, newest first.
    pub labels: Vec<Labelled>,
    read: Instant,
}

impl Known {
    /// Labels that say wrong.
    pub fn wrong(&self) -> usize {
        self.labels.iter().filter(|label| !label.right).count()
    }
}

/// What one rate would come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuned {
    pub rate: WrongRate,
    /// The highest risk that would be served.
    pub max_risk: f64,
    pub served: Served,
    /// Labelled hits that would have been served: right ones, wrong ones.
    pub right: usize,
    pub wrong: usize,
}

impl Bounds {
    pub fn new(store: Arc<dyn EvidenceStore>, judge: &Judge) -> Self {
        Self { store, owners: moka::sync::Cache::new(OWNERS), judge: judge.id().into() }
    }

    /// What is known of an owner; waits for the store only when nothing is.
    ///
    /// Errors: those of the store. Nothing may be served by meaning then: what was reported wrong would come back.
    pub async fn known(&self, owner: &Owner) -> Result<Arc<Known>> {
        let state = self.state(owner);
        match state.known.load_full() {
            Some(known) => {
                if known.read.elapsed() >= FRESH && !state.is_reading.swap(true, Ordering::AcqRel) {
                    let (bounds, owner, state) = (self.clone(), owner.clone(), state.clone());
                    tokio::spawn(async move {
                        let read = tokio::time::timeout(READ_LIMIT, bounds.read(&owner, &state)).await;
                        // What was known stays in force; the store's own guard tells that it is down.
                        if !matches!(read, Ok(Ok(_))) {
                            metrics::counter!("reprise_evidence_reads_failed_total").increment(1);
                        }
                        state.is_reading.store(false, Ordering::Release);
                    });
                }
                Ok(known)
            }
            None => self.read(owner, &state).await,
        }
    }

    /// The highest risk that is served to that owner now. `judge` says what held-out pairs allow.
    pub fn max_risk(&self, owner: &Owner, rule: Rule, judge: &Judge, known: &Known) -> f64 {
        let Rule::MaxWrongRate(rate) = rule else { return 1.0 };
        max_risk(rate.get(), judge.max_risk(rate), &known.calibration, &self.state(owner).traffic.lock())
    }

    /// What each rate would come to on the owner's recent requests and labels.
    pub async fn tune(&self, owner: &Owner, judge: &Judge, rates: &[WrongRate]) -> Result<Vec<Tuned>> {
        let known = self.known(owner).await?;
        let state = self.state(owner);
        let traffic = state.traffic.lock();
        let tuned = |&rate: &WrongRate| {
            let max_risk = max_risk(rate.get(), judge.max_risk(rate), &known.calibration, &traffic);
            let served = traffic.served(max_risk, &known.calibration);
            let count = |right| known.labels.iter().filter(|l| l.right == right && l.risk <= max_risk).count();
            Tuned { rate, max_risk, served, right: count(true), wrong: count(false) }
        };
        Ok(rates.iter().map(tuned).collect())
    }

    /// Notes a lookup by meaning with the least risk that was found, if there was any.
    pub fn note(&self, owner: &Owner, risk: Option<f64>) {
        self.state(owner).traffic.lock().note(risk);
    }

    /// Takes a label in; false when that hit had one from the same source before. A wrong hit blocks its pair.
    pub async fn add(&self, owner: &Owner, label: &Label, max: Option<(WrongRate, &Judge)>) -> Result<bool> {
        if !label.right {
            self.store.block(owner, label.pair, UnixMillis::now().after(BLOCK)).await?;
        }
        let is_new = self.store.add(owner, label).await?;
        let state = self.state(owner);
        let before = state.known.load_full();
        let now = self.read(owner, &state).await?;
        if is_new {
            let (source, said) = (label.source.as_str(), if label.right { "right" } else { "wrong" });
            metrics::counter!("reprise_labels_total", "source" => source, "label" => said).increment(1);
            if let Some((rate, judge)) = max {
                tell_if_broken(owner, (rate, judge.max_risk(rate)), before.as_deref(), &now);
            }
        }
        Ok(is_new)
    }

    fn state(&self, owner: &Owner) -> Arc<State> {
        match self.owners.get(owner) {
            Some(state) => state,
            None => self.owners.get_with(owner.clone(), Arc::default),
        }
    }

    async fn read(&self, owner: &Owner, state: &State) -> Result<Arc<Known>> {
        let read = Instant::now();
        let Evidence { labels, blocked } = self.store.read(owner).await?;
        let labels: Vec<Labelled> = labels
            .iter()
            .filter(|label| *label.judge == *self.judge)
            .map(|label| Labelled { risk: label.risk, right: label.right })
            .collect();
        let known = Arc::new(Known { calibration: Calibration::fit(&labels), blocked, labels, read });
        // A slower read that began earlier must not bring back what was known then.
        state.known.rcu(|current| match current {
            Some(newer) if newer.read > read => Some(newer.clone()),
            _ => Some(known.clone()),
        });
        Ok(known)
    }
}

/// Whether labels say that what held-out pairs allow would break the bound.
fn is_broken(rate: WrongRate, prior: f64, known: &Known) -> bool {
    known.wrong() > 0 && max_risk(rate.get(), prior, &known.calibration, &Traffic::default()) < prior
}

impl Cache {
    /// What each rate would come to on the owner's recent requests and labels.
    pub async fn tune(&self, owner: &Owner, rates: &[WrongRate]) -> Result<Vec<Tuned>> {
        self.bounds.tune(owner, &self.judge, rates).await
    }

    /// Takes in what a hit turned out to be; false when it was known from that source. One that similarity alone decided says nothing of the
    /// risk model, but its pair is blocked all the same when it was wrong. `rate`: the bound that it is held against.
    pub async fn learn(
        &self,
        owner: &Owner,
        hit: &HitId,
        (right, source, at): (bool, LabelSource, UnixMillis),
        rate: Option<WrongRate>,
    ) -> Result<bool> {
        let judge = match hit.risk {
            Some(_) if hit.judge == HitId::judge_of(self.judge.id()) => self.judge.id(),
            // From before an update, or from a replica that has another.
            Some(_) => "another",
            None => "similarity",
        };
        let risk = hit.risk.map_or(1.0, f64::from);
        let label = Label { entry: hit.entry, pair: hit.pair, risk, judge: judge.to_owned(), right, source, at };
        self.bounds.add(owner, &label, rate.map(|rate| (rate, &self.judge))).await
    }
}

fn tell_if_broken(owner: &Owner, (rate, prior): (WrongRate, f64), before: Option<&Known>, now: &Known) {
    let was = before.is_some_and(|before| is_broken(rate, prior, before));
    match (was, is_broken(rate, prior, now)) {
        (false, true) => {
            metrics::counter!("reprise_bound_broken_total").increment(1);
            metrics::gauge!("reprise_bounds_tightened").increment(1.0);
            let namespace = owner.namespace.as_str();
            tracing::warn!(
                namespace,
                labels = now.labels.len(),
                wrong = now.wrong(),
                "more hits are wrong than foretold; serving fewer"
            );
        }
        (true, false) => {
            metrics::gauge!("reprise_bounds_tightened").decrement(1.0);
            tracing::info!(namespace = owner.namespace.as_str(), "hits are as right as foretold again");
        }
        _ => {}
    }
}
