//! Models are fetched from stand-ins of the hub, of S3 and of Ollama, which break off, stall, lie and refuse.

mod estimate;
mod held;
mod hub;
mod node;
mod ollama;
mod s3;
mod stand_in;

use std::path::PathBuf;
use std::time::Duration;

use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;

use self::stand_in::StandIn;
use super::download::Limits;
use super::{Models, S3Settings, Settings};
use crate::replica::spec::Spec;

/// Nothing that a test waits for takes this long.
const DEADLINE: Duration = Duration::from_secs(20);
/// A stand-in that says nothing for this long has stalled.
const STALL: Duration = Duration::from_millis(400);

/// Models in a directory of their own, from a stand-in.
struct World {
    dir: tempfile::TempDir,
    stand_in: StandIn,
    models: Models,
}

impl World {
    async fn new() -> Self {
        Self::with(StandIn::start().await, |_| {})
    }

    fn with(stand_in: StandIn, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let models = models(dir.path().to_owned(), &stand_in, change);
        Self { dir, stand_in, models }
    }

    /// The same directory and stand-in after the agent was started again.
    fn again(&self) -> Models {
        models(self.dir.path().to_owned(), &self.stand_in, |_| {})
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("huggingface/hub/models--org--name")
    }
}

fn models(dir: PathBuf, stand_in: &StandIn, change: impl FnOnce(&mut Settings)) -> Models {
    let mut settings = Settings {
        hf_home: dir.join("huggingface"),
        dir,
        fs_roots: Vec::new(),
        hf_endpoint: stand_in.url(),
        hf_token: Some(Secret::from_text("hf_secret")),
        s3: S3Settings { endpoint: Some(stand_in.url()), region: "us-east-1".to_owned(), credentials: None },
        ollama_registry: stand_in.url(),
    };
    change(&mut settings);
    Models::with(
        settings,
        Limits { stall: STALL, retry: Duration::from_millis(10), tell: Duration::from_millis(10) },
    )
}

fn spec(runtime: RuntimeKind, source: &str) -> Spec {
    Spec {
        runtime,
        model: "m".to_owned(),
        source: Some(source.parse().expect("a source")),
        served_name: "m".to_owned(),
        command: Vec::new(),
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        gpu_devices: Vec::new(),
        image: None,
        driver: None,
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
