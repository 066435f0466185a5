use super::*;
use crate::cli::testing::Double;

fn plan() -> Plan {
    let context = pb::RequestContext { tenant: "t".into(), ..Default::default() };
    Plan {
        context,
        concurrency: 4,
        limit: u64::MAX,
        model: None,
        max_tokens: None,
        stream: 0.0,
        call: Call::Complete,
        strict: false,
    }
}

async fn replay(lines: &str, plan: Plan) -> (Result<Report, Failure>, Double) {
    let double = Double::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let source = Source::open(file.path()).unwrap();
    let client = Client::connect(&double.addr).await.unwrap();
    (run(client, &source, &plan).await, double)
}

/// The double finds what was stored for the same prompt in lower case.
const PAIRS: &str = r#"{"a": "one", "b": "ONE", "label": 1}
{"a": "two", "b": "TWO", "label": 0}
{"a": "three", "b": "One", "label": 1}
{"a": "four", "b": "for", "label": 1}
{"a": "five", "b": "six", "label": 0}
"#;

#[tokio::test]
async fn labelled_rows_are_stored_then_asked_and_judged() {
    for call in [Call::Complete, Call::Lookup] {
        let (report, double) = replay(PAIRS, Plan { call, ..plan() }).await;
        let json = report.unwrap().to_json();
        assert_eq!(json["stored"], 5);
        assert_eq!(json["requests"], 5);
        let labelled = &json["labelled"];
        let keys = ["right_hits", "wrong_hits", "other_hits", "missed_repeats", "right_misses"];
        assert_eq!(keys.map(|key| labelled[key].as_u64().unwrap()), [1, 1, 1, 1, 1], "{json}");
        assert_eq!(json["outcomes"]["semantic"]["count"], 3);
        assert_eq!(json["outcomes"]["miss"]["count"], 2);
        assert!(double.seen().iter().all(|context| context.tenant == "t"));
    }
}

#[tokio::test]
async fn rows_with_the_same_first_prompt_share_its_answer() {
    let lines = "{\"a\": \"x\", \"b\": \"X\", \"label\": 1}\n".repeat(3);
    let json = replay(&lines, plan()).await.0.unwrap().to_json();
    assert_eq!(json["labelled"]["right_hits"], 3);
}

#[tokio::test]
async fn prompts_are_asked_once_each_streamed_or_not() {
    let lines: String = (0..20).map(|i| format!("{{\"prompt\": \"p{}\"}}\n", i % 10)).collect();
    let (report, double) = replay(&lines, Plan { stream: 0.5, concurrency: 1, ..plan() }).await;
    let json = report.unwrap().to_json();
    assert_eq!(json["outcomes"]["miss"]["count"], 10);
    assert_eq!(json["outcomes"]["exact"]["count"], 10);
    assert_eq!(double.streams(), 10);
    assert!(json["labelled"].is_null());
}

#[tokio::test]
async fn malformed_lines_are_counted_and_the_rest_goes_on() {
    let lines = "{\"prompt\": \"a\"}\nnonsense\n{\"prompt\": 3}\n{\"prompt\": \"b\"}\n";
    let report = replay(lines, plan()).await.0.unwrap();
    assert_eq!((report.requests(), report.malformed.count), (2, 2));
    assert_eq!(report.malformed.first[1], "line 3: prompt: is not text");
    let strict = replay(lines, Plan { strict: true, ..plan() }).await.0;
    assert!(strict.err().is_some_and(|f| format!("{f:?}").contains("line 2: ")));
}

#[tokio::test]
async fn errors_of_the_service_are_an_outcome() {
    let report = replay("{\"prompt\": \"fail\"}\n{\"prompt\": \"a\"}\n", plan()).await.0.unwrap();
    assert_eq!((report.requests(), report.answered(), report.errors.count), (2, 1, 1));
    assert_eq!(report.errors.first, ["Unavailable: as told"]);
}

#[tokio::test]
async fn the_limit_counts_rows_that_can_be_asked() {
    let lines = "nonsense\n{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n";
    let report = replay(lines, Plan { limit: 2, ..plan() }).await.0.unwrap();
    assert_eq!(report.requests(), 2);
}

#[tokio::test]
async fn a_model_that_is_told_replaces_the_rows_own() {
    let lines = "{\"model\": \"x\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    let (_, double) = replay(lines, Plan { model: Some("y".into()), ..plan() }).await;
    assert_eq!(double.models(), ["y"]);
}

#[test]
fn the_limit_on_answers_holds_unless_a_row_asks_for_fewer() {
    let limited = |own, told| {
        let mut chat = pb::ChatRequest { max_tokens: own, ..Default::default() };
        Plan { max_tokens: told, ..plan() }.adapt(&mut chat);
        chat.max_tokens
    };
    assert_eq!(limited(None, Some(64)), Some(64));
    assert_eq!(limited(Some(100), Some(64)), Some(64));
    assert_eq!(limited(Some(10), Some(64)), Some(10));
    assert_eq!(limited(Some(10), None), Some(10));
}

#[tokio::test]
async fn the_limit_on_answers_is_sent_with_every_row() {
    let lines = "{\"a\": \"x\", \"b\": \"X\", \"label\": 1}\n{\"prompt\": \"p\"}\n";
    let (report, double) = replay(lines, Plan { max_tokens: Some(7), ..plan() }).await;
    assert_eq!(report.unwrap().to_json()["labelled"]["right_hits"], 1);
    assert_eq!(double.limits(), [Some(7), Some(7)]);
}

#[test]
fn the_streamed_share_is_spread_over_the_rows() {
    let streamed = |share| (1..=100).filter(|n| is_streamed(*n, share)).count();
    assert_eq!([0.0, 0.25, 1.0].map(streamed), [0, 25, 100]);
}
