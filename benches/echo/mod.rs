//! The yardstick: a bare tonic unary service that takes bytes and gives bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic_prost::ProstCodec;

const PATH: &str = "/bench.Echo/Echo";

#[derive(Clone)]
struct Echo {
    reply: Vec<u8>,
}

/// Serves `reply` to every call on a free port of the loopback interface.
pub async fn serve(reply: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(tonic::transport::Server::builder().add_service(Echo { reply }).serve_with_incoming(incoming));
    addr
}

#[derive(Clone)]
pub struct Client(tonic::transport::Channel);

impl Client {
    pub fn new(channel: tonic::transport::Channel) -> Self {
        Self(channel)
    }

    pub async fn echo(&self, payload: Vec<u8>) -> Vec<u8> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(PATH);
        grpc.unary(tonic::Request::new(payload), path, ProstCodec::default()).await.unwrap().into_inner()
    }
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = BoxFuture<'static, Result<tonic::Response<Vec<u8>>, tonic::Status>>;

    fn call(&mut self, _request: tonic::Request<Vec<u8>>) -> Self::Future {
        let reply = self.reply.clone();
        Box::pin(async move { Ok(tonic::Response::new(reply)) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await) })
    }
}
