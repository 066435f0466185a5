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
mod tests;
