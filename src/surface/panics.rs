//! A panic ends the request it happened in, and nothing else.

use futures::FutureExt;
use futures::stream::{self, Stream, StreamExt};
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use crate::types::{Error, Result};

/// What the caller of something that panicked is told. The payload may quote a prompt, so it goes no further; the
/// process's panic hook counts it and says where it happened.
pub fn caught(_panic: Box<dyn Any + Send>) -> Error {
    Error::internal("the request made the service panic")
}

/// The result of a future, its panic included.
pub async fn guard<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(|panic| Err(caught(panic)))
}

/// The same stream, ended and dropped at its first error; a panic in it becomes that error.
pub fn guard_stream<T, E: From<Error>>(stream: impl Stream<Item = Result<T, E>>) -> impl Stream<Item = Result<T, E>> {
    let guarded = Box::pin(AssertUnwindSafe(stream).catch_unwind());
    stream::unfold(Some(guarded), |source| async {
        let mut source = source?;
        let item = source.next().await?.unwrap_or_else(|panic| Err(caught(panic).into()));
        let rest = item.is_ok().then_some(source);
        Some((item, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error_without_its_text() {
        let error = guard::<()>(async { panic!("quotes a secret") }).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(!error.to_string().contains("secret"));
        assert_eq!(guard(async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_or_an_error_is_the_last_item_of_a_stream() {
        let items = stream::iter(0..3).map(|i| if i == 1 { panic!("at {i}") } else { Ok::<_, Error>(i) });
        let seen: Vec<_> = guard_stream(items).collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].as_ref().unwrap(), &0);
        assert_eq!(seen[1].as_ref().unwrap_err().kind, ErrorKind::Internal);

        let items = stream::iter([Ok(0), Err(Error::unavailable("down"))]).chain(stream::pending());
        assert_eq!(guard_stream(items).collect::<Vec<_>>().await.len(), 2);
    }
}
