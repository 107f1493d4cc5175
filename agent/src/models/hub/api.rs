//! The hub's HTTP API: which files a repository has at a revision, and where they are.

use std::sync::Arc;

use nebula_core::token::Secret;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::models::Inner;
use crate::models::download::refusal;
use crate::models::error::{Kind, ModelError};
use crate::models::http::{retrying, text};
use crate::models::transfer::FILES_MAX;

/// The longest answer with a list of files, in bytes.
const LISTING_MAX: usize = 16 << 20;

/// The files of a repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::models) struct Listing {
    /// 40 hex digits.
    pub(in crate::models) commit: String,
    pub(in crate::models) files: Vec<HubFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::models) struct HubFile {
    /// Its path in the repository.
    pub(in crate::models) name: String,
    /// Bytes, if the hub says it.
    pub(in crate::models) size: Option<u64>,
    /// What names its content: the SHA-256 of a large file, the git id of another.
    pub(in crate::models) etag: String,
    /// It is a large one.
    pub(in crate::models) lfs: bool,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

/// Asks which files there are, with sizes and checksums.
///
/// # Errors
/// When the hub does not answer, refuses, or answers something else.
pub(in crate::models) async fn listing(
    inner: &Arc<Inner>,
    wanted: &Repository,
) -> Result<Listing, ModelError> {
    let what = format!("{}@{}", wanted.repo, wanted.revision());
    let parts = wanted.repo.split('/').chain(["revision", wanted.revision()]);
    let mut url = url(&inner.settings.hf_endpoint, ["api", "models"].into_iter().chain(parts))?;
    url.set_query(Some("blobs=true"));
    let client = inner.client()?;
    let answer = retrying(inner.limits, || {
        let request = get(client, url.clone(), wanted.token.as_ref());
        text(request, inner.limits.stall, &what, LISTING_MAX, refused)
    })
    .await?;
    read(&answer, &what)
}

fn read(answer: &str, what: &str) -> Result<Listing, ModelError> {
    let strange =
        |why: &str| ModelError::network(format!("the hub's answer about {what} is not understood: {why}"));
    let info: Info = serde_json::from_str(answer).map_err(|error| strange(&error.to_string()))?;
    if !super::cache::is_commit(&info.sha) {
        return Err(strange("it names no commit"));
    }
    if info.siblings.len() > FILES_MAX {
        let files = info.siblings.len();
        return Err(ModelError::new(Kind::Invalid, format!("{what} has {files} files, at most {FILES_MAX}")));
    }
    let file = |sibling: Sibling| {
        let (etag, lfs, size) = match sibling.lfs {
            Some(lfs) => (Some(lfs.sha256), true, lfs.size.or(sibling.size)),
            None => (sibling.blob_id, false, sibling.size),
        };
        // It becomes a file name.
        let etag = etag.filter(|etag| is_hex(etag)).ok_or_else(|| strange("a file has no checksum"))?;
        Ok(HubFile { name: sibling.rfilename, size, etag, lfs })
    };
    let files = info.siblings.into_iter().map(file).collect::<Result<_, _>>()?;
    Ok(Listing { commit: info.sha, files })
}

fn is_hex(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where a file is.
pub(in crate::models) fn file_url(
    endpoint: &str,
    repo: &str,
    commit: &str,
    name: &str,
) -> Result<Url, ModelError> {
    url(endpoint, repo.split('/').chain(["resolve", commit]).chain(name.split('/')))
}

fn url<'a>(endpoint: &str, parts: impl Iterator<Item = &'a str>) -> Result<Url, ModelError> {
    let wrong = || {
        ModelError::new(
            Kind::Invalid,
            "the hub's address (HF_ENDPOINT) is no http:// or https:// address".to_owned(),
        )
    };
    let mut url: Url = endpoint.parse().map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(parts);
    Ok(url)
}

/// A request that shows the token. The client drops it when it is sent on to another host.
pub(in crate::models) fn get(client: &Client, url: Url, token: Option<&Secret>) -> RequestBuilder {
    let request = client.get(url);
    match token {
        Some(token) => request.bearer_auth(token.expose()),
        None => request,
    }
}

/// What a refusal of the hub's means.
pub(in crate::models) fn refused(what: &str, status: StatusCode, headers: &HeaderMap) -> ModelError {
    let code = headers.get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match (status, code) {
        (_, "GatedRepo") => ModelError::new(
            Kind::Denied,
            format!(
                "{what} is gated; accept its terms on the hub and give the agent, or the deployment, the token of \
                 whoever did (HF_TOKEN)"
            ),
        ),
        (_, "RevisionNotFound") => {
            ModelError::new(Kind::NotFound, format!("{what}: there is no such revision"))
        }
        // The hub does not tell strangers what exists.
        (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, _) => {
            let kind = if status == StatusCode::NOT_FOUND { Kind::NotFound } else { Kind::Denied };
            ModelError::new(
                kind,
                format!(
                    "{what} is not on the hub, or it is private and the token (HF_TOKEN) is missing or does not \
                     open it"
                ),
            )
        }
        (StatusCode::FORBIDDEN, _) => {
            ModelError::new(Kind::Denied, format!("the token (HF_TOKEN) does not open {what}"))
        }
        _ => refusal(what, status, headers),
    }
}
