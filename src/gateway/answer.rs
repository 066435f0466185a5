//! The way of one request, top to bottom: admit, look up, fly, remember, account.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

use super::admit::Admitted;
use super::flight::{Landing, Passenger, Progress};
use super::found::{Found, Hit, Miss};
use super::remember::is_complete;
use super::{Completed, Gateway, Request, StreamEvent, Streamed, Summary, replay};
use crate::types::{
    Answer, CacheStatus, Delta, Entry, EntryKey, Error, ErrorKind, Outcome, Result, Source, StreamOptions, Tag, Trust,
    UnixMillis, Usd, UseCache,
};

/// Why a prompt is not compared by meaning: it is longer than the embedding model reads, or in a script that the model's
/// vocabulary lacks. Two such prompts may have the same vector and nothing in common.
pub(super) const UNREADABLE: &str = "not all of the prompt can be embedded";

/// Why a prompt is not compared by meaning: the models were not made for its language.
pub(super) const UNKNOWN_LANGUAGE: &str = "the models do not know its language";

/// What makes two requests share one provider call: the same question, to be remembered in the same way.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    key: EntryKey,
    write: bool,
    ttl: Option<Duration>,
    tags: Vec<Tag>,
    /// When a deletion or correction last concerned it: no request after one shares a call from before.
    changed: u64,
}

impl Gateway {
    /// Answers a request as a whole.
    pub async fn complete(&self, request: Request) -> Result<Completed> {
        let completed = async {
            let admitted = self.admit(request)?;
            within(admitted.deadline, self.complete_admitted(&admitted)).await
        };
        completed.await.inspect_err(|error| self.inner.account.failed(error))
    }

    /// Answers a request in pieces.
    pub async fn stream(&self, request: Request) -> Result<Streamed> {
        let streamed = async {
            let admitted = self.admit(request)?;
            within(admitted.deadline, self.stream_admitted(admitted)).await
        };
        streamed.await.inspect_err(|error| self.inner.account.failed(error))
    }

    async fn complete_admitted(&self, admitted: &Admitted) -> Result<Completed> {
        let miss = match self.find(admitted).await {
            Found::Hit(hit) => {
                let answer = hit.entry.answer.clone();
                let (outcome, summary) = self.settle_hit(admitted, &hit);
                return Ok(Completed { outcome, answer, summary });
            }
            Found::Miss(miss) => miss,
        };
        let mut second_try = false;
        loop {
            let mut passenger = self.board(admitted, false)?;
            match passenger.landed().await {
                // The leader failed, not this request: one of its followers leads the next flight.
                Err(error) if !passenger.leads() && !second_try && error.kind.is_transient() => second_try = true,
                landed => {
                    let answer = landed?;
                    let summary = self.settle_miss(admitted, &passenger, &answer, &miss);
                    let outcome = missed(admitted, &miss);
                    return Ok(Completed { outcome, answer, summary });
                }
            }
        }
    }

    async fn stream_admitted(&self, admitted: Admitted) -> Result<Streamed> {
        let miss = match self.find(&admitted).await {
            Found::Hit(hit) => {
                let (outcome, summary) = self.settle_hit(&admitted, &hit);
                let events = replayed(&hit.entry.answer, summary).map(Ok).boxed();
                return Ok(Streamed { outcome, events });
            }
            Found::Miss(miss) => miss,
        };
        let mut second_try = false;
        let passenger = loop {
            let mut passenger = self.board(&admitted, true)?;
            match passenger.ready().await {
                Err(error) if !passenger.leads() && !second_try && error.kind.is_transient() => second_try = true,
                ready => break ready.map(|()| passenger)?,
            }
        };
        let outcome = missed(&admitted, &miss);
        let live = Live { gateway: self.clone(), admitted, passenger, miss, replay: None };
        Ok(Streamed { outcome, events: live.events() })
    }

    /// Asks the cache: exact key first, then meaning. Whatever goes wrong or takes too long here is a miss with a reason.
    pub(super) async fn find(&self, admitted: &Admitted) -> Found {
        let mut miss = Miss::new(admitted);
        if !admitted.allowed.read_exact {
            return Found::Miss(miss);
        }
        let budget = Instant::now() + admitted.settings.lookup_budget;
        let found = self.look(admitted, budget, &mut miss).await.unwrap_or_else(|reason| {
            metrics::counter!("reprise_lookup_failures_total", "reason" => reason).increment(1);
            miss.reason = Some(reason);
            None
        });
        match found {
            Some(hit) if admitted.allowed.shadow => {
                let kind = if hit.near.is_some() { "semantic" } else { "exact" };
                metrics::counter!("reprise_shadow_hits_total", "cache" => kind).increment(1);
                miss.reason = Some("shadow");
                miss.shadowed = Some(hit);
                Found::Miss(miss)
            }
            Some(hit) => Found::Hit(hit),
            None => Found::Miss(miss),
        }
    }

    /// The steps of a lookup within their common budget. The vector is left in `miss` as soon as it is there, so that a
    /// search that hangs does not cost a second embedding.
    async fn look(&self, admitted: &Admitted, budget: Instant, miss: &mut Miss) -> Result<Option<Hit>, &'static str> {
        let (cache, query) = (&self.inner.cache, admitted.query());
        if let Some(entry) = self.inner.remember.peek(&admitted.key).filter(|entry| query.is_answered_by(entry)) {
            return Ok(Some(Hit { entry, near: None }));
        }
        let exact = step("exact", budget, cache.exact(&query), ["entry store slow", "entry store down"]).await?;
        if let Some(entry) = exact {
            return Ok(Some(Hit { entry, near: None }));
        }
        let Some(probe) = admitted.probe.as_ref().filter(|_| admitted.allowed.read_semantic) else { return Ok(None) };
        if !cache.judge().knows_language_of(&probe.prompt) {
            miss.comparable = false;
            miss.reason = Some(UNKNOWN_LANGUAGE);
            return Ok(None);
        }
        let embed = cache.embed(&admitted.request.owner.tenant, probe.prompt.clone());
        let embedding = step("embed", budget, embed, ["embedding slow", "embedding failed"]).await?;
        if !embedding.is_whole() {
            miss.comparable = false;
            miss.reason = Some(UNREADABLE);
            return Ok(None);
        }
        miss.vector = Some(embedding.vector.clone());
        let near = cache.near(&query, &embedding.vector, false);
        let mut semantic = step("search", budget, near, ["vector store slow", "vector store down"]).await?;
        let decide = cache.decide(&query, &probe.prompt, &mut semantic, false);
        step("decide", budget, decide, ["decision slow", "decision failed"]).await?;
        let hit = semantic.hit();
        Ok(hit.map(|(entry, candidate)| Hit::near(entry, candidate, &probe.prompt, cache.judge())))
    }

    /// A seat on the flight of this request; starts the provider call if none is under way.
    fn board(&self, admitted: &Admitted, streamed: bool) -> Result<Passenger<FlightKey>> {
        if admitted.request.controls.use_cache == UseCache::OnlyIfCached {
            return Err(Error::new(ErrorKind::NotCached, "only-if-cached was asked for, and the cache has no answer"));
        }
        let provider = self.inner.directory.provider(&admitted.request.chat.model)?.clone();
        let controls = &admitted.request.controls;
        // A request that shuns the cache, or wants a new answer, wants a call of its own.
        let alone = admitted.allowed.is_bypass() || controls.use_cache == UseCache::Refresh;
        let shared = (!alone).then(|| FlightKey {
            key: admitted.key,
            write: admitted.allowed.write,
            ttl: controls.ttl,
            tags: controls.tags.clone(),
            changed: self.inner.changes.last(&admitted.key, &admitted.request.owner, &controls.tags),
        });
        let chat = &admitted.request.chat;
        let limit = self.inner.config.server.request_timeout;
        Ok(self.inner.flights.join(shared, || {
            let mut chat = chat.clone();
            chat.stream = streamed.then_some(true);
            if !streamed {
                chat.stream_options = None;
            } else if chat.stream_options.as_ref().is_none_or(|o| o.include_usage != Some(true)) {
                // Costs are counted from what the provider says it used.
                let known = chat.stream_options.take().unwrap_or_default();
                chat.stream_options = Some(StreamOptions { include_usage: Some(true), ..known });
            }
            async move {
                let call = async {
                    if streamed {
                        provider.stream(&chat).await.map(Landing::Pieces)
                    } else {
                        provider.complete(&chat).await.map(Landing::Whole)
                    }
                };
                within(Instant::now() + limit, call).await
            }
        }))
    }

    fn settle_hit(&self, admitted: &Admitted, hit: &Hit) -> (Outcome, Summary) {
        let outcome = hit.outcome();
        let money = (Usd::default(), hit.entry.cost);
        let summary = self.settle_account(admitted, &hit.entry.answer, outcome.status, money);
        self.audit(admitted, hit);
        (outcome, summary)
    }

    /// Remembers and accounts for an answer that came from upstream. Called when the caller has all of it.
    fn settle_miss(
        &self,
        admitted: &Admitted,
        passenger: &Passenger<FlightKey>,
        answer: &Arc<Answer>,
        miss: &Miss,
    ) -> Summary {
        let cost = self.cost(&admitted.request.chat.model, &answer.usage);
        if let Some(hit) = &miss.shadowed {
            self.compare_shadowed(admitted, hit, answer);
        }
        if admitted.allowed.write && is_complete(answer) && passenger.claims_remembering() {
            self.remember(admitted, answer, miss, cost);
        }
        // A follower cost nothing, and saved what its own call would have cost.
        let money = if passenger.leads() { (cost, Usd::default()) } else { (Usd::default(), cost) };
        self.settle_account(admitted, answer, missed(admitted, miss).status, money)
    }

    fn remember(&self, admitted: &Admitted, answer: &Arc<Answer>, miss: &Miss, cost: Usd) {
        if answer_bytes(answer) > admitted.settings.max_entry_bytes {
            metrics::counter!("reprise_writes_dropped_total", "reason" => "too large").increment(1);
            return;
        }
        let entry = Arc::new(admitted.entry(answer.clone(), cost, Source::Live));
        self.inner.remember.put(entry, admitted.as_of, miss.vector.clone(), miss.comparable);
    }
}

impl Admitted {
    /// The entry that remembers `answer` for this request.
    pub(super) fn entry(&self, answer: Arc<Answer>, cost: Usd, source: Source) -> Entry {
        let created = UnixMillis::now();
        Entry {
            key: self.key,
            scope: self.scope,
            owner: self.request.owner.clone(),
            probe: self.probe.clone(),
            answer,
            cost,
            created,
            expires: created.after(self.request.controls.ttl.unwrap_or(self.settings.ttl)),
            tags: self.request.controls.tags.clone(),
            depends_on: Vec::new(),
            source,
            trust: Trust::Trusted,
        }
    }
}

/// A stream that follows a flight.
struct Live {
    gateway: Gateway,
    admitted: Admitted,
    passenger: Passenger<FlightKey>,
    miss: Miss,
    /// Deltas of a whole answer that came without any, last first.
    replay: Option<(Vec<Delta>, Arc<Answer>)>,
}

impl Live {
    fn events(self) -> BoxStream<'static, Result<StreamEvent>> {
        stream::unfold(Some(self), |state| async move {
            let mut live = state?;
            let step = within(live.admitted.deadline, live.step()).await;
            match step {
                Ok(StreamEvent::Delta(delta)) => Some((Ok(StreamEvent::Delta(delta)), Some(live))),
                Ok(last) => Some((Ok(last), None)),
                Err(error) => {
                    live.gateway.inner.account.failed(&error);
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    async fn step(&mut self) -> Result<StreamEvent> {
        if self.replay.is_none() {
            match self.passenger.next().await? {
                Progress::Delta(delta) => return Ok(StreamEvent::Delta(delta)),
                // Its leader asked for the whole at once.
                Progress::Landed(answer) if !self.passenger.has_read() => {
                    let mut deltas = replay::deltas(&answer);
                    deltas.reverse();
                    self.replay = Some((deltas, answer));
                }
                Progress::Landed(answer) => return Ok(self.last(&answer)),
            }
        }
        match &mut self.replay {
            Some((deltas, answer)) => match deltas.pop() {
                Some(delta) => Ok(StreamEvent::Delta(delta)),
                None => {
                    let answer = answer.clone();
                    Ok(self.last(&answer))
                }
            },
            None => Err(Error::internal("a stream without an end")),
        }
    }

    fn last(&self, answer: &Arc<Answer>) -> StreamEvent {
        StreamEvent::Final(self.gateway.settle_miss(&self.admitted, &self.passenger, answer, &self.miss))
    }
}

fn replayed(answer: &Answer, summary: Summary) -> BoxStream<'static, StreamEvent> {
    let last = stream::iter([StreamEvent::Final(summary)]);
    stream::iter(replay::deltas(answer)).map(StreamEvent::Delta).chain(last).boxed()
}

pub(super) fn missed(admitted: &Admitted, miss: &Miss) -> Outcome {
    let status = if admitted.allowed.is_bypass() { CacheStatus::Bypass } else { CacheStatus::Miss };
    Outcome {
        status,
        entry: admitted.key,
        similarity: None,
        risk: None,
        hit: None,
        age: None,
        reason: miss.reason,
        saved: None,
    }
}

/// One step of a lookup: timed, within the common budget. `words`: how it is told when it is slow, and when it fails.
async fn step<T>(
    name: &'static str,
    budget: Instant,
    work: impl Future<Output = Result<T>>,
    [slow, failed]: [&'static str; 2],
) -> Result<T, &'static str> {
    let started = Instant::now();
    let done = timeout_at(budget, work).await;
    metrics::histogram!("reprise_stage_seconds", "stage" => name).record(started.elapsed().as_secs_f64());
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::debug!(stage = name, %error, "lookup step failed");
            Err(failed)
        }
        Err(_) => Err(slow),
    }
}

/// `work`, or an error once the deadline has passed.
pub(super) async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout_at(deadline, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "the request's deadline has passed")),
    }
}

/// Bytes of an answer's text, its tool calls and unknown fields left out: the part that can be large.
fn answer_bytes(answer: &Answer) -> usize {
    answer.choices.iter().filter_map(|c| c.message.content.as_ref()).map(String::len).sum()
}
