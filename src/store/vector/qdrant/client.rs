//! Calls to the server: each within the configured time, or the longer one of bulk work, and none before the collection is there.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use qdrant_client::{Qdrant as Api, QdrantError};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::collection::Collection;
use crate::store::breaker::bulk_limit;
use crate::types::{Error, ErrorKind, Result};

/// Making a collection takes longer than a call may.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(15);
/// Calls fail at once for this long after the collection could not be prepared.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

pub struct Client {
    single: Limited,
    /// A client, and so a connection, of its own: its time limit is part of it.
    bulk: Limited,
    url: String,
    api_key: Option<String>,
    pub collection: Collection,
    preparation: Mutex<Preparation>,
}

struct Limited {
    api: Api,
    timeout: Duration,
}

/// A run of [`Collection::prepare`], with the time when it ended.
type Run = Shared<BoxFuture<'static, (Instant, Result<()>)>>;

#[derive(Default)]
struct Preparation {
    run: Option<Run>,
    /// Why the last one failed, while there was none that succeeded since.
    failure: Option<Error>,
}

impl Client {
    pub fn new(url: &str, api_key: Option<String>, timeout: Duration, collection: Collection) -> Result<Self> {
        let limited = |timeout| Ok::<_, Error>(Limited { api: connect(url, api_key.as_deref(), timeout)?, timeout });
        let (single, bulk) = (limited(timeout)?, limited(bulk_limit(timeout))?);
        Ok(Self { single, bulk, url: url.into(), api_key, collection, preparation: Mutex::default() })
    }

    /// One call, within the configured time; the collection is there when `call` is made.
    ///
    /// Errors: `Unavailable` when the server cannot be reached or the collection is gone, `DeadlineExceeded`,
    /// `FailedPrecondition` when the server refuses our key or the collection is of another kind.
    pub async fn call<'a, T, F>(&'a self, call: impl FnOnce(&'a Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, QdrantError>>,
    {
        self.call_through(&self.single, call).await
    }

    /// The same with more time, for writes and for work on many points.
    pub async fn call_bulk<'a, T, F>(&'a self, call: impl FnOnce(&'a Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, QdrantError>>,
    {
        self.call_through(&self.bulk, call).await
    }

    async fn call_through<'a, T, F>(&'a self, limited: &'a Limited, call: impl FnOnce(&'a Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, QdrantError>>,
    {
        let work = async {
            self.ready().await?;
            call(&limited.api).await.map_err(to_error)
        };
        let result = match timeout(limited.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "Qdrant did not answer in time")),
        };
        if result.as_ref().is_err_and(|error| error.kind == ErrorKind::NotFound) {
            self.preparation.lock().run = None;
            return Err(Error::unavailable("the Qdrant collection is gone; it is made anew"));
        }
        result
    }

    /// Starts looking for the collection, in the background.
    pub fn prepare(&self) {
        // Its outcome is for the next call.
        let _ = self.preparation();
    }

    async fn ready(&self) -> Result<()> {
        self.preparation()?.await.1
    }

    /// The run whose outcome counts now, or the last failure when waiting for another outcome is not worth it.
    fn preparation(&self) -> Result<Run> {
        let mut preparation = self.preparation.lock();
        if let Some(run) = preparation.run.clone() {
            match (run.clone().now_or_never(), &preparation.failure) {
                (Some((_, Ok(()))), _) => {
                    preparation.failure = None;
                    return Ok(run);
                }
                (Some((ended, Err(_))), _) if ended.elapsed() < PREPARE_AGAIN => return Ok(run),
                (Some((_, Err(error))), _) => preparation.failure = Some(error),
                (None, Some(failure)) => return Err(failure.clone()),
                (None, None) => return Ok(run),
            }
        }
        let run = self.start();
        preparation.run = Some(run.clone());
        preparation.failure.clone().map_or(Ok(run), Err)
    }

    fn start(&self) -> Run {
        let (collection, url, api_key) = (self.collection.clone(), self.url.clone(), self.api_key.clone());
        let run = tokio::spawn(async move {
            let prepare = async {
                let api = connect(&url, api_key.as_deref(), PREPARE_TIMEOUT)?;
                collection.prepare(&api).await
            };
            let outcome = timeout(PREPARE_TIMEOUT, prepare).await;
            let outcome =
                outcome.unwrap_or_else(|_| Err(Error::unavailable("Qdrant did not make the collection in time")));
            (Instant::now(), outcome)
        });
        let panicked =
            |e| (Instant::now(), Err(Error::internal("preparing the Qdrant collection ended").with_source(e)));
        run.map(move |run| run.unwrap_or_else(panicked)).boxed().shared()
    }
}

/// Does not touch the network.
fn connect(url: &str, api_key: Option<&str>, timeout: Duration) -> Result<Api> {
    // When a call is not answered in its time, the client makes a new connection and tries once more, so that one
    // that broke without a word is not used for ever. A quarter of the time is left for that.
    let mut config =
        Api::from_url(url).timeout(timeout * 3 / 4).connect_timeout(timeout / 2).skip_compatibility_check();
    if let Some(api_key) = api_key {
        config = config.api_key(api_key);
    }
    config.build().map_err(|e| Error::invalid("stores.qdrant_url", format!("{url:?}: {e}")))
}

/// `NotFound` means that the collection is not there.
pub fn to_error(error: QdrantError) -> Error {
    match error {
        QdrantError::ResponseError { status } => from_status(&status),
        QdrantError::ResourceExhaustedError { status, retry_after_seconds } => {
            from_status(&status).with_retry_after(Duration::from_secs(retry_after_seconds))
        }
        other => Error::internal("Qdrant").with_source(other),
    }
}

/// Without the status's metadata, which may say more than belongs in a log.
fn from_status(status: &Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        // What the client gives for its own timeouts is `Cancelled`.
        Code::DeadlineExceeded | Code::Cancelled => ErrorKind::DeadlineExceeded,
        Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::Aborted => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("Qdrant: {:?}: {}", status.code(), status.message()))
}
