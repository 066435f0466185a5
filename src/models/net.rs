//! How far a download may test our patience, and whether a host can be reached at all.

use reqwest::Url;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::types::{Error, Result};

/// Where downloads go and how long they may stand still. Tests put their own.
#[derive(Debug, Clone)]
pub(super) struct Net {
    /// Base URL of the hub.
    pub hub: String,
    /// Proxy that stands before the hub, if any.
    pub proxy: Option<String>,
    /// Longest to find the host's address and to connect.
    pub connect: Duration,
    /// Longest until the first byte of a file.
    pub answer: Duration,
    /// Longest without a further byte.
    pub stall: Duration,
    /// Environment of pip, over our own.
    pub pip_env: Vec<(String, String)>,
}

impl Net {
    /// What the environment says: `HF_ENDPOINT`, and the proxy variables in the order in which the client of the
    /// hub reads them.
    pub(super) fn from_env() -> Self {
        let hub = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
        let host = Url::parse(&hub).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let proxy = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let exempt = ["NO_PROXY", "no_proxy"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        Self {
            proxy: proxy.filter(|_| !is_exempt(&host, &exempt)),
            hub,
            connect: Duration::from_secs(4),
            answer: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            pip_env: Vec::new(),
        }
    }

    /// Connects to the hub, or to the proxy before it, and hangs up again.
    pub(super) fn probe_hub(&self) -> Result<()> {
        let target = self.proxy.as_deref().unwrap_or(&self.hub);
        // A proxy may be written without its scheme.
        let url = if target.contains("://") { target.to_owned() } else { format!("http://{target}") };
        let place = Url::parse(&url).ok().and_then(|url| {
            let default = if url.scheme().starts_with("socks") { Some(1080) } else { url.port_or_known_default() };
            Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port().or(default)?))
        });
        let Some((host, port)) = place else {
            return Err(Error::unavailable("cannot connect (its address is not a URL)"));
        };
        connect(host, port, self.connect).map_err(|why| {
            let through = if self.proxy.is_some() { "the proxy " } else { "" };
            Error::unavailable(format!("cannot connect ({through}{why})"))
        })
    }
}

/// Notices that a download stands still.
#[derive(Debug)]
pub(super) struct Watch {
    answer: Duration,
    stall: Duration,
    bytes: u64,
    since: Instant,
}

impl Watch {
    pub(super) fn new(answer: Duration, stall: Duration) -> Self {
        Self { answer, stall, bytes: 0, since: Instant::now() }
    }

    /// To be called every so often with the bytes that are there; an error once patience has run out.
    pub(super) fn check(&mut self, bytes: u64) -> Result<()> {
        if bytes != self.bytes {
            (self.bytes, self.since) = (bytes, Instant::now());
        }
        let (limit, what) = if self.bytes == 0 { (self.answer, "no data") } else { (self.stall, "no further data") };
        if self.since.elapsed() < limit {
            return Ok(());
        }
        Err(Error::unavailable(format!("{what} for {} s after {} bytes", limit.as_secs_f32(), self.bytes)))
    }
}

/// On a thread of its own: looking up a name has no timeout that we could set.
fn connect(host: String, port: u16, limit: Duration) -> Result<(), String> {
    let (send, receive) = mpsc::channel();
    let name = format!("{host}:{port}");
    let probe = thread::Builder::new().name("models-probe".into()).spawn(move || {
        let result = (host.as_str(), port).to_socket_addrs().map_err(|e| e.to_string()).and_then(|addresses| {
            let mut last = "no address".to_owned();
            for address in addresses {
                match TcpStream::connect_timeout(&address, limit) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(last)
        });
        let _ = send.send(result); // nobody waits any more when the limit has passed
    });
    probe.map_err(|e| e.to_string())?;
    match receive.recv_timeout(limit) {
        Ok(result) => result.map_err(|why| format!("{name}: {why}")),
        Err(_) => Err(format!("{name}: no answer within {} s", limit.as_secs_f32())),
    }
}

/// Whether a `NO_PROXY` list names this host, itself or by its domain.
fn is_exempt(host: &str, list: &str) -> bool {
    list.split(',').map(|entry| entry.trim().trim_start_matches('*').trim_start_matches('.')).any(|entry| {
        match host.strip_suffix(entry) {
            Some(rest) if entry.is_empty() => list.split(',').any(|e| e.trim() == "*") && rest == host,
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(hub: &str, proxy: Option<&str>) -> Net {
        Net { hub: hub.into(), proxy: proxy.map(str::to_owned), connect: Duration::from_secs(2), ..Net::from_env() }
    }

    #[test]
    fn a_closed_port_fails_at_once_and_says_where() {
        let error = net("http://127.0.0.1:1", None).probe_hub().unwrap_err();
        assert!(error.message.starts_with("cannot connect (127.0.0.1:1: "), "{error}");
    }

    #[test]
    fn with_a_proxy_set_it_is_the_proxy_that_must_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://user:secret@{}", listener.local_addr().unwrap());
        assert!(net("http://unknown.invalid", Some(&proxy)).probe_hub().is_ok());
        let error = net("http://unknown.invalid", Some("http://user:secret@127.0.0.1:1")).probe_hub().unwrap_err();
        assert!(error.message.starts_with("cannot connect (the proxy 127.0.0.1:1: "), "{error}");
        assert!(!error.message.contains("secret"));
    }

    #[test]
    fn exempt_hosts_are_matched_whole_or_by_domain() {
        assert!(is_exempt("huggingface.co", "localhost, huggingface.co"));
        assert!(is_exempt("cdn.huggingface.co", ".huggingface.co"));
        assert!(is_exempt("anything.example", "*"));
        assert!(!is_exempt("nothuggingface.co", "huggingface.co"));
        assert!(!is_exempt("huggingface.co", ""));
    }

    #[test]
    fn a_download_that_stands_still_is_given_up() {
        let mut watch = Watch::new(Duration::ZERO, Duration::from_secs(3600));
        assert!(watch.check(0).unwrap_err().message.starts_with("no data"));
        assert!(watch.check(1).is_ok());
        let mut watch = Watch::new(Duration::from_secs(3600), Duration::ZERO);
        assert!(watch.check(0).is_ok());
        assert!(watch.check(7).unwrap_err().message.ends_with("after 7 bytes"));
    }
}
