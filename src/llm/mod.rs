//! The way to an LLM: one [`Provider`] trait, its backends, and (composed around them) what a gateway does.

pub mod anthropic;
mod build;
#[cfg(test)]
mod contract;
mod directory;
mod events;
mod http;
pub mod local;
pub mod openai;
pub mod scripted;
mod sse;
mod stop;

pub use build::connect;
pub use directory::Directory;
pub use scripted::ScriptedProvider;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::types::{Answer, ChatRequest, Delta, Result};

/// One upstream that answers chat requests.
///
/// Dropping a future or a stream cancels the work, down to the socket or the thread that computes.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// Model names it answers to; `*` stands for any.
    fn models(&self) -> &[String];

    /// Runs a request to its end.
    async fn complete(&self, request: &ChatRequest) -> Result<Answer>;

    /// Runs a request and gives its answer in pieces. Errors before the first piece come as `Err` of the call
    /// where the provider tells them so early; later ones end the stream. A stream that ends without a finish
    /// reason was cut off.
    async fn stream(&self, request: &ChatRequest) -> Result<DeltaStream>;

    /// Answers when the provider can be reached; cheap, without running a model.
    async fn ping(&self) -> Result<()>;
}

pub type DeltaStream = BoxStream<'static, Result<Delta>>;
