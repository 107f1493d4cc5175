//! One server that plays the hub (`/api/models/…`, `/…/resolve/…`), the network in front of it (`/cdn/…`), S3 (one
//! bucket, `/bucket/…`), Ollama (`/api/show`, `/api/pull`, `/api/copy`) and its library (`/v2/…`), and notes what it is
//! asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::body::{BodySize, MessageBody, SizedStream};
use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Bytes that are sent at once.
const PIECE: usize = 1_000;
/// Keys on one page of a list.
const PAGE: usize = 2;

/// How the next request for a path goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Status(u16),
    /// Breaks off after so many bytes.
    Cut(usize),
    /// Says no more after so many bytes.
    Stall(usize),
    /// The right number of wrong bytes.
    Wrong,
    /// Begins at the beginning, whatever is asked.
    NoRange,
    /// More bytes than there are.
    Longer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) range: Option<String>,
    pub(super) token: Option<String>,
    pub(super) query: String,
}

#[derive(Default)]
pub(super) struct State {
    port: u16,
    /// Contents by name, and whether the hub counts them as large.
    pub(super) files: BTreeMap<String, (Vec<u8>, bool)>,
    pub(super) faults: BTreeMap<String, VecDeque<Fault>>,
    /// Names in the hub's list that come from somebody evil.
    pub(super) listed_too: Vec<Value>,
    pub(super) error_code: Option<&'static str>,
    pub(super) seen: Vec<Seen>,
    /// What `/api/pull` answers, in pieces; it stalls at the end if there is a piece "stall".
    pub(super) pull: Vec<&'static str>,
    /// S3 keeps CRC-64 of all objects.
    pub(super) crc64: Option<u64>,
}

#[derive(Clone)]
pub(super) struct StandIn {
    state: Arc<Mutex<State>>,
    handle: Arc<Handle>,
}

struct Handle(ServerHandle);

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.0.stop(false));
    }
}

impl StandIn {
    pub(super) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let data = web::Data::from(Arc::clone(&state));
        let server =
            HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(answer)))
                .workers(1)
                .disable_signals()
                .bind(("127.0.0.1", 0))
                .expect("a port");
        let port = server.addrs().first().expect("an address").port();
        state.lock().expect("a lock").port = port;
        let server = server.run();
        let handle = Arc::new(Handle(server.handle()));
        tokio::spawn(server);
        Self { state, handle }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    pub(super) fn port(&self) -> u16 {
        self.state().port
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a lock")
    }

    /// Adds a file; a large one has its own place in the network.
    pub(super) fn file(&self, name: &str, content: &[u8], large: bool) {
        self.state().files.insert(name.to_owned(), (content.to_vec(), large));
    }

    pub(super) fn fault(&self, name: &str, fault: Fault) {
        self.state().faults.entry(name.to_owned()).or_default().push_back(fault);
    }

    /// All requests whose line ends so.
    pub(super) fn asked(&self, end: &str) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.line.ends_with(end)).cloned().collect()
    }

    /// The ranges that were asked for of a file's bytes, in order.
    pub(super) fn ranges(&self, name: &str) -> Vec<Option<String>> {
        self.asked(&format!("GET /cdn/{name}")).into_iter().map(|seen| seen.range).collect()
    }

    pub(super) async fn stop(&self) {
        self.handle.0.stop(false).await;
    }
}

/// Bytes that look like a model.
pub(super) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn git_id(bytes: &[u8]) -> String {
    let header = format!("blob {}\0", bytes.len());
    hex(&Sha1::new_with_prefix(header.as_bytes()).chain_update(bytes).finalize())
}

fn md5_tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Md5::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn answer(request: HttpRequest, state: web::Data<Mutex<State>>) -> HttpResponse {
    let mut state = state.lock().expect("a lock");
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let path = request.path().to_owned();
    state.seen.push(Seen {
        line: format!("{} {path}", request.method()),
        range: header("range"),
        token: header("authorization"),
        query: request.query_string().to_owned(),
    });
    let range = header("range");
    if path == "/api/show" {
        return HttpResponse::NotFound().body(r#"{"error":"not found"}"#);
    }
    if path == "/api/pull" {
        return pulled(state.pull.clone());
    }
    if let Some(fault) = state.next_fault(&path) {
        let code = state.error_code;
        if let Fault::Status(status) = fault {
            let mut response = HttpResponse::build(StatusCode::from_u16(status).expect("a status"));
            code.map(|code| response.insert_header(("x-error-code", code)));
            return response.finish();
        }
        // For the bytes themselves.
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        state.faults.entry(name).or_default().push_front(fault);
    }
    if path == "/api/copy" {
        return HttpResponse::Ok().finish();
    }
    if path.starts_with("/api/models/") {
        return state.list();
    }
    if let Some((_, name)) = path.split_once(&format!("/resolve/{COMMIT}/")) {
        return match state.files.get(name) {
            Some((_, true)) => {
                // Another name of this machine is another host.
                let port = state.port;
                HttpResponse::Found()
                    .insert_header(("location", format!("http://localhost:{port}/cdn/{name}")))
                    .finish()
            }
            Some((content, false)) => HttpResponse::Ok().body(content.clone()),
            None => HttpResponse::NotFound().finish(),
        };
    }
    if let Some(name) = path.strip_prefix("/cdn/") {
        let Some((content, _)) = state.files.get(name).cloned() else {
            return HttpResponse::NotFound().finish();
        };
        let fault = state.faults.get_mut(name).and_then(VecDeque::pop_front);
        return bytes(content, range.as_deref(), fault, None);
    }
    if path.starts_with("/v2/") {
        let found = state.files.get(path.trim_start_matches('/'));
        return found.map_or_else(
            || HttpResponse::NotFound().finish(),
            |(content, _)| HttpResponse::Ok().body(content.clone()),
        );
    }
    state.s3(&request, &path, range.as_deref())
}

impl State {
    fn next_fault(&mut self, path: &str) -> Option<Fault> {
        self.faults.get_mut(path).and_then(VecDeque::pop_front)
    }

    fn list(&self) -> HttpResponse {
        let file = |(name, (content, large)): (&String, &(Vec<u8>, bool))| {
            let size = content.len();
            if *large {
                json!({"rfilename": name, "size": size, "blobId": git_id(b"pointer"),
                       "lfs": {"sha256": sha256(content), "size": size, "pointerSize": 135}})
            } else {
                json!({"rfilename": name, "size": size, "blobId": git_id(content)})
            }
        };
        let files: Vec<Value> = self.files.iter().map(file).chain(self.listed_too.clone()).collect();
        HttpResponse::Ok().json(json!({"id": "org/name", "sha": COMMIT, "siblings": files}))
    }

    fn s3(&mut self, request: &HttpRequest, path: &str, range: Option<&str>) -> HttpResponse {
        let Some(key) = path.strip_prefix("/bucket/") else { return HttpResponse::NotFound().finish() };
        if key.is_empty() {
            return self.s3_list(request.query_string());
        }
        let Some((content, _)) = self.files.get(key).cloned() else {
            return HttpResponse::NotFound().finish();
        };
        let etag = md5_tag(&content);
        if request.method() == "HEAD" {
            let mut response = HttpResponse::Ok();
            if let Some(crc) = self.crc64 {
                let kept = base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes());
                response.insert_header(("x-amz-checksum-crc64nvme", kept));
            }
            return response
                .insert_header(("etag", etag))
                .body(SizedStream::new(content.len() as u64, stream::empty::<Result<_, std::io::Error>>()));
        }
        let wanted = request.headers().get("if-match").and_then(|value| value.to_str().ok());
        if wanted.is_some_and(|wanted| wanted != etag) {
            return HttpResponse::PreconditionFailed().finish();
        }
        let fault = self.faults.get_mut(key).and_then(VecDeque::pop_front);
        bytes(content, range, fault, Some(etag))
    }

    fn s3_list(&self, query: &str) -> HttpResponse {
        let value = |name: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().replace("%2F", "/")
        };
        let (prefix, after) = (value("prefix"), value("continuation-token"));
        let mut found = self.files.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let page: Vec<_> = found.by_ref().take(PAGE).collect();
        let next = found.next().and(page.last()).map(|(key, _)| {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{key}</NextContinuationToken>")
        });
        let contents = page.iter().map(|(key, (content, _))| {
            let (etag, size) = (md5_tag(content).replace('"', "&quot;"), content.len());
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{etag}</ETag>\
                 <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        });
        HttpResponse::Ok().content_type("application/xml").body(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><MaxKeys>{PAGE}</MaxKeys>{}{}\
             </ListBucketResult>",
            next.unwrap_or_default(),
            contents.collect::<String>()
        ))
    }
}

fn bytes(content: Vec<u8>, range: Option<&str>, fault: Option<Fault>, etag: Option<String>) -> HttpResponse {
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = from.filter(|_| !matches!(fault, Some(Fault::NoRange))).unwrap_or(0);
    if from >= content.len() && from > 0 {
        return HttpResponse::RangeNotSatisfiable().finish();
    }
    let mut rest = content[from..].to_vec();
    let mut end = None;
    match fault {
        Some(Fault::Wrong) => rest.iter_mut().for_each(|byte| *byte = !*byte),
        Some(Fault::Longer) => rest.extend([0; 10]),
        Some(Fault::Cut(at)) => end = Some((at, false)),
        Some(Fault::Stall(at)) => end = Some((at, true)),
        Some(Fault::Status(_) | Fault::NoRange) | None => {}
    }
    let mut response = if from > 0 { HttpResponse::PartialContent() } else { HttpResponse::Ok() };
    if from > 0 {
        let (last, size) = (content.len() - 1, content.len());
        response.insert_header(("content-range", format!("bytes {from}-{last}/{size}")));
    }
    etag.map(|etag| response.insert_header(("etag", etag)));
    let size = rest.len() as u64;
    let sent = rest[..end.map_or(rest.len(), |(at, _)| at.min(rest.len()))].to_vec();
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        sent.chunks(PIECE).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = stream::iter(pieces);
    let tail = stream::once(async move {
        match end {
            Some((_, true)) => std::future::pending().await,
            Some((_, false)) => Err(std::io::Error::other("broken on purpose")),
            None => Ok(Bytes::new()),
        }
    });
    // An empty piece at the end would be one too many.
    let body = body.chain(tail.filter(|piece| {
        let keep = piece.as_ref().map_or(true, |piece| !piece.is_empty());
        async move { keep }
    }));
    let body = SizedStream::new(size, Box::pin(body));
    debug_assert_eq!(body.size(), BodySize::Sized(size));
    response.body(body)
}

fn pulled(pieces: Vec<&'static str>) -> HttpResponse {
    let pieces = stream::iter(pieces).then(|piece| async move {
        if piece == "stall" {
            std::future::pending::<()>().await;
        }
        Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes()))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(Box::pin(pieces))
}
