use super::*;
use crate::store::vector::contract::{DIM, Opened, contract_tests, key, owner, point, scope, tag, unit};
use crate::store::vector::guarded::GuardedVectors;
use crate::store::vector::qdrant_double::{Double, Stored};
use crate::types::ErrorKind;
use futures::FutureExt;
use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, VectorParamsBuilder, quantization_config};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MODEL: &str = "model";
const NAME: &str = "reprise-model-48";

contract_tests!(opened);

/// On the server that `REPRISE_TEST_QDRANT_URL` names, in a collection of its own; without it, on one in process.
async fn opened() -> Opened {
    let url = match std::env::var("REPRISE_TEST_QDRANT_URL") {
        Ok(url) => url,
        Err(_) => {
            println!("REPRISE_TEST_QDRANT_URL is not set: the server is one in process");
            format!("http://{}", Arc::<Double>::default().serve("127.0.0.1:0", None).await)
        }
    };
    let config = Stores { qdrant_collection: format!("reprise-test-{}", uuid::Uuid::now_v7()), ..stores(&url) };
    let qdrant = Arc::new(Qdrant::new(&config, MODEL, DIM).unwrap());
    let store: Arc<dyn VectorStore> = Arc::clone(&qdrant) as _;
    let cleanup = async move {
        qdrant.close().await.unwrap();
        let api = qdrant_client::Qdrant::from_url(&url).skip_compatibility_check().build().unwrap();
        api.delete_collection(qdrant.collection()).await.unwrap();
    };
    Opened { store, cleanup: cleanup.boxed() }
}

/// With time enough for a busy machine.
fn stores(url: &str) -> Stores {
    Stores { qdrant_url: url.into(), timeout: Duration::from_secs(10), ..Stores::default() }
}

async fn server() -> (Arc<Double>, Stores) {
    let double = Arc::<Double>::default();
    let address = double.serve("127.0.0.1:0", None).await;
    (double, stores(&format!("http://{address}")))
}

/// An address that nothing listens on.
async fn free_address() -> String {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

async fn any_search(qdrant: &Qdrant) -> Result<Vec<Match>> {
    qdrant.search(&scope(1), &unit(1, DIM), 5).await
}

#[tokio::test]
async fn the_collection_is_made_for_searches_within_a_scope() {
    let (double, config) = server().await;
    let qdrant = Qdrant::new(&Stores { qdrant_quantization: true, ..config }, MODEL, DIM).unwrap();
    qdrant.upsert(vec![point(1, 1)]).await.unwrap();
    assert_eq!(any_search(&qdrant).await.unwrap()[0].key, key(1), "quantised search parameters are accepted");
    let collections = double.collections.lock();
    let Stored { request, indexes, points } = &collections[NAME];
    let graph = request.hnsw_config.unwrap();
    assert_eq!((graph.m, graph.payload_m), (Some(0), Some(16)));
    #[allow(deprecated)]
    let on_disk = request.on_disk_payload;
    assert_eq!(on_disk, Some(true));
    let quantization = request.quantization_config.as_ref().and_then(|q| q.quantization.as_ref());
    assert!(matches!(quantization, Some(quantization_config::Quantization::Scalar(_))), "{quantization:?}");
    let mut fields: Vec<_> = indexes.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["documents", "expires", "owner", "scope", "tags"]);
    let params = indexes["scope"].params.as_ref().and_then(|p| p.index_params.as_ref());
    assert!(matches!(params, Some(IndexParams::KeywordIndexParams(p)) if p.is_tenant == Some(true)), "{params:?}");
    assert_eq!(points.len(), 1);
}

#[tokio::test]
async fn two_replicas_may_make_the_collection_at_once() {
    let (double, config) = server().await;
    double.blind.store(2, Ordering::Relaxed);
    let first = Qdrant::new(&config, MODEL, DIM).unwrap();
    let second = Qdrant::new(&config, MODEL, DIM).unwrap();
    let (a, b) = tokio::join!(first.upsert(vec![point(1, 1)]), second.upsert(vec![point(2, 1)]));
    a.unwrap();
    b.unwrap();
    assert_eq!(first.count(None).await.unwrap(), 2);
}

#[tokio::test]
async fn a_collection_of_another_kind_is_refused_by_name() {
    let (double, config) = server().await;
    for (size, distance, found) in [(7, Distance::Cosine, "7 values"), (DIM as u64, Distance::Dot, "Dot")] {
        let create = CreateCollectionBuilder::new(NAME).vectors_config(VectorParamsBuilder::new(size, distance));
        let stored = Stored { request: create.build(), indexes: Default::default(), points: Default::default() };
        double.collections.lock().insert(NAME.into(), stored);
        let error = any_search(&Qdrant::new(&config, MODEL, DIM).unwrap()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        assert!(error.message.contains(NAME) && error.message.contains(found), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_once_it_is_up() {
    let address = free_address().await;
    let qdrant = Qdrant::new(&stores(&format!("http://{address}")), MODEL, DIM).unwrap();
    assert_eq!(any_search(&qdrant).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(qdrant.upsert(vec![point(1, 1)]).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(qdrant.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    Arc::<Double>::default().serve(&address, None).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    // The first call after the pause starts a new attempt and does not wait for it.
    let mut result = qdrant.upsert(vec![point(1, 1)]).await;
    let started = Instant::now();
    while result.is_err() && started.elapsed() < Duration::from_secs(10) {
        tokio::task::yield_now().await;
        result = qdrant.upsert(vec![point(1, 1)]).await;
    }
    result.unwrap();
    assert_eq!(any_search(&qdrant).await.unwrap()[0].key, key(1));
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_configured_time() {
    let (double, config) = server().await;
    let patient = Qdrant::new(&config, MODEL, DIM).unwrap();
    patient.upsert(vec![point(1, 1)]).await.unwrap();
    double.hangs.store(true, Ordering::Relaxed);
    let timeout = Duration::from_millis(60);
    let qdrant = Qdrant::new(&Stores { timeout, ..config }, MODEL, DIM).unwrap();
    let started = Instant::now();
    assert_eq!(any_search(&qdrant).await.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    assert!(started.elapsed() < timeout * 10, "{:?}", started.elapsed());
    double.hangs.store(false, Ordering::Relaxed);
    assert_eq!(any_search(&patient).await.unwrap()[0].key, key(1));
}

#[tokio::test]
async fn writes_and_counts_may_take_longer_than_a_search() {
    let (double, config) = server().await;
    let limit = Duration::from_millis(100);
    let qdrant = Qdrant::new(&Stores { timeout: limit, ..config }, MODEL, DIM).unwrap();
    let store = GuardedVectors::new(Arc::new(qdrant), "vector store", limit);
    while store.count(None).await.is_err() {}
    double.delay.store(250, Ordering::Relaxed);
    store.upsert(vec![Point { tags: vec![tag("t")], ..point(1, 1) }]).await.unwrap();
    assert_eq!(double.upserts.lock().len(), 1, "and it is not sent again");
    assert_eq!(store.count(None).await.unwrap(), 1);
    let search = store.search(&scope(1), &unit(1, DIM), 5).await;
    assert_eq!(search.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    assert_eq!(store.delete_by_tag(&owner("acme", "support"), &tag("t")).await.unwrap(), 1);
    assert_eq!(store.delete(&[key(1)]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_collection_that_was_deleted_is_made_anew() {
    let (double, config) = server().await;
    let qdrant = Qdrant::new(&config, MODEL, DIM).unwrap();
    qdrant.upsert(vec![point(1, 1)]).await.unwrap();
    double.collections.lock().clear();
    assert_eq!(any_search(&qdrant).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(any_search(&qdrant).await.unwrap(), []);
    qdrant.upsert(vec![point(1, 1)]).await.unwrap();
    assert_eq!(double.collections.lock()[NAME].indexes.len(), 5);
}

#[tokio::test]
async fn upserts_that_wait_together_go_in_one_request() {
    let (double, config) = server().await;
    let qdrant = Qdrant::new(&config, MODEL, DIM).unwrap();
    let upserts = (0..300).map(|n| qdrant.upsert(vec![point(n, 1)]));
    for result in futures::future::join_all(upserts).await {
        result.unwrap();
    }
    let requests = double.upserts.lock().clone();
    assert_eq!(requests.iter().sum::<usize>(), 300);
    assert!(requests.len() <= 3 && requests.iter().all(|points| *points <= 256), "{requests:?}");
}

#[tokio::test]
async fn the_api_key_comes_from_the_environment() {
    // A variable that is always there; what it holds does not matter.
    let name = "PATH";
    let address = Arc::<Double>::default().serve("127.0.0.1:0", std::env::var(name).ok()).await;
    let keyless = stores(&format!("http://{address}"));
    let error = any_search(&Qdrant::new(&keyless, MODEL, DIM).unwrap()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    let keyed = Stores { qdrant_api_key_env: Some(name.into()), ..keyless.clone() };
    Qdrant::new(&keyed, MODEL, DIM).unwrap().ping().await.unwrap();
    let unset = Stores { qdrant_api_key_env: Some("REPRISE_TEST_NO_SUCH_VARIABLE".into()), ..keyless };
    let error = Qdrant::new(&unset, MODEL, DIM).err().unwrap();
    assert_eq!(error.violations[0].field, "stores.qdrant_api_key_env");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused() {
    let error = Qdrant::new(&stores("not a url"), MODEL, DIM).err().unwrap();
    assert_eq!(error.violations[0].field, "stores.qdrant_url");
}

#[tokio::test]
async fn expired_points_are_deleted_now_and_then() {
    let (double, config) = server().await;
    let qdrant = Qdrant::new(&config, MODEL, DIM).unwrap();
    let expired = Point { expires: UnixMillis(5), tags: vec![tag("t")], ..point(1, 1) };
    qdrant.upsert(vec![expired, point(2, 1)]).await.unwrap();
    assert_eq!(qdrant.delete_by_tag(&owner("other", "support"), &tag("t")).await.unwrap(), 0);
    assert_eq!(double.collections.lock()[NAME].points.len(), 2);
    let (_queue, batcher) = Batcher::new(Arc::clone(&qdrant.client));
    batcher.sweep().await;
    assert_eq!(double.collections.lock()[NAME].points.len(), 1);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let (_double, config) = server().await;
    let qdrant = Qdrant::new(&config, MODEL, DIM).unwrap();
    qdrant.close().await.unwrap();
    qdrant.close().await.unwrap();
    assert_eq!(qdrant.upsert(vec![point(1, 1)]).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(qdrant.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_store_whose_writer_has_ended_does_not_pass_for_well() {
    let (_double, config) = server().await;
    let qdrant = Qdrant::new(&config, MODEL, DIM).unwrap();
    qdrant.ping().await.unwrap();
    let batcher = qdrant.batcher.lock().await.take().unwrap();
    batcher.abort();
    batcher.await.unwrap_err();
    assert_eq!(qdrant.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
}
