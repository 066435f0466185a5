//! What every entry store must do. Each backend runs all of it, on a store that holds nothing yet.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::json;

use super::{EntryStore, decode, encode};
use crate::types::{
    Answer, Entry, EntryKey, Namespace, Owner, Probe, Role, ScopeId, Source, Tag, TenantId, Trust, Turn, UnixMillis,
    Usage, Usd,
};

pub fn owner(tenant: &str, namespace: &str) -> Owner {
    Owner { tenant: TenantId::new(tenant).unwrap(), namespace: Namespace::new(namespace).unwrap() }
}

pub fn key(n: u64) -> EntryKey {
    EntryKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

/// A plain entry of tenant `t`, namespace `n`, good for an hour.
pub fn entry(n: u64, text: &str) -> Entry {
    let now = UnixMillis::now();
    Entry {
        key: key(n),
        scope: ScopeId::from_bytes([7; 32]),
        owner: owner("t", "n"),
        probe: None,
        answer: Answer::text("model", text, Usage::new(3, 4)).into(),
        cost: Usd::default(),
        created: now,
        expires: now.after(Duration::from_secs(3600)),
        tags: Vec::new(),
        depends_on: Vec::new(),
        source: Source::Live,
        trust: Trust::Trusted,
    }
}

pub fn tagged(n: u64, tags: &[&str]) -> Entry {
    Entry { tags: tags.iter().map(|name| tag(name)).collect(), ..entry(n, "tagged") }
}

pub async fn put(store: &dyn EntryStore, entry: &Entry) {
    store.put(Arc::new(entry.clone())).await.unwrap();
}

pub async fn get(store: &dyn EntryStore, n: u64) -> Option<Entry> {
    store.get(&key(n)).await.unwrap().map(|entry| (*entry).clone())
}

async fn delete_tag(store: &dyn EntryStore, owner: &Owner, name: &str) -> Vec<EntryKey> {
    let mut keys = store.delete_by_tag(owner, &tag(name)).await.unwrap();
    keys.sort();
    keys
}

fn sorted(numbers: &[u64]) -> Vec<EntryKey> {
    let mut keys: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
    keys.sort();
    keys
}

/// Runs the whole suite.
pub async fn run(store: Arc<dyn EntryStore>) {
    let store = &*store;
    store.ping().await.unwrap();
    counts_what_it_holds(store).await;
    gives_back_every_field(store).await;
    replaces_as_a_whole(store).await;
    never_serves_what_has_expired(store).await;
    deletes_for_the_owner_only(store).await;
    deletes_by_tag_within_one_owner(store).await;
    a_replaced_entry_answers_to_its_new_tags_only(store).await;
    deletes_many_by_tag(store).await;
    holds_large_bodies(store).await;
    serves_many_at_once(store).await;
}

/// First, while nothing else is there.
async fn counts_what_it_holds(store: &dyn EntryStore) {
    let before = store.stats().await.unwrap();
    for n in 0..10 {
        put(store, &entry(n, &"x".repeat(1000))).await;
    }
    let full = store.stats().await.unwrap();
    assert_eq!(full.entries, before.entries + 10);
    assert!(full.bytes >= before.bytes + 10_000, "{before:?} {full:?}");
    for n in 0..10 {
        assert!(store.delete(&owner("t", "n"), &key(n)).await.unwrap());
    }
    assert_eq!(store.stats().await.unwrap().entries, before.entries);
}

async fn gives_back_every_field(store: &dyn EntryStore) {
    let mut rich = entry(100, "Grüße, 世界 🚀 \u{0} \"quoted\" \\ \u{2028}");
    rich.scope = ScopeId::from_bytes([0xfe; 32]);
    rich.owner = owner("acme-1.eu/売", "ns:{weird}*?[a]");
    rich.probe = Some(Probe {
        history: vec![Turn { role: Role::User, text: "before\n".into() }],
        prompt: "what now? 🤔".into(),
    });
    let answer = Arc::make_mut(&mut rich.answer);
    answer.choices[0].message.tool_calls = vec![json!({"id": "call_1", "z": [1, null, {"b": 1.5, "a": -2}]})];
    answer.choices[0].extra.insert("logprobs".into(), json!({"content": [{"logprob": -0.25}]}));
    answer.extra.insert("system_fingerprint".into(), json!("fp"));
    answer.usage.extra.insert("prompt_tokens_details".into(), json!({"cached_tokens": 2}));
    rich.cost = Usd("0.000000123456789".parse().unwrap());
    rich.tags = vec![tag("doc:7"), tag("日本"), tag("doc:7")];
    rich.depends_on = vec!["a@1".into(), "b@2".into()];
    rich.source = Source::Import;
    rich.trust = Trust::Untrusted;
    assert_eq!(decode(&encode(&rich).unwrap()).unwrap(), rich);
    put(store, &rich).await;
    // Twice: from the backend and, where there is one, from memory.
    assert_eq!(get(store, 100).await, Some(rich.clone()));
    assert_eq!(get(store, 100).await, Some(rich));
    assert_eq!(get(store, 101).await, None);
}

async fn replaces_as_a_whole(store: &dyn EntryStore) {
    put(store, &entry(200, "first")).await;
    assert_eq!(get(store, 200).await.unwrap().answer.choices[0].message.content.as_deref(), Some("first"));
    let second = Entry { depends_on: vec!["d@1".into()], ..entry(200, "second") };
    put(store, &second).await;
    assert_eq!(get(store, 200).await, Some(second));
}

async fn never_serves_what_has_expired(store: &dyn EntryStore) {
    let now = UnixMillis::now();
    put(store, &Entry { expires: UnixMillis(now.0 - 1), ..entry(300, "late") }).await;
    put(store, &Entry { expires: UnixMillis(0), ..entry(301, "never") }).await;
    assert_eq!((get(store, 300).await, get(store, 301).await), (None, None));

    let short = Entry { expires: UnixMillis::now().after(Duration::from_millis(300)), ..tagged(302, &["short"]) };
    put(store, &short).await;
    assert_eq!(get(store, 302).await, Some(short.clone()));
    let left = short.expires.since(UnixMillis::now());
    tokio::time::sleep(left).await;
    assert_eq!(get(store, 302).await, None);
    // Never served from that moment on; a server may take a little longer to forget it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!store.delete(&short.owner, &short.key).await.unwrap());

    let forever = Entry { expires: UnixMillis(u64::MAX), ..entry(303, "for ever") };
    put(store, &forever).await;
    assert_eq!(get(store, 303).await, Some(forever));
}

async fn deletes_for_the_owner_only(store: &dyn EntryStore) {
    put(store, &entry(400, "mine")).await;
    for stranger in [owner("other", "n"), owner("t", "other"), owner("n", "t"), owner("tn", "n")] {
        assert!(!store.delete(&stranger, &key(400)).await.unwrap(), "{stranger} deleted it");
    }
    assert!(get(store, 400).await.is_some());
    assert!(store.delete(&owner("t", "n"), &key(400)).await.unwrap());
    assert_eq!(get(store, 400).await, None);
    assert!(!store.delete(&owner("t", "n"), &key(400)).await.unwrap());
}

async fn deletes_by_tag_within_one_owner(store: &dyn EntryStore) {
    put(store, &tagged(500, &["red", "round"])).await;
    put(store, &tagged(501, &["red"])).await;
    put(store, &tagged(502, &["round"])).await;
    put(store, &Entry { owner: owner("other", "n"), ..tagged(503, &["red"]) }).await;
    put(store, &Entry { owner: owner("t", "other"), ..tagged(504, &["red"]) }).await;
    assert!(get(store, 500).await.is_some());
    assert_eq!(delete_tag(store, &owner("t", "n"), "re").await, []);
    assert_eq!(delete_tag(store, &owner("t", "n"), "red").await, sorted(&[500, 501]));
    let found = join_all((500..505).map(|n| get(store, n))).await;
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true, true, true]);
    assert_eq!(delete_tag(store, &owner("t", "n"), "red").await, []);
    assert_eq!(delete_tag(store, &owner("t", "n"), "round").await, sorted(&[502]));
    // Deleted and stored again, it answers to its tag again.
    put(store, &tagged(500, &["red"])).await;
    assert_eq!(delete_tag(store, &owner("t", "n"), "red").await, sorted(&[500]));
    assert_eq!(delete_tag(store, &owner("t", "other"), "red").await, sorted(&[504]));
}

async fn a_replaced_entry_answers_to_its_new_tags_only(store: &dyn EntryStore) {
    put(store, &tagged(600, &["old", "both"])).await;
    put(store, &tagged(600, &["new", "both"])).await;
    assert_eq!(delete_tag(store, &owner("t", "n"), "old").await, []);
    assert!(get(store, 600).await.is_some());
    assert_eq!(delete_tag(store, &owner("t", "n"), "both").await, sorted(&[600]));
    put(store, &tagged(601, &["gone"])).await;
    put(store, &tagged(601, &[])).await;
    assert_eq!(delete_tag(store, &owner("t", "n"), "gone").await, []);
    assert!(get(store, 601).await.is_some());
}

async fn deletes_many_by_tag(store: &dyn EntryStore) {
    let numbers: Vec<u64> = (10_000..11_500).collect();
    let puts = numbers.iter().map(|&n| store.put(Arc::new(tagged(n, &["bulk"]))));
    try_join_all(puts).await.unwrap();
    assert_eq!(delete_tag(store, &owner("t", "n"), "bulk").await, sorted(&numbers));
    assert_eq!(get(store, 10_700).await, None);
}

async fn holds_large_bodies(store: &dyn EntryStore) {
    let large = entry(700, &"0123456789abcdé\n".repeat(1 << 16));
    put(store, &large).await;
    assert_eq!(get(store, 700).await, Some(large.clone()));
    // A server's figure leaves out its buffers, and for a moment what is still in one.
    for _ in 0..100 {
        if store.stats().await.unwrap().bytes >= 1 << 20 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(store.stats().await.unwrap().bytes >= 1 << 20);
    assert!(store.delete(&large.owner, &large.key).await.unwrap());
}

async fn serves_many_at_once(store: &dyn EntryStore) {
    let work = (0..64u64).map(|worker| async move {
        for round in 0..10 {
            let n = 20_000 + worker % 8;
            put(store, &entry(n, &format!("{n} from {worker} in round {round}"))).await;
            let found = get(store, n).await.expect("somebody's answer");
            let text = found.answer.choices[0].message.content.clone().unwrap_or_default();
            assert!(text.starts_with(&format!("{n} from ")), "{text} under the key of {n}");
        }
    });
    join_all(work).await;
    // Whatever came last, everybody sees the same.
    for n in 20_000..20_008 {
        assert_eq!(get(store, n).await, get(store, n).await);
    }
}
