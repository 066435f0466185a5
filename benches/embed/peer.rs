//! ONNX Runtime, in a process of its own (`benches/peers/embed.py`).

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(python: &Path, model_dir: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/embed.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(model_dir)
            // Some machines set these for old builds of OpenBLAS; they slow a current one.
            .env_remove("OPENBLAS_CORETYPE")
            .env_remove("OPENBLAS_L2_SIZE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", python.display()));
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answers }
    }

    /// Seconds of each of `runs` runs over all batches.
    pub fn seconds(&mut self, engine: &str, batches: &[Vec<Vec<u32>>], runs: usize) -> Vec<f64> {
        self.answer(&json!({"engine": engine, "batches": batches, "runs": runs}))
    }

    /// GFLOP/s of a large single-precision matrix product on all cores, best of three.
    pub fn sgemm(&mut self) -> f64 {
        self.answer::<Vec<f64>>(&json!({"sgemm": 3000})).into_iter().fold(0.0, f64::max)
    }

    /// The vectors of a batch.
    pub fn vectors(&mut self, engine: &str, batch: &[Vec<u32>]) -> Vec<Vec<f32>> {
        self.answer(&json!({"engine": engine, "vectors": batch}))
    }

    fn answer<T: DeserializeOwned>(&mut self, question: &Value) -> T {
        writeln!(self.ask, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("benches/peers/embed.py failed ({e})"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It would end by itself, its input being closed; this does not wait for what it is at.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
