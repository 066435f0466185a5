//! The command line. `serve` and `replay --in-process` start the service, `eval` the parts that decide; `ask`, `lookup`, `explain`, `report-hit`, `tune`, `stats` and
//! `replay` are gRPC clients of one that runs.

mod args;
mod ask;
mod client;
mod config;
mod eval;
mod explain;
mod failure;
mod lookup;
mod models;
mod output;
mod replay;
mod report_hit;
mod serve;
mod stats;
#[cfg(test)]
mod testing;
mod tune;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

use failure::Failure;

/// A semantic cache and vector service for LLM applications
///
/// Reprise answers a prompt from an exact hit or a semantic hit when that is safe, and otherwise asks an LLM, streams
/// its answer and remembers it.
#[derive(Debug, Parser)]
#[command(name = "reprise", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 it worked, 1 it failed, 2 the command line or the configuration is wrong.

Examples:
  reprise serve --set cache.max_wrong_rate=0.005
  reprise ask 'How do I reset my password?'
  reprise explain 'I forgot my password, how can I change it?'
  reprise replay prompts.jsonl --concurrency 16";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Ask(ask::AskArgs),
    Lookup(lookup::LookupArgs),
    Explain(explain::ExplainArgs),
    ReportHit(report_hit::ReportHitArgs),
    Stats(stats::StatsArgs),
    Tune(tune::TuneArgs),
    Replay(replay::ReplayArgs),
    Eval(eval::EvalArgs),
    /// Model files: fetch them, list them, check them
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// The configuration: check it, or print the settings in force
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Failure::failed(format!("cannot start the runtime: {e}")).tell(),
    };
    let code = match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    };
    // Nothing that is still running may keep a finished command from ending.
    runtime.shutdown_background();
    code
}

impl Cli {
    async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Ask(args) => ask::run(args).await,
            Command::Lookup(args) => lookup::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::ReportHit(args) => report_hit::run(args).await,
            Command::Stats(args) => stats::run(args).await,
            Command::Tune(args) => tune::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Eval(args) => eval::run(args).await,
            Command::Models(command) => models::run(command).await,
            Command::Config(command) => config::run(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_what_is_documented() {
        for line in [
            "reprise serve --config c.toml --data-dir d --grpc-addr 127.0.0.1:1 --http-addr [::1]:2 --set a=b --set c=d",
            "reprise ask hello --model m --system s --tenant t --namespace n --tag a --tag b --ttl 1h --json",
            "reprise ask - --min-similarity -0.5 --no-cache --addr 127.0.0.1:1",
            "reprise ask hello --bypass",
            "reprise lookup hello --no-store",
            "reprise explain hello --json",
            "reprise report-hit ab12 --wrong --tenant t --json",
            "reprise ask hello --max-wrong-rate 0.02",
            "reprise tune --rate 0.01 --rate 0.02 --namespace n --json",
            "reprise stats --json",
            "reprise replay - --concurrency 4 --limit 10 --model m --stream 0.5 --with lookup --json --strict",
            "reprise replay f.jsonl --in-process --set cache.mode=off",
            "reprise eval a.jsonl b.jsonl --limit 10 --html r.html --json --set embedding.threads=1",
            "reprise eval a.jsonl --stream --limit 10 --json --pairs hits.jsonl",
            "reprise models pull all-MiniLM-L6-v2",
            "reprise models list --json",
            "reprise models verify",
            "reprise config check --config c.toml",
            "reprise config print --json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|e| e.to_string()));
        }
    }

    #[test]
    fn contradictions_and_nonsense_are_usage_errors() {
        for line in [
            "reprise",
            "reprise ask",
            "reprise ask hello --no-cache --bypass",
            "reprise ask hello --ttl soon",
            "reprise ask hello --ttl 0s",
            "reprise ask hello --min-similarity nan",
            "reprise ask hello --min-similarity 1.1",
            "reprise ask hello --max-wrong-rate 1.1",
            "reprise replay f --concurrency 0",
            "reprise replay f --stream 2",
            "reprise replay f --in-process --addr http://127.0.0.1:1",
            "reprise serve --grpc-addr nowhere",
            "reprise eval",
            "reprise eval f --limit 0",
            "reprise eval f --stream --html r.html",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
