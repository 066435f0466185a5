//! The worker with a model of our own making, so that what it computes, and when, is in the test's hands.

use futures::future::{join_all, poll_immediate};
use std::sync::mpsc;

use super::super::tokenize::Tokens;
use super::*;

/// A token per byte.
struct Bytes;

impl Tokenise for Bytes {
    fn tokenise(&self, text: &String) -> Result<Tokens> {
        assert_ne!(text, "bad text", "on purpose");
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        Ok(Tokens { second: ids.len(), ids, truncated: false, unknown: 0 })
    }
}

/// Tells of each batch, then waits for leave to answer it. A text's vector is its ids; `!` panics, `?` fails.
struct Gated {
    batches: mpsc::Sender<Vec<String>>,
    leave: mpsc::Receiver<()>,
}

impl Forward for Gated {
    fn forward(&self, batch: &[Input]) -> Result<Vec<Arc<[f32]>>> {
        let text = |input: &Input| input.ids.iter().filter_map(|id| char::from_u32(*id)).collect::<String>();
        let texts: Vec<_> = batch.iter().map(text).collect();
        self.batches.send(texts.clone()).unwrap();
        self.leave.recv().unwrap();
        assert!(!texts.contains(&"!".to_owned()), "on purpose");
        if texts.contains(&"?".to_owned()) {
            return Err(Error::internal("asked to fail"));
        }
        Ok(batch.iter().map(|input| input.ids.iter().map(|id| *id as f32).collect()).collect())
    }
}

struct Rig {
    worker: Arc<Worker<String>>,
    batches: mpsc::Receiver<Vec<String>>,
    leave: mpsc::Sender<()>,
}

impl Rig {
    fn new(capacity: usize, batch_tokens: usize) -> Self {
        let (batches, seen) = mpsc::channel();
        let (leave, gate) = mpsc::channel();
        let worker = Worker::start("test", Bytes, Gated { batches, leave: gate }, capacity, batch_tokens).unwrap();
        Self { worker: Arc::new(worker), batches: seen, leave }
    }

    /// Calls, and returns once the text is in the queue.
    async fn call(&self, texts: &[&str]) -> tokio::task::JoinHandle<Result<Vec<Embedding>>> {
        let (worker, texts) = (self.worker.clone(), texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let tenant = TenantId::new("tenant").unwrap();
        let mut call = Box::pin(async move { worker.call(&tenant, texts).await });
        let first = poll_immediate(&mut call).await;
        tokio::spawn(async move {
            match first {
                Some(result) => result,
                None => call.await,
            }
        })
    }

    /// The batch that is at the model now; waits for it.
    fn batch(&self) -> Vec<String> {
        self.batches.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    /// As [`Rig::batch`] and lets it be answered.
    fn pass(&self) -> Vec<String> {
        let batch = self.batch();
        self.leave.send(()).unwrap();
        batch
    }

    /// Waits until so many texts are tokenised: the tokeniser's thread has its own pace.
    fn until_tokenised(&self, texts: usize) {
        let started = Instant::now();
        while self.worker.queue.tokenised() != texts {
            assert!(started.elapsed() < Duration::from_secs(10), "{} tokenised", self.worker.queue.tokenised());
            thread::yield_now();
        }
    }
}

fn spell(embeddings: &[Embedding]) -> Vec<String> {
    embeddings.iter().map(|e| e.vector.iter().map(|id| char::from(*id as u8)).collect()).collect()
}

#[tokio::test]
async fn a_lone_text_starts_at_once_and_those_behind_it_make_the_next_batch() {
    let rig = Rig::new(10, 100);
    let first = rig.call(&["a"]).await;
    assert_eq!(rig.batch(), ["a"]);
    let others = [rig.call(&["b"]).await, rig.call(&["c", "d"]).await];
    rig.until_tokenised(3);
    rig.leave.send(()).unwrap();
    assert_eq!(rig.pass(), ["b", "c", "d"]);
    assert_eq!(spell(&first.await.unwrap().unwrap()), ["a"]);
    let [b, cd] = others;
    assert_eq!(spell(&b.await.unwrap().unwrap()), ["b"]);
    assert_eq!(spell(&cd.await.unwrap().unwrap()), ["c", "d"]);
}

#[tokio::test]
async fn a_batch_keeps_within_the_token_budget() {
    let rig = Rig::new(40, 6);
    let held = rig.call(&["held"]).await;
    assert_eq!(rig.batch(), ["held"]);
    let call = rig.call(&["aa", "bb", "cc", "dd", "a very long text"]).await;
    rig.until_tokenised(5);
    rig.leave.send(()).unwrap();
    assert_eq!([rig.pass(), rig.pass(), rig.pass()], [vec!["aa", "bb", "cc"], vec!["dd"], vec!["a very long text"]]);
    assert_eq!(spell(&call.await.unwrap().unwrap()), ["aa", "bb", "cc", "dd", "a very long text"]);
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn texts_of_callers_who_hung_up_never_reach_the_model() {
    let rig = Rig::new(3, 100);
    let _held = rig.call(&["held"]).await;
    assert_eq!(rig.batch(), ["held"]);
    let gone = [rig.call(&["x"]).await, rig.call(&["y"]).await, rig.call(&["z"]).await];
    rig.until_tokenised(3);
    let refused = rig.call(&["refused"]).await.await.unwrap().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Overloaded);
    for call in gone {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    let live = rig.call(&["live"]).await;
    rig.leave.send(()).unwrap();
    assert_eq!(rig.pass(), ["live"]);
    live.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_fails_its_batch_and_the_next_one_is_served() {
    let rig = Rig::new(10, 100);
    let lost = rig.call(&["!"]).await;
    rig.pass();
    let error = lost.await.unwrap().unwrap_err();
    assert!(error.message.contains("panicked"), "{error}");
    let lost = rig.call(&["fine", "bad text"]).await; // panics in the tokeniser
    assert!(lost.await.unwrap().unwrap_err().message.contains("panicked"));
    let fine = rig.call(&["fine"]).await;
    assert_eq!(rig.pass(), ["fine"]);
    assert_eq!(spell(&fine.await.unwrap().unwrap()), ["fine"]);
}

#[tokio::test]
async fn an_error_of_the_model_reaches_every_caller_of_the_batch() {
    let rig = Rig::new(10, 100);
    let held = rig.call(&["held"]).await;
    rig.batch();
    let calls = [rig.call(&["?"]).await, rig.call(&["b"]).await];
    rig.until_tokenised(2);
    rig.leave.send(()).unwrap();
    rig.pass();
    for result in join_all(calls).await {
        assert_eq!(result.unwrap().unwrap_err().message, "asked to fail");
    }
    held.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_larger_than_the_queue_goes_in_parts_and_leaves_room_for_others() {
    let rig = Rig::new(8, 2);
    let texts: Vec<String> = (0..20).map(|i| char::from(b'a' + i).to_string()).collect();
    let big = rig.call(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let small = rig.call(&["Z"]).await;
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 21 {
        seen.extend(rig.pass());
    }
    assert_eq!(spell(&big.await.unwrap().unwrap()), texts);
    assert_eq!(spell(&small.await.unwrap().unwrap()), ["Z"]);
    assert!(seen.iter().position(|text| text == "Z").unwrap() < 8, "the small call did not wait for the big one");
}

#[tokio::test]
async fn closing_finishes_what_waits_and_refuses_the_rest() {
    let rig = Rig::new(10, 1);
    let calls = [rig.call(&["a"]).await, rig.call(&["b"]).await];
    rig.leave.send(()).unwrap();
    rig.leave.send(()).unwrap();
    rig.worker.close().await.unwrap();
    for result in join_all(calls).await {
        assert_eq!(result.unwrap().unwrap().len(), 1);
    }
    assert_eq!(rig.call(&["late"]).await.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
    rig.worker.close().await.unwrap(); // a second time is no harm
}
