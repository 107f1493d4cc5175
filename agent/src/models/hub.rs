//! The Hugging Face hub: a repository's files go where the hub's own library keeps them, so that runtimes which look
//! there find them, and what they have fetched by themselves is not fetched again.

pub(super) mod api;
pub(super) mod cache;

use std::path::PathBuf;
use std::sync::Arc;

use nebula_core::token::Secret;

use self::api::Listing;
use self::cache::Cache;
use super::board::Chalk;
use super::choose::{Choice, Purpose, choose};
use super::download::{Want, blocking};
use super::error::{Kind, ModelError};
use super::flights::Outcome;
use super::writer::Place;
use super::{Inner, digest::Check, paths, transfer};

/// What stands for the newest state of a repository.
const MAIN: &str = "main";

/// What is to be fetched.
#[derive(Clone)]
pub(crate) struct Repository {
    /// `org/name`.
    pub(crate) repo: String,
    /// Branch, tag or commit; none: the main branch.
    pub(crate) revision: Option<String>,
    pub(crate) purpose: Purpose,
    /// Opens private and gated repositories; none: the agent's own.
    pub(crate) token: Option<Secret>,
}

impl Repository {
    /// Two with the same key are one fetch.
    pub(super) fn key(&self) -> String {
        let token = self.token.as_ref().map(|token| token.hash().to_hex()).unwrap_or_default();
        format!("hf {} {} {:?} {token}", self.repo, self.revision(), self.purpose)
    }

    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

/// Fetches what is missing. The outcome is the snapshot's directory, or the GGUF file in it.
pub(super) async fn fetch(inner: Arc<Inner>, mut wanted: Repository, chalk: Chalk) -> Outcome {
    wanted.token = wanted.token.or_else(|| inner.settings.hf_token.clone());
    let cache = Cache::new(&inner.settings.hf_home, &wanted.repo, wanted.revision())?;
    chalk.stage("asking the hub");
    let listing = match listing(&inner, &cache, &wanted).await? {
        Found::Listing(listing) => listing,
        Found::There(path) => return Ok(path),
    };
    let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
    let Choice { names, first } = choose(&names, &wanted.purpose)?;
    let mut wants = Vec::new();
    for file in listing.files.iter().filter(|file| names.contains(&file.name.as_str())) {
        wants.push(want(&inner, &cache, &wanted, &listing.commit, file)?);
    }
    transfer::fetch_all(&inner, cache.dir(), wants, &chalk).await?;
    let chosen: Vec<_> =
        listing.files.iter().filter(|file| names.contains(&file.name.as_str())).cloned().collect();
    let snapshot = cache.snapshot(&listing.commit);
    let path = first.map_or(snapshot.clone(), |name| snapshot.join(name));
    let commit = listing.commit.clone();
    blocking("linked the files", move || cache.publish(&commit, &chosen)).await??;
    Ok(path)
}

/// What is known of a repository.
enum Found {
    /// Its files at a commit.
    Listing(Listing),
    /// The hub cannot be asked, and the model is in the cache already.
    There(PathBuf),
}

/// Asks the hub, unless the commit is known; when it cannot be reached, the cache.
async fn listing(inner: &Arc<Inner>, cache: &Cache, wanted: &Repository) -> Result<Found, ModelError> {
    let (looked, revision) = (cache.clone(), wanted.revision().to_owned());
    let known = blocking("looked into the cache", move || {
        let commit = if cache::is_commit(&revision) { Some(revision) } else { looked.commit() };
        commit.map(|commit| (looked.listing(&commit), commit))
    })
    .await?;
    if let Some((Some(listing), commit)) = &known
        && commit == wanted.revision()
    {
        return Ok(Found::Listing(listing.clone()));
    }
    let error = match api::listing(inner, wanted).await {
        Ok(listing) => {
            for file in &listing.files {
                paths::below(&file.name)?;
            }
            let (cache, listing) = (cache.clone(), listing);
            return blocking("kept the list of files", move || cache.keep(&listing).map(|()| listing))
                .await?
                .map(Found::Listing);
        }
        Err(error) if error.is_retryable() => error,
        Err(error) => return Err(error),
    };
    let (cache, purpose) = (cache.clone(), wanted.purpose.clone());
    let found = blocking("looked into the cache", move || match known? {
        (Some(listing), _) => cache.is_whole(&listing, &purpose).then_some(Found::Listing(listing)),
        (None, commit) => cache.foreign(&commit, &purpose).map(Found::There),
    })
    .await?;
    match found {
        Some(found) => {
            tracing::warn!(model = wanted.repo, %error, "the hub is not reachable, the model is taken from the cache");
            Ok(found)
        }
        None => Err(error),
    }
}

fn want(
    inner: &Arc<Inner>,
    cache: &Cache,
    wanted: &Repository,
    commit: &str,
    file: &api::HubFile,
) -> Result<Want, ModelError> {
    let name = format!("{}/{}", wanted.repo, file.name);
    let size = file
        .size
        .ok_or_else(|| ModelError::new(Kind::Invalid, format!("the hub does not say how large {name} is")))?;
    let place = Place {
        target: cache.blob(&file.etag),
        partial: cache.partial(&file.etag),
        lock: cache.lock(&file.etag),
        size,
        check: if file.lfs { Check::sha256(&file.etag) } else { Check::git_blob(&file.etag) }
            .unwrap_or(Check::Size),
    };
    let (client, token) = (inner.client()?.clone(), wanted.token.clone());
    let url = api::file_url(&inner.settings.hf_endpoint, &wanted.repo, commit, &file.name)?;
    let request = Box::new(move || api::get(&client, url.clone(), token.as_ref()));
    Ok(Want { name, place, request, refused: api::refused, finished: None })
}
