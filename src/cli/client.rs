//! The connection of the client commands, and a service's errors in words.

use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::failure::Failure;
use crate::grpc::pb::cache_service_client::CacheServiceClient;
use crate::grpc::pb::chat_service_client::ChatServiceClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A service that stops answering at all is given up after two of these. How long an answer may take is its own affair.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Answers may be as large as the service lets them be.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Clients of one service, over one connection; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub chat: ChatServiceClient<Channel>,
    pub cache: CacheServiceClient<Channel>,
}

impl Client {
    /// Connects; `addr` is a URL, or host and port.
    pub(super) async fn connect(addr: &str) -> Result<Self, Failure> {
        let url = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
        if !url.starts_with("http://") {
            return Err(Failure::usage(format!("{addr}: only http:// is spoken; put TLS in front of the service")));
        }
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_| Failure::usage(format!("{addr:?} is not an address; write for example 127.0.0.1:7070")))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = endpoint.connect().await.map_err(|_| {
            Failure::failed(format!(
                "no service answers at {url}; start one with `reprise serve`, or say where it is with --addr or \
                 REPRISE_ADDR"
            ))
        })?;
        let chat = ChatServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let cache = CacheServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { chat, cache })
    }
}

/// A status in words: its message, the fields at fault, and when to try again.
pub(super) fn explain(status: &Status) -> String {
    let mut text = match (status.code(), status.message()) {
        (Code::NotFound, "") => "not found".to_owned(),
        (code, "") => code.to_string(),
        (_, message) => message.to_owned(),
    };
    for violation in status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default() {
        // The message often says it already.
        if !text.contains(&violation.description) {
            text += &format!("\n  {}: {}", violation.field, violation.description);
        }
    }
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        text += &format!(" (try again in {})", humantime::format_duration(delay));
    }
    text
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::failed(explain(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[tokio::test]
    async fn a_service_that_is_not_there_is_told_with_the_way_to_start_it() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let failure = Client::connect(&free.to_string()).await.unwrap_err();
        let expected = format!(
            "no service answers at http://{free}; start one with `reprise serve`, or say where it is with --addr or \
             REPRISE_ADDR"
        );
        assert_eq!(failure, Failure::failed(expected));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_a_usage_error() {
        let failure = Client::connect("http://a b").await.unwrap_err();
        assert_eq!(failure, Failure::usage("\"http://a b\" is not an address; write for example 127.0.0.1:7070"));
    }

    #[test]
    fn details_of_a_status_are_told() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("chat.messages", "must not be empty");
        details.set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::InvalidArgument, "the request is malformed", details);
        let expected = "the request is malformed\n  chat.messages: must not be empty (try again in 2s)";
        assert_eq!(explain(&status), expected);
    }
}
