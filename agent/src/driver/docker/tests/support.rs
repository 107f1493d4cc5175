//! A world for one test: a driver with an agent id of its own, a tiny image, and nothing left of both afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::TryStreamExt as _;
use nebula_core::clock::Clock;
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};

use super::super::engine::Host;
use super::super::{ContainerName, Docker, Patience, Settings};
use crate::driver::logs::{Log, Logs};
use crate::replica::spec::{ContainerRef, Ended};
use crate::runtimes::{ContainerPlan, Health};

/// What is in the image.
const PROGRAMS: [&str; 8] = ["sh", "cat", "head", "seq", "sleep", "tail", "tr", "stty"];
/// How long anything may take before a test gives it up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One test's world.
pub(super) struct World {
    pub(super) docker: Docker,
    pub(super) agent_id: String,
    pub(super) image: String,
    pub(super) dir: tempfile::TempDir,
}

impl World {
    /// None, with a word why: there is no Engine, or no image can be made for it.
    pub(super) async fn new() -> Option<Self> {
        let agent_id = uuid::Uuid::new_v4().simple().to_string();
        let docker = driver(&agent_id, None, Patience::default());
        let engine = &docker.0.engine;
        if let Err(error) = engine.call("answer", PATIENCE, |docker| async move { docker.ping().await }).await
        {
            eprintln!("skipped: this needs a Docker Engine: {error}");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let image = format!("nebtest-h1-{}", agent_id.get(..8).expect("an id"));
        let world = Self { docker, agent_id, image, dir };
        world.import(&world.image, None).await;
        Some(world)
    }

    /// Imports an image with a shell and some programs, and a file besides.
    pub(super) async fn import(&self, name: &str, file: Option<&[u8]>) {
        let root = self.dir.path().join("root");
        fill(&root);
        if let Some(bytes) = file {
            std::fs::write(root.join("weights"), bytes).expect("a file");
        }
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().expect("tar runs");
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        let (name, tag) =
            name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name, "latest"));
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag(tag).build();
        let client = self.docker.0.engine.client(PATIENCE).expect("a client");
        let body = bollard::body_full(tar.stdout.into());
        let lines: Result<Vec<_>, _> =
            client.create_image(Some(options), Some(body), None).try_collect().await;
        lines.expect("the image is imported");
    }

    /// A further driver for the same agent, as after a restart of it; through another address if one is given.
    pub(super) fn again(&self, host: Option<String>) -> Docker {
        driver(&self.agent_id, host, Patience::default())
    }

    pub(super) fn name(&self, attempt: u32) -> ContainerName {
        ContainerName {
            deployment: DeploymentId::random(),
            replica: ReplicaId::random(),
            generation: Generation(1),
            attempt,
            config_hash: "c0ffee".to_owned(),
        }
    }

    /// A plan that runs a shell script.
    pub(super) fn plan(&self, script: &str) -> ContainerPlan {
        ContainerPlan {
            image: self.image.clone(),
            entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
            command: vec![script.to_owned()],
            env: BTreeMap::new(),
            host_port: free_port(),
            container_port: 8000,
            mounts: Vec::new(),
            gpu_uuids: Vec::new(),
            shm_bytes: 0,
            keep_capabilities: &[],
            health: Health { path: "/health", otherwise: None },
        }
    }

    /// Starts a shell script.
    pub(super) async fn start(&self, script: &str) -> (ContainerRef, ContainerName) {
        let name = self.name(1);
        (self.docker.start(&self.plan(script), &name).await.expect("it starts"), name)
    }

    pub(super) fn log(&self) -> Arc<Log> {
        Logs::open(self.dir.path().join("logs")).begin(1).expect("a log").0
    }

    /// Follows the Engine as the agent does, until the test's end.
    pub(super) fn follow(&self, docker: &Docker) {
        tokio::spawn(docker.clone().run());
    }

    pub(super) async fn watch(&self, container: ContainerRef, name: &ContainerName, log: &Arc<Log>) -> Ended {
        let watching = self.docker.watch(container, name.replica, Arc::clone(log));
        tokio::time::timeout(PATIENCE, watching).await.expect("it ends")
    }

    /// All containers that this agent has.
    pub(super) async fn containers(&self) -> Vec<ContainerSummary> {
        self.docker.list(&[]).await.expect("a list")
    }

    pub(super) async fn inspect(&self, container: ContainerRef) -> ContainerInspectResponse {
        let client = self.docker.0.engine.client(PATIENCE).expect("a client");
        client.inspect_container(&container.to_hex(), None).await.expect("it is there")
    }

    pub(super) fn host(&self) -> &Host {
        self.docker.0.engine.host()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let docker = self.again(None);
        let image = self.image.clone();
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                docker.remove_strays(|_| false).await;
                let client = docker.0.engine.client(PATIENCE).expect("a client");
                let options = RemoveImageOptionsBuilder::default().force(true).build();
                let _ = client.remove_image(&image, Some(options), None).await;
            });
        });
        cleaning.join().expect("nothing is left");
    }
}

pub(super) fn driver(agent_id: &str, host: Option<String>, patience: Patience) -> Docker {
    let settings =
        Settings { host, agent_id: agent_id.to_owned(), memory_limit: Some(64 << 20), clock: Clock::start() };
    Docker::with_patience(settings, patience).expect("an address")
}

pub(super) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until something holds.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// A root file system: some programs of this machine with the libraries that they need.
fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    for program in PROGRAMS {
        let path = ["/bin", "/usr/bin"]
            .map(|dir| Path::new(dir).join(program))
            .into_iter()
            .find(|path| path.exists());
        let path = path.unwrap_or_else(|| panic!("{program} is on this machine"));
        std::fs::copy(&path, root.join("bin").join(program)).expect("a copy");
        let needed = Command::new("ldd").arg(&path).output().expect("ldd runs").stdout;
        let needed = String::from_utf8(needed).expect("text");
        for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.join(PathBuf::from(library.trim_start_matches('/')));
            std::fs::create_dir_all(copy.parent().expect("a directory")).expect("a directory");
            std::fs::copy(library, copy).expect("a copy");
        }
    }
}
