//! Upserts that wait together go in one request.

use futures::future::try_join_all;
use qdrant_client::qdrant::{DeletePointsBuilder, Filter, PointStruct, UpsertPointsBuilder};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::client::Client;
use super::payload;
use crate::store::vector::Point;
use crate::types::{Error, ErrorKind, Result, UnixMillis};

/// Points in one request, at most.
const BATCH: usize = 256;
/// Upserts waiting for the batcher; beyond it callers wait, and are refused after [`QUEUE_WAIT`].
const QUEUE: usize = 1024;
const QUEUE_WAIT: Duration = Duration::from_secs(2);
/// Expired points are filtered by the server at once; their room is given free at this pace.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Up to [`BATCH`] points and their caller.
struct Request {
    points: Vec<PointStruct>,
    reply: oneshot::Sender<Result<()>>,
}

#[derive(Clone)]
pub struct Queue(mpsc::Sender<Request>);

impl Queue {
    /// Nobody sends what is queued any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Returns when all points are applied.
    pub async fn upsert(&self, points: Vec<Point>) -> Result<()> {
        let mut outcomes = Vec::new();
        for points in points.chunks(BATCH) {
            let (reply, outcome) = oneshot::channel();
            let request = Request { points: points.iter().map(payload::to_struct).collect(), reply };
            match self.0.send_timeout(request, QUEUE_WAIT).await {
                Ok(()) => outcomes.push(async { outcome.await.map_err(|_| closed())? }),
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    let error = Error::new(ErrorKind::Overloaded, "Qdrant has too many upserts waiting");
                    return Err(error.with_retry_after(Duration::from_secs(1)));
                }
            }
        }
        // Each request has its own deadline, and the queue is bounded: so is this wait.
        try_join_all(outcomes).await.map(|_| ())
    }
}

pub fn closed() -> Error {
    Error::unavailable("the vector store is closed")
}

/// Sends one request at a time, so that upserts are applied in the order they came.
pub struct Batcher {
    client: Arc<Client>,
    queue: mpsc::Receiver<Request>,
    /// Taken from the queue, but did not fit in the batch before.
    next: Option<Request>,
}

impl Batcher {
    pub fn new(client: Arc<Client>) -> (Queue, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Queue(sender), Self { client, queue, next: None })
    }

    /// Runs until the queue is closed and empty.
    pub async fn run(mut self) {
        let mut sweep = tokio::time::interval_at(Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = match self.next.take() {
                Some(request) => request,
                None => tokio::select! {
                    request = self.queue.recv() => match request {
                        Some(request) => request,
                        None => return,
                    },
                    _ = sweep.tick() => {
                        self.sweep().await;
                        continue;
                    }
                },
            };
            let batch = self.fill(first);
            self.send(batch).await;
        }
    }

    /// What is queued and still wanted, up to [`BATCH`] points.
    fn fill(&mut self, first: Request) -> Vec<Request> {
        let mut points = first.points.len();
        let mut batch = vec![first];
        while let Ok(request) = self.queue.try_recv() {
            if points + request.points.len() > BATCH {
                self.next = Some(request);
                break;
            }
            points += request.points.len();
            batch.push(request);
        }
        batch.retain(|request| !request.reply.is_closed());
        batch
    }

    async fn send(&self, batch: Vec<Request>) {
        let (points, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.points, r.reply)).unzip();
        let points = last_of_each_id(points.into_iter().flatten().collect());
        if points.is_empty() {
            return;
        }
        metrics::histogram!("reprise_qdrant_batch_points").record(points.len() as f64);
        let request = UpsertPointsBuilder::new(&self.client.collection.name, points).wait(true);
        let result = self.client.call_bulk(|qdrant| qdrant.upsert_points(request)).await.map(|_| ());
        for reply in replies {
            // A caller that is gone does not want to know.
            let _ = reply.send(result.clone());
        }
    }

    /// The server is asked to delete, and not waited for: nothing depends on it.
    pub(super) async fn sweep(&self) {
        let expired = Filter::must([payload::is_expired(UnixMillis::now())]);
        let request = DeletePointsBuilder::new(&self.client.collection.name).points(expired).wait(false);
        if let Err(error) = self.client.call_bulk(|qdrant| qdrant.delete_points(request)).await {
            tracing::warn!(%error, "expired vectors were not swept; the next sweep tries again");
        }
    }
}

/// Which of two points with one id would win in one request is not documented.
fn last_of_each_id(mut points: Vec<PointStruct>) -> Vec<PointStruct> {
    let mut seen = HashSet::with_capacity(points.len());
    points.reverse();
    points.retain(|point| seen.insert(point.id.clone()));
    points
}
