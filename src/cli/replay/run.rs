//! A replay's two passes: store what labelled rows give, then ask. Files are streamed, work is bounded.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};
use tonic::{Code, Status};

use super::Call;
use super::report::{Ending, Judgement, Report};
use super::rows::{Pair, Row};
use super::source::Source;
use crate::cli::client::{self, Client};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::grpc::pb::{self, stream_complete_response::Event};

/// What to do with the rows.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub context: pb::RequestContext,
    pub concurrency: usize,
    pub limit: u64,
    pub model: Option<String>,
    /// Tokens in an answer at most.
    pub max_tokens: Option<u32>,
    /// Share of the requests that are streamed.
    pub stream: f64,
    pub call: Call,
    pub strict: bool,
}

/// One request that ended.
struct Done {
    latency: Duration,
    result: Result<Reply, Status>,
    /// Label and id of a labelled row.
    pair: Option<(bool, String)>,
}

struct Reply {
    outcome: pb::CacheOutcome,
    answer: String,
}

/// Reads the file twice: the first pass counts the rows and stores the answers of labelled ones, the second asks.
pub(super) async fn run(client: Client, source: &Source, plan: &Plan) -> Result<Report, Failure> {
    let name = match plan.call {
        Call::Complete => "Complete",
        Call::Lookup => "Lookup",
    };
    let mut report = Report::new(name);
    let rows = store(&client, source, plan, &mut report).await?;
    if !report.interrupted {
        ask(&client, source, plan, &mut report, rows).await?;
    }
    Ok(report)
}

/// Gives the number of rows.
async fn store(client: &Client, source: &Source, plan: &Plan, report: &mut Report) -> Result<u64, Failure> {
    let bar = bar(source.size, "reading", "{prefix} {wide_bar} {percent}% eta {eta}");
    let started = Instant::now();
    let mut rows = source.rows()?;
    let mut count = 0;
    let mut running = JoinSet::new();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while count < plan.limit {
        let Some((line, row)) = rows.next()? else { break };
        match row {
            Ok(row) => {
                count += 1;
                if let Row::Pair(pair) = row {
                    bar.set_prefix("storing");
                    let (mut client, request) = (client.cache.clone(), plan.store(*pair, count));
                    running.spawn(async move { client.store(request).await.map(drop) });
                }
            }
            Err(why) if plan.strict => return Err(Failure::failed(format!("line {line}: {why}"))),
            Err(why) => {
                let message = format!("line {line}: {why}");
                if report.malformed.add(message.clone()) {
                    bar.suspend(|| output::note(&message));
                }
            }
        }
        bar.set_position(rows.bytes);
        while running.len() >= plan.concurrency {
            tokio::select! {
                Some(done) = running.join_next() => note_stored(done, report),
                _ = &mut interrupt => {
                    report.interrupted = true;
                    running.abort_all();
                    break;
                }
            }
        }
        if report.interrupted {
            break;
        }
    }
    while let Some(done) = running.join_next().await {
        note_stored(done, report);
    }
    report.storing = started.elapsed();
    bar.finish_and_clear();
    Ok(count)
}

fn note_stored(done: Result<Result<(), Status>, JoinError>, report: &mut Report) {
    let error = match done {
        Ok(Ok(())) => {
            report.stored += 1;
            return;
        }
        // After an interruption.
        Err(e) if e.is_cancelled() => return,
        // A prompt that is never cached; its pair is asked all the same.
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => return,
        Ok(Err(status)) => format!("store: {}", client::explain(&status)),
        Err(e) => e.to_string(),
    };
    report.errors.add(error);
}

async fn ask(client: &Client, source: &Source, plan: &Plan, report: &mut Report, total: u64) -> Result<(), Failure> {
    let bar = bar(total, "asking", "{prefix} {wide_bar} {pos}/{len} {per_sec} eta {eta}");
    let started = Instant::now();
    let mut rows = source.rows()?;
    let mut count = 0;
    let mut running = JoinSet::new();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while !report.interrupted {
        let next = if count < total { rows.next()? } else { None };
        match next {
            // Told in the first pass.
            Some((_, Err(_))) => continue,
            Some((_, Ok(row))) => {
                count += 1;
                running.spawn(one(client.clone(), plan.clone(), row, count));
                if running.len() < plan.concurrency {
                    continue;
                }
            }
            None if running.is_empty() => break,
            None => {}
        }
        tokio::select! {
            Some(done) = running.join_next() => {
                note_done(done, report);
                bar.inc(1);
            }
            _ = &mut interrupt => report.interrupted = true,
        }
    }
    running.abort_all();
    report.asking = started.elapsed();
    bar.finish_and_clear();
    Ok(())
}

/// Asks one row, the `number`-th from 1.
async fn one(client: Client, plan: Plan, row: Row, number: u64) -> Done {
    let mut context = plan.context.clone();
    let (mut chat, pair) = match row {
        Row::Ask(chat) => (chat, None),
        Row::Pair(pair) => {
            // Were it remembered, later rows would hit answers that no label speaks about.
            context.cache = Some(pb::CacheControls { no_store: true, ..context.cache.unwrap_or_default() });
            (pair.b, Some((pair.label, pair.id)))
        }
    };
    plan.adapt(&mut chat);
    let (context, chat) = (Some(context), Some(chat));
    let started = Instant::now();
    let result = match plan.call {
        Call::Lookup => lookup(client, pb::LookupRequest { context, chat }).await,
        Call::Complete if is_streamed(number, plan.stream) => {
            stream(client, pb::StreamCompleteRequest { context, chat }).await
        }
        Call::Complete => complete(client, pb::CompleteRequest { context, chat }).await,
    };
    Done { latency: started.elapsed(), result, pair }
}

async fn lookup(mut client: Client, request: pb::LookupRequest) -> Result<Reply, Status> {
    let reply = client.cache.lookup(request).await?.into_inner();
    let answer = reply.answer.unwrap_or_default().content;
    Ok(Reply { outcome: reply.cache.unwrap_or_default(), answer })
}

async fn complete(mut client: Client, request: pb::CompleteRequest) -> Result<Reply, Status> {
    let reply = client.chat.complete(request).await?.into_inner();
    let answer = reply.answer.unwrap_or_default().content;
    Ok(Reply { outcome: reply.completion.unwrap_or_default().cache.unwrap_or_default(), answer })
}

async fn stream(mut client: Client, request: pb::StreamCompleteRequest) -> Result<Reply, Status> {
    let mut events = client.chat.stream_complete(request).await?.into_inner();
    let mut answer = String::new();
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Delta(delta)) if delta.choice == 0 => answer += &delta.content,
            Some(Event::Final(completion)) => {
                return Ok(Reply { outcome: completion.cache.unwrap_or_default(), answer });
            }
            _ => {}
        }
    }
    Err(Status::unavailable("the answer was cut off"))
}

fn note_done(done: Result<Done, JoinError>, report: &mut Report) {
    let Done { latency, result, pair } = match done {
        Ok(done) => done,
        Err(e) => {
            report.ended(Ending::Error, Duration::ZERO);
            report.errors.add(e.to_string());
            return;
        }
    };
    match result {
        Ok(reply) => {
            let ending = ending(&reply.outcome);
            report.ended(ending, latency);
            if let Some((label, id)) = pair {
                report.judged(judge(ending, &reply.answer, label, &id), label);
            }
        }
        Err(status) => {
            report.ended(Ending::Error, latency);
            report.errors.add(format!("{:?}: {}", status.code(), client::explain(&status)));
        }
    }
}

fn ending(outcome: &pb::CacheOutcome) -> Ending {
    match outcome.status() {
        pb::CacheStatus::Exact => Ending::Exact,
        pb::CacheStatus::Semantic => Ending::Semantic,
        pb::CacheStatus::Stale => Ending::Stale,
        pb::CacheStatus::Miss => Ending::Miss,
        pb::CacheStatus::Bypass => Ending::Bypass,
        pb::CacheStatus::Unspecified => Ending::Error,
    }
}

fn judge(ending: Ending, answer: &str, label: bool, id: &str) -> Judgement {
    match ending {
        Ending::Exact | Ending::Semantic | Ending::Stale => match (answer.ends_with(&signature(id)), label) {
            (true, true) => Judgement::Right,
            (true, false) => Judgement::Wrong,
            (false, _) => Judgement::Other,
        },
        _ if label => Judgement::MissedRepeat,
        _ => Judgement::RightMiss,
    }
}

impl Plan {
    /// Stores an answer to `a` that is recognised when it is served. Rows with the same `a` share it: what is served
    /// to one of them is an answer to its own `a` whichever row stored it.
    fn store(&self, pair: Pair, number: u64) -> pb::StoreRequest {
        let mut chat = pair.a;
        self.adapt(&mut chat);
        let content = format!("Answer to row {number} {}", signature(&pair.id));
        let answer =
            pb::Answer { content, finish_reason: "stop".into(), model: chat.model.clone(), ..Default::default() };
        // Within any limit that a row or the plan sets: it stands for an answer of some length.
        let usage = Some(pb::Usage { prompt_tokens: 0, completion_tokens: 1 });
        pb::StoreRequest { context: Some(self.context.clone()), chat: Some(chat), answer: Some(answer), usage }
    }

    fn adapt(&self, chat: &mut pb::ChatRequest) {
        if let Some(model) = &self.model {
            chat.model.clone_from(model);
        }
        chat.max_tokens = chat.max_tokens.into_iter().chain(self.max_tokens).min();
    }
}

/// Ends the made-up answer to a prompt with that id.
fn signature(id: &str) -> String {
    format!("[replay {id}]")
}

/// Spreads a share evenly over the rows.
fn is_streamed(number: u64, share: f64) -> bool {
    (number as f64 * share).floor() > ((number - 1) as f64 * share).floor()
}

fn bar(length: u64, prefix: &'static str, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_prefix(prefix);
    // A template that does not parse costs the looks, not the replay.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
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
}
