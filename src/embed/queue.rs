//! The waiting room between callers and the model: bounded, first come first served, without the dead.
//!
//! A text counts against the capacity from the moment it comes in until its batch begins.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::tokenize::Tokens;
use crate::types::{Embedding, Error, Result};

/// Texts at the head of the line among which a batch looks for similar lengths.
const WINDOW: usize = 256;

pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    /// Told when texts came in, or the queue closed.
    texts_came: Condvar,
    /// Told when tokens are ready, or the queue closed.
    tokens_came: Condvar,
    /// Told when places became free.
    room: Notify,
}

#[derive(Default)]
struct State {
    /// Before the tokeniser.
    texts: VecDeque<Texts>,
    /// After it.
    tokens: VecDeque<Item>,
    /// Texts before, at and after the tokeniser.
    waiting: usize,
    closed: bool,
}

/// Texts of one caller on their way to the tokeniser.
struct Texts {
    texts: Vec<String>,
    call: Arc<Call>,
}

/// One tokenised text.
pub(super) struct Item {
    pub tokens: Tokens,
    call: Arc<Call>,
    index: usize,
}

/// A caller who waits. If it is dropped unanswered, which only a panic does, the caller is told so by the channel.
struct Call {
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
pub(super) enum Refused {
    /// No room; here they are again.
    Full(Vec<String>),
    Closed,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::default(),
            texts_came: Condvar::new(),
            tokens_came: Condvar::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts texts at the end of the line; all of them or none. `texts` is not empty.
    pub(super) fn push(&self, texts: Vec<String>) -> Result<Reply, Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting + texts.len() > self.capacity {
            state.drop_dead();
        }
        if state.waiting + texts.len() > self.capacity {
            return Err(Refused::Full(texts));
        }
        state.waiting += texts.len();
        report_waiting(state.waiting);
        let (caller, reply) = oneshot::channel();
        let answer = Answer { embeddings: vec![None; texts.len()], missing: texts.len(), caller: Some(caller) };
        state.texts.push_back(Texts { texts, call: Arc::new(Call { answer: Mutex::new(answer) }) });
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
    pub(super) fn tokenise_next(&self, tokenise: impl Fn(&str) -> Result<Tokens>) -> bool {
        let mut state = self.state.lock();
        let next = loop {
            match state.texts.pop_front() {
                Some(next) if next.call.is_dead() => {
                    report_skipped(next.texts.len());
                    self.leave(&mut state, next.texts.len());
                }
                Some(next) => break next,
                None if state.closed => return false,
                None => self.texts_came.wait(&mut state),
            }
        };
        drop(state);
        let mut taken = Taken { queue: self, texts: next.texts.len() };
        let tokens: Result<Vec<_>> = next.texts.iter().map(|text| tokenise(text)).collect();
        match tokens {
            Ok(tokens) => {
                let items = tokens.into_iter().enumerate();
                let items = items.map(|(index, tokens)| Item { tokens, call: next.call.clone(), index });
                taken.texts = 0; // they go on waiting, for the model
                self.state.lock().tokens.extend(items);
                self.tokens_came.notify_one();
            }
            Err(error) => next.call.fail(error),
        }
        true
    }

    /// The next batch: the text that has waited longest, and others near the head of the line whose lengths are
    /// closest to its own, as long as all of them padded to the longest stay within `budget` tokens. Waits for texts;
    /// never empty; `None` once the queue is closed and no more will come.
    pub(super) fn next_batch(&self, budget: usize) -> Option<Vec<Item>> {
        let mut state = self.state.lock();
        loop {
            let window = state.tokens.len().min(WINDOW);
            let (dead, live): (Vec<_>, Vec<_>) = state.tokens.drain(..window).partition(|item| item.call.is_dead());
            report_skipped(dead.len());
            self.leave(&mut state, dead.len());
            if !live.is_empty() {
                let lengths: Vec<_> = live.iter().map(|item| item.tokens.ids.len()).collect();
                let chosen = choose(&lengths, budget);
                let (batch, rest): (Vec<_>, Vec<_>) =
                    live.into_iter().enumerate().partition(|(at, _)| chosen.contains(at));
                rest.into_iter().rev().for_each(|(_, item)| state.tokens.push_front(item));
                self.leave(&mut state, batch.len());
                return Some(batch.into_iter().map(|(_, item)| item).collect());
            }
            if state.tokens.is_empty() {
                if state.closed && state.waiting == 0 {
                    return None;
                }
                self.tokens_came.wait(&mut state);
            }
        }
    }

    /// Texts that wait for the model with their tokens.
    #[cfg(test)]
    pub(super) fn tokenised(&self) -> usize {
        self.state.lock().tokens.len()
    }

    fn leave(&self, state: &mut State, texts: usize) {
        if texts > 0 {
            state.waiting -= texts;
            report_waiting(state.waiting);
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

impl State {
    /// Takes out the texts of callers who hung up.
    fn drop_dead(&mut self) {
        let mut left = 0;
        self.texts.retain(|texts| {
            let dead = texts.call.is_dead();
            left += if dead { texts.texts.len() } else { 0 };
            !dead
        });
        let before = self.tokens.len();
        self.tokens.retain(|item| !item.call.is_dead());
        left += before - self.tokens.len();
        report_skipped(left);
        self.waiting -= left;
    }
}

impl Call {
    /// Nobody waits for it: the caller hung up, or an error has answered it.
    fn is_dead(&self) -> bool {
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
struct Taken<'a> {
    queue: &'a Queue,
    texts: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.texts > 0 {
            self.queue.leave(&mut self.queue.state.lock(), self.texts);
        }
    }
}

/// Indices into `lengths` of the next batch; the first is always among them.
fn choose(lengths: &[usize], budget: usize) -> Vec<usize> {
    let head = lengths[0];
    let mut by_closeness: Vec<usize> = (1..lengths.len()).collect();
    by_closeness.sort_by_key(|&at| lengths[at].abs_diff(head)); // stable: among equals, first come first served
    let (mut chosen, mut longest) = (vec![0], head);
    for at in by_closeness {
        let padded = longest.max(lengths[at]);
        if padded * (chosen.len() + 1) <= budget {
            (longest, _) = (padded, chosen.push(at));
        }
    }
    chosen
}

fn report_skipped(texts: usize) {
    if texts > 0 {
        metrics::counter!("reprise_embed_skipped_total").increment(texts as u64);
    }
}

fn report_waiting(texts: usize) {
    metrics::gauge!("reprise_embed_queue_texts").set(texts as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_the_oldest_text_and_those_closest_to_its_length() {
        assert_eq!(choose(&[10, 200, 11, 9, 10, 100], 40), [0, 4, 2]); // 3 * 11 fits 40, a fourth does not
        assert_eq!(choose(&[10, 10, 10], 20), [0, 1]);
        assert_eq!(choose(&[300, 2, 2], 100), [0]); // too long for the budget: alone
        assert_eq!(choose(&[2, 300, 3], 0), [0]);
    }

    #[test]
    fn a_text_skipped_for_its_length_is_first_in_the_next_batch() {
        let queue = Queue::new(10);
        let text = |length: usize| "x".repeat(length);
        let _reply = queue.push(vec![text(10), text(200), text(11), text(9)]).unwrap();
        assert!(queue.tokenise_next(|text| Ok(Tokens { ids: vec![0; text.len()], truncated: false, unknown: 0 })));
        let lengths =
            |batch: Option<Vec<Item>>| -> Vec<_> { batch.unwrap().iter().map(|item| item.tokens.ids.len()).collect() };
        assert_eq!(lengths(queue.next_batch(40)), [10, 11, 9]);
        assert_eq!(lengths(queue.next_batch(40)), [200]);
        queue.close();
        assert!(queue.next_batch(40).is_none());
    }

    #[test]
    fn a_full_queue_gives_the_texts_back_and_makes_room_by_dropping_the_dead() {
        let queue = Queue::new(3);
        let texts = |n| vec![String::new(); n];
        let first = queue.push(texts(2)).unwrap();
        assert_eq!(queue.push(texts(2)).err(), Some(Refused::Full(texts(2))));
        let _second = queue.push(texts(1)).unwrap();
        drop(first);
        let _third = queue.push(texts(2)).unwrap();
        assert!(matches!(queue.push(texts(1)), Err(Refused::Full(_))));
        queue.close();
        assert_eq!(queue.push(texts(0)).err(), Some(Refused::Closed));
    }

    #[test]
    fn a_tokeniser_that_fails_or_panics_answers_its_caller_and_frees_the_places() {
        let queue = Queue::new(2);
        let mut failed = queue.push(vec![String::new(); 2]).unwrap();
        assert!(queue.tokenise_next(|_| Err(Error::internal("no tokens"))));
        assert_eq!(failed.try_recv().unwrap().unwrap_err().message, "no tokens");
        let mut lost = queue.push(vec![String::new(); 2]).unwrap();
        let panicking = || queue.tokenise_next(|_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        assert_eq!(lost.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert!(queue.push(vec![String::new(); 2]).is_ok());
    }
}
