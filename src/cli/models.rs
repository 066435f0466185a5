//! `models`: the model files of the manifest.

use clap::{Args, Subcommand};
use serde_json::json;
use std::sync::Arc;

use super::args::ConfigArgs;
use super::failure::Failure;
use super::output;
use crate::config::{Config, ProviderKind};
use crate::embed::HashEmbedder;
use crate::models::{self, FileState, Listed, Manifest, Purpose};

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// Fetch a model, or all that the configuration needs; what is there and right is kept
    Pull(ModelArgs),
    /// List the models of the manifest and whether their files are there
    List(ListArgs),
    /// Read the files of a model, or of all that are there, and compare them with the manifest
    Verify(ModelArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise models pull
  reprise models pull all-MiniLM-L6-v2 --set models.local_dir=/mnt/models
  reprise models verify")]
pub(super) struct ModelArgs {
    /// Name in the manifest
    name: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: ModelsCommand) -> Result<(), Failure> {
    match command {
        ModelsCommand::Pull(args) => pull(args).await,
        ModelsCommand::List(args) => list(args),
        ModelsCommand::Verify(args) => verify(args),
    }
}

async fn pull(args: ModelArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?.config;
    let names = match args.name {
        Some(name) => vec![name],
        None => {
            let manifest = Manifest::builtin()?;
            let embedder = &config.embedding.model;
            if manifest.model(embedder).is_err() {
                output::note(&format!("embedding.model {embedder} is not in the manifest: nothing to fetch for it"));
            }
            needed(&config, &manifest)
        }
    };
    let mut pulled = Vec::new();
    for name in names {
        let progress = Arc::new(models::Stderr::new());
        let dir = models::pull(&name, &config.models, &config.data_dir, progress).await?;
        if !args.json {
            output::line(&format!("{name}: {}", dir.display()))?;
        }
        pulled.push(json!({ "name": name, "dir": dir }));
    }
    if args.json { output::json(&json!({ "models": pulled })) } else { Ok(()) }
}

/// The embedding model, and for each local provider the first LLM it names, else the manifest's first; without any
/// providers, the manifest's first LLM too.
fn needed(config: &Config, manifest: &Manifest) -> Vec<String> {
    let mut llms = manifest.models.iter().filter(|model| model.purpose == Purpose::Llm).map(|model| &model.name);
    let first = llms.clone().next();
    let local = config.providers.iter().filter(|p| p.kind == ProviderKind::Local);
    let mut wanted: Vec<_> = local.map(|p| llms.clone().find(|name| p.models.contains(name)).or(first)).collect();
    if config.providers.is_empty() {
        wanted.push(llms.next());
    }
    let embedder = Some(&config.embedding.model).filter(|name| *name != HashEmbedder::NAME);
    let mut needed: Vec<_> = embedder.cloned().into_iter().collect();
    for name in wanted.into_iter().flatten() {
        if !needed.contains(name) {
            needed.push(name.clone());
        }
    }
    needed
}

fn list(args: ListArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?.config;
    let listed = models::list(&config.models, &config.data_dir)?;
    if args.json {
        let models: Vec<_> = listed.iter().map(as_json).collect();
        return output::json(&json!({ "models": models }));
    }
    let rows = listed.iter().map(|Listed { model, dir, present }| {
        let place = if *present { dir.display().to_string() } else { "not here".into() };
        vec![
            model.name.clone(),
            model.purpose.as_str().into(),
            model.licence.clone(),
            place,
            output::bytes(model.size()),
        ]
    });
    let table = output::table(&["model", "use", "licence", "files", "size"], 4, rows);
    output::line(&table.to_string())
}

fn as_json(Listed { model, dir, present }: &Listed) -> serde_json::Value {
    json!({
        "name": model.name,
        "use": model.purpose.as_str(),
        "licence": model.licence,
        "bytes": model.size(),
        "dir": dir,
        "present": present,
    })
}

fn verify(args: ModelArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?.config;
    let names = match args.name {
        Some(name) => vec![name],
        None => {
            let listed = models::list(&config.models, &config.data_dir)?;
            listed.into_iter().filter(|listed| listed.dir.is_dir()).map(|listed| listed.model.name).collect()
        }
    };
    let (mut files, mut wrong) = (Vec::new(), 0);
    for name in names {
        for (file, state) in models::verify(&name, &config.models, &config.data_dir)? {
            wrong += usize::from(state != FileState::Good);
            let state = describe(&state);
            if !args.json {
                output::line(&format!("{name}/{}: {state}", file.name))?;
            }
            files.push(json!({ "model": name, "file": file.name, "state": state }));
        }
    }
    if args.json {
        output::json(&json!({ "ok": wrong == 0, "files": files }))?;
    } else if files.is_empty() {
        output::line("no model files are here")?;
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::failed("1 file is not what the manifest says; `reprise models pull` fetches it")),
        n => Err(Failure::failed(format!(
            "{n} files are not what the manifest says; `reprise models pull` fetches them"
        ))),
    }
}

fn describe(state: &FileState) -> String {
    match state {
        FileState::Good => "good".into(),
        FileState::Missing => "missing".into(),
        FileState::WrongSize { actual } => format!("wrong size, {actual} bytes"),
        FileState::WrongHash { actual } => format!("wrong sha256, {actual}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn needed_with(sets: &[&str]) -> Vec<String> {
        let sets: Vec<_> = sets.iter().map(|set| set.to_string()).collect();
        let config = Config::load(None::<&Path>, std::iter::empty(), &sets).unwrap();
        needed(&config, &Manifest::builtin().unwrap())
    }

    #[test]
    fn what_is_needed_follows_the_providers() {
        let both = needed_with(&[]);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], "all-MiniLM-L6-v2");
        assert_eq!(needed_with(&["providers=[{name=\"l\",kind=\"local\"},{name=\"k\",kind=\"local\"}]"]), both);
        assert_eq!(needed_with(&["embedding.model=hashed-ngrams"]), both[1..]);
        assert_eq!(needed_with(&["providers=[{name=\"s\",kind=\"scripted\",models=[\"m\"]}]"]), both[..1]);
    }
}
