use std::time::Instant;

use super::super::contract::{self, entry, get, key, owner, put, tag, tagged};
use super::super::guarded::GuardedEntries;
use super::super::l1::L1Entries;
use super::*;
use crate::test_tls::{Authority, Issued};

use crate::store::redis_server as server;
use server::{RedisServer, free_port};

fn settings(url: String) -> Stores {
    Stores { redis_url: url, redis_prefix: "test".into(), timeout: Duration::from_millis(500), ..Stores::default() }
}

async fn connect(server: &RedisServer) -> Arc<RedisEntries> {
    let store = RedisEntries::connect(&settings(server.url())).await.unwrap();
    store.ping().await.unwrap();
    store
}

/// A store and the same with an L1 that is open.
async fn with_l1(server: &RedisServer) -> (Arc<RedisEntries>, Arc<L1Entries>) {
    let store = connect(server).await;
    let l1 = L1Entries::with(store.clone(), store.hot());
    is_kept(&l1, &store.hot(), 999_999).await;
    (store, l1)
}

/// Waits until an entry stays in process.
async fn is_kept(l1: &L1Entries, hot: &Hot, n: u64) {
    put(l1, &entry(n, "kept")).await;
    eventually("an entry is kept in process", || async {
        assert!(get(l1, n).await.is_some());
        hot.get(&key(n)).is_some()
    })
    .await;
}

async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    outcome.err().expect("an error").kind
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_it_meets_the_contract() {
    let server = RedisServer::start();
    contract::run(connect(&server).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarded_and_behind_its_l1_it_meets_the_contract() {
    let server = RedisServer::start();
    let store = connect(&server).await;
    let guarded = GuardedEntries::new(store.clone(), "entry store", Duration::from_secs(1));
    let l1 = L1Entries::with(guarded, store.hot());
    is_kept(&l1, &store.hot(), 999_999).await;
    contract::run(l1).await;
}

#[tokio::test]
async fn what_another_client_changes_is_no_longer_served_from_memory() {
    let server = RedisServer::start();
    let (a, in_a) = with_l1(&server).await;
    let b = connect(&server).await;
    for n in 0..3 {
        put(&*in_a, &tagged(n, &["a"])).await;
        eventually("kept", || async { get(&*in_a, n).await.is_some() && a.hot().get(&key(n)).is_some() }).await;
    }
    put(&*b, &entry(0, "overwritten")).await;
    assert!(b.delete(&owner("t", "n"), &key(1)).await.unwrap());
    assert_eq!(b.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap(), [key(2)]);
    let started = Instant::now();
    eventually("gone", || async {
        let text = get(&*in_a, 0).await.unwrap().answer.choices[0].message.content.clone();
        text.as_deref() == Some("overwritten") && get(&*in_a, 1).await.is_none() && get(&*in_a, 2).await.is_none()
    })
    .await;
    assert!(started.elapsed() < Duration::from_millis(500), "it took {:?}", started.elapsed());

    put(&*in_a, &entry(3, "x")).await;
    eventually("kept", || async { get(&*in_a, 3).await.is_some() && a.hot().get(&key(3)).is_some() }).await;
    server.command("FLUSHALL");
    eventually("flushed", || async { get(&*in_a, 3).await.is_none() }).await;
}

#[tokio::test]
async fn when_the_server_dies_nothing_is_served_from_memory_and_when_it_is_back_all_works() {
    let port = free_port();
    let server = RedisServer::start_with(port, &[]);
    let (store, l1) = with_l1(&server).await;
    drop(server);
    eventually("L1 is closed", || async { store.hot().get(&key(999_999)).is_none() }).await;
    let started = Instant::now();
    assert_eq!(kind(l1.get(&key(999_999)).await), ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());

    let _server = RedisServer::start_with(port, &[]);
    eventually("it answers again", || async { l1.ping().await.is_ok() }).await;
    // It came back empty: what was in memory must not outlive it.
    assert_eq!(get(&*l1, 999_999).await, None);
    is_kept(&l1, &store.hot(), 1).await;
}

#[tokio::test]
async fn when_only_the_tracking_connection_is_lost_memory_is_dropped() {
    let server = RedisServer::start();
    let (store, l1) = with_l1(&server).await;
    let before = store.hot();
    server.command("CLIENT KILL TYPE normal");
    eventually("L1 is closed", || async { before.get(&key(999_999)).is_none() }).await;
    eventually("it answers again", || async { l1.ping().await.is_ok() }).await;
    is_kept(&l1, &store.hot(), 1).await;
}

#[tokio::test]
async fn a_hanging_server_costs_a_call_no_more_than_the_timeout() {
    let server = RedisServer::start();
    let (store, l1) = with_l1(&server).await;
    server.freeze();
    for _ in 0..2 {
        let started = Instant::now();
        assert_eq!(kind(store.get(&key(1)).await), ErrorKind::DeadlineExceeded);
        assert_eq!(kind(store.put(Arc::new(entry(1, "x"))).await), ErrorKind::DeadlineExceeded);
        assert!(started.elapsed() < Duration::from_millis(1_400), "{:?}", started.elapsed());
    }
    eventually("L1 is closed", || async { store.hot().get(&key(999_999)).is_none() }).await;
    server.thaw();
    eventually("it answers again", || async { store.ping().await.is_ok() }).await;
    is_kept(&l1, &store.hot(), 2).await;
}

#[tokio::test]
async fn guarded_a_hanging_server_is_left_alone_until_it_answers_again() {
    let server = RedisServer::start();
    let limit = Duration::from_millis(50);
    let store = GuardedEntries::new(connect(&server).await, "entry store", limit);
    put(&*store, &entry(1, "x")).await;
    server.freeze();
    for _ in 0..5 {
        assert_eq!(kind(store.get(&key(1)).await), ErrorKind::DeadlineExceeded);
    }
    assert!(!store.is_up());
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(kind(store.get(&key(1)).await), ErrorKind::Unavailable);
    }
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
    server.thaw();
    eventually("it is up again", || async { store.is_up() }).await;
    assert!(get(&*store, 1).await.is_some());
}

#[tokio::test]
async fn starting_while_redis_is_down_is_no_error_and_it_is_found_when_it_comes() {
    let port = free_port();
    let store = RedisEntries::connect(&settings(format!("redis://127.0.0.1:{port}"))).await.unwrap();
    let started = Instant::now();
    for _ in 0..5 {
        assert_eq!(kind(store.get(&key(1)).await), ErrorKind::Unavailable);
    }
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let _server = RedisServer::start_with(port, &[]);
    eventually("it answers", || async { store.ping().await.is_ok() }).await;
    put(&*store, &entry(1, "x")).await;
    assert!(get(&*store, 1).await.is_some());
}

#[tokio::test]
async fn a_malformed_address_is_refused_without_repeating_its_password() {
    let error = RedisEntries::connect(&settings("http://user:secret@host".into())).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("stores.redis_url") && !error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn everything_stored_expires_and_tag_sets_outlive_their_members() {
    let server = RedisServer::start();
    let store = connect(&server).await;
    let hour = tagged(1, &["a"]);
    put(&*store, &hour).await;
    let minute = Entry { expires: UnixMillis::now().after(SLACK), key: same_bucket(1), ..tagged(2, &["a"]) };
    put(&*store, &minute).await;
    let set = store.tag_set(key(1).as_bytes()[0] % BUCKETS, &tag_id(&owner("t", "n"), &tag("a")));
    let left = |key: &str| -> i64 {
        let reply = server.command(&format!("PTTL {key}"));
        reply.lines().next().unwrap().trim_start_matches(':').parse().unwrap()
    };
    assert!(server.command(&format!("ZCARD {set}")).starts_with(":2"));
    assert!(left(&set) > 3_600_000, "{}", left(&set));
    assert!((3_500_000..=3_600_000).contains(&left(&store.entry_key(&key(1)))));
    // A member whose time is past leaves with the next put.
    server.command(&format!("ZADD {set} 1 expired"));
    put(&*store, &hour).await;
    assert!(server.command(&format!("ZCARD {set}")).starts_with(":2"));
    assert_eq!(store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap().len(), 2);
    assert!(server.command("DBSIZE").starts_with(":0"), "{}", server.command("DBSIZE"));
}

fn tag_set_of(store: &RedisEntries, n: u64, name: &str) -> String {
    store.tag_set(key(n).as_bytes()[0] % BUCKETS, &tag_id(&owner("t", "n"), &tag(name)))
}

#[tokio::test]
async fn an_entry_that_deletion_by_tag_would_miss_is_not_served() {
    let server = RedisServer::start();
    let store = connect(&server).await;
    for tagged in [tagged(1, &["a"]), tagged(2, &["a", "b"]), tagged(3, &["b"]), entry(4, "x")] {
        put(&*store, &tagged).await;
    }
    // As an eviction does.
    for n in [1, 2] {
        assert!(server.command(&format!("DEL {}", tag_set_of(&store, n, "a"))).starts_with(":1"));
    }
    for (n, served) in [(1, false), (2, false), (3, true), (4, true)] {
        assert_eq!(get(&*store, n).await.is_some(), served, "entry {n}");
    }
    // Another member brings the set back, and the entry itself does not count as one again until it is put.
    put(&*store, &Entry { key: same_bucket(1), ..tagged(5, &["a"]) }).await;
    assert_eq!(get(&*store, 1).await, None);
    put(&*store, &tagged(1, &["a"])).await;
    assert!(get(&*store, 1).await.is_some());
    assert_eq!(store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap().len(), 2);
    assert_eq!(get(&*store, 1).await, None);
}

#[tokio::test]
async fn deletion_by_tag_misses_nothing_on_a_redis_that_evicts() {
    let memory = ["--maxmemory", "6mb", "--maxmemory-policy", "allkeys-random"];
    let server = RedisServer::start_with(free_port(), &memory);
    let store = connect(&server).await;
    let text = "x".repeat(2_000);
    for n in 0..3_000 {
        put(&*store, &Entry { tags: vec![tag("a")], ..entry(n, &text) }).await;
    }
    let served = async || futures::future::join_all((0..3_000).map(|n| get(&*store, n))).await.iter().flatten().count();
    assert!(store.stats().await.unwrap().evicted > 0);
    assert!(served().await > 0);
    store.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap();
    assert_eq!(served().await, 0);
}

#[tokio::test]
async fn a_deletion_by_tag_reaches_what_others_keep_in_memory_although_its_tag_set_was_evicted() {
    let server = RedisServer::start();
    let (a, in_a) = with_l1(&server).await;
    let b = connect(&server).await;
    for tagged in [tagged(1, &["a"]), tagged(2, &["b"]), Entry { owner: owner("t", "other"), ..tagged(3, &["a"]) }] {
        put(&*in_a, &tagged).await;
    }
    let kept = async |n| {
        get(&*in_a, n).await;
        a.hot().get(&key(n)).is_some()
    };
    eventually("kept", || async { kept(1).await && kept(2).await && kept(3).await }).await;
    server.command(&format!("DEL {}", tag_set_of(&a, 1, "a")));
    assert!(kept(1).await, "nobody has deleted it");
    assert_eq!(b.delete_by_tag(&owner("t", "n"), &tag("a")).await.unwrap(), []);
    eventually("gone", || async { a.hot().get(&key(1)).is_none() }).await;
    assert_eq!(get(&*in_a, 1).await, None);
    assert!(a.hot().get(&key(2)).is_some() && a.hot().get(&key(3)).is_some(), "the others stay");
}

/// Another key in the bucket of `key(n)`.
fn same_bucket(n: u64) -> EntryKey {
    let bucket = |key: &EntryKey| key.as_bytes()[0] % BUCKETS;
    (1000..).map(key).find(|other| bucket(other) == bucket(&key(n))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_meets_the_contract_with_a_coherent_l1() {
    let servers: Vec<_> = (0..3).map(|_| RedisServer::start_with(free_port(), &["--cluster-enabled", "yes"])).collect();
    server::make_cluster(&servers);
    let urls = vec![servers[0].url(), servers[1].url()];
    let settings = Stores { redis_cluster_urls: urls, ..settings("redis://unused".into()) };
    let a = RedisEntries::connect(&settings).await.unwrap();
    eventually("the cluster answers", || async { a.ping().await.is_ok() }).await;
    let in_a = L1Entries::with(a.clone(), a.hot());
    is_kept(&in_a, &a.hot(), 999_999).await;
    contract::run(in_a.clone()).await;

    let b = RedisEntries::connect(&settings).await.unwrap();
    eventually("the cluster answers", || async { b.ping().await.is_ok() }).await;
    for n in 0..12 {
        is_kept(&in_a, &a.hot(), n).await;
        put(&*b, &entry(n, "overwritten")).await;
    }
    eventually("gone", || async {
        let found = futures::future::join_all((0..12).map(|n| get(&*in_a, n))).await;
        found.into_iter().flatten().all(|e| e.answer.choices[0].message.content.as_deref() == Some("overwritten"))
    })
    .await;
    let held = servers.iter().filter(|server| !server.command("DBSIZE").starts_with(":0")).count();
    assert_eq!(held, 3, "all nodes hold entries");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_still_read() {
    for command in ["CONFIG SET maxmemory 1", "REPLICAOF 127.0.0.1 1"] {
        let server = RedisServer::start();
        let store = GuardedEntries::new(connect(&server).await, "entry store", Duration::from_secs(1));
        put(&*store, &entry(1, "kept")).await;
        server.command(command);
        for _ in 0..10 {
            let error = store.put(Arc::new(tagged(2, &["a"]))).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::FailedPrecondition, "after {command}: {error}");
        }
        assert!(store.is_up());
        assert!(get(&*store, 1).await.is_some());
    }
}

#[tokio::test]
async fn a_login_that_was_refused_is_tried_again() {
    let server = RedisServer::start();
    let url = server.url().replace("//", "//app:secret@");
    let store = RedisEntries::connect(&settings(url)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(kind(store.ping().await), ErrorKind::Unavailable);
    }
    assert!(server.command("ACL SETUSER app on >secret ~* &* +@all").contains("OK"));
    eventually("it is let in", || async { store.ping().await.is_ok() }).await;
    put(&*store, &entry(1, "x")).await;
    assert!(get(&*store, 1).await.is_some());
}

/// A server that speaks TLS as well, and the settings to reach it so. `clients`: whether they must show a certificate.
fn with_tls(authority: &Authority, own: &Issued, clients: &str) -> (RedisServer, Stores) {
    let (port, tls_port) = (free_port(), free_port().to_string());
    let [ca, cert, key] = [&authority.ca(), &own.cert, &own.key].map(|path| path.display().to_string());
    let files = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let arguments = [["--tls-port", &tls_port, "--tls-auth-clients", clients].as_slice(), &files].concat();
    let server = RedisServer::start_with(port, &arguments);
    let settings = settings(format!("rediss://127.0.0.1:{tls_port}"));
    (server, Stores { redis_ca_file: Some(authority.ca()), ..settings })
}

#[tokio::test]
async fn over_tls_with_a_ca_of_ones_own_it_serves_and_stays_coherent() {
    let authority = Authority::new();
    let (server, settings) = with_tls(&authority, &authority.issue("127.0.0.1"), "no");
    let store = RedisEntries::connect(&settings).await.unwrap();
    eventually("it answers", || async { store.ping().await.is_ok() }).await;
    let l1 = L1Entries::with(store.clone(), store.hot());
    is_kept(&l1, &store.hot(), 1).await;
    server.command(&format!("DEL {}", store.entry_key(&key(1))));
    eventually("gone", || async { get(&*l1, 1).await.is_none() }).await;
}

#[tokio::test]
async fn over_tls_it_shows_its_own_certificate_where_redis_asks_for_one() {
    let authority = Authority::new();
    let (_server, without) = with_tls(&authority, &authority.issue("127.0.0.1"), "yes");
    let own = authority.issue("reprise.internal");
    let with = Stores { redis_cert_file: Some(own.cert), redis_key_file: Some(own.key), ..without.clone() };
    let store = RedisEntries::connect(&with).await.unwrap();
    eventually("it answers", || async { store.ping().await.is_ok() }).await;
    put(&*store, &entry(1, "x")).await;
    assert!(get(&*store, 1).await.is_some());
    assert_eq!(kind(RedisEntries::connect(&without).await.unwrap().ping().await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_trusted_is_not_talked_to_and_the_error_says_what_to_do() {
    let authority = Authority::new();
    let advice = "name the PEM file of its CA in stores.redis_ca_file";
    let (_server, settings) = with_tls(&authority, &authority.issue("127.0.0.1"), "no");
    for ca in [None, Some(Authority::new())] {
        let settings = Stores { redis_ca_file: ca.as_ref().map(Authority::ca), ..settings.clone() };
        let error = RedisEntries::connect(&settings).await.unwrap().ping().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.to_string().contains(advice), "{error}");
    }
    let (_server, settings) = with_tls(&authority, &authority.issue("cache.internal"), "no");
    let error = RedisEntries::connect(&settings).await.unwrap().ping().await.unwrap_err();
    assert!(error.to_string().contains("for another name"), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_when_it_starts() {
    let absent = Stores { redis_ca_file: Some("no/such/ca.pem".into()), ..settings("rediss://127.0.0.1:1".into()) };
    let error = RedisEntries::connect(&absent).await.err().unwrap();
    assert_eq!(error.violations[0].field, "stores.redis_ca_file");
}

#[tokio::test]
async fn redis_hears_of_hits_in_memory() {
    // So every use counts, and shows at once.
    let counting = ["--maxmemory-policy", "allkeys-lfu", "--lfu-log-factor", "0", "--lfu-decay-time", "0"];
    let server = RedisServer::start_with(free_port(), &counting);
    let store = connect(&server).await;
    put(&*store, &entry(1, "x")).await;
    let uses = || server.command(&format!("OBJECT FREQ {}", store.entry_key(&key(1))));
    let before = uses();
    assert!(before.starts_with(':'), "{before}");
    store.touch(&key(1));
    eventually("it is in use", || async { uses() != before }).await;
}

#[tokio::test]
async fn hints_of_use_are_dropped_when_redis_hangs() {
    let server = RedisServer::start();
    let store = connect(&server).await;
    server.freeze();
    for n in 0..1000 {
        store.touch(&key(n));
    }
    assert_eq!(store.touches.available_permits(), 0);
    eventually("given up", || async { store.touches.available_permits() == TOUCHES_AT_ONCE }).await;
}

/// Prints numbers rather than judging them: they depend on the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured() {
    let server = RedisServer::start();
    let (store, l1) = with_l1(&server).await;
    let text = "x".repeat(1500);
    let started = Instant::now();
    for n in 0..1000 {
        put(&*store, &entry(n, &text)).await;
    }
    let one = started.elapsed() / 1000;
    let started = Instant::now();
    for n in 0..1000 {
        assert!(get(&*store, n).await.is_some());
    }
    let read = started.elapsed() / 1000;
    is_kept(&l1, &store.hot(), 1).await;
    let started = Instant::now();
    for _ in 0..100_000 {
        assert!(l1.get(&key(1)).await.unwrap().is_some());
    }
    println!("Redis put {one:?}, get {read:?}; L1 hit {:?}", started.elapsed() / 100_000);
}
