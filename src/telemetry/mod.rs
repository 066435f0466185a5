//! Logs to standard error and metrics for Prometheus. Prompts, answers and keys stand in neither.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::types::{Error, Result};

/// Upper bounds of histograms named `…_seconds`: from below an exact hit to beyond a slow provider.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// Upper bounds of all other histograms: counts of texts, tokens or bytes.
const COUNTS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

/// Samples are kept raw until they are folded into the buckets, so this bounds their memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts logging, and from here on logs and counts panics wherever they happen. To be called once, by the process.
pub fn init(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.level).map_err(|e| Error::invalid("log.level", e.to_string()))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Human => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(true).try_init(),
    };
    started.map_err(|e| Error::internal(format!("logging was already started: {e}")))?;
    count_panics();
    Ok(())
}

/// The metrics of this process, to render them; starts recording with the first call.
pub fn metrics() -> Result<PrometheusHandle> {
    static HANDLE: OnceLock<Result<PrometheusHandle>> = OnceLock::new();
    HANDLE.get_or_init(start_metrics).clone()
}

fn start_metrics() -> Result<PrometheusHandle> {
    let handle = recorder().map_err(|e| Error::internal("cannot start the metrics recorder").with_source(e))?;
    metrics::describe_counter!("reprise_panics_total", "Panics caught in tasks and threads");
    metrics::counter!("reprise_panics_total").absolute(0);
    let upkeep = handle.clone();
    // A thread of its own: it must go on whichever runtime made the first call.
    let loops = move || {
        loop {
            std::thread::sleep(UPKEEP_EVERY);
            upkeep.run_upkeep();
        }
    };
    let spawned = std::thread::Builder::new().name("metrics-upkeep".into()).spawn(loops);
    spawned.map_err(|e| Error::internal("cannot start the metrics thread").with_source(e))?;
    Ok(handle)
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new().set_buckets(COUNTS)?;
    builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?.install_recorder()
}

/// Where it happened is logged, what it said is not: a panic message may quote a prompt.
fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            metrics::counter!("reprise_panics_total").increment(1);
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
            let message = literal(info).unwrap_or("message left out");
            tracing::error!(place, thread, message, "panic");
        }));
    });
}

/// The message of a panic, if it is a literal in the source; formatted ones may hold data.
fn literal<'a>(info: &'a std::panic::PanicHookInfo<'_>) -> Option<&'a str> {
    info.payload().downcast_ref::<&'static str>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rendered_in_buckets_and_panics_are_counted() {
        let handle = metrics().unwrap();
        count_panics();
        metrics::histogram!("reprise_test_seconds").record(0.0007);
        metrics::histogram!("reprise_test_tokens").record(900.0);
        let before = panics(&handle.render());
        assert!(std::thread::spawn(|| panic!("expected by this test")).join().is_err());
        handle.run_upkeep();
        let text = handle.render();
        assert!(text.contains("reprise_test_seconds_bucket{le=\"0.0005\"} 0"), "{text}");
        assert!(text.contains("reprise_test_seconds_bucket{le=\"0.001\"} 1"), "{text}");
        assert!(text.contains("reprise_test_tokens_bucket{le=\"1024\"} 1"), "{text}");
        assert!(panics(&text) > before, "{text}");
    }

    fn panics(text: &str) -> u64 {
        let line = text.lines().find(|line| line.starts_with("reprise_panics_total")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_second_call_gives_the_same_recorder() {
        let (first, second) = (metrics().unwrap(), metrics().unwrap());
        metrics::counter!("reprise_test_total").increment(3);
        assert!(first.render().contains("reprise_test_total 3"));
        assert!(second.render().contains("reprise_test_total 3"));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let log = Log { level: "reprise=loud".into(), ..Log::default() };
        assert!(init(&log).unwrap_err().to_string().contains("log.level"));
    }
}
