//! `tune`: what each bound would have served.

use clap::Args;
use serde_json::{Value, json};

use super::args::{ClientArgs, wrong_rate};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb;

/// Tell what each wrong rate would come to on a namespace's own traffic
///
/// By the requests that looked for an answer by meaning since the service started (older ones count less), and by the labels of the
/// namespace: reports and audits. In shadow mode every would-be hit is compared with the answer that was given, so a day in
/// shadow mode is the best basis. To measure on labelled pairs from a file, use `reprise eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise tune --namespace support
  reprise tune --rate 0.005 --rate 0.02 --json")]
pub(super) struct TuneArgs {
    /// A wrong rate to tell of (may be given several times); some usual ones unless told
    #[arg(long = "rate", value_name = "SHARE", value_parser = wrong_rate)]
    rates: Vec<f64>,
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: TuneArgs) -> Result<(), Failure> {
    let mut client = Client::connect(&args.client.addr).await?;
    let request = pb::TuneRequest { context: Some(args.client.owner.context(None)), rates: args.rates };
    let reply = client.cache.tune(request).await?.into_inner();
    if args.json { output::json(&as_json(&reply)) } else { output::write(&as_text(&reply)) }
}

fn as_text(reply: &pb::TuneResponse) -> String {
    let rows = reply.rates.iter().map(|rate| {
        vec![
            rate.max_wrong_rate.to_string(),
            format!("{:.4}", rate.max_risk),
            format!("{:.2}%", 100.0 * rate.hits),
            format!("{:.3}%", 100.0 * rate.wrong),
            rate.right_labels.to_string(),
            rate.wrong_labels.to_string(),
        ]
    });
    let header = ["max wrong rate", "max risk", "hits", "wrong hits, likely", "labelled right", "labelled wrong"];
    format!("{:.0} requests looked for an answer by meaning.\n\n{}\n", reply.requests, output::table(&header, 1, rows))
}

fn as_json(reply: &pb::TuneResponse) -> Value {
    let rate = |rate: &pb::TunedRate| {
        json!({
            "max_wrong_rate": rate.max_wrong_rate,
            "max_risk": rate.max_risk,
            "hits": rate.hits,
            "wrong": rate.wrong,
            "right_labels": rate.right_labels,
            "wrong_labels": rate.wrong_labels,
        })
    };
    json!({ "requests": reply.requests, "rates": reply.rates.iter().map(rate).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Double;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TuneArgs,
    }

    #[tokio::test]
    async fn it_asks_for_the_rates_and_shows_them() {
        let double = Double::start().await;
        let line = ["x", "--rate", "0.02", "--addr", &double.addr];
        run(Line::try_parse_from(line).unwrap().args).await.unwrap();
        let rate = pb::TunedRate { max_wrong_rate: 0.02, hits: 0.125, wrong: 0.0042, ..Default::default() };
        let text = as_text(&pb::TuneResponse { requests: 20.0, rates: vec![rate] });
        assert!(text.contains("20 requests") && text.contains("12.50%") && text.contains("0.420%"), "{text}");
        assert!(Line::try_parse_from(["x", "--rate", "2"]).is_err());
    }
}
