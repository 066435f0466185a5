//! From the events of a response to the deltas of an answer.

use futures::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;

use super::DeltaStream;
use super::http::Endpoint;
use super::sse::{Event, Parser};
use crate::types::{Delta, Result};

/// What one event means.
pub enum Step {
    Deltas(Vec<Delta>),
    /// The answer is over; whatever follows is not read.
    End,
}

/// Streams `response`, each event through `step`. The first error ends the stream; dropping it closes the
/// connection. The body may end without a word: then no finish reason was seen, and none is made up.
pub fn deltas<F>(endpoint: Arc<Endpoint>, response: reqwest::Response, step: F) -> DeltaStream
where
    F: FnMut(Event) -> Result<Step> + Send + 'static,
{
    let reader = Reader {
        endpoint,
        chunks: response.bytes_stream().boxed(),
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
                    self.events.extend(parser.push(&chunk)?);
                }
                None => self.events.extend(self.parser.take().and_then(Parser::finish)),
            }
        }
    }
}
