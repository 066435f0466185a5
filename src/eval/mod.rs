//! How well the cache tells right hits from wrong ones, measured on labelled pairs.
//!
//! - [`data`]: pairs from files;
//! - [`measure`]: what their scores say.

pub mod data;
pub mod measure;
