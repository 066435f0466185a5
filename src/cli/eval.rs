//! `eval`: labelled pairs through the parts that decide, and what that says.

mod stream;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use super::args::ConfigArgs;
use super::failure::Failure;
use super::output;
use crate::app::{self, Judges};
use crate::cache::Judgement;
use crate::eval::data::Pair;
use crate::eval::measure::Share;
use crate::eval::report::Report;
use crate::eval::run::judge;
use crate::eval::{data, run};
use crate::telemetry;
use crate::types::{ChatRequest, TenantId, WrongRate};

/// Measure on labelled pairs how well right hits are told from wrong ones
///
/// Each line of a file is {"a": …, "b": …, "label": 0 or 1, "source": "set/kind"}: the prompt that was answered, the new one, and
/// whether one answer serves both. Prompts are texts, or conversations as lists of {"role", "content"}.
///
/// Every pair is scored by the embedder, the guards and, where there is one, the verifier of the configuration. Nothing
/// is stored and no LLM is asked.
///
/// With --stream, the prompts arrive one by one in a service with an empty cache, in this process: each is looked up, and remembered
/// if it is a miss. Of the hits it tells how many were right. Rows of {"text", "intent"} are read too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise eval pairs.jsonl
  reprise eval pairs.jsonl conversations.jsonl --html report.html --json > report.json
  reprise eval pairs.jsonl --pairs scored.jsonl
  reprise eval pairs.jsonl --stream --limit 20000 --set cache.max_wrong_rate=0.02")]
pub(super) struct EvalArgs {
    /// Files of labelled pairs, as JSON lines
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// One by one into an empty cache, in place of pair by pair
    #[arg(long, conflicts_with = "html")]
    stream: bool,
    /// Pairs of each file, or prompts of the stream; all unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each pair with its scores, or each hit of the stream, as JSON lines
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: EvalArgs) -> Result<(), Failure> {
    let loaded = args.config.load(&[])?;
    telemetry::init(&loaded.config.log)?;
    let limit = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if args.stream {
        return stream::run(loaded.config, &args.files, limit, (args.pairs.as_deref(), args.json)).await;
    }
    let mut pairs = Vec::new();
    for file in &args.files {
        let read = data::read(file, "eval").map_err(|e| Failure::usage(e.to_string()))?;
        pairs.extend(read.into_iter().take(limit));
    }
    let Judges { embedder, judge: own } = app::judges(&loaded.config).await?;
    let tenant = TenantId::new("default")?;
    let judges = run::Judges { embedder: &*embedder, judge: &own, tenant: &tenant };
    let bar = ProgressBar::new(0).with_style(style()?);
    let (found, comparable, took) = judge(&judges, &pairs, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })
    .await?;
    bar.finish_and_clear();
    let verifier = own.verifier().map(|verifier| verifier.model().id.clone());
    let rate = WrongRate::new(loaded.config.cache.max_wrong_rate)?;
    let bound = (rate.get(), own.max_risk(rate));
    let report = Report::new((&embedder.model().id, verifier.as_deref()), bound, &pairs, (&found, &comparable), took);
    if let Some(file) = &args.html {
        save(file, &report.html())?;
    }
    if let Some(file) = &args.pairs {
        let lines = pairs.iter().zip(&found).map(|(pair, found)| format!("{}\n", row(pair, found)));
        save(file, &lines.collect::<String>())?;
    }
    if args.json { output::json(&report) } else { output::write(&as_text(&report)) }
}

fn save(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::failed(format!("cannot write {}: {e}", file.display())))
}

/// A pair with its scores; its texts are those of the last turns.
fn row(pair: &Pair, found: &Judgement) -> Value {
    let text = |request: &ChatRequest| request.probe().map(|probe| probe.prompt);
    json!({
        "a": text(&pair.cached),
        "b": text(&pair.new),
        "label": u8::from(pair.is_right),
        "source": pair.source,
        "similarity": found.similarity,
        "guards": found.compared.guards.iter().map(|guard| guard.as_str()).collect::<Vec<_>>(),
        "likeness": found.compared.likeness,
        "lengths": found.compared.lengths,
        "logit": found.logit,
        "risk": found.risk,
    })
}

fn style() -> Result<ProgressStyle, Failure> {
    let style = "{bar:30} {pos}/{len}, {eta} left";
    ProgressStyle::with_template(style).map_err(|e| Failure::failed(e.to_string()))
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for set in &report.sets {
        text += &format!("{}: {} right pairs, {} wrong\n\n", set.name, set.right, set.wrong);
        let rows = set.stages.iter().map(|stage| {
            let served = stage.served.iter().map(|served| format!("{:.3}", served.right));
            let auc = stage.auc.map_or("-".into(), |auc| format!("{auc:.4}"));
            [stage.name.to_owned(), auc, format!("{:.3}", stage.recall_at_95)].into_iter().chain(served).collect()
        });
        let header = ["score", "AUC", "recall at 95 % precision", "served at 0.5 % wrong", "1 %", "2 %", "5 %"];
        text += &format!("{}\n", output::table(&header, 1, rows));
        let at = &set.default;
        let share = |share: Share| match share.of {
            0 => "-".to_owned(),
            of => format!("{:.4} of {of} ({:.4} to {:.4})", share.value, share.low, share.high),
        };
        text += &format!("at a wrong rate of {} (risk up to {:.3}):\n", at.max_wrong_rate, at.max_risk);
        text += &format!("  right served  {}\n  wrong served  {}\n", share(at.right), share(at.wrong));
        text += &format!("  precision     {}\n", share(at.precision));
        if at.not_compared > 0 {
            text += &format!("  {} pairs are not compared: other conversation, language or length\n", at.not_compared);
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::decide::compare::Comparison;
    use crate::cache::decide::guards::Guard;

    #[test]
    fn a_pair_is_written_with_all_that_was_found() {
        let (cached, new) = (ChatRequest::prompt("m", "fly to Rome"), ChatRequest::prompt("m", "fly to Oslo"));
        let pair = Pair { cached, new, is_right: false, source: "own/entity".into() };
        let compared = Comparison { guards: vec![Guard::Entity], likeness: 0.75, lengths: 1.0, same: false };
        let found = Judgement { similarity: 0.5, compared, logit: Some(-1.5), readable: true, prior: 0.5, risk: 0.75 };
        let expected = json!({"a": "fly to Rome", "b": "fly to Oslo", "label": 0, "source": "own/entity",
            "similarity": 0.5, "guards": ["entity"], "likeness": 0.75, "lengths": 1.0, "logit": -1.5, "risk": 0.75});
        assert_eq!(row(&pair, &found), expected);
    }

    #[test]
    fn the_table_has_a_line_for_each_way_to_score() {
        let (cached, new) = (ChatRequest::prompt("m", "a"), ChatRequest::prompt("m", "b"));
        let pair = Pair { cached, new, is_right: true, source: "own/near".into() };
        let compared = Comparison::default();
        let found = Judgement { similarity: 0.5, compared, logit: None, readable: true, prior: 0.5, risk: 0.5 };
        let report = Report::new(("e", None), (0.01, 0.2), &[pair], (&[found], &[true]), run::Took::default());
        let text = as_text(&report);
        assert!(text.starts_with("own: 1 right pairs, 0 wrong\n"), "{text}");
        assert!(text.contains("| similarity ") && text.contains("| similarity + guards "), "{text}");
    }
}
