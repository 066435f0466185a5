//! One integration binary for everything that needs the parts together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

mod openai_sdk;
mod path;
mod process;
mod redis;
#[allow(dead_code, reason = "the unit tests use what is not used here")]
#[path = "../support/redis.rs"]
mod redis_server;
mod right;
mod service;
mod support;
mod tidy;
mod wire;
