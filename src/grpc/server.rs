//! All services on one listener.

use axum::http;
use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::util::MapResponseLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::cache::CacheApi;
use super::chat::ChatApi;
use super::embedding::EmbeddingApi;
use super::pb;
use super::pb::cache_service_server::CacheServiceServer;
use super::pb::chat_service_server::ChatServiceServer;
use super::pb::embedding_service_server::EmbeddingServiceServer;
use super::status::clear;
use crate::gateway::{Gateway, Health};
use crate::surface::{caught, until_drained};
use crate::types::{Error, Result};

/// A caller that answers no ping for this long is gone, and its requests are cancelled.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Room for streams of one connection beyond `limits.max_concurrent`, so that it is the gateway that sheds, with a
/// clear error, and health checks get through.
const SPARE_STREAMS: u32 = 64;

/// Serves gRPC until `shutdown`, then until the running requests end or `server.drain_timeout` passes.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    serving: Serving,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let settings = gateway.config();
    let (largest, drain) = (settings.server.max_body_bytes, settings.server.drain_timeout);
    let streams = u32::try_from(settings.limits.max_concurrent).unwrap_or(u32::MAX).saturating_add(SPARE_STREAMS);
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |e| Error::internal("the protocol's descriptors do not load").with_source(e);
    let router = Server::builder()
        .layer(CatchPanicLayer::custom(panicked))
        .layer(MapResponseLayer::new(cleared))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(streams)
        .add_service(ChatServiceServer::new(ChatApi::new(gateway.clone())).max_decoding_message_size(largest))
        .add_service(CacheServiceServer::new(CacheApi::new(gateway.clone())).max_decoding_message_size(largest))
        .add_service(EmbeddingServiceServer::new(EmbeddingApi::new(gateway)).max_decoding_message_size(largest))
        .add_service(HealthServer::new(HealthService::from_health_reporter(serving.reporter.clone())))
        .add_service(descriptors().build_v1().map_err(broken)?)
        .add_service(descriptors().build_v1alpha().map_err(broken)?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let stopping = CancellationToken::new();
    let stop = stopping.clone();
    let server = async {
        let signal = async move {
            shutdown.await;
            serving.set_all(false).await;
            stop.cancel();
        };
        let served = router.serve_with_incoming_shutdown(incoming, signal).await;
        served.map_err(|e| Error::internal("the gRPC server failed").with_source(e))
    };
    until_drained(server, stopping, drain).await
}

/// What `grpc.health.v1` says: overall (the empty name) and for each service. Nothing serves until it is said so.
#[derive(Debug, Clone)]
pub struct Serving {
    reporter: HealthReporter,
}

const CHAT: &str = <ChatServiceServer<ChatApi> as NamedService>::NAME;
const CACHE: &str = <CacheServiceServer<CacheApi> as NamedService>::NAME;
const EMBEDDING: &str = <EmbeddingServiceServer<EmbeddingApi> as NamedService>::NAME;
const OVERALL: &str = "";

impl Serving {
    pub async fn new() -> Self {
        let serving = Self { reporter: HealthReporter::new() };
        serving.set_all(false).await;
        serving
    }

    pub async fn set_all(&self, serves: bool) {
        for name in [OVERALL, CHAT, CACHE, EMBEDDING] {
            self.set(name, serves).await;
        }
    }

    /// Sets each service by the state of what it needs, as [`Gateway::health`] tells it.
    pub async fn report(&self, health: &[Health]) {
        let works = |name: &str| health.iter().all(|h| h.name != name || h.error.is_none());
        let ready = health.iter().all(|h| !h.required || h.error.is_none());
        self.set(OVERALL, ready).await;
        self.set(CHAT, ready).await;
        self.set(CACHE, works("entries")).await;
        self.set(EMBEDDING, works("embedding")).await;
    }

    async fn set(&self, name: &str, serves: bool) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(name, status).await;
    }
}

/// The reply to a request that panicked.
fn panicked(panic: Box<dyn Any + Send>) -> http::Response<Body> {
    Status::from(caught(panic)).into_http()
}

/// A reply that failed before its first message carries its status beside the headers.
fn cleared(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Status>() {
        Some(status) => clear(status).into_http(),
        None => response,
    }
}
