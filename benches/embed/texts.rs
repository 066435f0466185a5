//! What is embedded.

use serde::Deserialize;
use std::io::BufRead;

/// 9 tokens with [CLS] and [SEP].
pub const SHORT: &str = "How do I reset my password?";
/// About 130 tokens.
pub const LONG: &str = "I run a small web shop with about two thousand orders a month, and since the last update of the \
    payment module some customers report that their card is charged twice although only one order arrives in the \
    back office. The log of the module shows two requests with different ids within one second, and the bank says \
    that both were valid. I have already switched off the automatic retry in the settings, cleared all caches and \
    asked two customers to try again, without success. How can I find out where the second request comes from, and \
    what should I do in the meantime so that nobody is charged twice?";
/// For machines without real questions.
pub const GENERATED: [&str; 8] = [
    "How do I change my password?",
    "Where can I find an invoice in the settings of the mobile app?",
    "Is the delivery address safe?",
    "What happens to two-factor login when I cancel my subscription before the end of the year?",
    "How do I change a refund?",
    "Where can I find my plan in the settings of the mobile app?",
    "Is an API key safe?",
    "What happens to it when I cancel my subscription before the end of the year?",
];

/// Two texts, and whether they mean the same.
#[derive(Deserialize)]
pub struct Pair {
    pub a: String,
    pub b: String,
    pub label: u8,
}

/// The first `count` labelled question pairs beside this checkout; none where they are not.
pub fn pairs(count: usize) -> Vec<Pair> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/qqp_gptcache.jsonl");
    let Ok(file) = std::fs::File::open(path) else { return Vec::new() };
    let lines = std::io::BufReader::new(file).lines().take(count);
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

/// `count` questions in the order in which they came; made up ones where there are no real ones.
pub fn questions(count: usize) -> Vec<String> {
    let real: Vec<_> = pairs(count).into_iter().map(|pair| pair.a).collect();
    if real.len() == count {
        return real;
    }
    println!("SKIPPED: no real questions here, made up ones instead");
    (0..count).map(|i| format!("{} ({i})", GENERATED[i % GENERATED.len()])).collect()
}
