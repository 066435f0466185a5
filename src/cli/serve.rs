//! `serve`: the service in the foreground, until it is told to stop.

use clap::Args;
use std::net::SocketAddr;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::args::{ConfigArgs, is_set};
use super::failure::Failure;
use super::output;
use crate::app::App;
use crate::telemetry;

/// Start the service
///
/// Once it serves, it prints one line on standard output: `ready grpc=HOST:PORT http=HOST:PORT`. Logs go to standard
/// error. SIGTERM or Ctrl-C lets running requests finish, for at most `server.drain_timeout`, and writes what is not
/// yet written; a second one ends the process at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reprise serve
  reprise serve --config reprise.toml --data-dir /var/lib/reprise
  reprise serve --grpc-addr 127.0.0.1:0 --http-addr 127.0.0.1:0 --set log.format=json
  reprise serve --set 'providers=[{name=\"demo\", kind=\"scripted\", models=[\"demo\"]}]'

`reprise config print` shows every setting.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address for gRPC (`server.grpc_addr`); port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    grpc_addr: Option<SocketAddr>,
    /// Address for HTTP (`server.http_addr`); port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<SocketAddr>,
}

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let grpc = args.grpc_addr.map(|addr| format!("server.grpc_addr={addr}"));
    let http = args.http_addr.map(|addr| format!("server.http_addr={addr}"));
    let loaded = args.config.load(&grpc.into_iter().chain(http).collect::<Vec<_>>())?;
    telemetry::init(&loaded.config.log)?;
    for warning in loaded.config.warnings(is_set) {
        warn!("{warning}");
    }
    let mut app = App::start(loaded.config).await?;
    // Until here a signal ends the process: there is nothing to drain.
    let mut signals = Signals::listen()?;
    if output::line(&format!("ready grpc={} http={}", app.grpc_addr(), app.http_addr())).is_err() {
        warn!("standard output is closed; going on without it");
    }
    tokio::select! {
        () = signals.next() => {}
        error = app.failed() => return Err(error.into()),
    }
    info!("draining; a second signal ends at once");
    tokio::select! {
        stopped = app.stop() => Ok(stopped?),
        () = signals.next() => {
            output::note("stopped before everything was drained");
            std::process::exit(1);
        }
    }
}

/// SIGTERM and SIGINT alike.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
