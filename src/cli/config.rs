//! `config`: the settings, without starting anything.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

use super::args::{ConfigArgs, is_set};
use super::failure::Failure;
use super::output;
use crate::config::{Config, Loaded};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Tell every problem of the configuration; exits with 2 if there is one
    Check(CheckArgs),
    /// Print the settings in force as TOML, and which layer set what is not a default
    ///
    /// What is printed can be used as a configuration file. Secrets are no settings and are not in it; passwords in
    /// URLs are left out.
    Print(PrintArgs),
}

#[derive(Debug, Args)]
#[command(after_help = LAYERS)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = LAYERS)]
pub(super) struct PrintArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

const LAYERS: &str = "\
Settings come from the built-in defaults, then the file, then the environment, then --set:
  [cache]                        in the file
  min_similarity = 0.9
  REPRISE_CACHE__MIN_SIMILARITY=0.9
  --set cache.min_similarity=0.9
  --set 'providers=[{name=\"p\", kind=\"scripted\", models=[\"m\"]}]'
  --set providers.0.latency=50ms
These variables are not settings: REPRISE_CONFIG, REPRISE_ADDR, and all that begin with REPRISE_TEST_,
REPRISE_BENCH_, REPRISE_PORT or REPRISE_SERVICE_ (Kubernetes sets the last two).";

pub(super) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => check(&args.config.load(&[])?, args.json),
        ConfigCommand::Print(args) => print(&args.config.load(&[])?, args.json),
    }
}

fn check(loaded: &Loaded, json: bool) -> Result<(), Failure> {
    let warnings = loaded.config.warnings(is_set);
    if json {
        return output::json(&json!({ "ok": true, "warnings": warnings }));
    }
    warnings.iter().for_each(|warning| output::note(&format!("warning: {warning}")));
    output::line("the configuration is sound")
}

fn print(loaded: &Loaded, json: bool) -> Result<(), Failure> {
    if !json {
        return output::write(&loaded.to_toml()?);
    }
    let origins = loaded.origins.iter().map(|(key, layer)| (key.as_str(), layer.to_string())).collect();
    output::json(&Printed { config: loaded.config.redacted(), origins })
}

#[derive(Serialize)]
struct Printed<'a> {
    config: Config,
    /// Layer of each value that is not a default, by its path.
    origins: BTreeMap<&'a str, String>,
}
