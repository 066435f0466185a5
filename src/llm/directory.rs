//! Which provider answers which model.

use std::sync::Arc;

use super::Provider;
use crate::types::{Error, ErrorKind, Result};

/// The configured providers, in the order in which they are asked.
pub struct Directory {
    providers: Vec<Arc<dyn Provider>>,
    default_model: Option<String>,
}

impl Directory {
    /// `default_model`: for requests that name none; the first model that any provider names unless told.
    pub fn new(providers: Vec<Arc<dyn Provider>>, default_model: Option<String>) -> Self {
        let first_named = || providers.iter().flat_map(|p| p.models()).find(|m| *m != "*").cloned();
        let default_model = default_model.or_else(first_named);
        Self { providers, default_model }
    }

    /// The model a request asks for, with the default filled in.
    pub fn model(&self, requested: &str) -> Result<String> {
        match (requested, &self.default_model) {
            ("", Some(default)) => Ok(default.clone()),
            ("", None) => Err(Error::invalid("model", "no model was named, and no default_model is configured")),
            (named, _) => Ok(named.to_owned()),
        }
    }

    /// The first provider that serves `model`.
    pub fn provider(&self, model: &str) -> Result<&Arc<dyn Provider>> {
        let serves = |p: &&Arc<dyn Provider>| p.models().iter().any(|m| m == model || m == "*");
        self.providers.iter().find(serves).ok_or_else(|| {
            let known: Vec<_> = self.models().into_iter().map(|(model, _)| model).collect();
            let mut error = Error::new(
                ErrorKind::NotFound,
                format!("model {model:?} is not served here; configured: {}", known.join(", ")),
            );
            error.violations.push(crate::types::Violation { field: "model".into(), description: "unknown".into() });
            error
        })
    }

    /// Every named model with the name of the provider that serves it, in configuration order.
    pub fn models(&self) -> Vec<(String, String)> {
        let mut seen = std::collections::HashSet::new();
        self.providers
            .iter()
            .flat_map(|p| p.models().iter().map(move |m| (m.clone(), p.name().to_owned())))
            .filter(|(model, _)| model != "*" && seen.insert(model.clone()))
            .collect()
    }

    pub fn providers(&self) -> &[Arc<dyn Provider>] {
        &self.providers
    }
}
