//! `explain`: why a prompt would hit or miss.

use clap::Args;
use serde_json::json;
use std::time::Duration;

use super::args::{ClientArgs, PromptArgs};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb;

/// Say why a prompt would hit or miss: candidates, similarities, verdicts, time per step
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise explain 'I forgot my password, how can I change it?'
  reprise explain 'I forgot my password, how can I change it?' --namespace support --json")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Longer prompts are cut in the table.
const PROMPT_WIDTH: usize = 60;

pub(super) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let chat = Some(args.prompt.chat()?);
    let context = Some(args.client.owner.context(Some(args.prompt.cache.controls())));
    let mut client = Client::connect(&args.client.addr).await?;
    let reply = client.cache.explain(pb::ExplainRequest { context, chat }).await?.into_inner();
    if args.json { output::json(&as_json(&reply)) } else { output::write(&as_text(&reply)) }
}

fn as_text(reply: &pb::ExplainResponse) -> String {
    let outcome = reply.cache.clone().unwrap_or_default();
    let mut text = format!("{}\n\n", output::outcome(&outcome));
    text += &format!("key             {}\nscope           {}\n", reply.key, reply.scope);
    if let Some(lowest) = reply.min_similarity {
        text += &format!("min similarity  {lowest}\n");
    }
    if let (Some(rate), Some(risk)) = (reply.max_wrong_rate, reply.max_risk) {
        text += &format!("max wrong rate  {rate}\nmax risk        {risk:.4}\n");
        text += &format!("labelled hits   {}, {} of them wrong\n", reply.labels, reply.wrong_labels);
    }
    let cut = if reply.truncated { ", its end was cut off" } else { "" };
    text += &match reply.embedded_tokens {
        0 => "embedded        no\n\n".to_owned(),
        tokens => format!("embedded        {tokens} tokens{cut}\n\n"),
    };
    if reply.candidates.is_empty() {
        text += "No candidates in this scope.\n\n";
    } else {
        let rows = reply.candidates.iter().map(|c| {
            let entry = c.entry.chars().take(12).collect();
            let age = output::from_wire(c.age).map(output::age).unwrap_or_default();
            let verdict = match c.guards.as_slice() {
                [] => c.verdict.clone(),
                guards => format!("{} ({})", c.verdict, guards.join(", ")),
            };
            let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
            let (logit, risk) = (number(c.logit.map(f64::from), 2), number(c.risk, 4));
            vec![shorten(&c.prompt), entry, verdict, age, format!("{:.4}", c.similarity), logit, risk]
        });
        let header = ["prompt", "entry", "verdict", "age", "similarity", "logit", "risk"];
        let table = output::table(&header, 3, rows);
        text += &format!("{table}\n\n");
    }
    let stages = reply.stages.iter().map(|stage| vec![stage.name.clone(), output::time(length(stage))]);
    text += &format!("{}\n", output::table(&["step", "time"], 1, stages));
    text
}

fn as_json(reply: &pb::ExplainResponse) -> serde_json::Value {
    let candidates = reply.candidates.iter().map(|c| {
        json!({
            "entry": c.entry,
            "similarity": output::exact_f32(c.similarity),
            "prompt": c.prompt,
            "age_seconds": output::from_wire(c.age).map(|age| age.as_secs_f64()),
            "verdict": c.verdict,
            "guards": c.guards,
            "likeness": c.likeness.map(output::exact_f32),
            "logit": c.logit.map(output::exact_f32),
            "risk": c.risk,
        })
    });
    let stages = reply.stages.iter().map(|s| json!({ "name": s.name, "seconds": length(s).as_secs_f64() }));
    json!({
        "cache": output::outcome_json(&reply.cache.clone().unwrap_or_default()),
        "key": reply.key,
        "scope": reply.scope,
        "min_similarity": reply.min_similarity.map(output::exact_f32),
        "max_wrong_rate": reply.max_wrong_rate,
        "max_risk": reply.max_risk,
        "labels": reply.labels,
        "wrong_labels": reply.wrong_labels,
        "embedded_tokens": reply.embedded_tokens,
        "truncated": reply.truncated,
        "candidates": candidates.collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
    })
}

fn length(stage: &pb::Stage) -> Duration {
    output::from_wire(stage.duration).unwrap_or_default()
}

/// One line of at most [`PROMPT_WIDTH`] characters.
fn shorten(prompt: &str) -> String {
    let mut words = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() > PROMPT_WIDTH {
        words = words.chars().take(PROMPT_WIDTH - 1).chain(['…']).collect();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> pb::ExplainResponse {
        let mut outcome = pb::CacheOutcome::default();
        outcome.set_status(pb::CacheStatus::Miss);
        pb::ExplainResponse {
            cache: Some(outcome),
            key: "ab".into(),
            scope: "cd".into(),
            candidates: vec![pb::Candidate {
                entry: "0123456789abcdef".into(),
                similarity: 0.894,
                prompt: "How do I reset\nmy password?".into(),
                age: Some(prost_types::Duration { seconds: 61, nanos: 0 }),
                verdict: "vetoed by a guard".into(),
                risk: Some(0.25),
                guards: vec!["number".into()],
                logit: None,
                likeness: Some(0.75),
            }],
            min_similarity: None,
            max_wrong_rate: Some(0.01),
            max_risk: Some(0.05),
            labels: 7,
            wrong_labels: 1,
            embedded_tokens: 12,
            truncated: false,
            stages: vec![pb::Stage {
                name: "embed".into(),
                duration: Some(prost_types::Duration { seconds: 0, nanos: 4_100_000 }),
            }],
        }
    }

    #[test]
    fn candidates_stand_in_a_table_with_their_verdicts() {
        let text = as_text(&reply());
        let row = text.lines().find(|line| line.contains("0123456789ab")).unwrap();
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(
            cells,
            [
                "How do I reset my password?",
                "0123456789ab",
                "vetoed by a guard (number)",
                "1m 1s",
                "0.8940",
                "-",
                "0.2500"
            ]
        );
        assert!(text.starts_with("miss\n"));
        assert!(text.contains("max wrong rate  0.01\nmax risk        0.0500\n"));
        assert!(text.contains("4.10 ms"));
    }

    #[test]
    fn no_candidates_are_said_in_words() {
        assert!(as_text(&pb::ExplainResponse::default()).contains("No candidates in this scope."));
    }

    #[test]
    fn json_holds_the_same() {
        let value = as_json(&reply());
        assert_eq!(value["candidates"][0]["similarity"].to_string(), "0.894");
        assert_eq!(value["stages"][0]["seconds"], 0.0041);
        assert_eq!(value["cache"]["status"], "miss");
    }

    #[test]
    fn long_prompts_are_cut_by_characters() {
        assert_eq!(shorten(&"长".repeat(61)).chars().count(), PROMPT_WIDTH);
        assert_eq!(shorten(&"长".repeat(60)), "长".repeat(60));
    }
}
