//! Logins for registries, as `docker login` leaves them.

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

/// Docker's own registry, which has many names.
const HUB: &str = "docker.io";
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// What is known of a login.
#[derive(Debug)]
pub(super) enum Login {
    /// Nothing.
    None,
    /// It can be shown.
    Known(DockerCredentials),
    /// A program of this name has it, and the agent does not run such programs.
    Helper(String),
}

/// The file, as far as it matters here.
#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

/// The registry of an image's name.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// The login for a registry. Blocks on the file system.
pub(super) fn find(registry: &str) -> Login {
    let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = dir.or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Login::None };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "logins for registries not read");
            }
            return Login::None;
        }
    };
    read(&text, registry).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "logins for registries not understood");
        Login::None
    })
}

/// The login for a registry in the text of the file.
fn read(text: &[u8], registry: &str) -> Result<Login, serde_json::Error> {
    let file: File = serde_json::from_slice(text)?;
    let registry = plain(registry);
    let helper =
        file.helpers.iter().find(|(name, _)| plain(name) == registry).map(|(_, helper)| helper.clone());
    let auth = file.auths.iter().find(|(name, _)| plain(name) == registry).map(|(_, auth)| auth);
    if let Some(credentials) = auth.and_then(|auth| credentials(auth, registry)) {
        return Ok(Login::Known(credentials));
    }
    Ok(helper.or(file.store).filter(|helper| !helper.is_empty()).map_or(Login::None, Login::Helper))
}

fn credentials(auth: &Auth, registry: &str) -> Option<DockerCredentials> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let pair = given(&auth.auth).and_then(|text| {
        let pair = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (name, password) = pair.split_once(':')?;
        // The Docker command line used to pad the password.
        Some((name.to_owned(), password.trim_end_matches('\0').to_owned()))
    });
    let token = given(&auth.identity_token);
    if pair.is_none() && token.is_none() {
        return None;
    }
    let (username, password) = pair.unzip();
    Some(DockerCredentials {
        username,
        password,
        identitytoken: token,
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    })
}

/// A registry's name without scheme and path; all names of Docker's own are one.
fn plain(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let name = name.split('/').next().unwrap_or_default();
    if HUB_NAMES.contains(&name) { HUB } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_an_image() {
        for (image, registry) in [
            ("ubuntu", "docker.io"),
            ("ollama/ollama:0.5", "docker.io"),
            ("ghcr.io/huggingface/tgi:2", "ghcr.io"),
            ("localhost/x", "localhost"),
            ("localhost:5000/x:1", "localhost:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[test]
    fn logins_in_the_file() {
        let file = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6YTpi"},
            "nvcr.io": {"auth": "", "identitytoken": "tok"}, "empty.io": {}, "bad.io": {"auth": "%%"}},
            "credsStore": "desktop", "credHelpers": {"gcr.io": "gcloud"}}"#;
        let said = |registry: &str| match read(file, registry).expect("a file") {
            Login::None => "none".to_owned(),
            Login::Helper(name) => format!("helper {name}"),
            Login::Known(login) => format!(
                "{}:{} {} at {}",
                login.username.unwrap_or_default(),
                login.password.unwrap_or_default(),
                login.identitytoken.unwrap_or_default(),
                login.serveraddress.unwrap_or_default()
            ),
        };
        for (registry, expected) in [
            ("docker.io", "me:a:b  at docker.io"),
            ("nvcr.io", ": tok at nvcr.io"),
            ("empty.io", "helper desktop"),
            ("bad.io", "helper desktop"),
            ("gcr.io", "helper gcloud"),
            ("unknown.io", "helper desktop"),
        ] {
            assert_eq!(said(registry), expected, "{registry}");
        }
        assert!(matches!(read(b"{}", "docker.io"), Ok(Login::None)));
        assert!(read(b"no json", "docker.io").is_err());
    }
}
