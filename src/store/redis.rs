//! How Redis is reached: one server through a connection that mends itself, or a cluster.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisFuture, TlsCertificates, Value,
};
use tokio::task::JoinHandle;

use crate::config::{Stores, tls};
use crate::types::{Error, Result};

/// Commands on their way in one connection; more of them wait.
const PIPELINED: usize = 1024;
const RETRY: Duration = Duration::from_millis(500);

/// Where Redis is.
#[derive(Clone)]
pub(crate) struct Target {
    /// The server, or seed nodes of the cluster.
    pub(crate) nodes: Vec<ConnectionInfo>,
    pub(crate) is_cluster: bool,
    pub(crate) timeout: Duration,
    /// From the files that the settings name; `None` where they name none: the CAs of the system, no certificate.
    certificates: Option<TlsCertificates>,
}

impl Target {
    pub(crate) fn of(settings: &Stores) -> Result<Self> {
        let is_cluster = !settings.redis_cluster_urls.is_empty();
        let (field, urls) = match is_cluster {
            true => ("stores.redis_cluster_urls", settings.redis_cluster_urls.as_slice()),
            false => ("stores.redis_url", std::slice::from_ref(&settings.redis_url)),
        };
        // For rediss://; somebody may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = certificates(settings)?;
        let node = |url: &String| {
            // The address may hold a password: it is not repeated.
            let info = url.as_str().into_connection_info().map_err(|e| {
                Error::invalid(field, "is not a Redis address such as redis://127.0.0.1:6379").with_source(e)
            })?;
            // A peer that is gone without a word is given up on; the kernel of one that merely hangs still answers.
            let tcp = TcpSettings::default().set_nodelay(true);
            #[cfg(target_os = "linux")]
            let tcp = tcp.set_user_timeout((settings.timeout * 10).max(Duration::from_secs(2)));
            let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            let info = info.set_redis_settings(redis).set_tcp_settings(tcp);
            match (&certificates, info.addr()) {
                (Some(certificates), ConnectionAddr::TcpTls { .. }) => {
                    let client = Client::build_with_tls(info, certificates.clone());
                    let client = client.map_err(|e| {
                        Error::invalid("stores.redis_ca_file", "holds what is no certificate").with_source(e)
                    })?;
                    Ok(client.get_connection_info().clone())
                }
                _ => Ok(info),
            }
        };
        let nodes = urls.iter().map(node).collect::<Result<Vec<_>>>()?;
        Ok(Self { nodes, is_cluster, timeout: settings.timeout, certificates })
    }

    pub(crate) fn client(&self, node: ConnectionInfo) -> Result<Client> {
        Ok(Client::open(node)?)
    }
}

/// The files that the settings name.
fn certificates(settings: &Stores) -> Result<Option<TlsCertificates>> {
    let ca = settings.redis_ca_file.as_deref();
    let root_cert = ca.map(|path| tls::certificates("stores.redis_ca_file", path)).transpose()?;
    let client_tls = match (&settings.redis_cert_file, &settings.redis_key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: tls::certificates("stores.redis_cert_file", cert)?,
            client_key: tls::private_key("stores.redis_key_file", key)?,
        }),
        _ => None,
    };
    let is_told = root_cert.is_some() || client_tls.is_some();
    Ok(is_told.then_some(TlsCertificates { client_tls, root_cert }))
}

#[allow(clippy::large_enum_variant, reason = "one of it lives as long as the store")]
pub(crate) enum Connection {
    Single {
        current: ArcSwap<ConnectionManager>,
        client: Client,
        timeout: Duration,
    },
    /// Empty until the cluster was reached for the first time.
    Cluster {
        current: Arc<ArcSwapOption<ClusterConnection>>,
        connecting: JoinHandle<()>,
    },
}

impl Connection {
    /// Does not wait for Redis.
    pub(crate) fn open(target: Target) -> Result<Self> {
        if target.is_cluster {
            let builder = ClusterClient::builder(target.nodes.clone()).use_protocol(ProtocolVersion::RESP3).retries(2);
            let client = match target.certificates.clone() {
                Some(certificates) => builder.certs(certificates).build()?,
                None => builder.build()?,
            };
            let current = Arc::new(ArcSwapOption::empty());
            let connecting = tokio::spawn(connect(client, target.timeout, current.clone()));
            return Ok(Self::Cluster { current, connecting });
        }
        let node = target.nodes.first().cloned().ok_or_else(|| Error::internal("no Redis address"))?;
        let (client, timeout) = (target.client(node)?, target.timeout);
        let current = ArcSwap::from_pointee(manager(client.clone(), timeout)?);
        Ok(Self::Single { current, client, timeout })
    }

    pub(crate) fn get(&self) -> Result<Live> {
        match self {
            Self::Single { current, .. } => Ok(Live::Single((**current.load()).clone())),
            Self::Cluster { current, .. } => {
                let cluster = current.load_full().ok_or_else(|| Error::unavailable("no Redis Cluster reached yet"))?;
                Ok(Live::Cluster((*cluster).clone()))
            }
        }
    }

    /// Connects anew at the next call. The manager mends a connection that broke, but keeps one that was refused
    /// (a wrong password) for good.
    pub(crate) fn renew(&self) {
        if let Self::Single { current, client, timeout } = self {
            match manager(client.clone(), *timeout) {
                Ok(manager) => current.store(Arc::new(manager)),
                Err(error) => tracing::warn!(%error, "the connection to Redis cannot be made anew"),
            }
        }
    }

    pub(crate) fn close(&self) {
        if let Self::Cluster { current, connecting } = self {
            connecting.abort();
            current.store(None);
        }
    }
}

/// Does not touch the network.
fn manager(client: Client, timeout: Duration) -> Result<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
        // The next call tries again: what fails now is said now.
        .set_number_of_retries(0)
        .set_pipeline_buffer_size(PIPELINED);
    Ok(ConnectionManager::new_lazy_with_config(client, config)?)
}

/// Until the cluster is reached; after that its connection looks after itself.
async fn connect(client: ClusterClient, timeout: Duration, current: Arc<ArcSwapOption<ClusterConnection>>) {
    loop {
        let config = ClusterConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        match client.get_async_connection_with_config(config).await {
            Ok(connection) => return current.store(Some(Arc::new(connection))),
            // Callers are told by their calls, and the log by the breaker.
            Err(error) => tracing::debug!(%error, "no Redis Cluster reached yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

pub(crate) enum Live {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Live {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(commands, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
