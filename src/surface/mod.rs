//! What the surfaces share. Nothing here names a protobuf or an HTTP type.

mod body;
mod completion;
mod drain;
mod panics;
mod violations;

pub use body::{chat_from_json, from_json, object};
pub use completion::{add_unknown, finish_reason, is_plain, parse_answer, render_answer, render_usage};
pub use drain::until_drained;
pub use panics::{caught, guard, guard_stream};
pub use violations::{Complaint, Violations, rename_fields, shorten};

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

use crate::gateway::Request;
use crate::types::{CacheControls, ChatRequest, Error, ErrorKind, Owner, Priority, Result, SessionId, UserId};

/// Name of the tenant and the namespace of a request that names none.
pub const DEFAULT_OWNER: &str = "default";

/// Most tags one request may give its entry.
pub const MAX_TAGS: usize = 64;

/// Longest request id or template version, in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// A request but for its chat: who asks, and how it is to be treated.
#[derive(Debug, Clone)]
pub struct Context {
    pub id: String,
    pub owner: Owner,
    pub user: Option<UserId>,
    pub session: Option<SessionId>,
    pub template: Option<String>,
    pub controls: CacheControls,
    pub priority: Priority,
    pub deadline: Option<Instant>,
}

impl Context {
    /// The whole request. Where the caller names no user, the body's field `user` does.
    pub fn with_chat(self, chat: ChatRequest) -> Request {
        let Self { id, owner, user, session, template, controls, priority, deadline } = self;
        let user = user.or_else(|| body_user(chat.user.as_deref()));
        Request { id, owner, user, session, template, chat, controls, priority, deadline }
    }
}

/// A call to the gateway that takes no deadline of its own, held to the caller's or else to `limit` from now.
pub async fn within<T>(deadline: Option<Instant>, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let longest = after(Instant::now(), limit);
    let Some(until) = deadline.into_iter().chain(longest).min() else { return call.await };
    match tokio::time::timeout_at(until, call).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the answer was there")),
    }
}

/// `None` where the clock cannot count that far, which is as good as no deadline.
pub fn after(now: Instant, wait: Duration) -> Option<Instant> {
    now.checked_add(wait)
}

/// How long a caller should wait before it tries again: what the error says, or a second when a queue was full.
pub fn retry_after(error: &Error) -> Option<Duration> {
    error.retry_after.or((error.kind == ErrorKind::Overloaded).then_some(Duration::from_secs(1)))
}

/// A new request id: a version 7 UUID, so ids sort by time.
pub fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Checks a label that travels through headers and logs: 1 to 128 visible ASCII characters.
pub fn check_label(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_LABEL_BYTES {
        return Err(format!("is {} bytes long; expected 1 to {MAX_LABEL_BYTES}", text.len()));
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => Err(format!("contains {bad:?}; only visible ASCII characters are allowed")),
        None => Ok(()),
    }
}

/// Checks how long an answer may be served.
pub fn check_ttl(ttl: Duration) -> Result<Duration, String> {
    if ttl < Duration::from_millis(1) { Err("must be at least one millisecond".into()) } else { Ok(ttl) }
}

/// The end user an OpenAI body names in its field `user`. One that is no valid id is hashed into one, so that it
/// still narrows the audience where the namespace asks for that; dropping it would share that user's answers.
fn body_user(user: Option<&str>) -> Option<UserId> {
    let user = user.filter(|u| !u.is_empty())?;
    UserId::new(user).or_else(|_| UserId::new(format!("blake3:{}", blake3::hash(user.as_bytes()).to_hex()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_held_to_the_shorter_of_deadline_and_limit() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        for (deadline, limit) in [(Some(short), long), (Some(long), short), (None, short)] {
            let start = Instant::now();
            let result: Result<()> = within(deadline.map(|d| start + d), limit, std::future::pending()).await;
            assert_eq!(result.unwrap_err().kind, ErrorKind::DeadlineExceeded);
            assert_eq!(start.elapsed().as_secs(), 1, "{deadline:?} {limit:?}");
        }
    }

    #[test]
    fn a_wait_beyond_the_clock_is_no_deadline() {
        assert_eq!(after(Instant::now(), Duration::MAX), None);
    }

    #[test]
    fn labels_are_visible_ascii() {
        assert!(check_label("req-1/2:3").is_ok());
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            assert!(check_label(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_user_that_is_no_id_still_names_one_user() {
        assert_eq!(body_user(Some("bo")).unwrap().as_str(), "bo");
        assert_eq!(body_user(Some("")), None);
        let (a, b) = (body_user(Some("John Smith")).unwrap(), body_user(Some("Jane Smith")).unwrap());
        assert_ne!(a, b);
        assert_eq!(body_user(Some("John Smith")).unwrap(), a);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        assert_eq!(retry_after(&Error::new(ErrorKind::Overloaded, "full")), Some(Duration::from_secs(1)));
        assert_eq!(retry_after(&Error::internal("x")), None);
        let told = Error::new(ErrorKind::RateLimited, "slow").with_retry_after(Duration::from_secs(9));
        assert_eq!(retry_after(&told), Some(Duration::from_secs(9)));
    }
}
