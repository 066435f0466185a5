//! The real `openai` Python SDK, unmodified, against the real binary.

use std::time::Duration;

use tokio::process::Command;

use crate::service::{Service, support};

/// What the script says when the SDK cannot be installed.
const SKIPPED: i32 = 77;

#[tokio::test]
async fn the_openai_python_sdk_works_unmodified() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &[]).await;
    let mut script = Command::new("sh");
    script.arg(support("openai_sdk.sh")).args([&format!("{}/v1", service.http), "m", "hashed-ngrams"]);
    let run = script.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(300), run).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(SKIPPED) {
        println!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
}
