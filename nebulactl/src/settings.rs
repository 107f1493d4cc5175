//! Which server, and which credential: flag, environment, configuration file, admin token file, in this order.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nebula_core::address::is_loopback_host;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::token::Secret;
use reqwest::Url;
use serde::Deserialize;

use crate::cli::Global;
use crate::failure::{Result, one_line};

const DEFAULT_SERVER: &str = "http://localhost:8080";
const CONFIG_FILE: &str = ".config/nebula/config.toml";
/// Where nebulad may have left its admin token, nearest first.
const TOKEN_FILES: [&str; 3] = ["admin.token", "data/admin.token", "/var/lib/nebulad/admin.token"];

/// What is needed to talk to nebulad.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) server: Url,
    pub(crate) credential: Option<Credential>,
}

/// A secret and where it was found, for advice when it is refused.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) secret: Secret,
    pub(crate) origin: Origin,
}

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    KeyFlag,
    Flag,
    Environment,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFlag => f.write_str("--api-key"),
            Self::Flag => f.write_str("--token"),
            Self::Environment => f.write_str("NEBULA_TOKEN"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The two keys of the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    server: Option<String>,
    token: Option<String>,
}

/// The parts of the process's surroundings that settings are read from.
struct World<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Settings {
    /// Finds the settings for this process.
    pub(crate) fn of_process(flags: &Global) -> Result<Self> {
        let world =
            World { env: &|name| std::env::var(name).ok(), read: &|path| std::fs::read_to_string(path) };
        Ok(resolve(flags, &world)?)
    }

    /// The same with another credential, if one is given.
    pub(crate) fn with_key(mut self, key: Option<&str>) -> Self {
        if let Some(key) = key {
            self.credential = Some(Credential { secret: Secret::from_text(key), origin: Origin::KeyFlag });
        }
        self
    }
}

fn resolve(flags: &Global, world: &World<'_>) -> std::result::Result<Settings, Fatal> {
    let env = |name| (world.env)(name).filter(|value| !value.trim().is_empty());
    let given_server = flags.server.clone().map(|text| (text, "--server", Exit::Usage));
    let given_server =
        given_server.or_else(|| env("NEBULA_SERVER").map(|text| (text, "NEBULA_SERVER", Exit::Usage)));
    let given_token = flags.token.clone().map(|text| (text, Origin::Flag));
    let given_token = given_token.or_else(|| env("NEBULA_TOKEN").map(|text| (text, Origin::Environment)));

    let path = env("HOME").map(|home| Path::new(&home).join(CONFIG_FILE));
    let (config, path) = match path {
        Some(path) if given_server.is_none() || given_token.is_none() => (read_config(&path, world)?, path),
        _ => (ConfigFile::default(), PathBuf::new()),
    };
    let (server, place, exit) = given_server
        .or_else(|| config.server.map(|text| (text, "the configuration file", Exit::Config)))
        .unwrap_or_else(|| (DEFAULT_SERVER.to_owned(), "--server", Exit::Usage));
    let token = given_token
        .or_else(|| config.token.map(|text| (text, Origin::File(path))))
        .or_else(|| token_file(world));
    Ok(Settings {
        server: server_url(&server).map_err(|reason| {
            Fatal::new(exit, format!("\"{}\" in {place} is no server address ({reason})", one_line(&server)))
                .hint("write it like http://localhost:8080 or https://nebula.example.com")
        })?,
        credential: token.map(|(text, origin)| Credential { secret: Secret::from_text(text.trim()), origin }),
    })
}

fn read_config(path: &Path, world: &World<'_>) -> std::result::Result<ConfigFile, Fatal> {
    let fail = |problem: String| {
        Fatal::new(Exit::Config, format!("{}: {problem}", path.display()))
            .hint("the file may hold two lines: server = \"http://localhost:8080\" and token = \"nbadm_…\"")
    };
    match (world.read)(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            fail(format!("line {line}: {}", one_line(error.message())))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ConfigFile::default()),
        Err(error) => Err(fail(format!("cannot be read: {error}"))),
    }
}

/// The first token file that can be read and is not empty.
fn token_file(world: &World<'_>) -> Option<(String, Origin)> {
    TOKEN_FILES.iter().find_map(|name| {
        let path = Path::new(name);
        let text = (world.read)(path).ok().filter(|text| !text.trim().is_empty())?;
        Some((text, Origin::File(path.to_owned())))
    })
}

/// Reads a server address. Without a scheme it is plain HTTP to this machine and HTTPS to any other, so that a
/// token never crosses a network in plain text unless the user wrote `http://`.
fn server_url(text: &str) -> std::result::Result<Url, String> {
    let text = text.trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        let plain = Url::parse(&format!("http://{text}")).map_err(|error| error.to_string())?;
        let host = plain.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let scheme = if is_loopback_host(host) { "http" } else { "https" };
        format!("{scheme}://{text}")
    };
    let url = Url::parse(&full).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{}:// is neither http:// nor https://", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has a user name or a password".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cli::Format;

    fn flags(server: Option<&str>, token: Option<&str>) -> Global {
        Global {
            server: server.map(str::to_owned),
            token: token.map(str::to_owned),
            output: Format::Table,
            no_color: false,
        }
    }

    fn find(
        flags: &Global,
        env: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> std::result::Result<Settings, Fatal> {
        let env: HashMap<_, _> = env.iter().copied().collect();
        let files: HashMap<_, _> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        resolve(
            flags,
            &World {
                env: &|name| env.get(name).map(|value| (*value).to_owned()),
                read: &|path| {
                    files.get(path).map(|text| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into())
                },
            },
        )
    }

    const HOME: (&str, &str) = ("HOME", "/home/ada");
    const CONFIG: &str = "/home/ada/.config/nebula/config.toml";

    #[test]
    fn the_nearest_setting_wins() {
        let files =
            [(CONFIG, "server = \"http://config:1\"\ntoken = \"t-config\"\n"), ("admin.token", "t-file\n")];
        let env = [HOME, ("NEBULA_SERVER", "http://env:1"), ("NEBULA_TOKEN", "t-env")];
        let all = find(&flags(Some("http://flag:1"), Some("t-flag")), &env, &files).expect("settings");
        let no_flag = find(&flags(None, None), &env, &files).expect("settings");
        let no_env = find(&flags(None, None), &[HOME, ("NEBULA_TOKEN", " ")], &files).expect("settings");
        let no_config = find(&flags(None, None), &[HOME], &files[1..]).expect("settings");
        let nothing = find(&flags(None, None), &[], &[]).expect("settings");

        for (settings, server, token) in [
            (&all, "http://flag:1/", Some("t-flag")),
            (&no_flag, "http://env:1/", Some("t-env")),
            (&no_env, "http://config:1/", Some("t-config")),
            (&no_config, "http://localhost:8080/", Some("t-file")),
            (&nothing, "http://localhost:8080/", None),
        ] {
            assert_eq!(settings.server.as_str(), server);
            assert_eq!(settings.credential.as_ref().map(|c| c.secret.expose()), token);
        }
        assert_eq!(no_config.credential.expect("a token").origin.to_string(), "admin.token");
    }

    #[test]
    fn token_files_are_tried_in_order_and_empty_ones_are_passed_over() {
        let files =
            [("admin.token", " \n"), ("data/admin.token", "near"), ("/var/lib/nebulad/admin.token", "far")];
        let settings = find(&flags(None, None), &[], &files).expect("settings");
        assert_eq!(settings.credential.expect("a token").secret.expose(), "near");
    }

    #[test]
    fn a_broken_configuration_file_is_named_with_its_line() {
        for text in ["server = \"http://a\"\ntokn = \"x\"\n", "server = \"http://a\"\ntoken = 3\n"] {
            let error = find(&flags(None, None), &[HOME], &[(CONFIG, text)]).expect_err("refused");
            assert_eq!(error.exit, Exit::Config);
            assert!(error.message.starts_with(&format!("{CONFIG}: line 2: ")), "{}", error.message);
        }
    }

    #[test]
    fn the_configuration_file_is_not_read_when_it_is_not_needed() {
        assert!(find(&flags(Some("http://a"), Some("t")), &[HOME], &[(CONFIG, "broken")]).is_ok());
    }

    #[test]
    fn addresses_without_a_scheme_are_plain_only_on_this_machine() {
        for (text, url) in [
            ("localhost:8080", "http://localhost:8080/"),
            ("127.0.0.1:1", "http://127.0.0.1:1/"),
            ("[::1]:1", "http://[::1]:1/"),
            ("nebula.example.com", "https://nebula.example.com/"),
            ("http://10.0.0.1:8080/", "http://10.0.0.1:8080/"),
        ] {
            assert_eq!(server_url(text).expect(text).as_str(), url);
        }
        for text in ["", "ftp://x", "http://", "http://a?b=c", "http://u:p@a", "not an address"] {
            assert!(server_url(text).is_err(), "{text}");
        }
    }
}
