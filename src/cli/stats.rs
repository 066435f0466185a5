//! `stats`: what the cache holds, and how it has answered since the service started.

use clap::Args;
use serde_json::json;

use super::args::ClientArgs;
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb;

/// Show what the cache holds and how it has answered since the service started
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reprise stats --json")]
pub(super) struct StatsArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: StatsArgs) -> Result<(), Failure> {
    let mut client = Client::connect(&args.client.addr).await?;
    let context = Some(args.client.owner.context(None));
    let stats = client.cache.stats(pb::StatsRequest { context }).await?.into_inner();
    if args.json { output::json(&as_json(&stats)) } else { output::write(&as_text(&stats)) }
}

fn as_text(stats: &pb::StatsResponse) -> String {
    let answered = stats.exact_hits + stats.semantic_hits + stats.stale_hits + stats.misses + stats.bypasses;
    let share = |count: u64| match answered {
        0 => String::new(),
        all => format!("{:.1}%", 100.0 * count as f64 / all as f64),
    };
    let counted = |name: &str, count: u64| vec![name.to_owned(), count.to_string(), share(count)];
    let rows = [
        counted("exact hits", stats.exact_hits),
        counted("semantic hits", stats.semantic_hits),
        counted("stale hits", stats.stale_hits),
        counted("misses", stats.misses),
        counted("bypasses", stats.bypasses),
        vec!["errors".into(), stats.errors.to_string(), String::new()],
    ];
    let mut text = format!("{}\n\n", output::table(&["answered by", "requests", "share"], 1, rows));
    let mut add = |name: &str, value: String| text += &format!("{name:16}{value}\n");
    let size = output::bytes(stats.entry_bytes);
    let unless_silent = |store: &str, says: String| {
        if stats.unavailable.iter().any(|silent| silent == store) { "unknown: the store is down".into() } else { says }
    };
    add("entries", unless_silent("entries", format!("{} ({size}, {} evicted)", stats.entries, stats.evicted)));
    add("vectors", unless_silent("vectors", stats.vectors.to_string()));
    add("embedding", stats.embedding_model.clone());
    add("spent", format!("${}", stats.spent_usd));
    add("saved", format!("${}", stats.saved_usd));
    add("writes dropped", stats.writes_dropped.to_string());
    add("uptime", output::from_wire(stats.uptime).map(output::age).unwrap_or_default());
    text
}

fn as_json(stats: &pb::StatsResponse) -> serde_json::Value {
    json!({
        "entries": stats.entries,
        "entry_bytes": stats.entry_bytes,
        "vectors": stats.vectors,
        "evicted": stats.evicted,
        "exact_hits": stats.exact_hits,
        "semantic_hits": stats.semantic_hits,
        "stale_hits": stats.stale_hits,
        "misses": stats.misses,
        "bypasses": stats.bypasses,
        "errors": stats.errors,
        "spent_usd": stats.spent_usd,
        "saved_usd": stats.saved_usd,
        "embedding_model": stats.embedding_model,
        "uptime_seconds": output::from_wire(stats.uptime).map(|uptime| uptime.as_secs_f64()),
        "writes_dropped": stats.writes_dropped,
        "unavailable": stats.unavailable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_answered_requests() {
        let stats = pb::StatsResponse { exact_hits: 1, misses: 3, errors: 7, ..Default::default() };
        let text = as_text(&stats);
        assert!(text.contains("| exact hits    |        1 | 25.0% |"), "{text}");
        assert!(text.contains("| misses        |        3 | 75.0% |"), "{text}");
        assert_eq!(as_json(&stats)["errors"], 7);
    }

    #[test]
    fn a_fresh_service_has_no_shares() {
        assert!(!as_text(&pb::StatsResponse::default()).contains('%'));
    }
}
