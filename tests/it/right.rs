//! Hits that are right within a bound: what is served, what is found out about it, and what follows from that.

use std::time::Duration;

use reprise::gateway::{Explanation, Request};
use reprise::grpc::pb;
use reprise::grpc::pb::cache_service_client::CacheServiceClient;
use reprise::types::{Answer, CacheMode, CacheStatus, HitId, Similarity, Usage, UseCache, WrongRate};

use serde_json::{Value, json};

use crate::service::{Service, chat, http_client};
use crate::support::{Setup, request};

const CACHED: &str = "How do I reset my password?";
const NEW: &str = "How can I reset my password please?";

fn at_rate(prompt: &str, rate: f64) -> Request {
    let mut request = request(prompt);
    request.controls.max_wrong_rate = Some(WrongRate::new(rate).unwrap());
    request
}

async fn remember(setup: &Setup, prompt: &str, answer: &str) {
    setup.gateway.store(request(prompt), Answer::text("m", answer, Usage::new(3, 4))).await.unwrap();
}

async fn looked(setup: &Setup, request: Request) -> (CacheStatus, Option<HitId>) {
    let outcome = setup.gateway.lookup(request).await.unwrap().outcome;
    (outcome.status, outcome.hit)
}

async fn explained(setup: &Setup, prompt: &str) -> Explanation {
    setup.gateway.explain(at_rate(prompt, 1.0)).await.unwrap()
}

/// Waits for labels that are on their way.
async fn labels(setup: &Setup, count: usize) -> Explanation {
    for _ in 0..500 {
        let found = explained(setup, "anything").await;
        if found.labels >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {count} labels came in");
}

#[tokio::test]
async fn the_rate_that_is_asked_for_decides() {
    let setup = Setup::new().await;
    remember(&setup, CACHED, "Open the settings.").await;
    assert_eq!(looked(&setup, at_rate(NEW, 0.0)).await.0, CacheStatus::Miss);
    let (status, hit) = looked(&setup, at_rate(NEW, 1.0)).await;
    assert_eq!(status, CacheStatus::Semantic);
    assert!(hit.unwrap().risk.is_some());
    // The same text in other letters is as good as the same request, at any rate but none.
    assert_eq!(looked(&setup, at_rate("how do i reset MY password", 0.001)).await.0, CacheStatus::Semantic);
    assert_eq!(looked(&setup, at_rate("how do i reset MY password", 0.0)).await.0, CacheStatus::Miss);
}

#[tokio::test]
async fn a_guard_vetoes_at_any_rate_and_explain_says_which() {
    let setup = Setup::new().await;
    remember(&setup, "Convert 5 miles to kilometres", "8.05 km").await;
    let other = "Convert 7 miles to kilometres";
    assert_eq!(looked(&setup, at_rate(other, 1.0)).await.0, CacheStatus::Miss);
    let found = explained(&setup, other).await;
    let judged = found.candidates[0].judgement.as_ref().unwrap();
    assert_eq!(judged.compared.guards.iter().map(|guard| guard.as_str()).collect::<Vec<_>>(), ["number"]);
    assert_eq!(found.candidates[0].verdict.as_str(), "vetoed by a guard");
    // By similarity alone it would be served, to whoever asks for that.
    let mut near = request(other);
    near.controls.min_similarity = Some(Similarity::new(0.5).unwrap());
    assert_eq!(looked(&setup, near).await.0, CacheStatus::Semantic);
}

#[tokio::test]
async fn a_hit_that_was_wrong_is_deleted_and_its_pair_never_meets_again() {
    let setup = Setup::new().await;
    remember(&setup, CACHED, "Open the settings.").await;
    let (_, hit) = looked(&setup, at_rate(NEW, 1.0)).await;
    let (hit, owner) = (hit.unwrap(), request("").owner);
    let before = explained(&setup, NEW).await;
    let reported = setup.gateway.report(&owner, &hit, false).await.unwrap();
    assert!(reported.counted && reported.deleted);
    assert_eq!(looked(&setup, at_rate(NEW, 1.0)).await.0, CacheStatus::Miss);
    assert_eq!(looked(&setup, request(CACHED)).await.0, CacheStatus::Miss, "the entry itself is gone");
    // The entry comes back, and serves others, but never that prompt.
    remember(&setup, CACHED, "Open the settings.").await;
    assert_eq!(looked(&setup, at_rate(NEW, 1.0)).await.0, CacheStatus::Miss);
    assert_eq!(looked(&setup, at_rate("How could I reset my password then?", 1.0)).await.0, CacheStatus::Semantic);
    let after = explained(&setup, NEW).await;
    assert_eq!(after.candidates[0].verdict.as_str(), "reported wrong before");
    assert_eq!((before.labels, after.labels, after.wrong_labels), (0, 1, 1));
    // Once is enough.
    let again = setup.gateway.report(&owner, &hit, false).await.unwrap();
    assert!(!again.counted);
    assert_eq!(explained(&setup, NEW).await.labels, 1);
}

#[tokio::test]
async fn the_pair_does_not_meet_the_other_way_round_and_a_corrected_answer_stays() {
    let setup = Setup::new().await;
    remember(&setup, CACHED, "Open the settings.").await;
    let hit = looked(&setup, at_rate(NEW, 1.0)).await.1.unwrap();
    // Corrected since: what is reported is not the answer that stands there.
    let of_old = HitId { version: hit.version.wrapping_sub(60_000), ..hit };
    let reported = setup.gateway.report(&request("").owner, &of_old, false).await.unwrap();
    assert!(reported.counted && !reported.deleted);
    assert_eq!(looked(&setup, request(CACHED)).await.0, CacheStatus::Exact);
    assert!(setup.gateway.delete(&request("").owner, &hit.entry).await.unwrap());
    remember(&setup, NEW, "Ask nicely.").await;
    assert_eq!(looked(&setup, at_rate("How do I reset my password", 1.0)).await.0, CacheStatus::Miss);
    // A label from another judge blocks, and says nothing of this one's risks.
    let other = HitId { judge: [0; 4], pair: reprise::types::PairId::new("a", "b"), ..hit };
    assert!(setup.gateway.report(&request("").owner, &other, false).await.unwrap().counted);
    assert_eq!(explained(&setup, "x").await.labels, 1);
}

#[tokio::test]
async fn reports_move_the_bound() {
    let setup = Setup::new().await;
    let owner = request("").owner;
    let bound = async || setup.gateway.explain(at_rate("x", 0.05)).await.unwrap().max_risk;
    let prior = bound().await;
    remember(&setup, CACHED, "Open the settings.").await;
    let like = looked(&setup, at_rate(NEW, 1.0)).await.1.unwrap();
    let report = async |n: u8, right: bool| {
        let entry = reprise::types::EntryKey::from_bytes([n; 32]);
        let pair = reprise::types::PairId::new("a", &n.to_string());
        setup.gateway.report(&owner, &HitId { entry, pair, risk: Some(0.25), ..like }, right).await.unwrap()
    };
    for n in 0..12 {
        assert!(report(n, n % 2 == 0).await.counted);
    }
    let tightened = bound().await;
    assert!(tightened < prior * 0.9, "{prior} {tightened}");
    for n in 20..140 {
        report(n, true).await;
    }
    assert!(bound().await > tightened * 1.2, "{tightened} {}", bound().await);
}

#[tokio::test]
async fn audits_find_out_what_callers_do_not_report() {
    let setup = Setup::caching(|cache| cache.audit_share = 1.0).await;
    remember(&setup, CACHED, "Bananas are rich in potassium, and ripen after the harvest.").await;
    let served = setup.gateway.complete(at_rate(NEW, 1.0)).await.unwrap();
    assert_eq!(served.outcome.status, CacheStatus::Semantic);
    // The scripted provider answers otherwise, so the hit was wrong.
    let found = labels(&setup, 1).await;
    assert_eq!((found.labels, found.wrong_labels, setup.calls()), (1, 1, 1));
    assert_eq!(looked(&setup, at_rate(NEW, 1.0)).await.0, CacheStatus::Miss);
}

#[tokio::test]
async fn nothing_is_audited_where_no_llm_may_be_asked() {
    let setup = Setup::caching(|cache| cache.audit_share = 1.0).await;
    remember(&setup, CACHED, "Open the settings.").await;
    let mut only = at_rate(NEW, 1.0);
    only.controls.use_cache = UseCache::OnlyIfCached;
    assert_eq!(setup.gateway.complete(only).await.unwrap().outcome.status, CacheStatus::Semantic);
    assert_eq!(looked(&setup, at_rate(NEW, 1.0)).await.0, CacheStatus::Semantic);
    // An audit would have been started by now, and this thread is its only one.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.calls(), 0);
}

#[tokio::test]
async fn shadow_mode_serves_from_upstream_and_learns_from_every_would_be_hit() {
    let setup = Setup::caching(|cache| cache.mode = CacheMode::Shadow).await;
    remember(&setup, CACHED, "Bananas are rich in potassium, and ripen after the harvest.").await;
    let served = setup.gateway.complete(at_rate(NEW, 1.0)).await.unwrap();
    assert_eq!((served.outcome.status, served.outcome.reason), (CacheStatus::Miss, Some("shadow")));
    assert!(!served.answer.content().contains("Bananas"));
    assert_eq!(labels(&setup, 1).await.wrong_labels, 1);
}

#[tokio::test]
async fn an_id_of_another_owner_touches_nothing() {
    let setup = Setup::new().await;
    remember(&setup, CACHED, "Open the settings.").await;
    let (_, hit) = looked(&setup, at_rate(NEW, 1.0)).await;
    let mut stranger = request("").owner;
    stranger.tenant = reprise::types::TenantId::new("stranger").unwrap();
    assert!(!setup.gateway.report(&stranger, &hit.unwrap(), false).await.unwrap().deleted);
    assert_eq!(looked(&setup, at_rate(NEW, 1.0)).await.0, CacheStatus::Semantic);
}

#[tokio::test]
async fn both_surfaces_take_rates_tell_risks_and_hear_reports() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &[]).await;
    let post = |path: &str, body: Value| http_client().post(format!("{}{path}", service.http)).json(&body);
    let body = |prompt: &str| json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
    post("/v1/chat/completions", body(CACHED)).send().await.unwrap();
    let hit = post("/v1/chat/completions", body(NEW)).header("x-reprise-max-wrong-rate", "1").send().await.unwrap();
    assert_eq!(hit.headers()["x-reprise-cache"], "semantic");
    assert!(hit.headers()["x-reprise-risk"].to_str().unwrap().parse::<f64>().unwrap() <= 1.0);
    let id = hit.headers()["x-reprise-hit"].to_str().unwrap().to_owned();

    let why: Value = post("/v1/cache/explain", body(NEW)).send().await.unwrap().json().await.unwrap();
    assert_eq!((&why["cache"], &why["max_wrong_rate"]), (&json!("miss"), &json!(0.01)));
    assert!(why["candidates"][0]["risk"].as_f64().unwrap() > why["max_risk"].as_f64().unwrap());
    let mut cache = CacheServiceClient::new(service.channel().await);
    let controls = pb::CacheControls { max_wrong_rate: Some(1.0), ..Default::default() };
    let context = pb::RequestContext { cache: Some(controls), ..Default::default() };
    let asked = pb::ExplainRequest { context: Some(context.clone()), chat: chat(NEW) };
    let why = cache.explain(asked).await.unwrap().into_inner();
    assert_eq!((why.min_similarity, why.max_wrong_rate, why.labels), (None, Some(1.0), 0));
    assert_eq!(why.cache.unwrap().hit, id, "the id says the same wherever it is asked for");

    let bad = post("/v1/cache/report", json!({"hit": id.replace(&id[..1], "g"), "right": true})).send().await.unwrap();
    assert_eq!(bad.status(), 400);
    let said = pb::ReportHitRequest { context: Some(context.clone()), hit: id.clone(), judgement: 0 };
    assert_eq!(cache.report_hit(said.clone()).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let wrong = pb::ReportHitRequest { judgement: pb::HitJudgement::Wrong.into(), ..said };
    let heard = cache.report_hit(wrong).await.unwrap().into_inner();
    assert!(heard.counted && heard.deleted);
    let again: Value =
        post("/v1/cache/report", json!({"hit": id, "right": false})).send().await.unwrap().json().await.unwrap();
    assert_eq!(again, json!({"counted": false, "deleted": false}));
    let metrics = http_client().get(format!("{}/metrics", service.http)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("reprise_labels_total{source=\"report\",label=\"wrong\"} 1"), "{metrics}");
    // What is known survives the process.
    service.kill().await;
    let service = Service::start(folder.path(), &[]).await;
    let mut cache = CacheServiceClient::new(service.channel().await);
    let asked = pb::ExplainRequest { context: Some(context), chat: chat(NEW) };
    assert_eq!(cache.explain(asked).await.unwrap().into_inner().wrong_labels, 1);
}

#[tokio::test]
async fn tuning_tells_what_other_rates_would_have_served() {
    let setup = Setup::new().await;
    remember(&setup, CACHED, "Open the settings.").await;
    for prompt in ["how do i reset my password", NEW, "What is the tallest mountain of Peru?", "bake bread"] {
        looked(&setup, request(prompt)).await;
    }
    let rates = [0.0, 0.001, 1.0].map(|rate| WrongRate::new(rate).unwrap());
    let tuned = setup.gateway.tune(&request("").owner, &rates).await.unwrap();
    assert!(tuned.iter().all(|tuned| (tuned.served.requests - 4.0).abs() < 1e-9), "{tuned:?}");
    let hits: Vec<_> = tuned.iter().map(|tuned| tuned.served.hits).collect();
    assert_eq!(hits[..2], [0.0, 0.25]);
    assert!(hits[2] >= 0.5, "{hits:?}");
}

#[test]
fn the_projects_own_evaluation_set_is_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("evalset");
    let read = |name: &str| reprise::eval::data::read(&folder.join(name), "m").unwrap();
    let (singles, talks) = ([read("english.jsonl"), read("chinese.jsonl")].concat(), read("conversations.jsonl"));
    assert!(singles.len() >= 400 && talks.len() >= 100);
    assert!(talks.iter().all(|pair| !pair.cached.probe().unwrap().history.is_empty()));
    for kind in
        ["number", "date", "unit", "negation", "antonym", "entity", "direction", "scope", "quote", "format", "language"]
    {
        let of = |is_right| singles.iter().filter(|pair| pair.kind() == kind && pair.is_right == is_right).count();
        assert!(of(false) >= 20 && of(true) == 0, "{kind}");
    }
    // No pair stands twice, in either order.
    let texts = |pair: &reprise::eval::data::Pair| {
        let text = |chat: &reprise::types::ChatRequest| chat.probe().unwrap().text().into_owned();
        let mut both = [text(&pair.cached), text(&pair.new)];
        both.sort();
        both
    };
    let all: std::collections::HashSet<_> = singles.iter().chain(&talks).map(texts).collect();
    assert_eq!(all.len(), singles.len() + talks.len());
}
