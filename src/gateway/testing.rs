//! Requests for the tests of this module.

use super::Request;
use crate::types::{ChatRequest, Namespace, Owner, TenantId};

/// A request with one user message, by tenant `t` in namespace `n`, for model `m`.
pub fn request(prompt: &str) -> Request {
    let owner = Owner { tenant: TenantId::new("t").unwrap(), namespace: Namespace::new("n").unwrap() };
    Request::new("test", owner, ChatRequest::prompt("m", prompt))
}
