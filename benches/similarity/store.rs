//! The embedded store under measurement.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise::store::sqlite::Sqlite;
use reprise::store::vector::flat::Flat;
use reprise::store::vector::{Match, Point, VectorStore};
use reprise::types::{EntryKey, Namespace, Owner, ScopeId, TenantId, UnixMillis};
use tokio::runtime::Runtime;

use crate::data::DIM;
use crate::{K, timed};

pub const BATCH: usize = 1000;
pub const CACHE: &str = "8 MiB";
/// First argument of a process that only opens a store.
pub const OPEN: &str = "open";
const MODEL: &str = "bench";
/// Longest that searches are measured beside inserts.
const BESIDE: Duration = Duration::from_secs(20);

/// A store with rows; row `n` is in scope `n % scopes`, and query `n` searches that scope.
pub struct Filled {
    runtime: Runtime,
    sqlite: Arc<Sqlite>,
    flat: Arc<Flat>,
    rows: usize,
    scopes: usize,
    numbers: HashMap<EntryKey, usize>,
    pub inserts_per_second: f64,
}

impl Filled {
    pub fn new(folder: &Path, rows: &[f32], scopes: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let (sqlite, flat) = runtime.block_on(open(folder));
        let count = rows.len() / DIM;
        let mut elapsed = Duration::ZERO;
        for (n, vectors) in rows.chunks(BATCH * DIM).enumerate() {
            let points = vectors.chunks_exact(DIM).enumerate().map(|(i, v)| point(n * BATCH + i, v, scopes)).collect();
            elapsed += timed(|| runtime.block_on(flat.upsert(points)).unwrap()).0;
        }
        let numbers = (0..count).map(|n| (key(n), n)).collect();
        let inserts_per_second = count as f64 / elapsed.as_secs_f64();
        Self { runtime, sqlite, flat: Arc::new(flat), rows: count, scopes, numbers, inserts_per_second }
    }

    pub fn bytes_per_row(&self) -> f64 {
        self.flat.memory() as f64 / self.rows as f64
    }

    /// Each query once, one after the other, from a thread of the runtime as a request's would be: times, and the rows found.
    pub fn searches(&self, queries: &[f32]) -> (Vec<Duration>, Vec<Vec<usize>>) {
        let (flat, scopes, queries) = (Arc::clone(&self.flat), self.scopes, queries.to_vec());
        let work = async move {
            let (mut times, mut found) = (Vec::new(), Vec::new());
            for (n, query) in queries.chunks_exact(DIM).enumerate() {
                let scope = scope(n % scopes);
                let started = Instant::now();
                let matches = flat.search(&scope, query, K).await.unwrap();
                times.push(started.elapsed());
                found.push(matches);
            }
            (times, found)
        };
        let (times, found) = self.runtime.block_on(self.runtime.spawn(work)).unwrap();
        let numbers = |matches: Vec<Match>| matches.iter().map(|m| self.numbers[&m.key]).collect();
        (times, found.into_iter().map(numbers).collect())
    }

    /// The same while two threads compute: what sharing the cores costs by itself.
    pub fn searches_beside_busy_threads(&self, queries: &[f32]) -> Vec<Duration> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::black_box((0..10_000u64).sum::<u64>());
                    }
                });
            }
            let times = self.searches(queries).0;
            stop.store(true, Ordering::Relaxed);
            times
        })
    }

    /// The same while another task inserts as fast as the store takes it, into the same scopes; and rows inserted per second.
    pub fn searches_while_inserting(&mut self, queries: &[f32]) -> (Vec<Duration>, f64) {
        let stop = Arc::new(AtomicBool::new(false));
        let (flat, scopes, first) = (Arc::clone(&self.flat), self.scopes, self.rows);
        let (vectors, stopped) = (queries.to_vec(), Arc::clone(&stop));
        let inserts = self.runtime.spawn(async move {
            let (started, mut inserted) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) && started.elapsed() < BESIDE {
                let batch = vectors.chunks_exact(DIM).cycle().skip(inserted % 100).take(100).enumerate();
                let points = batch.map(|(i, v)| point(first + inserted + i, v, scopes)).collect();
                flat.upsert(points).await.unwrap();
                inserted += 100;
            }
            (inserted, started.elapsed())
        });
        let (flat, queries) = (Arc::clone(&self.flat), queries.to_vec());
        let searches = self.runtime.spawn(async move {
            let (started, mut times) = (Instant::now(), Vec::new());
            for (n, query) in queries.chunks_exact(DIM).enumerate().cycle() {
                let scope = scope(n % scopes);
                let before = Instant::now();
                std::hint::black_box(flat.search(&scope, query, K).await.unwrap());
                times.push(before.elapsed());
                if times.len() >= 1000 && started.elapsed() > Duration::from_secs(3) || started.elapsed() > BESIDE {
                    break;
                }
            }
            times
        });
        let times = self.runtime.block_on(searches).unwrap();
        stop.store(true, Ordering::Relaxed);
        let (inserted, elapsed) = self.runtime.block_on(inserts).unwrap();
        self.rows += inserted;
        (times, inserted as f64 / elapsed.as_secs_f64())
    }

    pub fn close(self) {
        self.runtime.block_on(async {
            self.flat.close().await.unwrap();
            self.sqlite.close().await;
        });
    }
}

/// Opens the folder in a process of its own, so that its memory is the store's.
pub fn open_elsewhere(folder: &Path) -> String {
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this).arg(OPEN).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn report_open(folder: &Path) {
    let runtime = Runtime::new().unwrap();
    let sqlite = runtime.block_on(Sqlite::open(folder)).unwrap();
    let before = resident();
    let (elapsed, flat) = timed(|| runtime.block_on(Flat::open(Arc::clone(&sqlite), MODEL, DIM)).unwrap());
    let after = resident();
    let rows = runtime.block_on(flat.count(None)).unwrap();
    let growth = match (before, after) {
        (Some(before), Some(after)) => format!("; {:.1} resident bytes per row", (after - before) / rows as f64),
        _ => String::new(),
    };
    println!("open: {rows} rows in {:.2} s{growth}", elapsed.as_secs_f64());
    runtime.block_on(async {
        flat.close().await.unwrap();
        sqlite.close().await;
    });
}

/// Resident anonymous memory in bytes, where the system tells it.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

async fn open(folder: &Path) -> (Arc<Sqlite>, Flat) {
    let sqlite = Sqlite::open(folder).await.unwrap();
    let flat = Flat::open(Arc::clone(&sqlite), MODEL, DIM).await.unwrap();
    (sqlite, flat)
}

fn scope(n: usize) -> ScopeId {
    ScopeId::from_bytes(*blake3::hash(&[b"scope", &n.to_le_bytes()[..]].concat()).as_bytes())
}

fn key(n: usize) -> EntryKey {
    EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn point(n: usize, vector: &[f32], scopes: usize) -> Point {
    Point {
        key: key(n),
        scope: scope(n % scopes),
        owner: Owner { tenant: TenantId::new("bench").unwrap(), namespace: Namespace::new("bench").unwrap() },
        vector: vector.into(),
        expires: UnixMillis::now().after(Duration::from_secs(24 * 3600)),
        tags: Vec::new(),
        depends_on: Vec::new(),
    }
}
