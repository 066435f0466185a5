//! The real binary as a child process, on free ports and a data folder of its own.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reprise::grpc::pb;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

pub const BINARY: &str = env!("CARGO_BIN_EXE_reprise");

/// Longest a service may take to say that it is ready, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Service {
    child: Child,
    pub grpc: String,
    pub http: String,
}

/// Settings of a service that needs no model files: hashed n-grams and the scripted provider.
pub const LIGHT: &[&str] =
    &["embedding.model=hashed-ngrams", r#"providers=[{name="scripted",kind="scripted",models=["m","other-model"]}]"#];

impl Service {
    /// Starts `reprise serve` with `LIGHT` and `sets` on top.
    pub async fn start(data_dir: &Path, sets: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data-dir"]);
        command.arg(data_dir);
        for set in LIGHT.iter().chain(sets) {
            command.args(["--set", set]);
        }
        // Its own folder: no reprise.toml of the checkout.
        command.current_dir(data_dir).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("not ready in time").unwrap();
        let line = line.expect("the service ended before it was ready");
        let mut words = line.strip_prefix("ready ").unwrap_or_else(|| panic!("unexpected line {line:?}")).split(' ');
        let grpc = words.next().and_then(|w| w.strip_prefix("grpc=")).unwrap();
        let http = words.next().and_then(|w| w.strip_prefix("http=")).unwrap();
        Self { child, grpc: format!("http://{grpc}"), http: format!("http://{http}") }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.grpc.clone()).unwrap().connect().await.unwrap()
    }

    pub async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("did not end in time").unwrap()
    }
}

/// Where `tests/support` stands.
pub fn support(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(file)
}

pub fn context() -> Option<pb::RequestContext> {
    Some(pb::RequestContext::default())
}

pub fn chat(prompt: &str) -> Option<pb::ChatRequest> {
    let message = pb::Message { role: pb::Role::User.into(), content: prompt.into(), ..Default::default() };
    Some(pb::ChatRequest { model: "m".into(), messages: vec![message], ..Default::default() })
}

pub fn http_client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap()
}
