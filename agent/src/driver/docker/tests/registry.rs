//! A registry of a test's own: Debian's `docker-registry` on a loopback port.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{PushImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::TryStreamExt as _;

use super::support::{PATIENCE, World, free_port, until};

/// Who may use it. In the wrong alphabet this name would not reach the registry.
const USER: &str = "~~~???>>>";
const PASSWORD: &str = "U*U";
const PASSWORD_HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

pub(super) struct Registry {
    pub(super) address: String,
    dir: PathBuf,
    child: Child,
}

impl Registry {
    /// None, with a word why: the program is not installed. `needs_login`: whoever shows none is refused.
    pub(super) async fn new(world: &World, needs_login: bool) -> Option<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let dir = world.dir.path().join(format!("registry-{}", address.replace(':', "-")));
        std::fs::create_dir_all(&dir).expect("a directory");
        let login = if needs_login {
            std::fs::write(dir.join("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n")).expect("a file");
            format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", dir.join("htpasswd").display())
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n{login}",
            dir.join("data").display()
        );
        let file = dir.join("config.yml");
        std::fs::write(&file, config).expect("a file");
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: this needs docker-registry: {error}");
                return None;
            }
        };
        let registry = Self { address, dir, child };
        until("the registry listens", async || tokio::net::TcpStream::connect(&registry.address).await.ok())
            .await;
        Some(registry)
    }

    /// Pushes an image with a layer of so many random bytes and takes it away from the Engine.
    pub(super) async fn push(&self, world: &World, name: &str, bytes: usize) {
        let content: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
        let image = format!("{}/{name}", self.address);
        world.import(&format!("{image}:1"), Some(&content)).await;
        let client = world.docker.0.engine.client(PATIENCE).expect("a client");
        let options = PushImageOptionsBuilder::default().tag("1").build();
        let lines: Result<Vec<_>, _> =
            client.push_image(&image, Some(options), Some(login())).try_collect().await;
        self.forget(world, &format!("{image}:1")).await;
        lines.expect("it is pushed");
    }

    /// Takes an image away from the Engine.
    pub(super) async fn forget(&self, world: &World, image: &str) {
        let client = world.docker.0.engine.client(PATIENCE).expect("a client");
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        client.remove_image(image, Some(options), None).await.expect("it is removed");
    }

    /// Damages what the registry has of its largest layer; its length stays.
    pub(super) fn damage(&self) {
        let found =
            Command::new("find").arg(self.dir.join("data")).args(["-name", "data", "-size", "+20k"]).output();
        let found = String::from_utf8(found.expect("find runs").stdout).expect("text");
        let mut layers: Vec<&str> = found.lines().collect();
        layers.sort_by_key(|path| std::fs::metadata(path).map_or(0, |file| file.len()));
        let path = layers.last().expect("a layer");
        let mut bytes = std::fs::read(path).expect("a layer");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(path, bytes).expect("a layer");
    }
}

/// What a registry that needs a login takes.
pub(super) fn login() -> DockerCredentials {
    DockerCredentials {
        username: Some(USER.to_owned()),
        password: Some(PASSWORD.to_owned()),
        ..DockerCredentials::default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().expect("it ends");
        self.child.wait().expect("it has ended");
    }
}
