//! Puts the service together and keeps it running: the only file that chooses backends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Judge, Languages};
use crate::config::{Config, EntryBackend, ProviderConfig, ProviderKind, VectorBackend, VerifierChoice};
use crate::embed::{Cores, Embedder, HashEmbedder, LocalEmbedder, LocalVerifier, Memo, Verifier, VerifierFiles};
use crate::gateway::Gateway;
use crate::llm::{self, Directory, Provider};
use crate::store::entry::EntryStore;
use crate::store::entry::guarded::GuardedEntries;
use crate::store::entry::l1::L1Entries;
use crate::store::entry::redis::RedisEntries;
use crate::store::entry::sqlite::SqliteEntries;
use crate::store::evidence::EvidenceStore;
use crate::store::evidence::redis::RedisEvidence;
use crate::store::evidence::sqlite::SqliteEvidence;
use crate::store::sqlite::Sqlite;
use crate::store::vector::VectorStore;
use crate::store::vector::flat::Flat;
use crate::store::vector::guarded::GuardedVectors;
use crate::store::vector::qdrant::Qdrant;
use crate::types::{Error, ErrorKind, Result};
use crate::{grpc, http, models, telemetry};

/// Longest a read or write of the embedded stores may take: a disk that hangs longer is left alone.
const EMBEDDED_LIMIT: Duration = Duration::from_secs(2);

/// How often the state of the dependencies is asked for, for `grpc.health.v1`.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// A running service.
pub struct App {
    gateway: Arc<Gateway>,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    shutdown: CancellationToken,
    servers: Vec<JoinHandle<Result<()>>>,
    stores: Stores,
}

struct Stores {
    entries: Arc<dyn EntryStore>,
    vectors: Arc<dyn VectorStore>,
    evidence: Arc<dyn EvidenceStore>,
    sqlite: Option<Arc<Sqlite>>,
}

impl App {
    /// Starts everything; serves when this returns.
    pub async fn start(config: Config) -> Result<Self> {
        let metrics = telemetry::metrics()?;
        // Taken first: a port in use must not cost a model load to find out.
        let grpc_listener = listen(config.server.grpc_addr, "server.grpc_addr").await?;
        let http_listener = listen(config.server.http_addr, "server.http_addr").await?;
        let (grpc_addr, http_addr) = (local_addr(&grpc_listener)?, local_addr(&http_listener)?);

        let Judges { embedder, judge } = judges(&config).await?;
        let stores = stores(&config, embedder.as_ref()).await?;
        let providers = providers(&config).await?;
        let embedder = Arc::new(Memo::new(embedder, config.embedding.memo_bytes));
        let cache =
            Cache::new(stores.entries.clone(), stores.vectors.clone(), embedder, (judge, stores.evidence.clone()));
        let directory = Directory::new(providers, config.default_model.clone());
        let gateway = Arc::new(Gateway::new(config, cache, directory));

        let (shutdown, serving) = (CancellationToken::new(), grpc::Serving::new().await);
        let servers = vec![
            tokio::spawn(grpc::serve(
                gateway.clone(),
                grpc_listener,
                serving.clone(),
                shutdown.clone().cancelled_owned(),
            )),
            tokio::spawn(http::serve(
                gateway.clone(),
                http_listener,
                move || metrics.render(),
                shutdown.clone().cancelled_owned(),
            )),
        ];
        serving.report(&gateway.health().await).await;
        tokio::spawn(watch_health(gateway.clone(), serving, shutdown.clone()));
        Ok(Self { gateway, grpc_addr, http_addr, shutdown, servers, stores })
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Resolves when a server ends by itself, which it only does by failing.
    pub async fn failed(&mut self) -> Error {
        let (ended, _, _) = futures::future::select_all(&mut self.servers).await;
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => Error::internal("a server ended by itself"),
            Err(error) => panicked(error),
        }
    }

    /// Drains: takes no new request, lets running ones end within `server.drain_timeout`, writes what waits to be
    /// remembered, closes the stores. Errors: what could not be written.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        let served = futures::future::join_all(self.servers).await;
        let written = self.gateway.close().await;
        let closed = [self.stores.entries.close().await, self.stores.vectors.close().await];
        if let Some(sqlite) = self.stores.sqlite {
            sqlite.close().await;
        }
        let served = served.into_iter().map(|ended| ended.unwrap_or_else(|e| Err(panicked(e))));
        served.chain([written]).chain(closed).collect()
    }
}

/// Keeps `grpc.health.v1` true to the dependencies until shutdown, when the server itself says that it stops.
async fn watch_health(gateway: Arc<Gateway>, serving: grpc::Serving, shutdown: CancellationToken) {
    let watch = async {
        loop {
            tokio::time::sleep(HEALTH_EVERY).await;
            serving.report(&gateway.health().await).await;
        }
    };
    shutdown.run_until_cancelled(watch).await;
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::internal("a server panicked").with_source(error)
}

async fn listen(addr: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| {
        Error::new(ErrorKind::FailedPrecondition, format!("cannot listen on {addr} ({setting})")).with_source(e)
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::internal("a listener has no address").with_source(e))
}

/// The parts that decide whether one answer serves two prompts.
pub struct Judges {
    pub embedder: Arc<dyn Embedder>,
    pub judge: Judge,
}

/// As the service starts them, without the rest of it.
pub async fn judges(config: &Config) -> Result<Judges> {
    let (embedder, cores) = embedder(config).await?;
    let verifier = verifier(config, cores).await?;
    let mut languages = Languages::default();
    if embedder.model().name != HashEmbedder::NAME {
        let manifest = models::Manifest::builtin()?;
        languages = Languages::new(manifest.model(&config.embedding.model)?.languages.clone());
        if verifier.is_some() {
            languages = languages.and(&Languages::new(VerifierFiles::LANGUAGES));
        }
    }
    Ok(Judges { embedder, judge: Judge::new(verifier, languages)? })
}

/// On the same cores as the embedder: they take turns.
async fn verifier(config: &Config, cores: Cores) -> Result<Option<Arc<dyn Verifier>>> {
    if config.verifier.model == VerifierChoice::None {
        return Ok(None);
    }
    let settings = config.embedding.clone();
    let load = move || LocalVerifier::load(VerifierFiles::OWN, LocalVerifier::OWN, &settings, cores);
    let loaded = tokio::task::spawn_blocking(load).await;
    Ok(Some(Arc::new(loaded.map_err(|e| Error::internal("loading the verifier panicked").with_source(e))??)))
}

async fn embedder(config: &Config) -> Result<(Arc<dyn Embedder>, Cores)> {
    if config.embedding.model == HashEmbedder::NAME {
        return Ok((Arc::new(HashEmbedder::new()), Cores::default()));
    }
    let folder = pull(&config.embedding.model, config).await?;
    let settings = config.embedding.clone();
    let load = move || LocalEmbedder::load(&folder, &settings.model, &settings);
    let loaded = tokio::task::spawn_blocking(load).await;
    let loaded = loaded.map_err(|e| Error::internal("loading the embedding model panicked").with_source(e))??;
    let cores = loaded.cores();
    Ok((Arc::new(loaded), cores))
}

async fn stores(config: &Config, embedder: &dyn Embedder) -> Result<Stores> {
    let settings = &config.stores;
    let embedded = settings.entries == EntryBackend::Sqlite || settings.vectors == VectorBackend::Flat;
    let sqlite = if embedded { Some(Sqlite::open(&config.data_dir).await?) } else { None };
    let model = embedder.model();
    let (entries, evidence): (Arc<dyn EntryStore>, Arc<dyn EvidenceStore>) = match (settings.entries, &sqlite) {
        (EntryBackend::Sqlite, Some(sqlite)) => {
            let disk = SqliteEntries::new(sqlite.clone(), settings.max_bytes).await?;
            let guarded = GuardedEntries::new(disk, "entry store", EMBEDDED_LIMIT);
            (L1Entries::new(guarded, settings.l1_bytes), SqliteEvidence::new(sqlite.clone()).await?)
        }
        _ => {
            let redis = RedisEntries::connect(settings).await?;
            let hot = redis.hot();
            let evidence = RedisEvidence::new(redis.connection(), &settings.redis_prefix, settings.timeout);
            (L1Entries::with(GuardedEntries::new(redis, "entry store", settings.timeout), hot), evidence)
        }
    };
    let (vectors, limit): (Arc<dyn VectorStore>, _) = match (settings.vectors, &sqlite) {
        (VectorBackend::Flat, Some(sqlite)) => {
            (Arc::new(Flat::open(sqlite.clone(), &model.id, model.dim).await?), EMBEDDED_LIMIT)
        }
        _ => (Arc::new(Qdrant::new(settings, &model.id, model.dim)?), settings.timeout),
    };
    Ok(Stores { entries, vectors: GuardedVectors::new(vectors, "vector store", limit), evidence, sqlite })
}

/// The configured providers; without any, the local model alone.
async fn providers(config: &Config) -> Result<Vec<Arc<dyn Provider>>> {
    let mut configured = config.providers.clone();
    if configured.is_empty() {
        configured.push(ProviderConfig::local());
    }
    let mut providers = Vec::with_capacity(configured.len());
    for provider in &configured {
        let gguf = if provider.kind == ProviderKind::Local { Some(gguf(provider, config).await?) } else { None };
        let connected = llm::connect(provider, gguf.as_deref()).await;
        providers.push(connected.map_err(|e| e.context(format!("provider {:?}", provider.name)))?);
    }
    Ok(providers)
}

/// The model file behind a provider of kind `local`: the first model it names that the manifest has, or the manifest's
/// first LLM.
async fn gguf(provider: &ProviderConfig, config: &Config) -> Result<PathBuf> {
    let manifest = models::Manifest::builtin()?;
    let mut llms = manifest.models.iter().filter(|m| m.purpose == models::Purpose::Llm);
    let named = llms.clone().find(|m| provider.models.contains(&m.name));
    let model = named.or_else(|| llms.next()).ok_or_else(|| Error::internal("the models manifest has no LLM"))?;
    let folder = pull(&model.name, config).await?;
    let file = model.files.iter().find(|f| f.name.ends_with(".gguf"));
    let file = file.ok_or_else(|| Error::internal(format!("{} has no GGUF file in the manifest", model.name)))?;
    Ok(folder.join(&file.name))
}

async fn pull(model: &str, config: &Config) -> Result<PathBuf> {
    models::pull(model, &config.models, &config.data_dir, Arc::new(models::Stderr::new())).await
}
