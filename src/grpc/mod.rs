//! The gRPC surface. Nothing below it names a protobuf type.

mod cache;
mod chat;
mod context;
mod convert;
mod embedding;
mod encode;
mod server;
mod status;

pub use server::{Serving, serve};

/// Generated from `proto/reprise/v1`.
#[allow(clippy::all, missing_docs)]
pub mod pb {
    tonic::include_proto!("reprise.v1");

    /// Every file of the protocol, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reprise_v1.bin"));
}
