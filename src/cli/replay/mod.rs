//! `replay`: a file of prompts through the service, and a table of what happened.

mod report;
mod rows;
mod run;
mod source;

use clap::{Args, ValueEnum};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::args::{ConfigArgs, OwnerArgs};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::app::App;
use crate::telemetry;
use report::Report;

/// Run a file of prompts through the service and print a table
///
/// Each line is a JSON object: {"prompt": …}, {"text": …}, an OpenAI request body with "messages", a line of an OpenAI
/// batch file with "body", or a labelled pair {"a": …, "b": …, "label": 0 or 1} of texts or lists of messages.
///
/// Labelled pairs are replayed in two steps. First, an answer made up for each `a` is stored. Then each `b` is asked,
/// and is not remembered. A hit that returns the answer of its own `a` is right if the label is 1 and wrong if it is 0;
/// a hit that returns any other answer is counted apart, since no label speaks about it.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done, 1 nothing was answered, it was interrupted, or --strict met a malformed line.

Examples:
  reprise replay prompts.jsonl --concurrency 16
  reprise replay prompts.jsonl --limit 50 --model smollm2 --max-tokens 64
  reprise replay pairs.jsonl --limit 5000 --with lookup --namespace pairs --json
  reprise replay pairs.jsonl --in-process --data-dir /tmp/replay --set cache.min_similarity=0.9
  zcat prompts.jsonl.gz | reprise replay -")]
pub(super) struct ReplayArgs {
    /// File of JSON lines; `-` reads standard input
    file: PathBuf,
    /// Where the service listens for gRPC; else REPRISE_ADDR, else http://127.0.0.1:7070
    #[arg(long, value_name = "URL", conflicts_with = "in_process")]
    addr: Option<String>,
    /// Start the whole service in this process, from the configuration, on free ports
    #[arg(long)]
    in_process: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    owner: OwnerArgs,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Rows to replay; all unless told
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Model to ask, in place of the ones the rows name
    #[arg(long)]
    model: Option<String>,
    /// Tokens in an answer at most; rows that ask for fewer keep their own limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Share of the requests that are streamed, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    stream: f64,
    /// Call that asks
    #[arg(long, value_enum, default_value_t = Call::Complete)]
    with: Call,
    /// Stop at the first malformed line
    #[arg(long)]
    strict: bool,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Call {
    /// Misses go to the provider, and (but for labelled rows) are remembered
    Complete,
    /// Misses are only counted; no LLM is asked
    Lookup,
}

pub(super) async fn run(args: ReplayArgs) -> Result<(), Failure> {
    let source = source::Source::open(&args.file)?;
    let (app, addr) = if args.in_process {
        let app = start(&args.config).await?;
        let addr = app.grpc_addr().to_string();
        (Some(app), addr)
    } else {
        let env = std::env::var("REPRISE_ADDR").ok().filter(|addr| !addr.is_empty());
        (None, args.addr.clone().or(env).unwrap_or_else(|| "http://127.0.0.1:7070".into()))
    };
    let client = Client::connect(&addr).await?;
    let done = run::run(client, &source, &args.plan()).await;
    if let Some(app) = app {
        app.stop().await?;
    }
    conclude(done?, args.json)
}

impl ReplayArgs {
    fn plan(&self) -> run::Plan {
        run::Plan {
            context: self.owner.context(None),
            concurrency: self.concurrency.into(),
            limit: self.limit.unwrap_or(u64::MAX),
            model: self.model.clone(),
            max_tokens: self.max_tokens,
            stream: self.stream,
            call: self.with,
            strict: self.strict,
        }
    }
}

/// The whole service, in this process, on free ports of loopback.
async fn start(config: &ConfigArgs) -> Result<App, Failure> {
    let mut loaded = config.load(&[])?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (loaded.config.server.grpc_addr, loaded.config.server.http_addr) = (any_port, any_port);
    // Unless they were asked for, the service's own lines would only tear the progress bar.
    if !loaded.origins.contains_key("log.level") {
        loaded.config.log.level = "warn".into();
    }
    telemetry::init(&loaded.config.log)?;
    Ok(App::start(loaded.config).await?)
}

fn conclude(report: Report, json: bool) -> Result<(), Failure> {
    if json {
        output::json(&report.to_json())?
    } else {
        output::write(&report.to_text())?
    };
    if report.interrupted {
        return Err(Failure::failed("interrupted"));
    }
    match (report.requests(), report.answered()) {
        (0, _) => Err(Failure::failed("the file holds nothing to ask")),
        (_, 0) => Err(Failure::failed("not a single request was answered")),
        _ => Ok(()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a share from 0 to 1".to_string())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("expected a share from 0 to 1".into()) }
}
