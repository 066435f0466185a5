//! What the HTTP providers share: the client, the key, bounded bodies, and errors by status.

use futures::StreamExt;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use std::time::{Duration, SystemTime};

use crate::config::{ProviderConfig, tls};
use crate::types::{Error, ErrorKind, Result};

/// Largest answer that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 32 << 20;
/// How much of an error's body is read, in bytes.
pub const MAX_ERROR_BYTES: usize = 64 << 10;
/// Longest message of a provider that is passed on, in bytes.
const MAX_MESSAGE_BYTES: usize = 2 << 10;
/// Longest wait of a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client bound to one provider: its base URL, its credentials and its limits.
pub struct Endpoint {
    name: String,
    base: String,
    client: Client,
    timeout: Duration,
    key: Option<String>,
}

/// The header that carries the key, and what stands before the key in it.
pub struct KeyHeader {
    pub header: HeaderName,
    pub prefix: &'static str,
}

impl Endpoint {
    /// `base` is the URL that paths are appended to. `headers` go with every request.
    pub fn new(config: &ProviderConfig, base: &str, key_header: &KeyHeader, mut headers: HeaderMap) -> Result<Self> {
        // Only the first call in the process installs it; later ones change nothing.
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = Url::parse(base).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let Some(url) = url else {
            return Err(setting(config, "base_url", format!("{base:?} is not an http:// or https:// URL")));
        };
        let key = api_key(config)?;
        if let Some(key) = &key {
            let value = HeaderValue::try_from(format!("{}{key}", key_header.prefix));
            let mut value = value.map_err(|_| {
                setting(config, "api_key_env", "the key holds characters that cannot stand in an HTTP header")
            })?;
            value.set_sensitive(true);
            headers.insert(key_header.header.clone(), value);
        }
        let mut builder = Client::builder()
            .default_headers(headers)
            .connect_timeout(config.connect_timeout)
            // A redirect would carry the key and the prompt to a place nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("reprise/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            let field = format!("providers.{}.ca_file", config.name);
            let pem = tls::certificates(&field, path)?;
            let trusted = Certificate::from_pem_bundle(&pem);
            let trusted = trusted.map_err(|e| Error::invalid(field, "holds what is no certificate").with_source(e))?;
            builder = builder.tls_certs_only(trusted);
        } else if url.scheme() == "http" {
            // Plain HTTP must work on machines without any certificate store.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|e| {
            let (name, cause) = (&config.name, root_cause(&e));
            Error::internal(format!("provider {name}: the HTTP client cannot start{cause}"))
        })?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { name: config.name.clone(), base, client, timeout: config.timeout, key })
    }

    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Sends `body` and gives the response if its status is a success.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let request = self.client.post(format!("{}{path}", self.base)).timeout(self.timeout).json(body);
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Whether the provider answers at `path` and takes the key. Servers without that path count as reachable.
    pub async fn ping(&self, path: &str) -> Result<()> {
        let request = self.client.get(format!("{}{path}", self.base)).timeout(self.timeout.min(PING_TIMEOUT));
        let response = self.send(request).await?;
        match response.status() {
            s if s == StatusCode::UNAUTHORIZED || s == StatusCode::FORBIDDEN || s.is_server_error() => {
                Err(self.refusal(response).await)
            }
            _ => Ok(()),
        }
    }

    /// The whole body as JSON.
    pub async fn json(&self, response: Response) -> Result<Value> {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| self.transport(e))?;
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(self.unusable(format!("its answer is larger than {MAX_BODY_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|e| self.unusable(format!("its answer is not valid JSON: {e}")))
    }

    /// The provider answered, but with something that cannot be used.
    pub fn unusable(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Upstream, format!("provider {}: {what}", self.name))
    }

    /// An error that the provider reports, with its own words. `kind` by what its body says beats `kind` by status.
    pub fn reported(&self, kind: ErrorKind, message: &str) -> Error {
        let message = match &self.key {
            Some(key) => message.replace(key.as_str(), "[key]"),
            None => message.to_owned(),
        };
        let message = truncated(&message, MAX_MESSAGE_BYTES);
        let about = match kind {
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
                " refused the API key that is configured for it"
            }
            _ => "",
        };
        Error::new(kind, format!("provider {}{about}: {message}", self.name))
    }

    /// An error of the connection itself.
    pub fn transport(&self, error: reqwest::Error) -> Error {
        if let Some(problem) = tls::certificate_problem(&error, &format!("providers.{}.ca_file", self.name)) {
            return Error::unavailable(format!("provider {}: {problem}", self.name));
        }
        let (kind, what) = match &error {
            e if e.is_timeout() && e.is_connect() => (ErrorKind::Unavailable, "no connection in time"),
            e if e.is_timeout() => (ErrorKind::DeadlineExceeded, "no whole answer in time"),
            e if e.is_connect() => (ErrorKind::Unavailable, "cannot be reached"),
            e if e.is_builder() => (ErrorKind::Internal, "the request cannot be built"),
            _ => (ErrorKind::Unavailable, "the connection broke"),
        };
        // Without the URL: it may carry credentials.
        let error = error.without_url();
        Error::new(kind, format!("provider {}: {what}{}", self.name, root_cause(&error)))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|e| self.transport(e))
    }

    async fn refusal(&self, response: Response) -> Error {
        let status = response.status();
        let wait = retry_after(response.headers(), SystemTime::now());
        let body = error_body(response).await;
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        let said = parsed.as_ref().and_then(said);
        let code = parsed.as_ref().and_then(|v| v.pointer("/error/code")).and_then(Value::as_str);
        let kind = if code == Some("model_not_found") { ErrorKind::NotFound } else { kind_of(status) };
        let words = said.map(str::to_owned).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body);
            let hint = if status == StatusCode::NOT_FOUND { "; is base_url right?" } else { "" };
            format!("{}{hint}", truncated(text.trim(), 200))
        });
        let error = self.reported(kind, format!("{words} (HTTP {})", status.as_u16()).trim_start());
        match wait {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }
}

/// The key is left out, and so is the URL, which may carry one.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = if self.has_key() { "[set]" } else { "[none]" };
        f.debug_struct("Endpoint").field("name", &self.name).field("key", &key).finish_non_exhaustive()
    }
}

/// An error about one setting of a provider.
pub fn setting(config: &ProviderConfig, key: &str, what: impl Into<String>) -> Error {
    Error::invalid(format!("providers.{}.{key}", config.name), what)
}

/// What a provider says in the body of an error, in any of the shapes that are around: `{"error": {"message"}}`
/// (OpenAI, Anthropic), `{"error": "…"}` (Ollama), `{"message"}` (vLLM), `{"detail"}` (FastAPI).
pub fn said(body: &Value) -> Option<&str> {
    ["/error/message", "/error", "/message", "/detail"].iter().find_map(|path| body.pointer(path)?.as_str())
}

fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::DeadlineExceeded,
        402 | 409 | 429 => ErrorKind::RateLimited,
        502 | 503 | 529 => ErrorKind::Unavailable,
        400..=499 => ErrorKind::InvalidArgument,
        _ => ErrorKind::Upstream,
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3), or OpenAI's `retry-after-ms`.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|t| t.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(millis / 1000.0).ok();
    }
    let value = text("retry-after")?;
    match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(value).ok().map(|at| at.duration_since(now).unwrap_or_default()),
    }
}

/// At most [`MAX_ERROR_BYTES`]; what cannot be read is left out, for the status already says what happened.
async fn error_body(response: Response) -> Vec<u8> {
    let mut body: Vec<u8> = Vec::new();
    let mut chunks = response.bytes_stream();
    while body.len() < MAX_ERROR_BYTES {
        let Some(Ok(chunk)) = chunks.next().await else { break };
        let room = MAX_ERROR_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    body
}

fn truncated(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(bytes)])
}

/// The innermost cause (`Connection refused`), which reqwest's own message leaves out.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(|c| c.source()) {
        cause = Some(inner);
    }
    cause.map(|c| format!(" ({c})")).unwrap_or_default()
}

/// The key from the environment or from a file; `None` when neither is configured.
fn api_key(config: &ProviderConfig) -> Result<Option<String>> {
    let (field, key) = match (&config.api_key_env, &config.api_key_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(setting(config, "api_key_file", "set either api_key_env or api_key_file, not both"));
        }
        (Some(variable), None) => match std::env::var(variable) {
            Ok(value) => ("api_key_env", value),
            // Local servers need none; the configuration's warnings name the variable, and so does a refusal.
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(setting(config, "api_key_env", format!("environment variable {variable} is not UTF-8")));
            }
        },
        (None, Some(path)) => {
            let value = std::fs::read_to_string(path)
                .map_err(|e| setting(config, "api_key_file", format!("cannot read {}: {e}", path.display())))?;
            ("api_key_file", value)
        }
    };
    match key.trim() {
        "" => Err(setting(config, field, "the key is empty")),
        key => Ok(Some(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_is_read_as_seconds_date_or_milliseconds() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let wait = |name, value| retry_after(&headers(name, value), now);
        assert_eq!(wait("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        for bad in ["soon", "-1", "NaN", "1e300", ""] {
            assert_eq!(wait("retry-after", bad), None, "{bad}");
        }
    }

    #[test]
    fn the_providers_own_words_are_found_in_every_usual_shape() {
        for body in [
            json!({"error": {"message": "no", "type": "t"}}),
            json!({"error": "no"}),
            json!({"message": "no", "code": 400}),
            json!({"detail": "no"}),
        ] {
            assert_eq!(said(&body), Some("no"), "{body}");
        }
        assert_eq!(said(&json!({"detail": [{"loc": []}]})), None);
    }

    #[test]
    fn truncation_keeps_whole_characters() {
        assert_eq!(truncated("aé汉", 3), "aé…");
        assert_eq!(truncated("aé汉", 4), "aé…");
        assert_eq!(truncated("aé汉", 6), "aé汉");
    }
}
