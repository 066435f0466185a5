//! Server-sent events: gateway events to lines, with one end for each way a stream can end.

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use std::convert::Infallible;
use std::time::Duration;

use super::controls::add_outcome;
use super::error;
use crate::gateway::{StreamEvent, Streamed, Summary};
use crate::surface::guard_stream;
use crate::types::{Delta, Error, Result};

/// A comment is sent after this long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Turns the events of one answer into the data of server-sent events.
pub trait Encoder: Send + 'static {
    fn delta(&mut self, delta: Delta) -> Vec<String>;

    /// What ends a stream that went well.
    fn last(&mut self, summary: Summary) -> Vec<String>;
}

/// The whole response: headers that say how the request was answered, then the events. Dropping its body drops the
/// gateway's stream, which cancels the work.
pub fn response(streamed: Streamed, encoder: impl Encoder) -> Response {
    let Streamed { outcome, events } = streamed;
    let events = data(events, encoder).map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    add_outcome(response.headers_mut(), &outcome);
    response
}

/// The data of each event. An error, or an end without [`StreamEvent::Final`], becomes an `{"error": …}` event and
/// ends the stream without the encoder's last words.
pub fn data(
    events: impl Stream<Item = Result<StreamEvent>> + Send + 'static,
    encoder: impl Encoder,
) -> impl Stream<Item = String> + Send + 'static {
    let events = Box::pin(guard_stream(events));
    let batches = stream::unfold(Some((events, encoder)), |state| async {
        let (mut events, mut encoder) = state?;
        match events.next().await {
            Some(Ok(StreamEvent::Delta(delta))) => Some((encoder.delta(delta), Some((events, encoder)))),
            Some(Ok(StreamEvent::Final(summary))) => Some((encoder.last(summary), None)),
            Some(Err(error)) => Some((vec![error::body(&error).to_string()], None)),
            None => {
                let error = Error::internal("the answer broke off");
                Some((vec![error::body(&error).to_string()], None))
            }
        }
    });
    batches.flat_map(stream::iter)
}
