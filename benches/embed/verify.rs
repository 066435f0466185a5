//! What a verification costs beside an embedding, both through their queues, alone and while others embed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise::config;
use reprise::embed::{Embedder, LocalEmbedder, LocalVerifier, Verifier, VerifierFiles};
use reprise::types::TenantId;

use super::NAME;
use super::texts::{self, SHORT};

const OTHER: &str = "I forgot my password, how can I change it?";
const ROUNDS: usize = 400;
/// Candidates that are verified at once.
const CANDIDATES: usize = 4;
/// Callers who embed one text after the other meanwhile, in the loaded measure.
const CALLERS: usize = 4;

pub fn run(model_dir: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = config::Embedding::default();
    let embedder = Arc::new(LocalEmbedder::load(model_dir, NAME, &settings).unwrap());
    let verifier = LocalVerifier::load(VerifierFiles::OWN, LocalVerifier::OWN, &settings, embedder.cores()).unwrap();
    let tenant = TenantId::new("bench").unwrap();
    let embed = || {
        let started = Instant::now();
        runtime.block_on(embedder.embed(&tenant, vec![SHORT.to_owned()])).unwrap();
        started.elapsed()
    };
    let verify = |pairs: usize| {
        let pairs = vec![(SHORT.to_owned(), OTHER.to_owned()); pairs];
        let started = Instant::now();
        runtime.block_on(verifier.verify(&tenant, pairs)).unwrap();
        started.elapsed()
    };
    let measure = |title: &str| {
        let (mut embedded, mut one, mut some) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            embedded.push(embed());
            one.push(verify(1));
            some.push(verify(CANDIDATES));
        }
        let base = percentile(&mut embedded, 50);
        println!("\n{title}, ms: p50, p99, ratio of p50 to one embedding's");
        for (name, times) in
            [("one embedding", &mut embedded), ("one verification", &mut one), ("four verifications", &mut some)]
        {
            let (half, most) = (percentile(times, 50), percentile(times, 99));
            println!("  {name:20} {half:8.3} {most:8.3} {:6.2}x", half / base);
        }
    };
    measure("verifying, alone");
    let stop = Arc::new(AtomicBool::new(false));
    let questions = Arc::new(texts::questions(2_000));
    for caller in 0..CALLERS {
        let (embedder, stop, questions) = (embedder.clone(), stop.clone(), questions.clone());
        runtime.spawn(async move {
            let tenant = TenantId::new("others").unwrap();
            for text in questions.iter().skip(caller).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                embedder.embed(&tenant, vec![text.clone()]).await.unwrap();
            }
        });
    }
    measure("verifying while 4 callers embed");
    stop.store(true, Ordering::Relaxed);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}
