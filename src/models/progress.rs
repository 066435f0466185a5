//! How a download tells a person that it goes on.

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::io::IsTerminal;

/// Told what a pull does. One file or wheel is under way at a time.
pub trait Progress: Send + Sync + 'static {
    /// Something a person should read.
    fn say(&self, line: &str);
    /// A download of about `total` bytes begins.
    fn begin(&self, what: &str, total: u64);
    /// So many of its bytes are there.
    fn reached(&self, bytes: u64);
    /// It ended, well or not.
    fn end(&self);
}

/// Says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn say(&self, _: &str) {}
    fn begin(&self, _: &str, _: u64) {}
    fn reached(&self, _: u64) {}
    fn end(&self) {}
}

/// A bar on standard error when that is a terminal, plain lines when it is not.
#[derive(Debug, Default)]
pub struct Stderr {
    bar: Mutex<Option<ProgressBar>>,
}

impl Stderr {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Progress for Stderr {
    fn say(&self, line: &str) {
        match &*self.bar.lock() {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn begin(&self, what: &str, total: u64) {
        if !std::io::stderr().is_terminal() {
            eprintln!("fetching {what}, {}", indicatif::HumanBytes(total));
            return;
        }
        let bar = ProgressBar::new(total);
        // A template that does not parse costs the looks, not the download.
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        *self.bar.lock() = Some(bar);
    }

    fn reached(&self, bytes: u64) {
        if let Some(bar) = &*self.bar.lock() {
            bar.set_position(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.lock().take() {
            bar.finish_and_clear();
        }
    }
}
