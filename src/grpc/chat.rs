//! `ChatService`: prompts in, answers out.

use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::context::context;
use super::convert::{chat, under};
use super::encode::{to_answer, to_completion, to_delta};
use super::pb::{self, chat_service_server::ChatService, complete_batch_result, stream_complete_response};
use super::status::to_message;
use crate::gateway::{self, Gateway, StreamEvent};
use crate::surface::{Violations, guard, guard_stream};
use crate::types::{Error, Result};

/// Prompts of one batch that are worked on at once.
const BATCH_PARALLEL: usize = 32;

pub struct ChatApi {
    gateway: Arc<Gateway>,
}

impl ChatApi {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }
}

#[tonic::async_trait]
impl ChatService for ChatApi {
    async fn complete(&self, request: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let chat = chat(body.chat, "chat", &mut errors);
        let (context, chat) = errors.finish(context.zip(chat))?;
        let answered = complete(&self.gateway, context.with_chat(chat)).await;
        Ok(Response::new(under("chat", answered)?))
    }

    type StreamCompleteStream = BoxStream<'static, Result<pb::StreamCompleteResponse, Status>>;

    async fn stream_complete(
        &self,
        request: Request<pb::StreamCompleteRequest>,
    ) -> Result<Response<Self::StreamCompleteStream>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let chat = chat(body.chat, "chat", &mut errors);
        let (context, chat) = errors.finish(context.zip(chat))?;
        let id = context.id.clone();
        let streamed = under("chat", self.gateway.stream(context.with_chat(chat)).await)?;
        Ok(Response::new(messages(id, streamed)))
    }

    async fn complete_batch(
        &self,
        request: Request<pb::CompleteBatchRequest>,
    ) -> Result<Response<pb::CompleteBatchResponse>, Status> {
        let (metadata, _, body) = request.into_parts();
        let mut errors = Violations::default();
        let context = context(body.context, &metadata, Instant::now(), &mut errors);
        let (count, most) = (body.chats.len(), self.gateway.config().limits.max_batch);
        if count == 0 || count > most {
            errors.add("chats", format!("{count} prompts; expected 1 to {most}"));
        }
        let context = errors.finish(context)?;
        let answers = body.chats.into_iter().enumerate().map(|(i, wire)| {
            let (gateway, mut context) = (self.gateway.clone(), context.clone());
            let at = format!("chats[{i}]");
            let answer = async move {
                let mut errors = Violations::default();
                let chat = chat(Some(wire), &at, &mut errors);
                let chat = errors.finish(chat)?;
                context.id = format!("{}.{i}", context.id);
                under(&at, complete(&gateway, context.with_chat(chat)).await)
            };
            guard(answer).map(batch_result).boxed()
        });
        let answers: Vec<_> = answers.collect();
        let results = stream::iter(answers).buffered(BATCH_PARALLEL).collect().await;
        Ok(Response::new(pb::CompleteBatchResponse { results }))
    }
}

async fn complete(gateway: &Gateway, request: gateway::Request) -> Result<pb::CompleteResponse> {
    let id = request.id.clone();
    let completed = gateway.complete(request).await?;
    let completion = to_completion(id, &completed.outcome, &completed.summary);
    Ok(pb::CompleteResponse { answer: Some(to_answer(&completed.answer)), completion: Some(completion) })
}

/// Deltas, then the one message that says how the request was answered.
fn messages(id: String, streamed: gateway::Streamed) -> BoxStream<'static, Result<pb::StreamCompleteResponse, Status>> {
    let gateway::Streamed { outcome, events } = streamed;
    let messages = guard_stream(events).filter_map(move |event| {
        let event = event.map(|event| match event {
            StreamEvent::Delta(delta) => to_delta(delta).map(stream_complete_response::Event::Delta),
            StreamEvent::Final(summary) => {
                Some(stream_complete_response::Event::Final(to_completion(id.clone(), &outcome, &summary)))
            }
        });
        let message = event.map(|event| event.map(|e| pb::StreamCompleteResponse { event: Some(e) }));
        std::future::ready(message.map_err(Status::from).transpose())
    });
    messages.boxed()
}

fn batch_result(result: Result<pb::CompleteResponse, Error>) -> pb::CompleteBatchResult {
    let result = match result {
        Ok(response) => complete_batch_result::Result::Response(response),
        Err(error) => complete_batch_result::Result::Error(to_message(error)),
    };
    pb::CompleteBatchResult { result: Some(result) }
}
