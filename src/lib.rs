//! Reprise: a semantic cache and vector service for LLM applications.
//!
//! The modules in reading order:
//!
//! - [`types`]: the nouns: identities, scope, exact key, request, answer, entry, error. No I/O.
//! - [`config`]: every setting, its default and its layers.
//! - [`telemetry`]: logs and metrics.
//! - [`store`]: the seams to what is remembered: entries (bodies by exact key) and vectors.
//! - [`models`]: model files: which there are, where they can be had, that they are the right ones.
//! - [`embed`]: texts to unit vectors, on the model's own threads.
//! - [`llm`]: the `Provider` seam and its backends.
//! - [`cache`]: exact lookup, semantic lookup, and the decision whether a near entry may be served.
//! - [`eval`]: how well right hits are told from wrong ones, on labelled pairs.
//! - [`gateway`]: the story of one request, from admission to the remembered answer.
//! - [`surface`]: what the surfaces share: checks on input, the OpenAI shape, panics, draining.
//! - [`grpc`]: the gRPC surface, and the only place that names protobuf types.
//! - [`http`]: the HTTP surface: the OpenAI API, the plain `/chat`, health and metrics.
//! - [`app`]: the only place that chooses backends; starts and stops the service.
//! - [`cli`]: the command line.

pub mod app;
pub mod cache;
pub mod cli;
pub mod config;
pub mod embed;
pub mod eval;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod llm;
pub mod models;
pub mod store;
pub mod surface;
pub mod telemetry;
pub mod types;

#[cfg(test)]
extern crate self as reprise;
#[cfg(test)]
#[path = "../tests/support/models.rs"]
pub(crate) mod test_models;
#[cfg(test)]
#[path = "../tests/support/tls.rs"]
pub(crate) mod test_tls;
