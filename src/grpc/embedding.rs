//! `EmbeddingService`: texts to unit vectors.

use futures::stream::{BoxStream, StreamExt};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::context::context;
use super::encode::to_embedding;
use super::pb::{self, embedding_service_server::EmbeddingService};
use super::status::clear;
use crate::gateway::Gateway;
use crate::surface::{Context, Violations, guard_stream, rename_fields, within};
use crate::types::{Embedding, Error, Result};

/// Texts of one stream that are embedded at once; enough to fill the batches of the model.
const STREAM_IN_FLIGHT: usize = 256;

pub struct EmbeddingApi {
    gateway: Arc<Gateway>,
}

impl EmbeddingApi {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }
}

#[tonic::async_trait]
impl EmbeddingService for EmbeddingApi {
    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let model = &self.gateway.embedding_model().name;
        if !body.model.is_empty() && body.model != *model {
            errors.add("model", format!("{:?} is not served; the embedding model is {model:?}", body.model));
        }
        let most = self.gateway.config().limits.max_batch;
        if body.texts.is_empty() || body.texts.len() > most {
            errors.add("texts", format!("{} texts; expected 1 to {most}", body.texts.len()));
        }
        let context = errors.finish(context)?;
        let embeddings = embed(&self.gateway, &context, body.texts).await?;
        let embeddings = embeddings.iter().map(to_embedding).collect();
        Ok(Response::new(pb::EmbedResponse { embeddings, model: model.clone() }))
    }

    type EmbedStreamStream = BoxStream<'static, Result<pb::EmbedStreamResponse, Status>>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<pb::EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let (metadata, _, texts) = request.into_parts();
        let gateway = self.gateway.clone();
        let mut contexts = StreamContext::new(metadata);
        let replies = texts.map(move |message| {
            let asked = message.map_err(clear).and_then(|m| Ok((contexts.next(m.context)?, m.id, m.text)));
            let gateway = gateway.clone();
            async move {
                let (context, id, text) = asked?;
                let embedded = embed(&gateway, &context, vec![text]).await;
                let embeddings = embedded.map_err(|error| of_text(error, id))?;
                let embedding = embeddings.first().ok_or_else(|| Error::internal("the embedder gave no vector"))?;
                Ok(pb::EmbedStreamResponse { id, embedding: Some(to_embedding(embedding)) })
            }
        });
        Ok(Response::new(guard_stream(replies.buffer_unordered(STREAM_IN_FLIGHT)).boxed()))
    }
}

async fn embed(gateway: &Gateway, context: &Context, texts: Vec<String>) -> Result<Vec<Embedding>> {
    within(context.deadline, gateway.config().server.request_timeout, gateway.embed(&context.owner, texts)).await
}

/// Says which text of a stream an error is about.
fn of_text(error: Error, id: u64) -> Error {
    rename_fields(error, |field| field.replace("texts[0]", "text")).context(format!("text {id}"))
}

/// The context of each text in a stream: its own, or the one sent last.
struct StreamContext {
    /// Holds the deadline of the whole stream.
    metadata: MetadataMap,
    start: Instant,
    last: Option<Context>,
}

impl StreamContext {
    fn new(metadata: MetadataMap) -> Self {
        Self { metadata, start: Instant::now(), last: None }
    }

    fn next(&mut self, wire: Option<pb::RequestContext>) -> Result<Context> {
        if let (None, Some(last)) = (&wire, &self.last) {
            return Ok(last.clone());
        }
        let mut errors = Violations::default();
        let context = context(wire, &self.metadata, self.start, &mut errors);
        let context = errors.finish(context)?;
        self.last = Some(context.clone());
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_context_takes_the_one_sent_last() {
        let named = |tenant: &str| Some(pb::RequestContext { tenant: tenant.into(), ..Default::default() });
        let mut contexts = StreamContext::new(MetadataMap::new());
        let mut tenant = |wire| contexts.next(wire).unwrap().owner.tenant.to_string();
        assert_eq!(tenant(None), "default");
        assert_eq!(tenant(named("acme")), "acme");
        assert_eq!(tenant(None), "acme");
        assert_eq!(tenant(named("other")), "other");
    }

    #[test]
    fn an_error_in_a_stream_names_its_text() {
        let error = of_text(Error::invalid("texts[0]", "is empty"), 7);
        assert_eq!((&*error.message, &*error.violations[0].field), ("text 7: text: is empty", "text"));
    }

    #[test]
    fn a_wrong_context_is_an_error() {
        let wrong = pb::RequestContext { tenant: "a b".into(), ..Default::default() };
        let error = StreamContext::new(MetadataMap::new()).next(Some(wrong)).unwrap_err();
        assert_eq!(error.violations[0].field, "context.tenant");
    }
}
