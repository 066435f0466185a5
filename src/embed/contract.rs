//! What every embedder keeps. Each one's tests run [`run`].

use futures::future::{join_all, poll_immediate};
use std::sync::Arc;

use super::Embedder;
use crate::types::{Embedding, ErrorKind, TenantId};

const QUESTIONS: [&str; 6] = [
    "How do I reset my password?",
    "What is the capital of France?",
    "",
    "¿Cómo se dice «caché semántica» en inglés?",
    "今天的天气怎么样?",
    "Explain, step by step and with an example in Rust, how a bounded queue sheds load when it is full.",
];

/// `make`: an embedder with room for that many waiting texts, on which one call takes long enough for others to pile
/// up behind it.
pub(super) async fn run(make: impl Fn(usize) -> Arc<dyn Embedder>) {
    let embedder = make(1024);
    vectors_are_of_unit_length_and_of_the_models_size(&*embedder).await;
    order_is_kept_and_a_vector_does_not_depend_on_its_batch(&*embedder).await;
    long_texts_are_cut_off_and_say_so(&*embedder).await;
    no_texts_give_no_vectors(&*embedder).await;
    many_callers_at_once_get_their_own_answers(&embedder).await;
    more_texts_than_places_go_through_in_parts(&*make(4)).await;
    a_full_queue_sheds_and_recovers(&*make(4)).await;
    callers_who_hang_up_free_their_places(&*make(4)).await;
}

async fn vectors_are_of_unit_length_and_of_the_models_size(embedder: &dyn Embedder) {
    for embedding in embed(embedder, &QUESTIONS).await {
        let length = embedding.vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        assert_eq!(embedding.vector.len(), embedder.model().dim);
        assert!(embedding.tokens >= 1 && embedding.tokens as usize <= embedder.model().max_tokens);
        assert!(!embedding.truncated);
    }
}

async fn order_is_kept_and_a_vector_does_not_depend_on_its_batch(embedder: &dyn Embedder) {
    let together = embed(embedder, &QUESTIONS).await;
    assert_eq!(together.len(), QUESTIONS.len());
    for (text, expected) in QUESTIONS.iter().zip(&together) {
        let alone = embed(embedder, &[text]).await;
        assert_same(&alone[0], expected, text);
    }
    let twice = embed(embedder, &[QUESTIONS[0], QUESTIONS[0]]).await;
    assert_same(&twice[0], &twice[1], QUESTIONS[0]);
    assert!(cosine(&together[0], &together[1]) < 0.9, "different questions have different vectors");
}

async fn long_texts_are_cut_off_and_say_so(embedder: &dyn Embedder) {
    let long = "a few words more ".repeat(embedder.model().max_tokens);
    let embeddings = embed(embedder, &[&long, &format!("{long} and an end that nobody reads")]).await;
    assert!(embeddings[0].truncated && embeddings[1].truncated);
    assert_eq!(embeddings[0].tokens as usize, embedder.model().max_tokens);
    assert_same(&embeddings[0], &embeddings[1], "cut at the same place");
}

async fn no_texts_give_no_vectors(embedder: &dyn Embedder) {
    assert!(embed(embedder, &[]).await.is_empty());
}

async fn many_callers_at_once_get_their_own_answers(embedder: &Arc<dyn Embedder>) {
    let texts: Vec<String> = (0..40).map(|i| format!("question number {i} of forty, {}", "x ".repeat(i % 7))).collect();
    let calls = texts.iter().map(|text| {
        let (embedder, text) = (embedder.clone(), text.clone());
        tokio::spawn(async move { embedder.embed(&tenant(), vec![text]).await.unwrap().remove(0) })
    });
    let answers = join_all(calls).await;
    let alone = embedder.embed(&tenant(), texts.clone()).await.unwrap();
    for ((text, answer), expected) in texts.iter().zip(answers).zip(&alone) {
        assert_same(&answer.unwrap(), expected, text);
    }
}

async fn more_texts_than_places_go_through_in_parts(embedder: &dyn Embedder) {
    let texts: Vec<String> = (0..11).map(|i| format!("text {i}")).collect();
    let embeddings = embedder.embed(&tenant(), texts.clone()).await.unwrap();
    assert_eq!(embeddings.len(), 11);
    let last = embed(embedder, &["text 10"]).await;
    assert_same(&embeddings[10], &last[0], "the order is kept over all parts");
}

async fn a_full_queue_sheds_and_recovers(embedder: &dyn Embedder) {
    let tenant = tenant();
    let results = join_all((0..100).map(|i| embedder.embed(&tenant, vec![format!("{i}")]))).await;
    let (served, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert!(served.len() >= 4 && !refused.is_empty(), "{} served, {} refused", served.len(), refused.len());
    for error in refused.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind, ErrorKind::Overloaded);
        assert!(error.retry_after.is_some());
    }
    assert_eq!(embed(embedder, &["after the storm"]).await.len(), 1);
}

async fn callers_who_hang_up_free_their_places(embedder: &dyn Embedder) {
    let tenant = tenant();
    for _ in 0..20 {
        let mut call = embedder.embed(&tenant, vec![QUESTIONS[5].to_owned(); 1]);
        // Polled once, the texts are in the queue (or, on an idle machine, already done).
        let _ = poll_immediate(&mut call).await;
    }
    // Twenty came, at most four had room: had they kept it, this would be refused.
    let calls = (0..3).map(|_| embedder.embed(&tenant, vec!["a live caller".to_owned()]));
    for result in join_all(calls).await {
        assert_eq!(result.unwrap().len(), 1);
    }
}

async fn embed(embedder: &dyn Embedder, texts: &[&str]) -> Vec<Embedding> {
    embedder.embed(&tenant(), texts.iter().map(|text| (*text).to_owned()).collect()).await.unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("tenant").unwrap()
}

fn assert_same(a: &Embedding, b: &Embedding, what: &str) {
    let furthest = a.vector.iter().zip(b.vector.iter()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(furthest < 1e-5, "{what}: the vectors differ by {furthest}");
    assert_eq!((a.tokens, a.truncated), (b.tokens, b.truncated), "{what}");
}

pub(super) fn cosine(a: &Embedding, b: &Embedding) -> f32 {
    a.vector.iter().zip(b.vector.iter()).map(|(x, y)| x * y).sum()
}

#[tokio::test]
async fn the_hashing_embedder_keeps_the_contract() {
    run(|places| {
        let delay = std::time::Duration::from_millis(5);
        Arc::new(super::hashing::HashEmbedder::with(places, delay))
    })
    .await;
}
