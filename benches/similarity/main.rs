//! Semantic lookup without the embedding: the best 8 of a scope, 384 values per vector, in the embedded store, beside a
//! plain scan in f32 of the same vectors in the same run. Recall is counted against that scan.
//!
//! `REPRISE_BENCH_ROWS` names the sizes (default `1000,10000,100000`; a million takes some minutes and 5 GB of disk).
//! `REPRISE_BENCH_EXPORT` names a folder to write the vectors to, for `benches/peers`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up has nothing better to do")]

mod data;
mod plain;
mod store;

#[path = "../../tests/support/models.rs"]
mod test_models;

use std::path::Path;
use std::time::{Duration, Instant};

use data::{DIM, Data};
use plain::Truth;

const K: usize = 8;
/// Cosine from which a neighbour counts for recall.
const NEAR: f32 = 0.85;
/// The largest size is also spread over so many scopes.
const SCOPES: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, folder] = &arguments[..]
        && mode == store::OPEN
    {
        return store::report_open(Path::new(folder));
    }
    let sizes = std::env::var("REPRISE_BENCH_ROWS").unwrap_or_else(|_| "1000,10000,100000".into());
    let sizes: Vec<usize> = sizes.split(',').map(|size| size.trim().parse().unwrap()).collect();
    let data = Data::load();
    println!("{}; {} queries, k = {K}", data.source, data.queries.len() / DIM);
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let spread = (largest >= 100 * SCOPES).then_some((largest, SCOPES));
    for (rows, scopes) in sizes.into_iter().map(|rows| (rows, 1)).chain(spread) {
        measure(&data, rows, scopes);
    }
}

fn measure(data: &Data, count: usize, scopes: usize) {
    println!("\n{count} rows in {scopes} scope{}", if scopes == 1 { "" } else { "s" });
    let rows = data.rows(count);
    if let Some(folder) = std::env::var_os("REPRISE_BENCH_EXPORT").filter(|_| scopes == 1) {
        data::write(&Path::new(&folder).join(format!("rows-{count}.f32")), &rows);
        data::write(&Path::new(&folder).join("queries.f32"), &data.queries);
    }
    let truth = Truth::new(&rows, &data.queries, scopes);
    let times = plain::times(&rows, &data.queries, scopes);
    let scanned = percentile(&times, 50);
    println!("  plain f32 scan: {}", spread_of(times));

    let folder = tempfile::tempdir().unwrap();
    let mut store = store::Filled::new(folder.path(), &rows, scopes);
    println!("  inserts: {:.0}/s in batches of {}", store.inserts_per_second, store::BATCH);
    store.searches(&data.queries);
    let (times, found) = store.searches(&data.queries);
    let ratio = percentile(&times, 50).as_secs_f64() / scanned.as_secs_f64();
    println!("  flat: {}; {ratio:.3} of the plain scan", spread_of(times));
    println!("  recall of neighbours from {NEAR}: {}", truth.recall(&found));
    println!("  memory: {:.1} bytes per row and {} for the latest vectors", store.bytes_per_row(), store::CACHE);
    println!("  flat beside two busy threads: {}", spread_of(store.searches_beside_busy_threads(&data.queries)));
    let (times, inserted) = store.searches_while_inserting(&data.queries);
    println!("  flat while {inserted:.0} rows/s are inserted: {}", spread_of(times));
    store.close();
    println!("  {}", store::open_elsewhere(folder.path()));
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed(), value)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

fn spread_of(times: Vec<Duration>) -> String {
    let [p50, p99, most] = [50, 99, 100].map(|percent| percentile(&times, percent).as_secs_f64() * 1e3);
    format!("p50 {p50:.3} ms, p99 {p99:.3} ms, longest {most:.3} ms")
}
