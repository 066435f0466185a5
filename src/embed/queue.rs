//! The waiting room between callers and the model: bounded, fair between tenants, without the dead.
//!
//! A text counts against the capacity from the moment it comes in until its batch begins.
//! [`super::lines`] says whose turn it is.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::lines::{Lines, Texts};
use super::tokenize::Tokens;
use crate::types::{Embedding, Error, Result, TenantId};

pub(super) struct Queue<T> {
    /// See [`super::worker::Worker`].
    name: &'static str,
    capacity: usize,
    state: Mutex<State<T>>,
    /// Told when texts came in, or the queue closed.
    texts_came: Condvar,
    /// Told when tokens are ready, or the queue closed.
    tokens_came: Condvar,
    /// Told when places became free.
    room: Notify,
}

struct State<T> {
    /// Texts before and after the tokeniser.
    lines: Lines<T>,
    /// Texts before, at and after the tokeniser.
    waiting: usize,
    closed: bool,
}

/// One tokenised text.
pub(super) struct Item {
    pub tokens: Tokens,
    pub call: Arc<Call>,
    index: usize,
}

/// A caller who waits. If it is dropped unanswered, which only a panic does, the caller is told so by the channel.
pub(super) struct Call {
    answer: Mutex<Answer>,
}

struct Answer {
    embeddings: Vec<Option<Embedding>>,
    missing: usize,
    caller: Option<oneshot::Sender<Result<Vec<Embedding>>>>,
}

pub(super) type Reply = oneshot::Receiver<Result<Vec<Embedding>>>;

/// Why texts did not come in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused<T> {
    /// No room; here they are again.
    Full(Vec<T>),
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(name: &'static str, capacity: usize) -> Self {
        Self {
            name,
            capacity: capacity.max(1),
            state: Mutex::new(State { lines: Lines::default(), waiting: 0, closed: false }),
            texts_came: Condvar::new(),
            tokens_came: Condvar::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts texts at the end of the tenant's line; all of them or none. `texts` is not empty.
    ///
    /// In a full queue, a tenant with less than an equal share of the places takes them from the one that has most: its
    /// newest call is told `crowded_out`.
    pub(super) fn push(
        &self,
        tenant: &TenantId,
        texts: Vec<T>,
        crowded_out: impl Fn() -> Error,
    ) -> Result<Reply, Refused<T>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting + texts.len() > self.capacity {
            report_skipped(self.name, state.drop_dead());
        }
        while state.waiting + texts.len() > self.capacity {
            let share = self.capacity / state.lines.tenants_with(tenant);
            let fair = state.lines.waiting(tenant) + texts.len() <= share;
            let Some((call, freed)) = fair.then(|| state.lines.crowd_out(share)).flatten() else {
                return Err(Refused::Full(texts));
            };
            state.waiting -= freed;
            call.fail(crowded_out());
        }
        state.waiting += texts.len();
        report_waiting(self.name, state.waiting);
        let (caller, reply) = oneshot::channel();
        let answer = Answer { embeddings: vec![None; texts.len()], missing: texts.len(), caller: Some(caller) };
        state.lines.push(tenant, Texts { texts, call: Arc::new(Call { answer: Mutex::new(answer) }) });
        drop(state);
        self.texts_came.notify_one();
        Ok(reply)
    }

    /// Ends when places became free after this call, whether it was polled by then or not.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Whether texts are taken, room permitting.
    pub(super) fn is_open(&self) -> bool {
        !self.state.lock().closed
    }

    /// No new texts; those inside still get their embeddings.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.texts_came.notify_all();
        self.tokens_came.notify_all();
        self.room.notify_waiters();
    }

    /// Takes the next caller's texts to the tokeniser and their tokens on to the model. Waits for texts; false once
    /// the queue is closed and no more will come.
    pub(super) fn tokenise_next(&self, tokenise: impl Fn(&T) -> Result<Tokens>) -> bool {
        let mut state = self.state.lock();
        let (tenant, next) = loop {
            match state.lines.next_texts() {
                Some((_, next)) if next.call.is_dead() => {
                    report_skipped(self.name, next.texts.len());
                    self.leave(&mut state, next.texts.len());
                }
                Some(next) => break next,
                None if state.closed => return false,
                None => self.texts_came.wait(&mut state),
            }
        };
        drop(state);
        let mut taken = Taken { queue: self, texts: next.texts.len() };
        let tokens: Result<Vec<_>> = next.texts.iter().map(tokenise).collect();
        match tokens {
            Ok(tokens) => {
                let items = tokens.into_iter().enumerate();
                let items = items.map(|(index, tokens)| Item { tokens, call: next.call.clone(), index });
                taken.texts = 0; // they go on waiting, for the model
                self.state.lock().lines.push_items(&tenant, items);
                self.tokens_came.notify_one();
            }
            Err(error) => next.call.fail(error),
        }
        true
    }

    /// The next batch: tenants in turn, each one's texts in the order in which they came, up to `budget` tokens; a longer
    /// text makes a batch of its own. Waits for texts; never empty; `None` once the queue is closed and no more
    /// will come.
    pub(super) fn next_batch(&self, budget: usize) -> Option<Vec<Item>> {
        let mut state = self.state.lock();
        let (mut batch, mut tokens) = (Vec::new(), 0);
        loop {
            let room = if batch.is_empty() { usize::MAX } else { budget.saturating_sub(tokens) };
            match state.lines.next_item(room) {
                Some(dead) if dead.call.is_dead() => {
                    report_skipped(self.name, 1);
                    self.leave(&mut state, 1);
                }
                Some(item) => {
                    tokens += item.tokens.ids.len();
                    batch.push(item);
                }
                None if !batch.is_empty() => {
                    self.leave(&mut state, batch.len());
                    return Some(batch);
                }
                None if state.closed && state.waiting == 0 => return None,
                None => self.tokens_came.wait(&mut state),
            }
        }
    }

    /// Texts that wait for the model with their tokens.
    #[cfg(test)]
    pub(super) fn tokenised(&self) -> usize {
        self.state.lock().lines.tokenised()
    }

    fn leave(&self, state: &mut State<T>, texts: usize) {
        if texts > 0 {
            state.waiting -= texts;
            report_waiting(self.name, state.waiting);
            self.room.notify_waiters();
        }
        if state.waiting == 0 {
            self.tokens_came.notify_all(); // if the queue is closed, this is the end the model waits for
        }
    }
}

impl Item {
    pub(super) fn answer(self, vector: Arc<[f32]>) {
        let tokens = u32::try_from(self.tokens.ids.len()).unwrap_or(u32::MAX);
        let Tokens { truncated, unknown, .. } = self.tokens;
        let embedding = Embedding { vector, tokens, truncated, unknown };
        self.call.fill(self.index, embedding);
    }

    pub(super) fn fail(self, error: Error) {
        self.call.fail(error);
    }
}

impl<T> State<T> {
    /// Takes out the texts of callers who hung up; gives how many there were.
    fn drop_dead(&mut self) -> usize {
        let left = self.lines.drop_calls(Call::is_dead);
        self.waiting -= left;
        left
    }
}

impl Call {
    /// Nobody waits for it: the caller hung up, or an error has answered it.
    pub(super) fn is_dead(&self) -> bool {
        self.answer.lock().caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn fill(&self, index: usize, embedding: Embedding) {
        let mut answer = self.answer.lock();
        answer.embeddings[index] = Some(embedding);
        answer.missing -= 1;
        if answer.missing == 0 {
            let embeddings = answer.embeddings.drain(..).flatten().collect();
            answer.send(Ok(embeddings));
        }
    }

    fn fail(&self, error: Error) {
        self.answer.lock().send(Err(error));
    }
}

impl Answer {
    fn send(&mut self, result: Result<Vec<Embedding>>) {
        if let Some(caller) = self.caller.take() {
            let _ = caller.send(result); // the caller hung up at the last moment
        }
    }
}

/// Texts at the tokeniser; should it panic, they leave the queue all the same.
struct Taken<'a, T> {
    queue: &'a Queue<T>,
    texts: usize,
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if self.texts > 0 {
            self.queue.leave(&mut self.queue.state.lock(), self.texts);
        }
    }
}

fn report_skipped(name: &str, texts: usize) {
    if texts > 0 {
        metrics::counter!(format!("reprise_{name}_skipped_total")).increment(texts as u64);
    }
}

fn report_waiting(name: &str, texts: usize) {
    metrics::gauge!(format!("reprise_{name}_queue_texts")).set(texts as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn crowded_out() -> Error {
        Error::internal("crowded out")
    }

    fn push(queue: &Queue<String>, name: &str, texts: Vec<String>) -> Result<Reply, Refused<String>> {
        queue.push(&tenant(name), texts, crowded_out)
    }

    #[allow(clippy::ptr_arg, reason = "the queue hands over what it holds")]
    fn letters(text: &String) -> Result<Tokens> {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        Ok(Tokens { second: ids.len(), ids, truncated: false, unknown: 0 })
    }

    fn spell(batch: Option<Vec<Item>>) -> Vec<String> {
        let text = |item: &Item| item.tokens.ids.iter().filter_map(|id| char::from_u32(*id)).collect();
        batch.unwrap().iter().map(text).collect()
    }

    #[test]
    fn a_batch_is_filled_in_order_up_to_its_tokens_and_a_longer_text_goes_alone() {
        let queue = Queue::new("test", 10);
        let text = |length: usize| "x".repeat(length);
        let _reply = push(&queue, "t", vec![text(10), text(20), text(11), text(200), text(9)]).unwrap();
        assert!(queue.tokenise_next(letters));
        let lengths = || spell(queue.next_batch(40)).iter().map(String::len).collect::<Vec<_>>();
        assert_eq!([lengths(), lengths(), lengths(), lengths()], [vec![10, 20], vec![11], vec![200], vec![9]]);
        queue.close();
        assert!(queue.next_batch(40).is_none());
    }

    #[test]
    fn a_tenant_with_one_text_does_not_wait_for_all_of_anothers() {
        let queue = Queue::new("test", 100);
        let many: Vec<_> = (0..8).map(|_| "many".to_owned()).collect();
        let _many = push(&queue, "greedy", many).unwrap();
        assert!(queue.tokenise_next(letters));
        assert_eq!(spell(queue.next_batch(8)), ["many", "many"]);
        let _one = push(&queue, "modest", vec!["one".into()]).unwrap();
        assert!(queue.tokenise_next(letters));
        assert_eq!(spell(queue.next_batch(8)), ["one", "many"], "the newcomer has had nothing yet");
        assert_eq!(spell(queue.next_batch(8)), ["many", "many"]);
    }

    #[test]
    fn in_a_full_queue_the_tenant_with_most_makes_room_for_one_with_less_than_its_share() {
        let queue = Queue::new("test", 4);
        let texts = |n| vec!["x".to_owned(); n];
        let mut first = push(&queue, "greedy", texts(2)).unwrap();
        let mut second = push(&queue, "greedy", texts(2)).unwrap();
        assert_eq!(push(&queue, "greedy", texts(1)).err(), Some(Refused::Full(texts(1))));
        let mut modest = push(&queue, "modest", texts(2)).unwrap();
        assert_eq!(second.try_recv().unwrap().unwrap_err().message, "crowded out");
        assert_eq!(push(&queue, "modest", texts(1)).err(), Some(Refused::Full(texts(1))), "it has its share");
        assert!(first.try_recv().is_err() && modest.try_recv().is_err(), "both still wait");
        let _third = push(&queue, "third", texts(1)).unwrap();
        assert!(first.try_recv().is_ok() || modest.try_recv().is_ok());
    }

    #[test]
    fn a_full_queue_gives_the_texts_back_and_makes_room_by_dropping_the_dead() {
        let queue = Queue::new("test", 3);
        let texts = |n| vec![String::new(); n];
        let first = push(&queue, "t", texts(2)).unwrap();
        assert_eq!(push(&queue, "t", texts(2)).err(), Some(Refused::Full(texts(2))));
        let _second = push(&queue, "t", texts(1)).unwrap();
        drop(first);
        let _third = push(&queue, "t", texts(2)).unwrap();
        assert!(matches!(push(&queue, "t", texts(1)), Err(Refused::Full(_))));
        queue.close();
        assert_eq!(push(&queue, "t", texts(0)).err(), Some(Refused::Closed));
    }

    #[test]
    fn a_tokeniser_that_fails_or_panics_answers_its_caller_and_frees_the_places() {
        let queue = Queue::new("test", 2);
        let mut failed = push(&queue, "t", vec![String::new(); 2]).unwrap();
        assert!(queue.tokenise_next(|_| Err(Error::internal("no tokens"))));
        assert_eq!(failed.try_recv().unwrap().unwrap_err().message, "no tokens");
        let mut lost = push(&queue, "t", vec![String::new(); 2]).unwrap();
        let panicking = || queue.tokenise_next(|_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        assert_eq!(lost.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert!(push(&queue, "t", vec![String::new(); 2]).is_ok());
    }
}
