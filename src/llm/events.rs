//! From the events of a response to the deltas of an answer.

use futures::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;

use super::DeltaStream;
use super::http::{Endpoint, MAX_BODY_BYTES};
use super::sse::{Event, Parser};
use crate::types::{Delta, Result};

/// What one event means.
pub enum Step {
    Deltas(Vec<Delta>),
    /// The answer is over; whatever follows is not read.
    End,
}

/// Streams `response`, each event through `step`. The first error ends the stream; dropping it closes the
/// connection. A body of more than [`MAX_BODY_BYTES`] is an error, as it is for a whole answer: whoever collects the
/// deltas keeps all of them. The body may end without a word: then no finish reason was seen, and none is made up.
pub fn deltas<F>(endpoint: Arc<Endpoint>, response: reqwest::Response, step: F) -> DeltaStream
where
    F: FnMut(Event) -> Result<Step> + Send + 'static,
{
    let reader = Reader {
        endpoint,
        chunks: response.bytes_stream().boxed(),
        bytes: 0,
        parser: Some(Parser::default()),
        events: VecDeque::new(),
        deltas: VecDeque::new(),
        step,
        over: false,
    };
    stream::unfold(reader, |mut reader| async move {
        let next = reader.next().await.transpose()?;
        reader.over |= next.is_err();
        Some((next, reader))
    })
    .boxed()
}

struct Reader<F> {
    endpoint: Arc<Endpoint>,
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    /// Read so far.
    bytes: usize,
    /// `None` once the body has ended.
    parser: Option<Parser>,
    events: VecDeque<Event>,
    deltas: VecDeque<Delta>,
    step: F,
    over: bool,
}

impl<F: FnMut(Event) -> Result<Step>> Reader<F> {
    async fn next(&mut self) -> Result<Option<Delta>> {
        loop {
            if self.over {
                return Ok(None);
            }
            if let Some(delta) = self.deltas.pop_front() {
                return Ok(Some(delta));
            }
            if let Some(event) = self.events.pop_front() {
                match (self.step)(event)? {
                    Step::Deltas(deltas) => self.deltas.extend(deltas),
                    Step::End => self.over = true,
                }
                continue;
            }
            let Some(parser) = &mut self.parser else { return Ok(None) };
            match self.chunks.next().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|e| self.endpoint.transport(e))?;
                    self.bytes += chunk.len();
                    if self.bytes > MAX_BODY_BYTES {
                        let what = format!("its streamed answer is larger than {MAX_BODY_BYTES} bytes");
                        return Err(self.endpoint.unusable(what));
                    }
                    self.events.extend(parser.push(&chunk)?);
                }
                None => self.events.extend(self.parser.take().and_then(Parser::finish)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::contract::endpoint;
    use crate::types::ErrorKind;

    /// Each event a delta, of a body of `count` events of one MiB.
    async fn read(count: usize) -> Vec<Result<Delta>> {
        let event = bytes::Bytes::from(format!("data: {}\n\n", "x".repeat((1 << 20) - 8)));
        assert_eq!(event.len(), 1 << 20);
        let chunks = stream::iter(vec![event; count]).map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(chunks);
        let response = reqwest::Response::from(axum::http::Response::new(body));
        let step = |event: Event| Ok(Step::Deltas(vec![Delta::text(event.data)]));
        deltas(Arc::new(endpoint()), response, step).collect().await
    }

    #[tokio::test]
    async fn a_stream_larger_than_an_answer_may_be_ends_in_an_error() {
        let most = MAX_BODY_BYTES >> 20;
        let whole = read(most).await;
        assert_eq!((whole.len(), whole.iter().all(Result::is_ok)), (most, true));

        let mut cut = read(most + 2).await;
        let error = cut.pop().unwrap().unwrap_err();
        assert_eq!((cut.len(), error.kind), (most, ErrorKind::Upstream));
        assert!(error.message.contains("larger than 33554432 bytes"), "{error}");
    }
}
