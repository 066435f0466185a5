//! The report as a page for people: one file without scripts.

use std::fmt::Write as _;

use super::measure::{Bin, Share};
use super::report::{Report, Set, TOLD, WRONG};

impl Report {
    /// One page without scripts or outside files.
    pub fn html(&self) -> String {
        let mut page = String::from(HEAD);
        let verifier = self.verifier.as_deref().unwrap_or("none");
        let _ = write!(page, "<p>Embedder {}, verifier {}.</p>", escaped(&self.embedder), escaped(verifier));
        let all: usize = self.sets.iter().map(|set| set.right + set.wrong).sum();
        let each = |seconds: f64| 1e3 * seconds / all.max(1) as f64;
        let seconds = &self.seconds;
        let _ = write!(
            page,
            "<p>Time for each of {all} pairs, in batches: embedding {:.3} ms, words and guards {:.3} ms, verifier {:.3} ms.</p>",
            each(seconds.embedding),
            each(seconds.guards),
            each(seconds.verifying)
        );
        for set in &self.sets {
            let _ =
                write!(page, "<h2>{}</h2><p>{} right pairs, {} wrong.</p>", escaped(&set.name), set.right, set.wrong);
            page += &set.plot();
            page += "<table><tr><th>score</th><th>AUC</th><th>recall at 95 % precision</th>";
            for wrong in WRONG {
                let _ = write!(page, "<th>served at {} % wrong</th>", 100.0 * wrong);
            }
            page += "</tr>";
            for stage in &set.stages {
                let auc = match (stage.auc, stage.auc_interval) {
                    (Some(auc), Some((low, high))) => format!("{auc:.3} ({low:.3} to {high:.3})"),
                    _ => "-".into(),
                };
                let _ = write!(page, "<tr><td>{}</td><td>{auc}</td><td>{:.3}</td>", stage.name, stage.recall_at_95);
                for served in &stage.served {
                    let (low, high) = served.interval;
                    let _ = write!(page, "<td>{:.3} ({low:.3} to {high:.3})</td>", served.right);
                }
                page += "</tr>";
            }
            page += "</table>";
            let at = &set.default;
            let share = |Share { value, low, high, of }: Share| format!("{value:.3} ({low:.3} to {high:.3}, of {of})");
            let _ = write!(
                page,
                "<p>At a wrong rate of {} the service serves what has a risk up to {:.3}: of the right pairs {}, of the wrong ones {}; \
                 right among the served: {}.</p>",
                at.max_wrong_rate,
                at.max_risk,
                share(at.right),
                share(at.wrong),
                share(at.precision)
            );
            if let Some(best) = set.stages.last() {
                let _ = write!(page, "<h3>{}: served at {} % wrong, by kind</h3><table>", best.name, 100.0 * TOLD);
                for kind in &best.kinds {
                    let label = if kind.is_right { "right" } else { "wrong" };
                    let Share { value, low, high, of } = kind.served;
                    let _ = write!(
                        page,
                        "<tr><td>{}</td><td>{label}</td><td>{value:.3} ({low:.3} to {high:.3})</td><td>of {of}</td></tr>",
                        escaped(&kind.name)
                    );
                }
                page += "</table>";
            }
            let _ =
                write!(page, "<h3>Calibration of the risk model: off by {:.3} in the mean</h3>", set.calibration_error);
            page += &set.reliability_plot();
            page += "<table><tr><th>risk said</th><th>wrong</th></tr>";
            for Bin { said, seen } in &set.reliability {
                let Share { value, low, high, of } = seen;
                let _ = write!(page, "<tr><td>{said:.3}</td><td>{value:.3} ({low:.3} to {high:.3}) of {of}</td></tr>");
            }
            page += "</table>";
            if !set.guards.is_empty() {
                page += "<h3>Guards: pairs vetoed</h3><table><tr><th>guard</th><th>wrong</th><th>right</th></tr>";
                for (name, vetoed) in &set.guards {
                    let _ = write!(page, "<tr><td>{name}</td><td>{}</td><td>{}</td></tr>", vetoed.wrong, vetoed.right);
                }
                page += "</table>";
            }
        }
        page += "</body></html>\n";
        page
    }
}

impl Set {
    /// Share of right pairs served, upwards, against the share of wrong ones, to the right on a logarithmic scale.
    fn plot(&self) -> String {
        let x = |wrong: f64| LEFT + WIDTH * (1.0 + wrong.max(LEAST).log10() / -LEAST.log10());
        let y = |right: f64| TOP + HEIGHT * (1.0 - right);
        let mut plot = format!("<svg viewBox=\"0 0 {} {}\" width=\"620\">", LEFT + WIDTH + 150.0, TOP + HEIGHT + 40.0);
        for wrong in [0.001, 0.01, 0.1, 1.0] {
            let (at, bottom) = (x(wrong), y(0.0));
            let _ =
                write!(plot, "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" class=\"grid\"/>");
            let _ =
                write!(plot, "<text x=\"{at:.1}\" y=\"{:.1}\" class=\"x\">{} %</text>", bottom + 14.0, 100.0 * wrong);
        }
        for right in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let at = y(right);
            let _ =
                write!(plot, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" class=\"grid\"/>", x(1.0));
            let _ = write!(
                plot,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{} %</text>",
                LEFT - 4.0,
                at + 4.0,
                100.0 * right
            );
        }
        for (n, (stage, colour)) in self.stages.iter().zip(COLOURS).enumerate() {
            let points: Vec<_> =
                stage.curve.iter().map(|point| format!("{:.1},{:.1}", x(point.wrong), y(point.right))).collect();
            let _ = write!(plot, "<polyline points=\"{}\" stroke=\"{colour}\" class=\"curve\"/>", points.join(" "));
            let at = TOP + 14.0 + 16.0 * n as f64;
            let _ = write!(plot, "<text x=\"{:.1}\" y=\"{at}\" fill=\"{colour}\">{}</text>", x(1.0) + 8.0, stage.name);
        }
        let _ =
            write!(plot, "<text x=\"{:.1}\" y=\"{:.1}\" class=\"x\">wrong pairs served</text>", x(0.03), y(0.0) + 32.0);
        plot + "</svg>"
    }
}

impl Set {
    /// What was wrong, upwards with its interval, against what was said, to the right; on the diagonal both are the same.
    fn reliability_plot(&self) -> String {
        const SIDE: f64 = 240.0;
        let (x, y) = (|said: f64| LEFT + SIDE * said, |seen: f64| TOP + SIDE * (1.0 - seen));
        let mut plot = format!("<svg viewBox=\"0 0 {} {}\" width=\"330\">", LEFT + SIDE + 10.0, TOP + SIDE + 40.0);
        let _ = write!(plot, "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" class=\"grid\"/>", x(0.0), y(0.0), x(1.0), y(1.0));
        for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let _ = write!(plot, "<text x=\"{:.1}\" y=\"{:.1}\" class=\"x\">{tick}</text>", x(tick), y(0.0) + 14.0);
            let _ = write!(plot, "<text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{tick}</text>", LEFT - 4.0, y(tick) + 4.0);
        }
        for Bin { said, seen } in self.reliability.iter().filter(|bin| bin.seen.of > 0) {
            let (at, low, high) = (x(*said), y(seen.low), y(seen.high));
            let _ = write!(plot, "<path d=\"M{at:.1} {low:.1}L{at:.1} {high:.1}\" class=\"bar\"/>");
            let _ = write!(plot, "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\"/>", y(seen.value));
        }
        let _ = write!(plot, "<text x=\"{:.1}\" y=\"{:.1}\" class=\"x\">risk said</text>", x(0.5), y(0.0) + 32.0);
        plot + "</svg>"
    }
}

const LEFT: f64 = 44.0;
const TOP: f64 = 10.0;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
/// Least share of wrong pairs that is drawn; what is below stands at the left edge.
const LEAST: f64 = 1e-3;
const COLOURS: [&str; 5] = ["#888", "#2a7ab9", "#c4681a", "#1f8a4c", "#8a2be2"];

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Reprise: right hits</title><style>\
    body{font:15px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}\
    svg text{font-size:11px}.x{text-anchor:middle}.y{text-anchor:end}.grid{stroke:#ddd}.curve{fill:none;stroke-width:2}.bar{stroke:#2a7ab9}circle{fill:#2a7ab9}\
    </style></head><body><h1>Right hits and wrong ones</h1><p>How many right pairs (one answer serves both prompts) and wrong ones \
    each score would serve. Intervals are of 95 %.</p>";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
