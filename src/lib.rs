//! Reprise: a semantic cache and vector service for LLM applications.
//!
//! The modules in reading order:
//!
//! - [`types`]: the nouns: identities, scope, exact key, request, answer, entry, error. No I/O.
//! - [`config`]: every setting, its default and its layers.
//! - [`telemetry`]: logs and metrics.
//! - [`store`]: the seams to what is remembered: entries (bodies by exact key) and vectors.
//! - [`embed`]: texts to unit vectors, on the model's own threads.
//! - [`llm`]: the `Provider` seam and its backends.
//! - [`gateway`]: the story of one request, from admission to the remembered answer.
//! - [`grpc`]: the gRPC surface, and the only place that names protobuf types.
//! - [`app`]: the only place that chooses backends; starts and stops the service.
//! - [`cli`]: the command line.

pub mod app;
pub mod cli;
pub mod config;
pub mod embed;
pub mod gateway;
pub mod grpc;
pub mod llm;
pub mod models;
pub mod store;
pub mod telemetry;
pub mod types;
