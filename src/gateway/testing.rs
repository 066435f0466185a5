//! Requests for the tests of this module.

use super::Request;
use crate::types::{CacheControls, ChatRequest, Namespace, Owner, Priority, TenantId};

/// A request with one user message, by tenant `t` in namespace `n`, for model `m`.
pub fn request(prompt: &str) -> Request {
    Request {
        id: "test".into(),
        owner: Owner { tenant: TenantId::new("t").unwrap(), namespace: Namespace::new("n").unwrap() },
        user: None,
        session: None,
        template: None,
        chat: ChatRequest::prompt("m", prompt),
        controls: CacheControls::default(),
        priority: Priority::default(),
        deadline: None,
    }
}
