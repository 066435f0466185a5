//! Stopping a server without cutting requests off, for a bounded time.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::types::Result;

/// Runs a server to its end. Once `stopping` is cancelled it has `limit` to finish the requests it holds; what
/// still runs then (an idle stream that nobody closes, say) is left to the end of the process.
pub async fn until_drained(
    server: impl Future<Output = Result<()>>,
    stopping: CancellationToken,
    limit: Duration,
) -> Result<()> {
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        result = server => result,
        () = overdue => {
            tracing::warn!(?limit, "requests were still running at the drain limit");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_does_not_hold_up_the_stop() {
        let (stopping, start) = (CancellationToken::new(), Instant::now());
        stopping.cancel();
        until_drained(std::future::pending(), stopping, Duration::from_secs(20)).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_stop_the_server_runs_on() {
        let server = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Err(crate::types::Error::internal("broke"))
        };
        let error = until_drained(server, CancellationToken::new(), Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.message, "broke");
    }
}
