//! Where answers and vectors live. Each seam is a trait in its `mod.rs`; its siblings are the backends.

pub mod breaker;
pub mod entry;
pub mod evidence;
pub mod redis;
pub mod sqlite;
pub mod vector;

#[cfg(test)]
#[path = "../../tests/support/redis.rs"]
mod redis_server;
