//! `ask`: one prompt, its answer as it comes, and how it was answered.

use clap::Args;
use serde_json::json;

use super::args::{ClientArgs, PromptArgs};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb::{self, stream_complete_response::Event};

/// Ask one prompt; the answer is streamed
///
/// The answer goes to standard output. One line on standard error then says how it was answered: hit or miss,
/// similarity, model, tokens, cost and time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise ask 'How do I reset my password?'
  reprise ask 'How do I reset my password?' --only-if-cached
  git diff | reprise ask - --system 'Write a commit message for this diff.' --no-store")]
pub(super) struct AskArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object, once the answer is complete
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: AskArgs) -> Result<(), Failure> {
    let chat = args.prompt.chat()?;
    let context = Some(args.client.owner.context(Some(args.prompt.cache.controls())));
    let client = Client::connect(&args.client.addr).await?;
    if args.json { whole(client, context, chat).await } else { stream(client, context, chat).await }
}

async fn stream(mut client: Client, context: Option<pb::RequestContext>, chat: pb::ChatRequest) -> Result<(), Failure> {
    let request = pb::StreamCompleteRequest { context, chat: Some(chat) };
    let mut events = client.chat.stream_complete(request).await?.into_inner();
    let mut ends_line = true;
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Delta(delta)) if delta.choice == 0 => {
                output::write(&delta.content)?;
                ends_line = delta.content.chars().last().map_or(ends_line, |c| c == '\n');
            }
            Some(Event::Final(completion)) => {
                if !ends_line {
                    output::line("")?;
                }
                output::note(&summary(&completion));
                return Ok(());
            }
            _ => {}
        }
    }
    Err(Failure::failed("the answer was cut off"))
}

async fn whole(mut client: Client, context: Option<pb::RequestContext>, chat: pb::ChatRequest) -> Result<(), Failure> {
    let reply = client.chat.complete(pb::CompleteRequest { context, chat: Some(chat) }).await?.into_inner();
    let (answer, completion) = (reply.answer.unwrap_or_default(), reply.completion.unwrap_or_default());
    output::json(&json!({
        "answer": answer.content,
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "cache": output::outcome_json(&completion.cache.unwrap_or_default()),
        "usage": output::usage_json(&completion.usage.unwrap_or_default()),
        "cost_usd": completion.cost_usd,
        "saved_usd": completion.saved_usd,
        "latency_seconds": output::from_wire(completion.latency).map(|l| l.as_secs_f64()),
        "request_id": completion.request_id,
    }))
}

/// `miss | gpt-4o-mini | 12 + 24 tokens | $0.000016 | 231 ms`
fn summary(completion: &pb::Completion) -> String {
    let usage = completion.usage.unwrap_or_default();
    let mut parts = vec![
        output::outcome(completion.cache.as_ref().unwrap_or(&pb::CacheOutcome::default())),
        completion.model.clone(),
        format!("{} + {} tokens", usage.prompt_tokens, usage.completion_tokens),
        format!("${}", if completion.cost_usd.is_empty() { "0" } else { &completion.cost_usd }),
    ];
    if !matches!(completion.saved_usd.as_str(), "" | "0") {
        parts.push(format!("saved ${}", completion.saved_usd));
    }
    if !matches!(completion.finish_reason.as_str(), "" | "stop") {
        parts.push(format!("ended by {}", completion.finish_reason));
    }
    parts.extend(output::from_wire(completion.latency).map(output::time));
    parts.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_how_it_was_answered_and_what_it_cost() {
        let mut outcome = pb::CacheOutcome { similarity: Some(0.9731), ..Default::default() };
        outcome.set_status(pb::CacheStatus::Semantic);
        let completion = pb::Completion {
            usage: Some(pb::Usage { prompt_tokens: 12, completion_tokens: 24 }),
            cost_usd: "0".into(),
            saved_usd: "0.000016".into(),
            cache: Some(outcome),
            model: "m".into(),
            finish_reason: "length".into(),
            latency: Some(prost_types::Duration { seconds: 0, nanos: 2_500_000 }),
            ..Default::default()
        };
        let expected = "semantic hit, similarity 0.9731 | m | 12 + 24 tokens | $0 | saved $0.000016 | ended by length \
                        | 2.50 ms";
        assert_eq!(summary(&completion), expected);
    }
}
