//! Metadata of models of Ollama's library: what this node's Ollama keeps of it, else the library's own registry.

use std::sync::Arc;

use nebula_core::memory::{Gguf, Weights};
use reqwest::header::ACCEPT;
use reqwest::{StatusCode, header::HeaderMap};

use super::disk::begin;
use super::{CONFIG_MAX, Found, HEADER_BYTES};
use crate::models::Inner;
use crate::models::download::refusal;
use crate::models::error::{Kind, ModelError};
use crate::models::http::head;
use crate::models::ollama::library::{Library, Manifest, Name};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(super) async fn find(inner: &Arc<Inner>, tag: &str) -> Result<Found, ModelError> {
    let not_read = || ModelError::network(format!("the manifest of {tag} is not understood"));
    let name = Name::read(tag)
        .ok_or_else(|| ModelError::new(Kind::Invalid, "that is no name of a model of Ollama's library"))?;
    let library = Library::below(&inner.settings.dir);
    if let Ok(bytes) = begin(library.manifest(&name), CONFIG_MAX).await {
        let manifest = Manifest::read(&bytes).ok_or_else(not_read)?;
        let blob = begin(library.blob(&manifest.model), HEADER_BYTES).await?;
        return Ok(found(&manifest, &blob));
    }
    let base = name.registry(&inner.settings.ollama_registry);
    let request = || Ok(inner.client()?.get(name.manifest_url(&base)).header(ACCEPT, MANIFEST));
    let bytes = head(inner.limits, request, tag, CONFIG_MAX, refused).await?;
    let manifest = Manifest::read(&bytes).ok_or_else(not_read)?;
    let request = || Ok(inner.client()?.get(name.blob_url(&base, &manifest.model)));
    let blob = head(inner.limits, request, tag, HEADER_BYTES, refused).await?;
    Ok(found(&manifest, &blob))
}

fn found(manifest: &Manifest, blob: &[u8]) -> Found {
    let weights = Weights { bytes: manifest.bytes, from: "as its manifest says".to_owned() };
    Found { weights, shape: Gguf::read(blob).map(|gguf| gguf.shape).unwrap_or_default() }
}

/// What a refusal of the registry's means.
fn refused(what: &str, status: StatusCode, headers: &HeaderMap) -> ModelError {
    if status == StatusCode::NOT_FOUND {
        return ModelError::new(
            Kind::NotFound,
            format!("{what} is not in Ollama's library, look at https://ollama.com/library"),
        );
    }
    refusal(what, status, headers)
}
