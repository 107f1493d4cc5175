//! Requests to nebulad and their answers. Everything that can go wrong is turned into words in `api/error.rs`.

mod error;
mod json;

use std::time::Duration;

use nebula_core::exit::Exit;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, Url, redirect};
use serde_json::Value;

pub(crate) use self::error::{ApiError, message_of};
pub(crate) use self::json::{Json, List};
use crate::failure::{Result, failed};
use crate::settings::{Credential, Settings};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nebulad may take to answer a management request, and be silent while it does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the system asks whether the other side of a silent connection is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The longest answer that is kept in memory.
const BODY_MAX_BYTES: usize = 64 << 20;
/// Items asked for at once; the API's limit.
const PAGE_ITEMS: &str = "500";
/// Pages followed before a list is taken for endless.
const PAGES_MAX: usize = 200;

/// What API calls return.
pub(crate) type ApiResult<T> = std::result::Result<T, ApiError>;

/// A client of one nebulad.
pub(crate) struct Api {
    http: Client,
    server: Url,
    credential: Option<Credential>,
    authorization: Option<HeaderValue>,
}

/// An answer of any status, for paths whose status is itself the news.
pub(crate) struct Probe {
    pub(crate) ok: bool,
    pub(crate) body: Json,
}

impl Api {
    /// A client with these settings.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let authorization = settings.credential.as_ref().map(authorization).transpose()?;
        let mut builder = Client::builder()
            .user_agent(concat!("nebulactl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // nebulad never redirects; whoever does is no nebulad and shall not get the token.
            .redirect(redirect::Policy::none());
        if settings.server.scheme() == "http" {
            // Plain HTTP needs no certificates, and a machine without any must not fail for it.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&settings.server) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            failed(format!("HTTPS cannot be set up: {}", error::innermost(&error)))
                .hint("the system's certificates are in the package ca-certificates")
        })?;
        Ok(Self { http, server: settings.server, credential: settings.credential, authorization })
    }

    /// The server's address as people write it.
    pub(crate) fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// The address of the resource with these path segments, each percent-encoded.
    pub(crate) fn url(&self, segments: &[&str]) -> Result<Url> {
        if segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            return Err(nebula_core::exit::Fatal::new(Exit::Usage, "an empty name or a dot names nothing")
                .hint("`nebulactl list` and `nebulactl nodes list` show the names")
                .into());
        }
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Ok(url)
    }

    /// `GET` of one object.
    pub(crate) async fn get(&self, segments: &[&str]) -> Result<Json> {
        Ok(self.try_get(&self.url(segments)?).await?)
    }

    /// `GET` of one object, for callers that look at the error themselves.
    pub(crate) async fn try_get(&self, url: &Url) -> ApiResult<Json> {
        self.object(Method::GET, url, None).await
    }

    /// `POST` with or without a body, answered by an object.
    pub(crate) async fn post(&self, segments: &[&str], body: Option<&Value>) -> Result<Json> {
        Ok(self.object(Method::POST, &self.url(segments)?, body).await?)
    }

    /// `PATCH` with the fields that are to change, answered by an object.
    pub(crate) async fn patch(&self, segments: &[&str], body: &Value) -> Result<Json> {
        Ok(self.object(Method::PATCH, &self.url(segments)?, Some(body)).await?)
    }

    /// `DELETE`; the answer may be empty.
    pub(crate) async fn delete(&self, segments: &[&str]) -> Result<Option<Json>> {
        let url = self.url(segments)?;
        let response = self.accepted(Method::DELETE, &url, None, ANSWER_TIMEOUT).await?;
        let content_type = content_type(&response);
        let body = self.body(&url, response, ANSWER_TIMEOUT).await?;
        if body.is_empty() {
            return Ok(None);
        }
        Ok(Some(Json::parse(&body).ok_or_else(|| ApiError::no_json(&url, "DELETE", &content_type))?))
    }

    /// Every item of a list, over all its pages.
    pub(crate) async fn list(&self, segments: &[&str]) -> Result<List> {
        self.list_of(segments, &[]).await
    }

    /// The items of a list that a query asks for, over all its pages.
    pub(crate) async fn list_of(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<List> {
        let mut list = List::default();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut url = self.url(segments)?;
            url.query_pairs_mut().append_pair("limit", PAGE_ITEMS).extend_pairs(query);
            if let Some(cursor) = &cursor {
                url.query_pairs_mut().append_pair("cursor", cursor);
            }
            let page = self.try_get(&url).await?;
            let next = list.add(&page).ok_or_else(|| ApiError::no_json(&url, "GET", "no list"))?;
            if next.is_none() {
                return Ok(list);
            }
            cursor = next;
        }
        Err(failed(format!("{} has no end after {PAGES_MAX} pages", self.server())).into())
    }

    /// `GET` whose status is the news: any status is fine as long as JSON comes with it.
    pub(crate) async fn probe(&self, segments: &[&str]) -> Result<Probe> {
        let url = self.url(segments)?;
        let response = self.send(Method::GET, &url, None, ANSWER_TIMEOUT).await?;
        let ok = response.status().is_success();
        let content_type = content_type(&response);
        let body = self.body(&url, response, ANSWER_TIMEOUT).await?;
        let body = Json::parse(&body).ok_or_else(|| ApiError::no_json(&url, "GET", &content_type))?;
        Ok(Probe { ok, body })
    }

    /// Sends a request and hands out the response of a success, its body still to come. `patience` bounds the
    /// time to the response's head.
    pub(crate) async fn accepted(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        patience: Duration,
    ) -> ApiResult<Response> {
        let response = self.send(method.clone(), url, body, patience).await?;
        self.checked(method, url, response).await
    }

    /// `GET` of an event stream, after the event with this number.
    pub(crate) async fn follow(&self, url: &Url, last_event: Option<&str>) -> ApiResult<Response> {
        let mut request = self.request(Method::GET, url).header(ACCEPT, "text/event-stream");
        if let Some(number) = last_event {
            request = request.header("last-event-id", number);
        }
        let response = self.answered(url, request, ANSWER_TIMEOUT).await?;
        self.checked(Method::GET, url, response).await
    }

    async fn checked(&self, method: Method, url: &Url, response: Response) -> ApiResult<Response> {
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.body(url, response, ANSWER_TIMEOUT).await.unwrap_or_default();
        let origin = self.credential.as_ref().map(|credential| &credential.origin);
        Err(ApiError::refused(&method, url, status, &headers, &body, origin))
    }

    /// `GET` of a text, however long it takes to arrive.
    pub(crate) async fn open(&self, url: &Url) -> ApiResult<Response> {
        self.accepted(Method::GET, url, None, ANSWER_TIMEOUT).await
    }

    /// The next piece of a body, or nothing at its end. Without `patience` it waits as long as the connection lives.
    pub(crate) async fn piece(
        &self,
        response: &mut Response,
        patience: Option<Duration>,
    ) -> ApiResult<Option<Vec<u8>>> {
        let chunk = match patience {
            None => response.chunk().await,
            Some(patience) => match tokio::time::timeout(patience, response.chunk()).await {
                Ok(chunk) => chunk,
                Err(_) => return Err(ApiError::silent(self.server(), patience)),
            },
        };
        match chunk {
            Ok(chunk) => Ok(chunk.map(Vec::from)),
            Err(error) => Err(ApiError::broken_off(self.server(), &error)),
        }
    }

    /// The rest of a body as one JSON value. `patience` bounds each silence in it.
    pub(crate) async fn json_body(
        &self,
        url: &Url,
        method: &str,
        response: Response,
        patience: Duration,
    ) -> ApiResult<Json> {
        let content_type = content_type(&response);
        let body = self.body(url, response, patience).await?;
        Json::parse(&body).ok_or_else(|| ApiError::no_json(url, method, &content_type))
    }

    async fn object(&self, method: Method, url: &Url, body: Option<&Value>) -> ApiResult<Json> {
        let response = self.accepted(method.clone(), url, body, ANSWER_TIMEOUT).await?;
        self.json_body(url, method.as_str(), response, ANSWER_TIMEOUT).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        patience: Duration,
    ) -> ApiResult<Response> {
        let mut request = self.request(method, url).header(ACCEPT, "application/json, */*;q=0.5");
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        self.answered(url, request, patience).await
    }

    fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        let request = self.http.request(method, url.clone());
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    async fn answered(&self, url: &Url, request: RequestBuilder, patience: Duration) -> ApiResult<Response> {
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ApiError::unreachable(self.server(), url, &error)),
            Err(_) => Err(ApiError::silent(self.server(), patience)),
        }
    }

    async fn body(&self, url: &Url, mut response: Response, patience: Duration) -> ApiResult<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response, Some(patience)).await? {
            if body.len() + piece.len() > BODY_MAX_BYTES {
                return Err(ApiError::too_long(url, BODY_MAX_BYTES >> 20));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// The media type of a response, without parameters.
pub(crate) fn content_type(response: &Response) -> String {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        nebula_core::address::is_loopback_host(host.trim_matches(|c| c == '[' || c == ']'))
    })
}

fn authorization(credential: &Credential) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", credential.secret.expose())).map_err(|_| {
            nebula_core::exit::Fatal::new(
                Exit::Config,
                format!("the token from {} has characters that no token has", credential.origin),
            )
            .hint("a token is one word, such as nbadm_…")
        })?;
    value.set_sensitive(true);
    Ok(value)
}
