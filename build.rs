//! Compiles the protocol in `proto/` with protox: no system protoc needed.

use std::path::PathBuf;

const FILES: &[&str] = &["common", "chat", "cache", "embedding"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<_> = FILES.iter().map(|name| format!("reprise/v1/{name}.proto")).collect();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("reprise_v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().extern_path(".google.rpc", "::tonic_types::pb").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
