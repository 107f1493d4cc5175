//! Where the server's address and the token come from.

use serde_json::json;

use crate::server::{Answer, Server};
use crate::{Ended, User, command};

const CONFIG: &str = ".config/nebula/config.toml";

fn server() -> Server {
    Server::start(|_| Answer::list(&json!([])))
}

#[test]
fn flag_then_environment_then_configuration_then_token_file() {
    let server = server();
    let user = User::new();
    user.write("work/admin.token", "t-file\n");
    let sent = |args: &[&str], env: Option<&str>| {
        let mut command = user.command(args);
        command.env("NEBULA_SERVER", server.url());
        if let Some(token) = env {
            command.env("NEBULA_TOKEN", token);
        }
        assert!(command.status().expect("it runs").success());
        server.requests().pop().and_then(|request| request.authorization).expect("a token")
    };
    assert_eq!(sent(&["list"], None), "Bearer t-file");
    user.write(CONFIG, "token = \"t-config\"\n");
    assert_eq!(sent(&["list"], None), "Bearer t-config");
    assert_eq!(sent(&["list"], Some("t-env")), "Bearer t-env");
    assert_eq!(sent(&["list", "--token", "t-flag"], Some("t-env")), "Bearer t-flag");
}

#[test]
fn the_token_file_of_a_data_directory_is_found() {
    let server = server();
    let user = User::new();
    user.write("work/data/admin.token", "t-data");
    assert!(user.command(&["list", "--server", &server.url()]).status().expect("it runs").success());
    assert_eq!(server.requests()[0].authorization.as_deref(), Some("Bearer t-data"));
}

#[test]
fn the_configuration_names_the_server_unless_the_environment_does() {
    let (configured, named) = (server(), server());
    let user = User::new();
    user.write(CONFIG, &format!("server = \"{}\"\ntoken = \"t\"\n", configured.url()));
    assert!(user.command(&["list"]).status().expect("it runs").success());
    assert!(user.command(&["list"]).env("NEBULA_SERVER", named.url()).status().expect("it runs").success());
    assert_eq!((configured.requests().len(), named.requests().len()), (1, 1));
}

#[test]
fn a_server_below_a_path_is_reached_there() {
    let server = server();
    let url = format!("{}/nebula/", server.url());
    assert!(command(&["list", "--server", &url]).status().expect("it runs").success());
    assert_eq!(server.lines(), ["GET /nebula/api/v1/deployments?limit=500"]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_78() {
    for text in
        ["servre = \"http://x\"\n", "server = \n", "server = \"ftp://x\"\n", "token = \"two\\nlines\"\n"]
    {
        let user = User::new();
        user.write(CONFIG, text);
        let ended = Ended::of(user.command(&["list"]).output().expect("it runs"));
        assert_eq!((ended.code, ended.out.as_str()), (78, ""), "{text}: {ended:?}");
        assert!(ended.err.starts_with("error: ") && ended.err.contains("\n\nhint: "), "{}", ended.err);
    }
}
