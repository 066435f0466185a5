//! The way of a request through the gateway, on real embedded stores: what hits, what must not, and what is remembered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use reprise::gateway::{Gateway, StreamEvent};
use reprise::types::{
    Answer, CacheStatus, ChatRequest, ErrorKind, Message, Role, SessionId, Similarity, Stop, Tag, Usage, UseCache,
};

use crate::support::{Setup, request};

async fn ask(gateway: &Gateway, prompt: &str) -> (CacheStatus, String) {
    let done = gateway.complete(request(prompt)).await.unwrap();
    (done.outcome.status, done.answer.content().to_owned())
}

async fn ask_streamed(gateway: &Gateway, prompt: &str) -> (CacheStatus, String) {
    let mut streamed = gateway.stream(request(prompt)).await.unwrap();
    let mut text = String::new();
    let mut finals = 0;
    while let Some(event) = streamed.events.next().await {
        match event.unwrap() {
            StreamEvent::Delta(delta) => text += delta.content.as_deref().unwrap_or_default(),
            StreamEvent::Final(summary) => {
                assert_eq!(summary.finish.as_str(), "stop");
                assert!(summary.usage.completion_tokens > 0);
                finals += 1;
            }
        }
    }
    assert_eq!(finals, 1);
    (streamed.outcome.status, text)
}

#[tokio::test]
async fn a_repeat_is_an_exact_hit_with_the_same_answer() {
    let setup = Setup::new().await;
    let (first, answer) = ask(&setup.gateway, "How do I reset my password?").await;
    assert_eq!(first, CacheStatus::Miss);
    assert_eq!(ask(&setup.gateway, "How do I reset my password?").await, (CacheStatus::Exact, answer));
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn streamed_and_plain_requests_serve_each_other() {
    let setup = Setup::new().await;
    let (_, plain) = ask(&setup.gateway, "first").await;
    assert_eq!(ask_streamed(&setup.gateway, "first").await, (CacheStatus::Exact, plain));
    let (status, streamed) = ask_streamed(&setup.gateway, "second").await;
    assert_eq!(status, CacheStatus::Miss);
    assert_eq!(ask(&setup.gateway, "second").await, (CacheStatus::Exact, streamed));
}

#[tokio::test]
async fn a_near_prompt_is_a_semantic_hit_only_above_the_threshold() {
    let setup = Setup::new().await;
    let (_, answer) = ask(&setup.gateway, "How do I reset my password?").await;
    setup.settle().await;
    let mut near = request("How do I reset my old password?");
    near.controls.min_similarity = Some(Similarity::new(0.99).unwrap());
    near.controls.no_store = true;
    assert_eq!(setup.gateway.complete(near.clone()).await.unwrap().outcome.status, CacheStatus::Miss);
    near.controls.min_similarity = Some(Similarity::new(0.6).unwrap());
    let hit = setup.gateway.complete(near).await.unwrap();
    assert_eq!(hit.outcome.status, CacheStatus::Semantic);
    assert!(hit.outcome.similarity.unwrap().get() >= 0.6);
    assert_eq!(hit.answer.content(), answer);
}

#[tokio::test]
async fn prompts_that_the_model_cannot_read_whole_never_hit_by_meaning() {
    let setup = Setup::new().await;
    // Alike in everything the embedder reads.
    let long = |end: &str| {
        let mut request = request(&format!("{} {end}", "word ".repeat(1000)));
        request.controls.min_similarity = Some(Similarity::new(-1.0).unwrap());
        request
    };
    setup.gateway.complete(long("and so enable it")).await.unwrap();
    setup.settle().await;
    let other = setup.gateway.complete(long("and so disable it")).await.unwrap();
    assert_eq!(other.outcome.status, CacheStatus::Miss);
    assert_eq!(other.outcome.reason, Some("not all of the prompt can be embedded"));
    assert_eq!(setup.gateway.complete(long("and so enable it")).await.unwrap().outcome.status, CacheStatus::Exact);
    assert_eq!(setup.gateway.stats(&request("").owner).await.unwrap().vectors, 0);
}

#[tokio::test]
async fn nothing_crosses_a_border() {
    let setup = Setup::new().await;
    ask(&setup.gateway, "same words").await;
    setup.settle().await;
    let base = || {
        let mut other = request("same words");
        other.controls.min_similarity = Some(Similarity::new(-1.0).unwrap());
        other
    };
    let mut tenant = base();
    tenant.owner.tenant = "another".parse().unwrap();
    let mut namespace = base();
    namespace.owner.namespace = "another".parse().unwrap();
    let mut session = base();
    session.session = Some(SessionId::new("s1").unwrap());
    let mut template = base();
    template.template = Some("v2".into());
    let mut system = base();
    system.chat.messages.insert(0, Message::new(Role::System, "Answer in French."));
    let mut model = base();
    model.chat.model = "other-model".into();
    let mut format = base();
    format.chat.response_format = Some(serde_json::json!({"type": "json_object"}));
    let mut unknown = base();
    unknown.chat.extra.insert("reasoning_effort".into(), "high".into());
    for (what, other) in [
        ("tenant", tenant),
        ("namespace", namespace),
        ("session", session),
        ("template", template),
        ("system prompt", system),
        ("model", model),
        ("response format", format),
        ("unknown field", unknown),
    ] {
        let status = setup.gateway.complete(other).await.unwrap().outcome.status;
        assert_eq!(status, CacheStatus::Miss, "crossed: {what}");
    }
}

#[tokio::test]
async fn a_follow_up_does_not_hit_another_conversation() {
    let setup = Setup::new().await;
    let conversation = |about: &str| {
        let mut request = request("cancel it");
        request.chat.messages.splice(
            0..0,
            [Message::new(Role::User, format!("I have a {about}")), Message::new(Role::Assistant, "Noted.")],
        );
        request.controls.min_similarity = Some(Similarity::new(0.5).unwrap());
        request
    };
    setup.gateway.complete(conversation("hotel booking")).await.unwrap();
    setup.settle().await;
    let other = setup.gateway.complete(conversation("newspaper subscription")).await.unwrap();
    assert_eq!(other.outcome.status, CacheStatus::Miss);
    let same = setup.gateway.complete(conversation("hotel booking")).await.unwrap();
    assert_eq!(same.outcome.status, CacheStatus::Exact);
}

#[tokio::test]
async fn a_new_tool_result_is_never_answered_with_the_previous_turn() {
    let setup = Setup::new().await;
    let turn = |result: &str| {
        let mut request = request("what is the weather in Paris?");
        request.chat.messages.push(Message::new(Role::Tool, result));
        request.controls.min_similarity = Some(Similarity::new(-1.0).unwrap());
        request
    };
    setup.gateway.complete(turn("12 degrees")).await.unwrap();
    setup.settle().await;
    let next = setup.gateway.complete(turn("25 degrees")).await.unwrap();
    assert_eq!(next.outcome.status, CacheStatus::Miss);
    assert_eq!(setup.gateway.complete(turn("12 degrees")).await.unwrap().outcome.status, CacheStatus::Exact);
}

#[tokio::test]
async fn a_hundred_identical_requests_cost_one_call_streamed_or_not() {
    let setup = Setup::with(|p| p.latency = Duration::from_millis(200)).await;
    let plain = (0..50).map(|_| async { ask(&setup.gateway, "popular").await.1 });
    let streamed = (0..50).map(|_| async { ask_streamed(&setup.gateway, "popular").await.1 });
    let (plain, streamed) = tokio::join!(futures::future::join_all(plain), futures::future::join_all(streamed));
    let first = &plain[0];
    assert!(!first.is_empty());
    assert!(plain.iter().chain(&streamed).all(|text| text == first));
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_was_cut_off_is_not_remembered() {
    let setup = Setup::with(|p| {
        p.error = Some("cut".into());
        p.error_rate = 1.0;
    })
    .await;
    for _ in 0..2 {
        let mut streamed = setup.gateway.stream(request("cut me")).await.unwrap();
        assert_eq!(streamed.outcome.status, CacheStatus::Miss);
        while streamed.events.next().await.is_some() {}
        setup.settle().await;
    }
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn an_answer_that_ends_by_its_limit_is_not_remembered() {
    let setup = Setup::new().await;
    let mut short = request("Tell me a long story.");
    short.chat.max_tokens = Some(2);
    for calls in 1..=2 {
        let done = setup.gateway.complete(short.clone()).await.unwrap();
        assert_eq!((done.outcome.status, done.summary.finish.as_str()), (CacheStatus::Miss, "length"));
        setup.settle().await;
        assert_eq!(setup.calls(), calls);
    }
    assert_eq!(setup.gateway.stats(&short.owner).await.unwrap().entries, 0);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_nothing_behind() {
    let setup = Setup::with(|p| p.token_latency = Duration::from_millis(50)).await;
    let mut streamed = setup.gateway.stream(request("long story")).await.unwrap();
    streamed.events.next().await.unwrap().unwrap();
    drop(streamed);
    setup.settle().await;
    assert_eq!(ask(&setup.gateway, "long story").await.0, CacheStatus::Miss);
}

#[tokio::test]
async fn cache_controls_do_what_they_say() {
    let setup = Setup::new().await;
    let with = |use_cache, no_store| {
        let mut request = request("controlled");
        request.controls.use_cache = use_cache;
        request.controls.no_store = no_store;
        request
    };
    let status = async |request| setup.gateway.complete(request).await.map(|done| done.outcome.status);
    let missing = status(with(UseCache::OnlyIfCached, false)).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotCached);
    assert_eq!(setup.calls(), 0);
    assert_eq!(status(with(UseCache::Use, true)).await.unwrap(), CacheStatus::Miss);
    assert_eq!(status(with(UseCache::Bypass, false)).await.unwrap(), CacheStatus::Bypass);
    assert_eq!(status(with(UseCache::OnlyIfCached, false)).await.unwrap_err().kind, ErrorKind::NotCached);
    assert_eq!(status(with(UseCache::Refresh, false)).await.unwrap(), CacheStatus::Miss);
    assert_eq!(status(with(UseCache::OnlyIfCached, false)).await.unwrap(), CacheStatus::Exact);
    assert_eq!(status(with(UseCache::Refresh, false)).await.unwrap(), CacheStatus::Miss);
    assert_eq!(setup.calls(), 4);
    let mut fresh_only = with(UseCache::Use, false);
    fresh_only.controls.max_age = Some(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(status(fresh_only).await.unwrap(), CacheStatus::Miss);
}

#[tokio::test]
async fn max_tokens_holds_for_a_semantic_hit_too() {
    let setup = Setup::new().await;
    ask(&setup.gateway, "How do I reset my password?").await;
    setup.settle().await;
    let mut near = request("how do I reset my password");
    near.controls.min_similarity = Some(Similarity::new(0.6).unwrap());
    near.chat.max_tokens = Some(3);
    assert_eq!(setup.gateway.complete(near).await.unwrap().outcome.status, CacheStatus::Miss);
}

#[tokio::test]
async fn deleting_by_key_and_by_tag_forgets_at_once_and_only_ones_own() {
    let setup = Setup::new().await;
    let mut tagged = request("tagged");
    tagged.controls.tags = vec![Tag::new("faq").unwrap()];
    let first = setup.gateway.complete(tagged.clone()).await.unwrap();
    let mut stranger = tagged.owner.clone();
    stranger.tenant = "stranger".parse().unwrap();
    let tag = Tag::new("faq").unwrap();
    assert!(!setup.gateway.delete(&stranger, &first.outcome.entry).await.unwrap());
    assert_eq!(setup.gateway.delete_by_tag(&stranger, &tag).await.unwrap(), 0);
    assert_eq!(setup.gateway.complete(tagged.clone()).await.unwrap().outcome.status, CacheStatus::Exact);
    assert_eq!(setup.gateway.delete_by_tag(&tagged.owner, &tag).await.unwrap(), 1);
    assert_eq!(setup.gateway.complete(tagged.clone()).await.unwrap().outcome.status, CacheStatus::Miss);
    assert!(setup.gateway.delete(&tagged.owner, &first.outcome.entry).await.unwrap());
    assert_eq!(setup.gateway.complete(tagged).await.unwrap().outcome.status, CacheStatus::Miss);
}

#[tokio::test]
async fn stored_answers_are_found_and_explained() {
    let setup = Setup::new().await;
    let answer = Answer::text("m", "Under Settings.", Usage::new(7, 3));
    let stored = setup.gateway.store(request("How do I reset my password?"), answer).await.unwrap();
    assert!(stored.semantic);
    let looked = setup.gateway.lookup(request("How do I reset my password?")).await.unwrap();
    assert_eq!(looked.outcome.status, CacheStatus::Exact);
    assert_eq!(looked.outcome.entry, stored.key);
    let mut near = request("how do I reset my password");
    near.controls.min_similarity = Some(Similarity::new(0.6).unwrap());
    let why = setup.gateway.explain(near).await.unwrap();
    assert_eq!(why.outcome.status, CacheStatus::Semantic);
    assert_eq!(why.candidates[0].verdict.as_str(), "hit");
    assert_eq!(why.candidates[0].prompt, "How do I reset my password?");
    assert_eq!(why.stages.iter().map(|s| s.0).collect::<Vec<_>>(), ["exact", "embed", "search", "read", "decide"]);
    let stats = setup.gateway.stats(&request("").owner).await.unwrap();
    assert_eq!((stats.entries, stats.vectors, stats.exact_hits), (1, 1, 1));
    assert_eq!(setup.calls(), 0);
}

#[tokio::test]
async fn incomplete_answers_are_refused_by_store() {
    let setup = Setup::new().await;
    let mut cut = Answer::text("m", "Under Set", Usage::new(7, 3));
    cut.choices[0].finish = "length".into();
    let error = setup.gateway.store(request("q"), cut).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn an_evicted_answer_leaves_no_vector_behind() {
    let setup = Setup::with_room(30_000).await;
    for n in 0..60 {
        ask(&setup.gateway, &format!("question number {n}")).await;
        setup.settle().await;
    }
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let stats = setup.gateway.stats(&request("").owner).await.unwrap();
        assert!(stats.evicted > 0 && stats.entries + stats.evicted == 60, "{stats:?}");
        if stats.vectors == stats.entries {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_exact_path_never_touches_the_embedder() {
    let setup = Setup::new().await;
    ask(&setup.gateway, "embed me once").await;
    setup.settle().await;
    let before = setup.embedded.load(Ordering::SeqCst);
    assert_eq!(before, 1, "a miss embeds its prompt exactly once");
    for _ in 0..10 {
        assert_eq!(ask(&setup.gateway, "embed me once").await.0, CacheStatus::Exact);
    }
    assert_eq!(setup.embedded.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_store_that_hangs_costs_the_budget_and_no_more() {
    let setup = Setup::hanging().await;
    let started = std::time::Instant::now();
    let done = setup.gateway.complete(request("are you there?")).await.unwrap();
    assert_eq!(done.outcome.status, CacheStatus::Miss);
    assert!(done.outcome.reason.is_some());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(setup.gateway.health().await.iter().any(|h| h.name == "entries" && h.error.is_some()));
}

#[tokio::test]
async fn a_deadline_ends_a_slow_call() {
    let setup = Setup::with(|p| p.latency = Duration::from_secs(30)).await;
    let mut hurried = request("quick");
    hurried.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let error = setup.gateway.complete(hurried.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    hurried.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let error = setup.gateway.stream(hurried).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn an_unknown_model_or_tenant_is_a_clear_error() {
    let setup = Setup::new().await;
    let mut unknown = request("q");
    unknown.chat.model = "gpt-9".into();
    let error = setup.gateway.complete(unknown).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("gpt-9") && error.message.contains("other-model"), "{error}");
}

#[tokio::test]
async fn only_one_follower_leads_again_when_the_leader_fails() {
    let setup = Setup::with(|p| {
        p.latency = Duration::from_millis(100);
        p.error = Some("unavailable".into());
        p.error_rate = 1.0;
    })
    .await;
    let all = (0..20).map(|_| setup.gateway.complete(request("doomed")));
    let ended = futures::future::join_all(all).await;
    assert!(ended.iter().all(|r| r.as_ref().is_err_and(|e| e.kind == ErrorKind::Unavailable)));
    assert_eq!(setup.calls(), 2, "one flight, and one more led by a follower");
}

#[tokio::test]
async fn what_is_asked_is_counted_once() {
    let setup = Setup::new().await;
    for prompt in ["a", "a", "b"] {
        ask(&setup.gateway, prompt).await;
    }
    let mut bypass = request("a");
    bypass.controls.use_cache = UseCache::Bypass;
    setup.gateway.complete(bypass).await.unwrap();
    setup
        .gateway
        .complete(reprise::gateway::Request { chat: ChatRequest::new("m", vec![]), ..request("") })
        .await
        .unwrap_err();
    let stats = setup.gateway.stats(&request("").owner).await.unwrap();
    assert_eq!((stats.exact_hits, stats.misses, stats.bypasses, stats.errors), (1, 2, 1, 1));
}

#[tokio::test]
async fn an_answer_under_way_does_not_undo_a_deletion() {
    let setup = Setup::with(|p| p.latency = Duration::from_millis(300)).await;
    let mut tagged = request("under way");
    tagged.controls.tags = vec![Tag::new("doc").unwrap()];
    let (done, deleted) = tokio::join!(setup.gateway.complete(tagged.clone()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        setup.gateway.delete_by_tag(&tagged.owner, &tagged.controls.tags[0]).await.unwrap()
    });
    assert_eq!((done.unwrap().outcome.status, deleted), (CacheStatus::Miss, 0));
    setup.settle().await;
    let again = setup.gateway.lookup(tagged).await.unwrap();
    assert_eq!(again.outcome.status, CacheStatus::Miss, "remembered after it was deleted");
}

#[tokio::test]
async fn an_answer_under_way_does_not_overwrite_a_correction() {
    let setup = Setup::with(|p| p.latency = Duration::from_millis(300)).await;
    let correction = Answer::text("m", "CORRECTED", Usage::new(1, 1));
    let (done, stored) = tokio::join!(setup.gateway.complete(request("under way")), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        setup.gateway.store(request("under way"), correction).await
    });
    done.unwrap();
    stored.unwrap();
    setup.settle().await;
    let looked = setup.gateway.lookup(request("under way")).await.unwrap();
    assert_eq!(looked.entry.unwrap().answer.content(), "CORRECTED");
}

#[tokio::test]
async fn a_refresh_gets_an_answer_of_its_own() {
    let setup = Setup::with(|p| p.latency = Duration::from_millis(300)).await;
    let mut refresh = request("what changed?");
    refresh.controls.use_cache = UseCache::Refresh;
    let (first, second) = tokio::join!(setup.gateway.complete(request("what changed?")), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        setup.gateway.complete(refresh).await
    });
    first.unwrap();
    second.unwrap();
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn an_answer_cut_at_a_stop_sequence_serves_only_requests_with_the_same_one() {
    let setup = Setup::new().await;
    let mut stopped = request("How do I reset my password?");
    stopped.chat.stop = Some(Stop::One(" ".into()));
    setup.gateway.complete(stopped.clone()).await.unwrap();
    setup.settle().await;
    let whole = setup.gateway.complete(request("How do I reset my password?")).await.unwrap();
    assert_eq!(whole.outcome.status, CacheStatus::Miss);
    assert_eq!(setup.gateway.complete(stopped).await.unwrap().outcome.status, CacheStatus::Exact);
}

#[tokio::test]
async fn what_is_never_served_is_not_stored() {
    let setup = Setup::new().await;
    let answer = || Answer::text("m", "Sunny.", Usage::new(1, 1));
    let mut no_store = request("q");
    no_store.controls.no_store = true;
    for refused in [no_store, request("What is the weather today?")] {
        let error = setup.gateway.store(refused, answer()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    }
}
