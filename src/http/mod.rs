//! The HTTP surface: the OpenAI API, the plain `/chat`, health and metrics. Nothing below it names an HTTP type.

mod cache;
mod chat;
mod controls;
mod embeddings;
mod error;
mod health;
mod incoming;
mod models;
mod openai;
mod server;
mod sse;

pub use server::serve;
