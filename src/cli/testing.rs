//! A service for the tests of its clients: it answers from what was stored or asked before, exactly or, as a semantic
//! hit, by the prompt in lower case. The prompt `fail` fails.

use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::grpc::pb::{
    self, cache_service_server as cache, chat_service_server as chat, stream_complete_response::Event,
};

pub(super) struct Double {
    pub addr: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, String>,
    contexts: Vec<pb::RequestContext>,
    models: Vec<String>,
    limits: Vec<Option<u32>>,
    streams: usize,
}

struct Service(Arc<Mutex<State>>);

impl Double {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let server = tonic::transport::Server::builder()
            .add_service(chat::ChatServiceServer::new(Service(state.clone())))
            .add_service(cache::CacheServiceServer::new(Service(state.clone())));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { addr, state }
    }

    pub(super) fn seen(&self) -> Vec<pb::RequestContext> {
        self.state.lock().contexts.clone()
    }

    pub(super) fn models(&self) -> Vec<String> {
        self.state.lock().models.clone()
    }

    /// `max_tokens` of what was asked.
    pub(super) fn limits(&self) -> Vec<Option<u32>> {
        self.state.lock().limits.clone()
    }

    pub(super) fn streams(&self) -> usize {
        self.state.lock().streams
    }
}

impl Service {
    /// Prompt, and the answer there is.
    fn find(
        &self,
        context: Option<pb::RequestContext>,
        chat: Option<pb::ChatRequest>,
    ) -> Result<(String, pb::CacheOutcome, Option<String>, bool), Status> {
        let (context, chat) = (context.unwrap_or_default(), chat.unwrap_or_default());
        let prompt = chat.messages.last().map(|m| m.content.clone()).unwrap_or_default();
        if prompt == "fail" {
            return Err(Status::unavailable("as told"));
        }
        let mut state = self.0.lock();
        let remember = !context.cache.as_ref().is_some_and(|cache| cache.no_store);
        state.contexts.push(context);
        state.models.push(chat.model);
        state.limits.push(chat.max_tokens);
        let exact = state.answers.get(&prompt).cloned();
        let semantic = state.answers.get(&prompt.to_lowercase()).cloned();
        let status = match (&exact, &semantic) {
            (Some(_), _) => pb::CacheStatus::Exact,
            (None, Some(_)) => pb::CacheStatus::Semantic,
            (None, None) => pb::CacheStatus::Miss,
        };
        let outcome = pb::CacheOutcome { status: status.into(), ..Default::default() };
        Ok((prompt, outcome, exact.or(semantic), remember))
    }

    fn answer(
        &self,
        context: Option<pb::RequestContext>,
        chat: Option<pb::ChatRequest>,
    ) -> Result<(pb::CacheOutcome, String), Status> {
        let (prompt, outcome, found, remember) = self.find(context, chat)?;
        let answer = found.unwrap_or_else(|| format!("live answer to {prompt}"));
        if remember {
            self.0.lock().answers.insert(prompt, answer.clone());
        }
        Ok((outcome, answer))
    }
}

#[tonic::async_trait]
impl chat::ChatService for Service {
    type StreamCompleteStream = BoxStream<'static, Result<pb::StreamCompleteResponse, Status>>;

    async fn complete(&self, request: Request<pb::CompleteRequest>) -> Result<Response<pb::CompleteResponse>, Status> {
        let request = request.into_inner();
        let (outcome, content) = self.answer(request.context, request.chat)?;
        let completion = pb::Completion { cache: Some(outcome), ..Default::default() };
        let answer = pb::Answer { content, ..Default::default() };
        Ok(Response::new(pb::CompleteResponse { answer: Some(answer), completion: Some(completion) }))
    }

    async fn stream_complete(
        &self,
        request: Request<pb::StreamCompleteRequest>,
    ) -> Result<Response<Self::StreamCompleteStream>, Status> {
        let request = request.into_inner();
        let (outcome, content) = self.answer(request.context, request.chat)?;
        self.0.lock().streams += 1;
        let delta = Event::Delta(pb::Delta { content, ..Default::default() });
        let last = Event::Final(pb::Completion { cache: Some(outcome), ..Default::default() });
        let events = [delta, last].map(|event| Ok(pb::StreamCompleteResponse { event: Some(event) }));
        Ok(Response::new(stream::iter(events).boxed()))
    }

    async fn complete_batch(
        &self,
        _: Request<pb::CompleteBatchRequest>,
    ) -> Result<Response<pb::CompleteBatchResponse>, Status> {
        Err(Status::unimplemented("no client calls it"))
    }
}

#[tonic::async_trait]
impl cache::CacheService for Service {
    async fn lookup(&self, request: Request<pb::LookupRequest>) -> Result<Response<pb::LookupResponse>, Status> {
        let request = request.into_inner();
        let (_, outcome, found, _) = self.find(request.context, request.chat)?;
        let answer = found.map(|content| pb::Answer { content, ..Default::default() });
        Ok(Response::new(pb::LookupResponse { cache: Some(outcome), answer, ..Default::default() }))
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreResponse>, Status> {
        let request = request.into_inner();
        let prompt = request.chat.unwrap_or_default().messages.pop().unwrap_or_default().content;
        self.0.lock().answers.insert(prompt, request.answer.unwrap_or_default().content);
        Ok(Response::new(pb::StoreResponse::default()))
    }

    async fn delete(&self, _: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        Err(Status::unimplemented("no client calls it"))
    }

    async fn delete_by_tag(
        &self,
        _: Request<pb::DeleteByTagRequest>,
    ) -> Result<Response<pb::DeleteByTagResponse>, Status> {
        Err(Status::unimplemented("no client calls it"))
    }

    async fn explain(&self, _: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        Ok(Response::new(pb::ExplainResponse::default()))
    }

    async fn report_hit(
        &self,
        request: Request<pb::ReportHitRequest>,
    ) -> Result<Response<pb::ReportHitResponse>, Status> {
        let request = request.into_inner();
        let deleted = request.judgement() == pb::HitJudgement::Wrong;
        self.0.lock().contexts.extend(request.context);
        Ok(Response::new(pb::ReportHitResponse { counted: true, deleted }))
    }

    async fn tune(&self, request: Request<pb::TuneRequest>) -> Result<Response<pb::TuneResponse>, Status> {
        let rates = request.into_inner().rates.into_iter();
        let rates = rates.map(|rate| pb::TunedRate { max_wrong_rate: rate, ..Default::default() }).collect();
        Ok(Response::new(pb::TuneResponse { requests: 20.0, rates }))
    }

    async fn stats(&self, _: Request<pb::StatsRequest>) -> Result<Response<pb::StatsResponse>, Status> {
        Ok(Response::new(pb::StatsResponse::default()))
    }
}
