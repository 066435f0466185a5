//! How well the parts that decide tell right hits from wrong ones, measured on labelled pairs.
//!
//! - [`data`]: pairs from files;
//! - [`run`]: their scores, by the embedder, guards and verifier that serve;
//! - [`measure`]: what scores say;
//! - [`report`]: the same as JSON and as a page;
//! - [`stream`]: prompts one by one into an empty cache, and what its hits were.

pub mod data;
pub mod measure;
mod page;
pub mod report;
pub mod run;
pub mod stream;
