//! A nebulad in this process, on free ports and a directory of its own, and a client of it.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::time::Duration;

use clap::Parser as _;
use nebulad::actors::registry::machine::Registration;
use nebulad::actors::registry::{self, Change, Register};
use nebulad::app::App;
use nebulad::config::{Cli, Config};
use nebulad::domain::deployment::Deployment;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No wait in a test lasts longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// How soon a stream must end when nebulad does.
const STOP: Duration = Duration::from_secs(5);

pub struct Nebulad {
    app: App,
    dir: TempDir,
    /// Beside those that every test needs.
    flags: Vec<String>,
    client: Client,
}

/// An answer that is JSON, if it has a body.
pub struct Answer {
    pub status: u16,
    pub request_id: Option<String>,
    pub text: String,
    pub body: Value,
}

pub fn kinds(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["type"].as_str().expect("a type").to_owned()).collect()
}

pub fn seqs(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["seq"].as_u64().expect("a number")).collect()
}

async fn started(dir: &TempDir, more: &[String]) -> App {
    let path = dir.path().to_str().expect("a path");
    let words =
        ["nebulad", "--data-dir", path, "--grpc-port", "0", "--http-port", "0", "--shutdown-grace", "30"];
    let words = words.into_iter().chain(more.iter().map(String::as_str));
    let config = Config::try_from(Cli::parse_from(words).flags).expect("a configuration");
    App::start(config).await.expect("nebulad starts")
}

impl Nebulad {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these flags besides.
    pub async fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let app = started(&dir, &flags).await;
        Self { app, dir, flags, client: Client::builder().no_proxy().build().expect("a client") }
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    pub fn admin_token(&self) -> &str {
        self.app.admin_token.expose()
    }

    pub async fn stop(self) {
        self.app.stop().await;
    }

    /// Stops it and sees that nobody who follows keeps it from that.
    pub async fn stop_at_once(self) {
        tokio::time::timeout(STOP, self.app.stop()).await.expect("in time");
    }

    /// Another nebulad on what this one leaves.
    pub async fn restart(self) -> Self {
        let Self { app, dir, flags, client } = self;
        app.stop().await;
        let app = started(&dir, &flags).await;
        Self { app, dir, flags, client }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        request_id: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.app.http_addr);
        let mut request = self.client.request(method, url).bearer_auth(self.admin_token()).timeout(DEADLINE);
        if let Some(id) = request_id {
            request = request.header("x-request-id", id);
        }
        if let Some(body) = body.filter(|body| !body.is_null()) {
            request = request.json(body);
        }
        Self::answer(request).await
    }

    async fn answer(request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status, request_id: id, text, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, None).await
    }

    /// Asks without a credential.
    pub async fn get_as_nobody(&self, path: &str) -> Answer {
        let url = format!("http://{}{path}", self.app.http_addr);
        Self::answer(self.client.get(url).timeout(DEADLINE)).await
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.send(method.parse().expect("a method"), path, None, body).await
    }

    pub async fn patch(&self, name: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, &format!("/api/v1/deployments/{name}"), None, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, None, Some(body)).await
    }

    pub async fn post_as(&self, request_id: &str, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(request_id), Some(body)).await
    }

    /// A deployment without replicas; its id.
    pub async fn create(&self, name: &str) -> String {
        let spec = json!({"name": name, "model": "demo", "runtime": "sim", "replicas": 0});
        let made = self.post("/api/v1/deployments", &spec).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.body["id"].as_str().expect("an id").to_owned()
    }

    pub async fn act(&self, name: &str, action: &str, body: Value) {
        let done = self.post(&format!("/api/v1/deployments/{name}/{action}"), &body).await;
        assert_eq!(done.status, 202, "{action}: {}", done.text);
    }

    /// All pages of a list.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut lines, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = match &cursor {
                None => self.get(path).await,
                Some(cursor) => self.get(&format!("{path}{join}cursor={cursor}")).await,
            };
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            lines.extend(page.body["data"].as_array().expect("a list").clone());
            cursor = page.body["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return lines;
            }
        }
    }

    pub async fn follow(&self, path: &str, last_event_id: Option<&str>) -> Follower {
        let url = format!("http://{}{path}", self.app.http_addr);
        let mut request = self.client.get(url).bearer_auth(self.admin_token());
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response =
            tokio::time::timeout(DEADLINE, request.send()).await.expect("in time").expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut follower = Follower { response, text: String::new(), ids: Vec::new() };
        follower.until(": the journal follows\n\n").await;
        follower
    }

    /// What an agent on the node `gpu-1` says when it starts.
    pub async fn register(&self, id: &str) {
        let registration = Registration {
            node_id: id.parse().expect("an id"),
            name: "gpu-1".to_owned(),
            version: "0.1.0".to_owned(),
            address: "127.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            capabilities: Default::default(),
            labels: Default::default(),
            boot_id: "a".to_owned(),
        };
        let registered = self.app.system.registry.ask(registry::PATH, Register(registration)).await;
        registered.expect("an answer").expect("registered");
    }

    pub async fn deregister(&self, id: &str) {
        let change = Change::Deregister(id.parse().expect("an id"));
        self.app.system.registry.ask(registry::PATH, change).await.expect("an answer").expect("done");
    }

    /// Waits until the only deployment is so.
    pub async fn until_deployment(&self, reached: impl Fn(&Deployment) -> bool) {
        self.until(|app| app.system.deployments(None, 1).first().is_some_and(|dep| reached(dep))).await;
    }

    pub async fn until(&self, reached: impl Fn(&App) -> bool) {
        let wait = async {
            while !reached(&self.app) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("in time");
    }
}

/// An event stream as it arrives.
pub struct Follower {
    response: Response,
    text: String,
    ids: Vec<u64>,
}

impl Follower {
    /// Reads on. False at the end.
    async fn read(&mut self) -> bool {
        let piece = tokio::time::timeout(DEADLINE, self.response.chunk()).await.expect("in time");
        let Some(piece) = piece.expect("a whole stream") else { return false };
        self.text.push_str(std::str::from_utf8(&piece).expect("whole characters"));
        true
    }

    /// Reads until `what` has come, and forgets everything up to it.
    pub async fn until(&mut self, what: &str) {
        while !self.text.contains(what) {
            assert!(self.read().await, "ended with {:?}", self.text);
        }
        let end = self.text.find(what).expect("it has come") + what.len();
        self.text.drain(..end);
    }

    /// Takes the events that are whole.
    fn take(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        while let Some(end) = self.text.find("\n\n") {
            let event: String = self.text.drain(..end + 2).collect();
            let field =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let (Some(id), Some(data)) = (field("id: "), field("data: ")) else { continue };
            let line: Value = serde_json::from_str(&data).expect("JSON");
            assert_eq!(
                (Some(id.as_str()), field("event: ").as_deref()),
                (Some(line["seq"].to_string().as_str()), line["type"].as_str())
            );
            self.ids.push(id.parse().expect("a number"));
            lines.push(line);
        }
        lines
    }

    /// The next `count` lines.
    pub async fn lines(&mut self, count: usize) -> Vec<Value> {
        let mut lines = self.take();
        while lines.len() < count {
            assert!(self.read().await, "ended after {lines:?}");
            lines.extend(self.take());
        }
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// All lines until the stream ends.
    pub async fn rest(&mut self) -> Vec<Value> {
        while self.read().await {}
        self.take()
    }

    /// The ids of all events so far.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }
}
