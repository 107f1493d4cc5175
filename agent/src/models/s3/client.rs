//! S3's API: signed addresses by rusty-s3, sent by our own client.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ETAG, HeaderMap, IF_MATCH};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use rusty_s3::actions::{ListObjectsV2, S3Action as _};
use rusty_s3::{Bucket, Credentials, UrlStyle};

use crate::models::Inner;
use crate::models::digest::Check;
use crate::models::download::{in_time, refusal};
use crate::models::error::{Kind, ModelError};
use crate::models::http::{retrying, text};

/// How long a signed address may be used.
const SIGNED_FOR: Duration = Duration::from_secs(3_600);
/// The longest page of a list, in bytes: a thousand keys of a kilobyte each, with all that is said of them.
const PAGE_MAX: usize = 4 << 20;
/// Where nobody says it.
const REGION: &str = "us-east-1";
/// Asks for the checksum that S3 keeps.
const CHECKSUM_MODE: (&str, &str) = ("x-amz-checksum-mode", "ENABLED");

/// Where S3 is and who asks.
#[derive(Clone)]
pub(crate) struct S3Settings {
    /// None: Amazon's own.
    pub(crate) endpoint: Option<String>,
    pub(crate) region: String,
    /// None: requests are not signed, which public buckets take.
    pub(crate) credentials: Option<Credentials>,
}

impl S3Settings {
    /// As Amazon's own tools read it from the environment.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let credentials = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => Some(match variable("AWS_SESSION_TOKEN") {
                Some(token) => Credentials::new_with_token(key, secret, token),
                None => Credentials::new(key, secret),
            }),
            _ => None,
        };
        Self {
            endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
            region: variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .unwrap_or_else(|| REGION.to_owned()),
            credentials,
        }
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::models) struct Object {
    pub(in crate::models) key: String,
    pub(in crate::models) size: u64,
    /// What names its version, with its quotes.
    pub(in crate::models) etag: String,
    pub(in crate::models) check: Check,
}

/// One bucket.
pub(in crate::models) struct S3 {
    inner: Arc<Inner>,
    bucket: Bucket,
    credentials: Option<Credentials>,
}

impl S3 {
    pub(in crate::models) fn new(inner: &Arc<Inner>, name: &str) -> Result<Self, ModelError> {
        let settings = &inner.settings.s3;
        let (endpoint, style) = match &settings.endpoint {
            Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
            // No certificate covers a name with dots.
            None if name.contains('.') => (amazon(&settings.region), UrlStyle::Path),
            None => (amazon(&settings.region), UrlStyle::VirtualHost),
        };
        let wrong = || {
            ModelError::new(
                Kind::Invalid,
                format!(
                    "s3://{name} has no address: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no http:// address"
                ),
            )
        };
        let endpoint: Url = endpoint.parse().map_err(|_| wrong())?;
        let bucket =
            Bucket::new(endpoint, style, name.to_owned(), settings.region.clone()).map_err(|_| wrong())?;
        Ok(Self { inner: Arc::clone(inner), bucket, credentials: settings.credentials.clone() })
    }

    fn name(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket.name())
    }

    /// What is known of an object. None: it is not there, as far as we may know.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Object>, ModelError> {
        let client = self.inner.client()?;
        let (limits, name) = (self.inner.limits, self.name(key));
        retrying(limits, || async {
            let mut action = self.bucket.head_object(self.credentials.as_ref(), key);
            action.headers_mut().insert(CHECKSUM_MODE.0, CHECKSUM_MODE.1);
            let request = client.head(action.sign(SIGNED_FOR)).header(CHECKSUM_MODE.0, CHECKSUM_MODE.1);
            let response = in_time(limits.stall, &name, request.send()).await?;
            let response = response.map_err(|error| ModelError::request(&name, error))?;
            match response.status() {
                StatusCode::OK => object(key, response.headers()).map(Some).ok_or_else(|| {
                    ModelError::network(format!("S3 does not say how large {name} is, or which version"))
                }),
                // Whoever may not list hears that of what is not there.
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(None),
                status => Err(refused(&name, status, response.headers())),
            }
        })
        .await
    }

    /// All objects whose keys begin with `prefix`, at most `most`.
    pub(super) async fn list(&self, prefix: &str, most: usize) -> Result<Vec<Object>, ModelError> {
        let client = self.inner.client()?;
        let (limits, name) = (self.inner.limits, self.name(prefix));
        let (mut objects, mut next): (Vec<Object>, Option<String>) = (Vec::new(), None);
        loop {
            let page = retrying(limits, || {
                let mut action = self.bucket.list_objects_v2(self.credentials.as_ref());
                action.with_prefix(prefix);
                if let Some(token) = &next {
                    action.with_continuation_token(token.as_str());
                }
                let request = client.get(action.sign(SIGNED_FOR));
                text(request, limits.stall, &name, PAGE_MAX, refused)
            })
            .await?;
            let page = ListObjectsV2::parse_response(&page).map_err(|error| {
                ModelError::network(format!("the list of {name} is not understood: {error}"))
            })?;
            objects.extend(page.contents.into_iter().map(|found| Object {
                key: found.key,
                size: found.size,
                etag: found.etag,
                check: Check::Size,
            }));
            if objects.len() > most {
                return Err(ModelError::new(Kind::Invalid, format!("{name} has more than {most} objects")));
            }
            match page.next_continuation_token.filter(|token| Some(token) != next.as_ref()) {
                Some(token) => next = Some(token),
                None => return Ok(objects),
            }
        }
    }

    /// A request for an object, as long as it is still that version.
    pub(in crate::models) fn get(&self, client: &Client, key: &str, etag: &str) -> RequestBuilder {
        let action = self.bucket.get_object(self.credentials.as_ref(), key);
        client.get(action.sign(SIGNED_FOR)).header(IF_MATCH, etag)
    }
}

fn amazon(region: &str) -> String {
    let end = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{end}")
}

fn object(key: &str, headers: &HeaderMap) -> Option<Object> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // A client takes no body of a HEAD for a length: it is read from the header.
    let size = header("content-length")?.trim().parse().ok()?;
    let etag = header(ETAG.as_str())?.to_owned();
    Some(Object { key: key.to_owned(), size, check: check(header, &etag), etag })
}

/// The best checksum that S3 has of a whole object. Those of objects in parts are checksums of checksums (`…-3`).
fn check<'a>(header: impl Fn(&str) -> Option<&'a str>, etag: &str) -> Check {
    let kept = |name: &str| STANDARD.decode(header(name)?).ok();
    let is_whole = !header("x-amz-checksum-type").is_some_and(|kind| kind.eq_ignore_ascii_case("composite"));
    let sha256 = || Some(Check::Sha256(kept("x-amz-checksum-sha256")?.try_into().ok()?));
    let crc =
        || Some(Check::Crc64Nvme(u64::from_be_bytes(kept("x-amz-checksum-crc64nvme")?.try_into().ok()?)));
    if is_whole && let Some(check) = sha256().or_else(crc) {
        return check;
    }
    // With keys of the customer's or of the key service the ETag is no checksum.
    let is_plain = header("x-amz-server-side-encryption").is_none_or(|by| by == "AES256")
        && header("x-amz-server-side-encryption-customer-algorithm").is_none();
    Check::md5(etag.trim_matches('"')).filter(|_| is_plain).unwrap_or(Check::Size)
}

/// What a refusal of S3's means.
pub(in crate::models) fn refused(what: &str, status: StatusCode, headers: &HeaderMap) -> ModelError {
    match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ModelError::new(
            Kind::Denied,
            format!(
                "S3 does not give {what} to this node; the agent's AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are \
                 missing or may not read it"
            ),
        ),
        StatusCode::NOT_FOUND => ModelError::new(Kind::NotFound, format!("{what} is not in S3")),
        StatusCode::PRECONDITION_FAILED => {
            ModelError::network(format!("{what} was changed while it was fetched"))
        }
        StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT | StatusCode::BAD_REQUEST => {
            let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
            let advice = match region {
                Some(region) => format!("its bucket is in the region {region}: set AWS_REGION"),
                None => "set AWS_REGION to the region of its bucket".to_owned(),
            };
            ModelError::new(Kind::Invalid, format!("S3 answers {status} for {what}; {advice}"))
        }
        _ => refusal(what, status, headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_of(headers: &[(&str, &str)], etag: &str) -> Check {
        check(|name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value), etag)
    }

    #[test]
    fn the_best_checksum_is_taken() {
        let md5 = "\"25f9e794323b453885f5181f1b624d0b\"";
        let crc = ("x-amz-checksum-crc64nvme", "rosUhgp5mIg=");
        let sha = ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvI8zEkSOsiU=");
        let crc_check = Check::Crc64Nvme(0xae8b_1486_0a79_9888);
        assert_eq!(check_of(&[crc], md5), crc_check);
        assert_eq!(check_of(&[crc, ("x-amz-checksum-type", "FULL_OBJECT")], "\"ab-2\""), crc_check);
        assert!(matches!(check_of(&[sha, crc], md5), Check::Sha256(_)));
        assert!(matches!(check_of(&[sha, ("x-amz-checksum-type", "COMPOSITE")], md5), Check::Md5(_)));
        assert!(matches!(check_of(&[("x-amz-server-side-encryption", "AES256")], md5), Check::Md5(_)));
        for (headers, etag) in [
            (&[("x-amz-server-side-encryption", "aws:kms")][..], md5),
            (&[("x-amz-checksum-sha256", "abc-3")], "\"25f9e794323b453885f5181f1b624d0b-3\""),
            (&[], ""),
        ] {
            assert_eq!(check_of(headers, etag), Check::Size, "{headers:?}");
        }
    }

    #[test]
    fn the_environment_is_read_as_amazons_tools_do() {
        let settings = |variables: &'static [(&'static str, &'static str)]| {
            S3Settings::from_environment(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let bare = settings(&[("AWS_ACCESS_KEY_ID", "key")]);
        assert_eq!((bare.region.as_str(), bare.endpoint.as_deref()), ("us-east-1", None));
        assert!(bare.credentials.is_none());
        let full = settings(&[
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "http://other"),
            ("AWS_ENDPOINT_URL_S3", "http://minio:9000"),
        ]);
        assert_eq!(
            (full.region.as_str(), full.endpoint.as_deref()),
            ("eu-west-1", Some("http://minio:9000"))
        );
        assert!(full.credentials.is_some());
    }
}
