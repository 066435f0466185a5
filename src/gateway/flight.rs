//! Single flight: identical requests that arrive while the first is under way share its one provider call, unary and
//! streamed callers alike.
//!
//! The call runs in a task of its own and writes what comes into a log that any number of passengers read at their own
//! pace. It belongs to all of them: one that hangs up stops its own reading, and only the last one to leave stops the
//! call.

use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::llm::DeltaStream;
use crate::types::{Answer, Assembler, Delta, Error, ErrorKind, FinishReason, Result};

/// What a provider call gives: everything at once, or bit by bit.
pub enum Landing {
    Whole(Answer),
    Pieces(DeltaStream),
}

/// The flights under way, by what makes two requests identical. `K` is that identity.
#[derive(Clone)]
pub struct Flights<K> {
    airborne: Arc<Mutex<HashMap<K, Arc<Flight>>>>,
}

struct Flight {
    log: Mutex<Log>,
    /// Counts changes of the log.
    news: watch::Sender<u64>,
    /// Passengers aboard; changed only under the lock of `Flights::airborne`.
    passengers: Mutex<usize>,
    abort: Mutex<Option<AbortHandle>>,
    remembered: AtomicBool,
}

#[derive(Default)]
struct Log {
    deltas: Vec<Delta>,
    end: Option<Result<Arc<Answer>>>,
}

/// One caller's seat. Dropping it hangs up.
pub struct Passenger<K: Eq + std::hash::Hash + Clone> {
    flight: Arc<Flight>,
    flights: Flights<K>,
    key: Option<K>,
    news: watch::Receiver<u64>,
    cursor: usize,
    leads: bool,
}

/// What a passenger reads next.
#[allow(clippy::large_enum_variant, reason = "moved once, from the log to the reader; almost always a delta")]
#[derive(Debug, Clone)]
pub enum Progress {
    Delta(Delta),
    /// The whole answer; nothing follows.
    Landed(Arc<Answer>),
}

impl<K: Eq + std::hash::Hash + Clone + Send + 'static> Default for Flights<K> {
    fn default() -> Self {
        Self { airborne: Arc::default() }
    }
}

impl<K: Eq + std::hash::Hash + Clone + Send + 'static> Flights<K> {
    /// Boards the flight of `key`, or starts it with `call`. No key: a flight of its own.
    pub fn join<F>(&self, key: Option<K>, call: impl FnOnce() -> F) -> Passenger<K>
    where
        F: Future<Output = Result<Landing>> + Send + 'static,
    {
        let mut airborne = self.airborne.lock();
        if let Some(flight) = key.as_ref().and_then(|key| airborne.get(key)).cloned() {
            *flight.passengers.lock() += 1;
            return self.seat(flight, key, false);
        }
        let flight = Arc::new(Flight {
            log: Mutex::default(),
            news: watch::channel(0).0,
            passengers: Mutex::new(1),
            abort: Mutex::default(),
            remembered: AtomicBool::new(false),
        });
        if let Some(key) = &key {
            airborne.insert(key.clone(), flight.clone());
        }
        drop(airborne);
        let task = tokio::spawn(fly(call(), flight.clone(), self.clone(), key.clone()));
        *flight.abort.lock() = Some(task.abort_handle());
        self.seat(flight, key, true)
    }

    fn seat(&self, flight: Arc<Flight>, key: Option<K>, leads: bool) -> Passenger<K> {
        let news = flight.news.subscribe();
        Passenger { flight, flights: self.clone(), key, news, cursor: 0, leads }
    }

    /// Takes a flight off the board; later callers start a new one.
    fn retire(&self, key: Option<&K>, flight: &Arc<Flight>) {
        let Some(key) = key else { return };
        let mut airborne = self.airborne.lock();
        if airborne.get(key).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            airborne.remove(key);
        }
    }
}

async fn fly<K, F>(call: F, flight: Arc<Flight>, flights: Flights<K>, key: Option<K>)
where
    K: Eq + std::hash::Hash + Clone + Send + 'static,
    F: Future<Output = Result<Landing>>,
{
    let run = async {
        match call.await? {
            Landing::Whole(answer) => Ok(answer),
            Landing::Pieces(mut pieces) => {
                let mut assembler = Assembler::default();
                while let Some(delta) = pieces.next().await {
                    let delta = delta?;
                    assembler.push(&delta);
                    flight.change(|log| log.deltas.push(delta));
                }
                whole(assembler.finish())
            }
        }
    };
    let end = match AssertUnwindSafe(run).catch_unwind().await {
        Ok(end) => end.map(Arc::new),
        Err(_) => Err(Error::internal("the provider call panicked")),
    };
    // Off the board first: whoever sees the end and asks again must not board this flight.
    flights.retire(key.as_ref(), &flight);
    flight.change(|log| log.end = Some(end));
}

/// A stream's answer, if every part of it came to its own end: half an answer must not pass for a whole one.
fn whole(answer: Answer) -> Result<Answer> {
    let broken = answer.choices.iter().any(|choice| choice.finish == FinishReason::Missing);
    if broken || answer.choices.is_empty() {
        return Err(Error::new(ErrorKind::Upstream, "the provider's answer broke off before its end"));
    }
    Ok(answer)
}

impl Flight {
    fn change(&self, edit: impl FnOnce(&mut Log)) {
        edit(&mut self.log.lock());
        self.news.send_modify(|version| *version += 1);
    }
}

impl<K: Eq + std::hash::Hash + Clone> Passenger<K> {
    /// Whether this caller started the flight.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// True for one passenger of each flight, the first to ask: it remembers the answer for all.
    pub fn claims_remembering(&self) -> bool {
        !self.flight.remembered.swap(true, Ordering::AcqRel)
    }

    /// Waits until there is something to read; an error if the flight failed before its first delta.
    pub async fn ready(&mut self) -> Result<()> {
        loop {
            {
                let log = self.flight.log.lock();
                match &log.end {
                    _ if !log.deltas.is_empty() => return Ok(()),
                    Some(end) => return end.as_ref().map(|_| ()).map_err(Clone::clone),
                    None => {}
                }
            }
            self.changed().await?;
        }
    }

    /// The next delta, or the whole answer at the end. Where the provider gave no deltas, only the whole.
    pub async fn next(&mut self) -> Result<Progress> {
        loop {
            {
                let log = self.flight.log.lock();
                if let Some(delta) = log.deltas.get(self.cursor) {
                    self.cursor += 1;
                    return Ok(Progress::Delta(delta.clone()));
                }
                if let Some(end) = &log.end {
                    return end.clone().map(Progress::Landed);
                }
            }
            self.changed().await?;
        }
    }

    /// The whole answer.
    pub async fn landed(&mut self) -> Result<Arc<Answer>> {
        loop {
            if let Some(end) = &self.flight.log.lock().end {
                return end.clone();
            }
            self.changed().await?;
        }
    }

    /// Whether any delta was read.
    pub fn has_read(&self) -> bool {
        self.cursor > 0
    }

    async fn changed(&mut self) -> Result<()> {
        self.news.changed().await.map_err(|_| Error::internal("the flight was lost"))
    }
}

impl<K: Eq + std::hash::Hash + Clone> Drop for Passenger<K> {
    fn drop(&mut self) {
        // Under the board's lock, so that nobody boards a flight that is being called off.
        let mut airborne = self.flights.airborne.lock();
        let mut aboard = self.flight.passengers.lock();
        *aboard -= 1;
        if *aboard > 0 {
            return;
        }
        if let Some(key) = &self.key
            && airborne.get(key).is_some_and(|current| Arc::ptr_eq(current, &self.flight))
        {
            airborne.remove(key);
        }
        if let Some(task) = self.flight.abort.lock().take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Usage;
    use futures::stream;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::time::sleep;

    fn answer(text: &str) -> Answer {
        Answer::text("m", text, Usage::new(1, 1))
    }

    /// A call that takes a second, counted.
    fn slow(calls: &Arc<AtomicUsize>) -> impl Future<Output = Result<Landing>> + Send + 'static {
        let calls = calls.clone();
        async move {
            calls.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            Ok(Landing::Whole(answer("hi")))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_identical_requests_make_one_call() {
        let (flights, calls) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        let mut passengers: Vec<_> = (0..100).map(|_| flights.join(Some(1), || slow(&calls))).collect();
        assert_eq!(passengers.iter().filter(|p| p.leads()).count(), 1);
        for passenger in &mut passengers {
            assert_eq!(passenger.landed().await.unwrap().content(), "hi");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(flights.airborne.lock().len(), 0);
        assert_eq!(passengers.iter().filter(|p| p.claims_remembering()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn other_keys_and_no_key_fly_alone() {
        let (flights, calls) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        for key in [Some(1), Some(2), None, None] {
            let mut passenger = flights.join(key, || slow(&calls));
            passenger.landed().await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_hangs_up_and_the_others_still_land() {
        let (flights, calls) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        let leader = flights.join(Some(1), || slow(&calls));
        let mut follower = flights.join(Some(1), || slow(&calls));
        drop(leader);
        assert_eq!(follower.landed().await.unwrap().content(), "hi");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_to_leave_cancels_the_call() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let flights = Flights::default();
        let flag = Flag(cancelled.clone());
        let passenger = flights.join(Some(1), || async move {
            let _flag = flag;
            std::future::pending::<Result<Landing>>().await
        });
        tokio::task::yield_now().await;
        drop(passenger);
        assert_eq!(flights.airborne.lock().len(), 0);
        tokio::task::yield_now().await;
        assert!(cancelled.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_follower_reads_the_stream_from_its_start() {
        let flights = Flights::default();
        let pieces = || async {
            let words = stream::iter(["a ", "b ", "c"]).then(|word| async move {
                sleep(Duration::from_millis(10)).await;
                let finish = (word == "c").then_some(FinishReason::Stop);
                Ok(Delta { finish, ..Delta::text(word) })
            });
            Ok(Landing::Pieces(words.boxed()))
        };
        let mut leader = flights.join(Some(1), pieces);
        leader.ready().await.unwrap();
        let mut follower = flights.join(Some(1), pieces);
        assert!(!follower.leads());
        for passenger in [&mut leader, &mut follower] {
            let mut text = String::new();
            let whole = loop {
                match passenger.next().await.unwrap() {
                    Progress::Delta(delta) => text += &delta.content.unwrap(),
                    Progress::Landed(answer) => break answer,
                }
            };
            assert_eq!(text, "a b c");
            assert_eq!(whole.content(), "a b c");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_off_is_an_error_for_everybody() {
        let flights = Flights::default();
        let cut = || async { Ok(Landing::Pieces(stream::iter([Ok(Delta::text("half an"))]).boxed())) };
        let mut streamed = flights.join(Some(1), cut);
        let mut unary = flights.join(Some(1), cut);
        assert!(matches!(streamed.next().await, Ok(Progress::Delta(_))));
        assert_eq!(streamed.next().await.unwrap_err().kind, ErrorKind::Upstream);
        assert_eq!(unary.landed().await.unwrap_err().kind, ErrorKind::Upstream);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_reaches_everybody_and_the_next_caller_starts_anew() {
        let flights = Flights::default();
        let fail = || async { Err::<Landing, _>(Error::unavailable("down")) };
        let mut leader = flights.join(Some(1), fail);
        let mut follower = flights.join(Some(1), fail);
        assert_eq!(leader.landed().await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(follower.ready().await.unwrap_err().kind, ErrorKind::Unavailable);
        assert!(flights.join(Some(1), fail).leads());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_the_call_is_an_error_not_a_hang() {
        let flights = Flights::default();
        let mut passenger = flights.join(Some(1), || async { panic!("boom") });
        assert_eq!(passenger.landed().await.unwrap_err().kind, ErrorKind::Internal);
    }
}
