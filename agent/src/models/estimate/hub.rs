//! Metadata of repositories of the hub: from its cache on this node as far as it is there, else from the hub.

use std::sync::Arc;

use super::disk::begin;
use super::{File, Files, Found, read};
use crate::models::Inner;
use crate::models::download::blocking;
use crate::models::error::ModelError;
use crate::models::http::head;
use crate::models::hub::Repository;
use crate::models::hub::api::{self, Listing};
use crate::models::hub::cache::{Cache, is_commit};

/// The files of a repository at a commit.
struct Repo<'a> {
    inner: &'a Arc<Inner>,
    wanted: &'a Repository,
    cache: Cache,
    commit: String,
}

impl Files for Repo<'_> {
    async fn begin(&self, name: &str, most: usize) -> Result<Vec<u8>, ModelError> {
        let here = self.cache.snapshot(&self.commit).join(crate::models::paths::below(name)?);
        if let Ok(bytes) = begin(here, most).await {
            return Ok(bytes);
        }
        let (inner, wanted) = (self.inner, self.wanted);
        let url = api::file_url(&inner.settings.hf_endpoint, &wanted.repo, &self.commit, name)?;
        let what = format!("{}/{name}", wanted.repo);
        let request = || Ok(api::get(inner.client()?, url.clone(), wanted.token.as_ref()));
        head(inner.limits, request, &what, most, api::refused).await
    }
}

pub(super) async fn find(inner: &Arc<Inner>, mut wanted: Repository) -> Result<Found, ModelError> {
    wanted.token = wanted.token.or_else(|| inner.settings.hf_token.clone());
    let cache = Cache::new(&inner.settings.hf_home, &wanted.repo, wanted.revision())?;
    let (looked, revision) = (cache.clone(), wanted.revision().to_owned());
    let known = blocking("looked into the cache", move || {
        let commit = if is_commit(&revision) { Some(revision) } else { looked.commit() };
        looked.listing(&commit?)
    })
    .await?;
    let Listing { commit, files } = match known {
        Some(listing) => listing,
        None => api::listing(inner, &wanted).await?,
    };
    let listed: Vec<File> = files.into_iter().map(|file| File { name: file.name, size: file.size }).collect();
    let repo = Repo { inner, wanted: &wanted, cache, commit };
    read(&listed, &wanted.purpose, &repo).await
}
