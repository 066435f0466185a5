//! `eval --stream`: prompts one by one through a service of its own.

use indicatif::ProgressBar;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Failure, output, style};
use crate::app::App;
use crate::config::{Config, EntryBackend, ProviderConfig, VectorBackend};
use crate::eval::stream::{Answered, Stream, StreamReport};
use crate::gateway::Request;
use crate::types::{Answer, CacheStatus, ChatRequest, Namespace, Owner, Similarity, TenantId, Usage};

/// Prompts are asked of it; nothing is ever sent to it.
const MODEL: &str = "eval";

/// `pairs`: where each hit is written, if anywhere.
pub(super) async fn run(
    mut config: Config,
    files: &[PathBuf],
    limit: usize,
    (pairs, json): (Option<&Path>, bool),
) -> Result<(), Failure> {
    let mut stream = Stream::default();
    for file in files {
        stream.read(file, limit).map_err(|e| Failure::usage(e.to_string()))?;
    }
    stream.prompts.truncate(limit);
    let folder =
        tempfile::tempdir().map_err(|e| Failure::failed(format!("cannot make a folder for the cache: {e}")))?;
    // Model files stay where they are; all else is this run's own.
    config.models.dir.get_or_insert_with(|| config.data_dir.join("models"));
    config.data_dir = folder.path().to_owned();
    (config.stores.entries, config.stores.vectors) = (EntryBackend::Sqlite, VectorBackend::Flat);
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (config.server.grpc_addr, config.server.http_addr) = (any_port, any_port);
    config.providers = vec![ProviderConfig::scripted(MODEL)];
    config.default_model = None;
    let rate = config.cache.max_wrong_rate;
    let app = App::start(config).await?;
    let asked = ask_all(&app, &stream).await;
    app.stop().await?;
    let (answered, hits) = asked?;
    let report = StreamReport::new(rate, &stream, &answered);
    if let Some(file) = pairs {
        super::save(file, &hits)?;
    }
    if json { output::json(&report) } else { output::write(&report.to_text()) }
}

/// What came of each prompt, and the hits as lines of JSON.
async fn ask_all(app: &App, stream: &Stream) -> Result<(Vec<Answered>, String), Failure> {
    let owner = Owner { tenant: TenantId::new("default")?, namespace: Namespace::new("eval")? };
    let gateway = app.gateway();
    let bar = ProgressBar::new(stream.prompts.len() as u64).with_style(style()?);
    let mut hits = String::new();
    let mut answered = Vec::with_capacity(stream.prompts.len());
    for (n, prompt) in stream.prompts.iter().enumerate() {
        bar.set_position(n as u64);
        let request = || Request::new("eval", owner.clone(), ChatRequest::prompt(MODEL, prompt.clone()));
        let started = Instant::now();
        let looked = gateway.lookup(request()).await?;
        let took = started.elapsed();
        if looked.outcome.status == CacheStatus::Semantic {
            let cached = looked.entry.as_ref().and_then(|entry| entry.probe.as_ref());
            let cached = cached.map_or("", |probe| &probe.prompt);
            let was = stream.was(cached, n);
            let (similarity, risk) = (looked.outcome.similarity.map(Similarity::get), looked.outcome.risk);
            let hit = json!({"a": cached, "b": prompt, "was": was, "similarity": similarity, "risk": risk});
            hits += &format!("{hit}\n");
            answered.push((Some(was), took));
            continue;
        }
        answered.push((None, took));
        // A bypass (of a prompt about this moment, say) is not remembered by the service either.
        if looked.outcome.status == CacheStatus::Miss {
            gateway.store(request(), Answer::text(MODEL, "answered", Usage::new(1, 1))).await?;
        }
    }
    bar.finish_and_clear();
    Ok((answered, hits))
}
