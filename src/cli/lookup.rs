//! `lookup`: what the cache would answer, without asking an LLM.

use clap::Args;
use serde_json::json;

use super::args::{ClientArgs, PromptArgs};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb;

/// Show what the cache would answer; never asks an LLM
///
/// A miss is a normal result; it prints nothing on standard output and exits with 0.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise lookup 'How do I reset my password?'
  reprise lookup 'How do I reset my password?' --min-similarity 0.8 --json")]
pub(super) struct LookupArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: LookupArgs) -> Result<(), Failure> {
    let chat = Some(args.prompt.chat()?);
    let context = Some(args.client.owner.context(Some(args.prompt.cache.controls())));
    let mut client = Client::connect(&args.client.addr).await?;
    let reply = client.cache.lookup(pb::LookupRequest { context, chat }).await?.into_inner();
    let outcome = reply.cache.unwrap_or_default();
    if args.json {
        let seconds = |at: prost_types::Timestamp| at.seconds as f64 + f64::from(at.nanos) / 1e9;
        return output::json(&json!({
            "cache": output::outcome_json(&outcome),
            "answer": reply.answer.as_ref().map(|answer| &answer.content),
            "model": reply.answer.as_ref().map(|answer| &answer.model),
            "usage": reply.usage.as_ref().map(output::usage_json),
            "created_unix": reply.created.map(seconds),
            "expires_unix": reply.expires.map(seconds),
        }));
    }
    if let Some(answer) = reply.answer {
        output::line(answer.content.trim_end_matches('\n'))?;
    }
    output::note(&output::outcome(&outcome));
    Ok(())
}
