//! `EmbeddingService`: texts to unit vectors.

use futures::stream::{BoxStream, Stream, StreamExt};
use std::future::Future;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::context::context;
use super::encode::to_embedding;
use super::pb::{self, embedding_service_server::EmbeddingService};
use super::status::{clear, to_message};
use crate::gateway::Gateway;
use crate::surface::{Context, Violations, guard, guard_stream, rename_fields, within};
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
        let embed_one = move |context: Context, text| {
            let gateway = gateway.clone();
            async move {
                let embeddings = embed(&gateway, &context, vec![text]).await.map_err(of_text)?;
                embeddings.into_iter().next().ok_or_else(|| Error::internal("the embedder gave no vector"))
            }
        };
        Ok(Response::new(replies(texts, StreamContext::new(&metadata), embed_one).boxed()))
    }
}

/// One reply for each text, an error among them. What the transport says ends the stream.
fn replies<F>(
    texts: impl Stream<Item = Result<pb::EmbedStreamRequest, Status>>,
    mut contexts: StreamContext,
    embed_one: impl Fn(Context, String) -> F,
) -> impl Stream<Item = Result<pb::EmbedStreamResponse, Status>>
where
    F: Future<Output = Result<Embedding>>,
{
    let replies = texts.map(move |message| {
        let asked = message.map_err(clear).map(|m| (m.id, contexts.next(m.context).map(|c| embed_one(c, m.text))));
        async move {
            let (id, embedded) = asked?;
            let embedded = match embedded {
                Ok(embedded) => guard(embedded).await,
                Err(error) => Err(error),
            };
            let (embedding, error) = match embedded {
                Ok(embedding) => (Some(to_embedding(&embedding)), None),
                Err(error) => (None, Some(to_message(error))),
            };
            Ok(pb::EmbedStreamResponse { id, embedding, error })
        }
    });
    guard_stream(replies.buffer_unordered(STREAM_IN_FLIGHT))
}

async fn embed(gateway: &Gateway, context: &Context, texts: Vec<String>) -> Result<Vec<Embedding>> {
    within(context.deadline, gateway.config().server.request_timeout, gateway.embed(&context.owner, texts)).await
}

/// The same error, for a caller who sent one text.
fn of_text(error: Error) -> Error {
    rename_fields(error, |field| field.replace("texts[0]", "text"))
}

/// The context of each text in a stream: its own, or the one sent last.
struct StreamContext {
    /// Deadline of the whole stream.
    until: Option<Instant>,
    /// As it was sent: a wrong one stays wrong for the texts after it, and a deadline is counted anew for each.
    last: Option<pb::RequestContext>,
}

impl StreamContext {
    fn new(metadata: &MetadataMap) -> Self {
        let whole = context(None, metadata, Instant::now(), &mut Violations::default());
        Self { until: whole.and_then(|c| c.deadline), last: None }
    }

    fn next(&mut self, wire: Option<pb::RequestContext>) -> Result<Context> {
        if wire.is_some() {
            self.last = wire;
        }
        let mut errors = Violations::default();
        let context = context(self.last.clone(), &MetadataMap::new(), Instant::now(), &mut errors);
        let context = errors.finish(context)?;
        let deadline = context.deadline.into_iter().chain(self.until).min();
        Ok(Context { deadline, ..context })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::time::Duration;
    use tonic::Code;

    fn named(tenant: &str) -> Option<pb::RequestContext> {
        Some(pb::RequestContext { tenant: tenant.into(), ..Default::default() })
    }

    #[test]
    fn a_text_without_a_context_takes_the_one_sent_last() {
        let mut contexts = StreamContext::new(&MetadataMap::new());
        let mut tenant = |wire| contexts.next(wire).map(|c| c.owner.tenant.to_string());
        assert_eq!(tenant(None).unwrap(), "default");
        assert_eq!(tenant(named("acme")).unwrap(), "acme");
        assert_eq!(tenant(None).unwrap(), "acme");
        assert_eq!(tenant(named("a b")).unwrap_err().violations[0].field, "context.tenant");
        assert_eq!(tenant(None).unwrap_err().violations[0].field, "context.tenant", "not the owner before it");
        assert_eq!(tenant(named("other")).unwrap(), "other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_counted_from_each_text_and_that_of_the_call_from_its_start() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "10S".parse().unwrap());
        let mut contexts = StreamContext::new(&metadata);
        let mut left = |seconds: Option<i64>| {
            let deadline = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
            let wire = seconds.map(|s| pb::RequestContext { deadline: deadline(s), ..Default::default() });
            contexts.next(wire).unwrap().deadline.map(|d| d - Instant::now())
        };
        let (own, call) = (Duration::from_secs(3), Duration::from_millis(9995));
        assert_eq!(left(None), Some(call));
        assert_eq!(left(Some(3)), Some(own));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(left(None), Some(own), "carried over");
        assert_eq!(left(Some(3)), Some(own));
        assert_eq!(left(Some(60)), Some(call - Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(left(Some(3)), Some(call - Duration::from_secs(9)));
    }

    #[tokio::test]
    async fn a_text_that_fails_has_its_error_and_the_stream_goes_on() {
        let ask = |id, wire, text: &str| Ok(pb::EmbedStreamRequest { context: wire, id, text: text.into() });
        let texts = [
            ask(1, None, "a"),
            ask(2, None, ""),
            ask(3, named("a b"), "b"),
            ask(4, named("acme"), "panic"),
            ask(5, None, "c"),
        ];
        let embed_one = |_: Context, text: String| async move {
            match text.as_str() {
                "" => Err(of_text(Error::invalid("texts[0]", "is empty"))),
                "panic" => panic!("quotes {text}"),
                _ => Ok(Embedding { vector: vec![1.0].into(), tokens: 1, truncated: false, unknown: 0 }),
            }
        };
        let contexts = || StreamContext::new(&MetadataMap::new());
        let mut told: Vec<_> = replies(stream::iter(texts), contexts(), embed_one).map(Result::unwrap).collect().await;
        told.sort_by_key(|reply| reply.id);
        let codes: Vec<_> = told.iter().map(|r| (r.id, r.error.as_ref().map(|e| Code::from(e.code)))).collect();
        let (invalid, internal) = (Some(Code::InvalidArgument), Some(Code::Internal));
        assert_eq!(codes, [(1, None), (2, invalid), (3, invalid), (4, internal), (5, None)]);
        assert!(told.iter().all(|reply| reply.embedding.is_some() == reply.error.is_none()));
        assert_eq!(told[1].error.as_ref().unwrap().message, "text: is empty");

        let broken = [Err(Status::unavailable("gone")), ask(7, None, "never")];
        let told: Vec<_> = replies(stream::iter(broken), contexts(), embed_one).collect().await;
        assert_eq!(told.last().unwrap().as_ref().unwrap_err().code(), Code::Unavailable);
        assert_eq!(told.len(), 1);
    }
}
