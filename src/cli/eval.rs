//! `eval`: labelled pairs through the parts that decide, and what that says.

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

use super::args::ConfigArgs;
use super::failure::Failure;
use super::output;
use crate::app::{self, Judges};
use crate::eval::report::Report;
use crate::eval::run::judge;
use crate::eval::{data, run};
use crate::telemetry;
use crate::types::TenantId;

/// Measure on labelled pairs how well right hits are told from wrong ones
///
/// Each line of a file is {"a": …, "b": …, "label": 0 or 1, "source": "set/kind"}: the prompt that was answered, the new one, and
/// whether one answer serves both. Prompts are texts, or conversations as lists of {"role", "content"}.
///
/// Every pair is scored by the embedder, the guards and, where there is one, the verifier of the configuration. Nothing
/// is stored and no LLM is asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise eval pairs.jsonl
  reprise eval pairs.jsonl conversations.jsonl --html report.html --json > report.json")]
pub(super) struct EvalArgs {
    /// Files of labelled pairs, as JSON lines
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Pairs of each file; all unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: EvalArgs) -> Result<(), Failure> {
    let loaded = args.config.load(&[])?;
    telemetry::init(&loaded.config.log)?;
    let limit = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut pairs = Vec::new();
    for file in &args.files {
        let read = data::read(file, "eval").map_err(|e| Failure::usage(e.to_string()))?;
        pairs.extend(read.into_iter().take(limit));
    }
    let Judges { embedder, verifier } = app::judges(&loaded.config).await?;
    let tenant = TenantId::new("default")?;
    let judges = run::Judges { embedder: &*embedder, verifier: verifier.as_deref(), tenant: &tenant };
    let bar = ProgressBar::new(0).with_style(style()?);
    let (found, took) = judge(&judges, &pairs, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })
    .await?;
    bar.finish_and_clear();
    let verifier = judges.verifier.map(|verifier| verifier.model().id.clone());
    let report = Report::new(&embedder.model().id, verifier.as_deref(), &pairs, &found, took);
    if let Some(file) = &args.html {
        let failed = |e| Failure::failed(format!("cannot write {}: {e}", file.display()));
        std::fs::write(file, report.html()).map_err(failed)?;
    }
    if args.json { output::json(&report) } else { output::write(&as_text(&report)) }
}

fn style() -> Result<ProgressStyle, Failure> {
    let style = "{bar:30} {pos}/{len} texts and pairs, {eta} left";
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
        text += &format!("{}\n\n", output::table(&header, 1, rows));
    }
    text
}
