//! A Qdrant server for tests, in process: the real protocol over a plain map, searched exactly. It does what the
//! server documents of the calls we use, and refuses the rest.

use ::qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use ::qdrant_client::qdrant::condition::ConditionOneOf;
use ::qdrant_client::qdrant::r#match::MatchValue;
use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::points_server::{Points, PointsServer};
use ::qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use ::qdrant_client::qdrant::value::Kind;
use ::qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use ::qdrant_client::qdrant::*;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Payload = HashMap<String, Value>;
type Reply<T> = std::result::Result<Response<T>, Status>;

/// What the server holds, and how it is to misbehave.
#[derive(Default)]
pub(super) struct Double {
    pub collections: Mutex<HashMap<String, Stored>>,
    /// Points of each upsert request so far.
    pub upserts: Mutex<Vec<usize>>,
    /// Requests that find no collection although there may be one, as when another replica is making it.
    pub blind: AtomicUsize,
    /// Points requests are not answered any more.
    pub hangs: AtomicBool,
    /// How many milliseconds each of them takes.
    pub delay: AtomicU64,
}

pub(super) struct Stored {
    pub request: CreateCollection,
    pub indexes: HashMap<String, PayloadSchemaInfo>,
    pub points: HashMap<PointId, (Vec<f32>, Payload)>,
}

impl Double {
    /// Serves on that address until the runtime ends; every request must bring the API key, if there is one.
    pub(super) async fn serve(self: &Arc<Self>, address: &str, api_key: Option<String>) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let authenticate = move |request: Request<()>| match &api_key {
            Some(key) if request.metadata().get("api-key").is_none_or(|given| given != key.as_str()) => {
                Err(Status::unauthenticated("Must provide an API key or an Authorization bearer token"))
            }
            _ => Ok(request),
        };
        let server = tonic::transport::Server::builder()
            .layer(tonic::service::InterceptorLayer::new(authenticate))
            .add_service(CollectionsServer::from_arc(Arc::clone(self)))
            .add_service(PointsServer::from_arc(Arc::clone(self)))
            .add_service(QdrantServer::from_arc(Arc::clone(self)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    async fn with<T>(&self, name: &str, work: impl FnOnce(&mut Stored) -> Result<T, Status>) -> Result<T, Status> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed))).await;
        let mut collections = self.collections.lock();
        let missing = || Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"));
        work(collections.get_mut(name).ok_or_else(missing)?)
    }
}

impl Stored {
    fn dim(&self) -> usize {
        match self.request.vectors_config.as_ref().and_then(|v| v.config.as_ref()) {
            Some(vectors_config::Config::Params(params)) => params.size as usize,
            _ => 0,
        }
    }

    /// Of unit length: with cosine the server normalises what it is given.
    fn vector(&self, values: &[f32]) -> Result<Vec<f32>, Status> {
        if values.len() != self.dim() {
            let text = format!("Vector dimension error: expected dim: {}, got {}", self.dim(), values.len());
            return Err(Status::invalid_argument(format!("Wrong input: {text}")));
        }
        let length = values.iter().map(|x| x * x).sum::<f32>().sqrt();
        Ok(values.iter().map(|x| x / length).collect())
    }

    fn matching(&self, filter: Option<&Filter>) -> Result<Vec<PointId>, Status> {
        let mut ids = Vec::new();
        for (id, (_, payload)) in &self.points {
            if filter.map_or(Ok(true), |filter| passes(filter, id, payload))? {
                ids.push(id.clone());
            }
        }
        Ok(ids)
    }
}

fn passes(filter: &Filter, id: &PointId, payload: &Payload) -> Result<bool, Status> {
    if filter.min_should.is_some() {
        return Err(Status::unimplemented("min_should"));
    }
    let count = |conditions: &[Condition]| -> Result<usize, Status> {
        let outcomes: Result<Vec<_>, _> = conditions.iter().map(|c| holds(c, id, payload)).collect();
        Ok(outcomes?.into_iter().filter(|holds| *holds).count())
    };
    Ok(count(&filter.must)? == filter.must.len()
        && (filter.should.is_empty() || count(&filter.should)? > 0)
        && count(&filter.must_not)? == 0)
}

fn holds(condition: &Condition, id: &PointId, payload: &Payload) -> Result<bool, Status> {
    match &condition.condition_one_of {
        Some(ConditionOneOf::HasId(ids)) => Ok(ids.has_id.contains(id)),
        Some(ConditionOneOf::Filter(filter)) => passes(filter, id, payload),
        Some(ConditionOneOf::Field(field)) => {
            let values = values(payload.get(&field.key));
            match (&field.r#match, &field.range) {
                (Some(Match { match_value: Some(MatchValue::Keyword(word)) }), None) => {
                    Ok(values.iter().any(|kind| matches!(kind, Kind::StringValue(text) if text == word)))
                }
                (None, Some(range)) => Ok(values.iter().any(|kind| within(kind, range))),
                _ => Err(Status::unimplemented("this field condition")),
            }
        }
        _ => Err(Status::unimplemented("this condition")),
    }
}

/// A condition on a list holds when it holds for one of its values.
fn values(value: Option<&Value>) -> Vec<&Kind> {
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::ListValue(list)) => list.values.iter().filter_map(|value| value.kind.as_ref()).collect(),
        kind => kind.into_iter().collect(),
    }
}

fn within(kind: &Kind, range: &Range) -> bool {
    let number = match kind {
        Kind::IntegerValue(number) => *number as f64,
        Kind::DoubleValue(number) => *number,
        _ => return false,
    };
    range.gt.is_none_or(|limit| number > limit)
        && range.gte.is_none_or(|limit| number >= limit)
        && range.lt.is_none_or(|limit| number < limit)
        && range.lte.is_none_or(|limit| number <= limit)
}

fn select(selector: Option<&WithPayloadSelector>, payload: &Payload) -> Payload {
    match selector.and_then(|selector| selector.selector_options.as_ref()) {
        Some(SelectorOptions::Enable(true)) => payload.clone(),
        Some(SelectorOptions::Include(include)) => {
            payload.iter().filter(|(k, _)| include.fields.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        Some(SelectorOptions::Exclude(exclude)) => {
            payload.iter().filter(|(k, _)| !exclude.fields.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        _ => Payload::new(),
    }
}

fn done(wait: Option<bool>) -> Response<PointsOperationResponse> {
    let status = if wait == Some(true) { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    let result = Some(UpdateResult { operation_id: Some(0), status: status.into() });
    Response::new(PointsOperationResponse { result, ..Default::default() })
}

/// Calls that we do not make. (`async_trait` does not look into macros, so these are written as it would write them.)
macro_rules! refused {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Reply<$response>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl Points for Double {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Reply<PointsOperationResponse> {
        let request = request.into_inner();
        self.upserts.lock().push(request.points.len());
        self.with(&request.collection_name, |stored| {
            for point in request.points {
                let id = point.id.ok_or_else(|| Status::invalid_argument("Empty ID is not allowed"))?;
                let Some(vectors::VectorsOptions::Vector(Vector {
                    vector: Some(vector::Vector::Dense(dense)), ..
                })) = point.vectors.and_then(|v| v.vectors_options)
                else {
                    return Err(Status::unimplemented("other than one dense vector"));
                };
                let vector = stored.vector(&dense.data)?;
                stored.points.insert(id, (vector, point.payload));
            }
            Ok(done(request.wait))
        })
        .await
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Reply<PointsOperationResponse> {
        let request = request.into_inner();
        self.with(&request.collection_name, |stored| {
            let ids = match request.points.and_then(|p| p.points_selector_one_of) {
                Some(PointsSelectorOneOf::Points(list)) => list.ids,
                Some(PointsSelectorOneOf::Filter(filter)) => stored.matching(Some(&filter))?,
                None => return Err(Status::invalid_argument("PointSelector is missing")),
            };
            stored.points.retain(|id, _| !ids.contains(id));
            Ok(done(request.wait))
        })
        .await
    }

    async fn count(&self, request: Request<CountPoints>) -> Reply<CountResponse> {
        let request = request.into_inner();
        let matching = |stored: &mut Stored| stored.matching(request.filter.as_ref());
        let count = self.with(&request.collection_name, matching).await?.len() as u64;
        Ok(Response::new(CountResponse { result: Some(CountResult { count }), ..Default::default() }))
    }

    async fn query(&self, request: Request<QueryPoints>) -> Reply<QueryResponse> {
        let request = request.into_inner();
        let Some(query::Variant::Nearest(VectorInput { variant: Some(vector_input::Variant::Dense(dense)) })) =
            request.query.and_then(|q| q.variant)
        else {
            return Err(Status::unimplemented("other than the nearest to a dense vector"));
        };
        if request.limit == Some(0) {
            return Err(Status::invalid_argument(
                "Validation error in body: [limit: value 0 invalid, must be 1 or larger]",
            ));
        }
        self.with(&request.collection_name, |stored| {
            let query = stored.vector(&dense.data)?;
            let mut result = Vec::new();
            for id in stored.matching(request.filter.as_ref())? {
                let (vector, payload) = &stored.points[&id];
                let score = vector.iter().zip(&query).map(|(x, y)| x * y).sum();
                let payload = select(request.with_payload.as_ref(), payload);
                result.push(ScoredPoint { id: Some(id), payload, score, ..Default::default() });
            }
            result.sort_by(|a, b| b.score.total_cmp(&a.score));
            result.truncate(request.limit.unwrap_or(10) as usize);
            Ok(Response::new(QueryResponse { result, ..Default::default() }))
        })
        .await
    }

    async fn create_field_index(&self, request: Request<CreateFieldIndexCollection>) -> Reply<PointsOperationResponse> {
        let request = request.into_inner();
        let data_type = match request.field_type.map(FieldType::try_from) {
            Some(Ok(FieldType::Keyword)) => PayloadSchemaType::Keyword,
            Some(Ok(FieldType::Integer)) => PayloadSchemaType::Integer,
            _ => return Err(Status::unimplemented("this kind of index")),
        };
        let schema =
            PayloadSchemaInfo { data_type: data_type.into(), params: request.field_index_params, points: None };
        self.with(&request.collection_name, |stored| {
            stored.indexes.insert(request.field_name, schema);
            Ok(done(request.wait))
        })
        .await
    }

    refused! {
        get(GetPoints) -> GetResponse;
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        scroll(ScrollPoints) -> ScrollResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

#[tonic::async_trait]
impl Collections for Double {
    async fn create(&self, request: Request<CreateCollection>) -> Reply<CollectionOperationResponse> {
        let request = request.into_inner();
        let mut collections = self.collections.lock();
        if collections.contains_key(&request.collection_name) {
            let text = format!("Wrong input: Collection `{}` already exists!", request.collection_name);
            return Err(Status::already_exists(text));
        }
        let stored = Stored { indexes: HashMap::new(), points: HashMap::new(), request };
        collections.insert(stored.request.collection_name.clone(), stored);
        Ok(Response::new(CollectionOperationResponse { result: true, time: 0.0 }))
    }

    async fn delete(&self, request: Request<DeleteCollection>) -> Reply<CollectionOperationResponse> {
        let result = self.collections.lock().remove(&request.into_inner().collection_name).is_some();
        Ok(Response::new(CollectionOperationResponse { result, time: 0.0 }))
    }

    async fn collection_exists(&self, request: Request<CollectionExistsRequest>) -> Reply<CollectionExistsResponse> {
        let blind = self.blind.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        let exists = !blind && self.collections.lock().contains_key(&request.into_inner().collection_name);
        Ok(Response::new(CollectionExistsResponse { result: Some(CollectionExists { exists }), time: 0.0 }))
    }

    async fn get(&self, request: Request<GetCollectionInfoRequest>) -> Reply<GetCollectionInfoResponse> {
        let info = |stored: &mut Stored| {
            let vectors_config = stored.request.vectors_config.clone();
            let params = Some(CollectionParams { vectors_config, ..Default::default() });
            let config = Some(CollectionConfig { params, ..Default::default() });
            Ok(CollectionInfo { config, payload_schema: stored.indexes.clone(), ..Default::default() })
        };
        let info = self.with(&request.into_inner().collection_name, info).await?;
        Ok(Response::new(GetCollectionInfoResponse { result: Some(info), time: 0.0 }))
    }

    refused! {
        list(ListCollectionsRequest) -> ListCollectionsResponse;
        update(UpdateCollection) -> CollectionOperationResponse;
        update_aliases(ChangeAliases) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        list_aliases(ListAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}

#[tonic::async_trait]
impl Qdrant for Double {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Reply<HealthCheckReply> {
        let (title, version) = ("qdrant - vector search engine".into(), "1.19.0".into());
        Ok(Response::new(HealthCheckReply { title, version, commit: None }))
    }
}
