//! A server that speaks OpenAI's chat completions and Anthropic's Messages over real HTTP on a free port of the
//! loopback, and misbehaves as it is told. Included with `#[path]` by unit and integration tests alike, so it
//! depends on nothing of the crate.
#![allow(dead_code)]

#[path = "upstream_script.rs"]
mod script;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, StreamExt};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::script::{Events, Script};

/// How the server answers; set at any time, in force for requests that come after.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Wait before anything is sent.
    pub latency: Duration,
    /// Wait between the tokens of a stream.
    pub token_latency: Duration,
    /// Answer with this status and `error_body` instead.
    pub status: Option<u16>,
    pub retry_after: Option<String>,
    pub error_body: String,
    /// Take the request and never answer.
    pub hang: bool,
    /// Break the connection after so many tokens of a stream.
    pub reset_after: Option<usize>,
    /// Send the error of `error_body` as an event after so many tokens of a stream.
    pub error_after: Option<usize>,
    /// End a stream cleanly after so many tokens: no finish reason, no usage, no end marker.
    pub end_after: Option<usize>,
    /// Most bytes written at once.
    pub split: Option<usize>,
    /// Leave out OpenAI's `[DONE]`.
    pub no_done: bool,
    /// Line end of the events.
    pub line_end: &'static str,
    /// Unknown fields put into the answer at every level.
    pub extra: Map<String, Value>,
    /// Text of the answer; `You said: <the last message>` when `None`.
    pub text: Option<String>,
    /// Tool calls, as name and arguments, instead of text.
    pub tool_calls: Vec<(String, Value)>,
    /// OpenAI's finish reason; Anthropic's is translated from it.
    pub finish: &'static str,
    /// Send this as the whole body of a plain answer.
    pub raw_body: Option<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            token_latency: Duration::ZERO,
            status: None,
            retry_after: None,
            error_body: r#"{"error":{"message":"told to fail","type":"test_error"}}"#.into(),
            hang: false,
            reset_after: None,
            error_after: None,
            end_after: None,
            split: None,
            no_done: false,
            line_end: "\n",
            extra: Map::new(),
            text: None,
            tool_calls: Vec::new(),
            finish: "stop",
            raw_body: None,
        }
    }
}

/// The running server; it stops when this is dropped.
pub struct Upstream {
    scheme: &'static str,
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    open: AtomicUsize,
    disconnects: AtomicUsize,
}

/// A chat request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Upstream {
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// Over TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::serve(Some(config.into())).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let shared = Arc::new(Shared::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/chat/completions", post(openai))
            .route("/v1/messages", post(anthropic))
            .route("/v1/models", get(models))
            .with_state(shared.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = tokio::spawn(async move {
            match tls {
                Some(acceptor) => axum::serve(TlsListener { listener, acceptor }, router).await.unwrap(),
                None => axum::serve(listener, router).await.unwrap(),
            }
        });
        Self { scheme, addr, shared, server }
    }

    /// `http://127.0.0.1:<port>/v1`
    pub fn base_url(&self) -> String {
        format!("{}://{}/v1", self.scheme, self.addr)
    }

    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// Chat requests so far, whatever became of them.
    pub fn requests(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    pub fn last(&self) -> Seen {
        lock(&self.shared.seen).last().cloned().expect("no request came")
    }

    /// Requests being answered now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests whose client went away before the end of the answer.
    pub fn disconnects(&self) -> usize {
        self.shared.disconnects.load(Ordering::SeqCst)
    }

    /// Waits until `what` holds; gives up after five seconds.
    pub async fn until(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if what(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited 5 s: {} requests, {} open, {} disconnects", self.requests(), self.open(), self.disconnects());
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// Handshakes that fail are the client's to tell of.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let behaviour = lock(&shared.behaviour).clone();
    match behaviour.status {
        Some(status) => refusal(status, &behaviour),
        None => Json(json!({"object": "list", "data": [{"id": "test-model", "object": "model"}]})).into_response(),
    }
}

async fn openai(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(shared, request, Protocol::OpenAi).await
}

async fn anthropic(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(shared, request, Protocol::Anthropic).await
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    OpenAi,
    Anthropic,
}

async fn answer(shared: Arc<Shared>, request: Request, protocol: Protocol) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let behaviour = lock(&shared.behaviour).clone();
    lock(&shared.seen).push(Seen { path: head.uri.path().into(), headers: head.headers, body: body.clone() });
    let mut open = Open::new(shared);

    tokio::time::sleep(behaviour.latency).await;
    if behaviour.hang {
        std::future::pending::<()>().await;
    }
    if let Some(status) = behaviour.status {
        open.end();
        return refusal(status, &behaviour);
    }
    let script = Script::new(&behaviour, &body);
    if body["stream"] == true {
        let events = match protocol {
            Protocol::OpenAi => script.openai_chunks(&body),
            Protocol::Anthropic => script.anthropic_events(),
        };
        return event_stream(behaviour, events, open);
    }
    open.end();
    let whole = match protocol {
        Protocol::OpenAi => script.openai(),
        Protocol::Anthropic => script.anthropic(),
    };
    let body = behaviour.raw_body.unwrap_or_else(|| whole.to_string());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refusal(status: u16, behaviour: &Behaviour) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), behaviour.error_body.clone()).into_response();
    if let Some(wait) = &behaviour.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, wait.parse().unwrap());
    }
    response
}

enum Write {
    Bytes(Bytes),
    Wait(Duration),
    Break,
}

fn event_stream(behaviour: Behaviour, events: Events, open: Open) -> Response {
    let writes = stream::iter(writes(&behaviour, events));
    let body = stream::unfold((Box::pin(writes), open), |(mut writes, mut open)| async move {
        loop {
            match writes.next().await {
                // So that every piece is written by itself.
                Some(Write::Bytes(bytes)) => {
                    tokio::task::yield_now().await;
                    return Some((Ok(bytes), (writes, open)));
                }
                Some(Write::Wait(time)) => tokio::time::sleep(time).await,
                Some(Write::Break) => {
                    open.end();
                    return Some((Err(std::io::Error::other("told to break")), (writes, open)));
                }
                None => {
                    open.end();
                    return None;
                }
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(body)).into_response()
}

fn writes(behaviour: &Behaviour, events: Events) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut tokens = 0;
    for (event, is_token) in events {
        if is_token {
            if behaviour.reset_after == Some(tokens) {
                // Give what was written before time to leave.
                writes.extend([Write::Wait(Duration::from_millis(20)), Write::Break]);
                return writes;
            }
            if behaviour.end_after == Some(tokens) {
                return writes;
            }
            if behaviour.error_after == Some(tokens) {
                writes.push(Write::Bytes(format!("event: error\ndata: {}\n\n", behaviour.error_body).into()));
                return writes;
            }
            if tokens > 0 && !behaviour.token_latency.is_zero() {
                writes.push(Write::Wait(behaviour.token_latency));
            }
            tokens += 1;
        }
        if behaviour.no_done && event.contains("[DONE]") {
            continue;
        }
        let bytes = Bytes::from(event.replace('\n', behaviour.line_end));
        let size = behaviour.split.unwrap_or(usize::MAX).clamp(1, bytes.len());
        writes
            .extend((0..bytes.len()).step_by(size).map(|at| Write::Bytes(bytes.slice(at..bytes.len().min(at + size)))));
    }
    writes
}

/// Counts a request as open until it ends, and as disconnected if it is dropped before that.
struct Open {
    shared: Arc<Shared>,
    ended: bool,
}

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self { shared, ended: false }
    }

    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
        if !self.ended {
            self.shared.disconnects.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
