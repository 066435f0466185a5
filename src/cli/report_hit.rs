//! `report-hit`: whether a semantic hit was right.

use clap::Args;
use serde_json::json;

use super::args::ClientArgs;
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::grpc::pb;

/// Tell the cache that a semantic hit was right or wrong
///
/// The id of a hit stands in its reply: the header X-Reprise-Hit, the field cache.hit over gRPC, and `ask --json`. A wrong hit is
/// deleted, its two prompts do not meet again for 90 days, and the namespace serves less until its bound is known to hold.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise report-hit 3fa9… --wrong
  reprise report-hit 3fa9… --right --namespace support")]
pub(super) struct ReportHitArgs {
    /// Id of the hit
    hit: String,
    /// One answer served both prompts
    #[arg(long, group = "judgement", required_unless_present = "wrong")]
    right: bool,
    /// The answer was a wrong one for the new prompt
    #[arg(long, group = "judgement")]
    wrong: bool,
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ReportHitArgs) -> Result<(), Failure> {
    let mut client = Client::connect(&args.client.addr).await?;
    let judgement = if args.right { pb::HitJudgement::Right } else { pb::HitJudgement::Wrong };
    let context = Some(args.client.owner.context(None));
    let request = pb::ReportHitRequest { context, hit: args.hit, judgement: judgement.into() };
    let reply = client.cache.report_hit(request).await?.into_inner();
    if args.json {
        return output::json(&json!({ "counted": reply.counted, "deleted": reply.deleted }));
    }
    output::line(as_text(reply))
}

fn as_text(reply: pb::ReportHitResponse) -> &'static str {
    match (reply.counted, reply.deleted) {
        (true, true) => "counted, and the entry is deleted",
        (true, false) => "counted",
        (false, true) => "it had been reported before; the entry is deleted",
        (false, false) => "it had been reported before",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Double;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReportHitArgs,
    }

    #[tokio::test]
    async fn a_report_goes_out_for_its_owner() {
        let double = Double::start().await;
        let line = ["x", "ab", "--wrong", "--namespace", "faq", "--addr", &double.addr];
        run(Line::try_parse_from(line).unwrap().args).await.unwrap();
        assert_eq!(double.seen()[0].namespace, "faq");
    }

    #[test]
    fn one_judgement_is_needed_and_no_more() {
        assert!(Line::try_parse_from(["x", "ab"]).is_err());
        assert!(Line::try_parse_from(["x", "ab", "--right", "--wrong"]).is_err());
    }
}
