//! A real Caddy with a home of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{free_address, soon};

/// Between two tries to reach what is just starting.
const PAUSE: Duration = Duration::from_millis(10);

/// The program, and where it was looked for when there is none.
fn program() -> Result<PathBuf, String> {
    let named = std::env::var_os("NEBULA_CADDY").map(PathBuf::from);
    let ours = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/caddy/usr/bin/caddy"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("caddy"));
    let mut places = named.into_iter().chain([ours]).chain(in_path);
    places.find(|place| place.is_file()).ok_or_else(|| {
        "skipped: no Caddy in NEBULA_CADDY, .venv/caddy/usr/bin or PATH (apt-get download caddy)".to_owned()
    })
}

/// A running Caddy, ended when dropped.
pub(crate) struct RealCaddy {
    child: Child,
    home: TempDir,
    config: Option<Value>,
    /// Where its admin API is.
    pub(crate) admin: SocketAddr,
    http: reqwest::Client,
}

impl RealCaddy {
    /// Starts it with these apps. Nothing, with words, when there is no Caddy.
    pub(crate) async fn start(apps: Value) -> Option<Self> {
        let admin = free_address();
        Self::start_with(admin, Some(json!({"admin": {"listen": admin.to_string()}, "apps": apps}))).await
    }

    /// The same with no configuration at all: then Caddy itself decides where its admin API is.
    pub(crate) async fn start_empty() -> Option<Self> {
        let admin = SocketAddr::from(([127, 0, 0, 1], 2019));
        if std::net::TcpListener::bind(admin).is_err() {
            println!("skipped: {admin} is taken, where a Caddy without configuration has its admin API");
            return None;
        }
        Self::start_with(admin, None).await
    }

    /// Starts it with an admin API that also answers when it is asked for at `front`.
    pub(crate) async fn start_behind(front: SocketAddr, apps: Value) -> Option<Self> {
        let admin = free_address();
        let origins = json!([admin.to_string(), front.to_string()]);
        let config = json!({"admin": {"listen": admin.to_string(), "origins": origins}, "apps": apps});
        Self::start_with(admin, Some(config)).await
    }

    async fn start_with(admin: SocketAddr, config: Option<Value>) -> Option<Self> {
        let home = tempfile::tempdir().expect("a folder");
        let child = spawn(&home, config.as_ref())?;
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        let caddy = Self { child, home, config, admin, http };
        caddy.ready().await;
        Some(caddy)
    }

    /// Ends it at once and starts it with what it was started with.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.home, self.config.as_ref()).expect("it was there");
        self.ready().await;
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }

    async fn ready(&self) {
        self.get("/config/").await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The text of what it has at a path.
    pub(crate) async fn get(&self, path: &str) -> String {
        // It is starting, or it takes up its admin server anew after a change.
        soon("caddy", async {
            loop {
                if let Ok(answer) = self.http.get(self.url(path)).send().await
                    && let Ok(text) = answer.text().await
                {
                    return text;
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
        .await
    }

    /// The same, read.
    pub(crate) async fn read(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).expect("JSON")
    }

    /// Changes something as an operator would; it must be taken.
    pub(crate) async fn set(&self, method: &str, path: &str, body: &Value) {
        let method: reqwest::Method = method.parse().expect("a method");
        let answer = soon("caddy", async {
            loop {
                // A connection that came to the admin server before the last change is reset, unread.
                match self.http.request(method.clone(), self.url(path)).json(body).send().await {
                    Ok(answer) => return answer,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        });
        assert!(answer.await.status().is_success(), "{method} {path} {body}");
    }
}

impl Drop for RealCaddy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(home: &TempDir, config: Option<&Value>) -> Option<Child> {
    let program = match program() {
        Ok(program) => program,
        Err(why) => {
            println!("{why}");
            return None;
        }
    };
    let mut command = Command::new(program);
    command.arg("run").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, home.path());
    }
    command.current_dir(home.path());
    if let Some(config) = config {
        let file = home.path().join("config.json");
        std::fs::write(&file, config.to_string()).expect("a file");
        command.arg("--config").arg(file);
    }
    Some(command.spawn().expect("caddy starts"))
}
