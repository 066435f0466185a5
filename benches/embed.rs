//! Embedding through the queue and the model's threads, as a request does: one short prompt, one long one, and a
//! batch of 32 questions. Needs the files of all-MiniLM-L6-v2; measures nothing without them.

#[path = "../tests/support/models.rs"]
mod test_models;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reprise::config;
use reprise::embed::{CandleEmbedder, Embedder};
use std::hint::black_box;
use std::time::Duration;

const NAME: &str = "all-MiniLM-L6-v2";
/// 9 tokens with [CLS] and [SEP].
const SHORT: &str = "How do I reset my password?";
/// About 130 tokens.
const LONG: &str = "I run a small web shop with about two thousand orders a month, and since the last update of the \
    payment module some customers report that their card is charged twice although only one order arrives in the \
    back office. The log of the module shows two requests with different ids within one second, and the bank says \
    that both were valid. I have already switched off the automatic retry in the settings, cleared all caches and \
    asked two customers to try again, without success. How can I find out where the second request comes from, and \
    what should I do in the meantime so that nobody is charged twice?";
const SUBJECTS: [&str; 8] = [
    "my password",
    "an invoice",
    "the delivery address",
    "two-factor login",
    "a refund",
    "my plan",
    "an API key",
    "it",
];

fn embed(criterion: &mut Criterion) {
    let Some(dir) = test_models::find_or_pull(NAME) else { return };
    let embedder = CandleEmbedder::load(&dir, NAME, &config::Embedding::default()).expect("the model loads");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let questions: Vec<String> = (0..32)
        .map(|i| match i % 4 {
            0 => format!("How do I change {}?", SUBJECTS[i % 8]),
            1 => format!("Where can I find {} in the settings of the mobile app?", SUBJECTS[i % 8]),
            2 => format!("Is {} safe?", SUBJECTS[i % 8]),
            _ => {
                format!("What happens to {} when I cancel my subscription before the end of the year?", SUBJECTS[i % 8])
            }
        })
        .collect();
    let mut group = criterion.benchmark_group("embed");
    group.sample_size(20).measurement_time(Duration::from_secs(6));
    for (name, texts) in
        [("short", vec![SHORT.to_owned()]), ("long", vec![LONG.to_owned()]), ("questions_32", questions)]
    {
        let run = || async { embedder.embed(black_box(texts.clone())).await.expect("embeds") };
        let tokens: u32 = runtime.block_on(run()).iter().map(|embedding| embedding.tokens).sum();
        eprintln!("{name}: {} texts, {tokens} tokens", texts.len());
        group.throughput(Throughput::Elements(u64::from(tokens)));
        group.bench_function(name, |bencher| bencher.to_async(&runtime).iter(run));
    }
    group.finish();
}

criterion_group!(benches, embed);
criterion_main!(benches);
