//! The collection: one per embedding model and dimension, made when it is not there, checked when it is.

use qdrant_client::Qdrant as Api;
use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::{
    CollectionInfo, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, Distance, FieldType,
    HnswConfigDiffBuilder, IntegerIndexParamsBuilder, KeywordIndexParamsBuilder, QuantizationType,
    ScalarQuantizationBuilder, VectorParams, VectorParamsBuilder, vectors_config,
};

use super::client::to_error;
use super::payload;
use crate::types::{Error, ErrorKind, Result};

/// Edges per node of the graph of a scope; Qdrant's own default for a whole collection.
const SCOPE_EDGES: u64 = 16;
/// Share of the values that the 8-bit range covers, the outermost left out; the value Qdrant's guide recommends.
const QUANTILE: f32 = 0.99;
/// Longest part of a model's id that goes into the name.
const MODEL_NAME: usize = 100;

#[derive(Debug, Clone)]
pub struct Collection {
    pub name: String,
    pub dim: usize,
    pub quantization: bool,
}

/// `<configured name>-<model id>-<dim>`, so that vectors of two models are never in one collection. Characters that
/// Qdrant does not take in names are replaced; then a hash keeps apart what the replacement made equal.
pub fn name(configured: &str, model_id: &str, dim: usize) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut model: String = model_id.chars().map(|c| if allowed(c) { c } else { '_' }).take(MODEL_NAME).collect();
    if model != model_id {
        let hash = blake3::hash(model_id.as_bytes()).to_hex();
        model = format!("{model}-{}", &hash[..8]);
    }
    format!("{configured}-{model}-{dim}")
}

impl Collection {
    /// Makes what is missing of it. Other replicas may do the same at the same time.
    ///
    /// Errors: `FailedPrecondition` when a collection of that name holds vectors of another kind.
    pub async fn prepare(&self, api: &Api) -> Result<()> {
        if !self.exists(api).await?
            && let Err(error) = self.create(api).await
            && !self.exists(api).await?
        {
            return Err(error.context(format!("cannot create the collection {:?}", self.name)));
        }
        let info = api.collection_info(self.name.as_str()).await.map_err(to_error)?.result.unwrap_or_default();
        self.check(&info)?;
        for (field, kind, params) in indexes() {
            if !info.payload_schema.contains_key(field) {
                let request = CreateFieldIndexCollectionBuilder::new(&self.name, field, kind);
                let request = request.field_index_params(params).wait(true);
                api.create_field_index(request).await.map_err(to_error)?;
            }
        }
        Ok(())
    }

    async fn exists(&self, api: &Api) -> Result<bool> {
        api.collection_exists(self.name.as_str()).await.map_err(to_error)
    }

    async fn create(&self, api: &Api) -> Result<()> {
        // Every search is within one scope, so there is a graph per scope, and none over all points.
        let graph = HnswConfigDiffBuilder::default().m(0).payload_m(SCOPE_EDGES);
        let mut request = CreateCollectionBuilder::new(&self.name)
            .vectors_config(VectorParamsBuilder::new(self.dim as u64, Distance::Cosine))
            .hnsw_config(graph)
            .on_disk_payload(true);
        if self.quantization {
            let int8 = ScalarQuantizationBuilder::default().r#type(QuantizationType::Int8.into());
            request = request.quantization_config(int8.quantile(QUANTILE).always_ram(true));
        }
        api.create_collection(request).await.map_err(to_error)?;
        tracing::info!(collection = self.name, "Qdrant collection created");
        Ok(())
    }

    fn check(&self, info: &CollectionInfo) -> Result<()> {
        let vectors = info.config.as_ref().and_then(|c| c.params.as_ref()).and_then(|p| p.vectors_config.as_ref());
        let found = match vectors.and_then(|v| v.config.as_ref()) {
            Some(vectors_config::Config::Params(VectorParams { size, distance, .. })) => {
                if *size == self.dim as u64 && *distance == i32::from(Distance::Cosine) {
                    return Ok(());
                }
                let distance = Distance::try_from(*distance).map_or("an unknown metric", |d| d.as_str_name());
                format!("vectors of {size} values, compared by {distance}")
            }
            _ => "named vectors".to_owned(),
        };
        let (name, dim) = (&self.name, self.dim);
        let text = format!(
            "the Qdrant collection {name:?} holds {found}; this service needs vectors of {dim} values, compared by Cosine; \
             name another one in stores.qdrant_collection, or delete it"
        );
        Err(Error::new(ErrorKind::FailedPrecondition, text))
    }
}

fn indexes() -> [(&'static str, FieldType, IndexParams); 5] {
    let keyword = || IndexParams::from(KeywordIndexParamsBuilder::default());
    [
        (payload::SCOPE, FieldType::Keyword, KeywordIndexParamsBuilder::default().is_tenant(true).into()),
        (payload::OWNER, FieldType::Keyword, keyword()),
        (payload::TAGS, FieldType::Keyword, keyword()),
        (payload::DOCUMENTS, FieldType::Keyword, keyword()),
        (payload::EXPIRES, FieldType::Integer, IntegerIndexParamsBuilder::new(false, true).into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_name_tells_models_and_dimensions_apart() {
        assert_eq!(name("reprise", "all-MiniLM-L6-v2-53aa5117", 384), "reprise-all-MiniLM-L6-v2-53aa5117-384");
        let (slash, colon) = (name("r", "org/model", 8), name("r", "org:model", 8));
        assert!(slash.starts_with("r-org_model-") && colon.starts_with("r-org_model-"));
        assert_ne!(slash, colon);
        assert!(name("r", &"m".repeat(1000), 8).len() < 130);
    }
}
