//! What goes wrong, in words and exit codes.

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc;

use serde_json::json;

use crate::server::{Answer, Piece, Server};
use crate::{Ended, command, run};

#[test]
fn a_server_that_is_not_there_is_69_with_its_address() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("http://{free}");
    let ended = Ended::of(command(&["list", "--server", &url]).output().expect("it runs"));
    assert_eq!((ended.code, ended.out.as_str()), (69, ""));
    assert!(ended.err.starts_with(&format!("error: nebulad at {url} cannot be reached: Connection refused")));
    assert!(ended.err.contains("\n\nhint: start nebulad with `nebulad`"), "{}", ended.err);
}

#[test]
fn a_server_that_hangs_up_is_69() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let ended = Ended::of(command(&["list", "--server", &url]).output().expect("it runs"));
    assert_eq!(ended.code, 69, "{ended:?}");
}

#[test]
fn denials_are_77_and_say_which_token_it_was() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let server =
            Server::start(move |_| Answer::error(status, "unauthorized", "the admin token is wrong"));
        let ended = run(&server, &["list"]);
        assert_eq!(ended.code, 77);
        let expected =
            "error: the admin token is wrong\n\nhint: the token from NEBULA_TOKEN was not accepted;";
        assert!(ended.err.starts_with(expected), "{}", ended.err);
        assert!(!ended.err.contains("nbadm_test"), "no token is printed");
    }
}

#[test]
fn what_is_not_there_is_1() {
    let server =
        Server::start(|_| Answer::error("404 Not Found", "not_found", "there is no deployment \"nope\""));
    let ended = run(&server, &["get", "nope"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended.err.starts_with("error: there is no deployment \"nope\"\n\nhint: `nebulactl list`"),
        "{}",
        ended.err
    );
}

#[test]
fn an_error_of_nebulad_names_the_request() {
    let server =
        Server::start(|_| Answer::error("503 Service Unavailable", "restarting", "the registry restarts"));
    let ended = run(&server, &["nodes", "list"]);
    let expected = "error: the registry restarts\n\nhint: nebulad's log says more under request_id req-7\n";
    assert_eq!((ended.code, ended.err.as_str()), (1, expected));
}

#[test]
fn another_kind_of_server_is_recognised() {
    for server in [
        Server::saying("200 OK", "text/html", "<html>welcome</html>"),
        Server::saying("404 Not Found", "text/html", "<html>nothing here</html>"),
        Server::saying("200 OK", "application/json", r#"{"hello":"world"}"#),
        Server::saying("200 OK", "", ""),
    ] {
        let ended = run(&server, &["list"]);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
        let error = format!("error: GET {}/api/v1/deployments?limit=500 was answered ", server.url());
        assert!(ended.err.starts_with(&error), "{}", ended.err);
        assert!(ended.err.contains("\n\nhint: check the address given with --server"), "{}", ended.err);
    }
}

#[test]
fn redirects_are_not_followed() {
    let other = Server::start(|_| Answer::list(&json!([])));
    let server = Server::start(|_| Answer::new("302 Found", "text/html", "").header("location: /login\r\n"));
    let ended = run(&server, &["list"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("302 Found to /login"), "{}", ended.err);
    assert!(other.requests().is_empty());
}

#[test]
fn a_list_without_end_is_given_up() {
    let server = Server::start(|_| Answer::json("200 OK", &json!({"data": [], "next_cursor": "again"})));
    let ended = run(&server, &["list"]);
    assert_eq!(ended.code, 1);
    assert_eq!(server.requests().len(), 200);
}

#[test]
fn wrong_command_lines_are_2() {
    let server = Server::start(|_| Answer::list(&json!([])));
    for args in [
        &[][..],
        &["nonsense"],
        &["deploy"],
        &["deploy", "--model", "m", "--runtime", "vlm"],
        &["scale", "demo", "many"],
        &["list", "--server", "ftp://x"],
    ] {
        assert_eq!(run(&server, args).code, 2, "{args:?}");
    }
    assert!(server.requests().is_empty());
    assert_eq!(run(&server, &["--help"]).code, 0);
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let (open, gate) = mpsc::channel();
    let gate = Mutex::new(Some(gate));
    let server = Server::start(move |_| {
        let gate = gate.lock().expect("no panic").take().expect("one request");
        Answer::pieces("text/plain", vec![Piece::Gate(gate), Piece::Bytes(b"a line\n".repeat(100))])
    });
    let mut child = command(&["logs", "demo", "--server", &server.url()]).spawn().expect("it runs");
    drop(child.stdout.take());
    open.send(()).expect("the server waits");
    let ended = Ended::of(child.wait_with_output().expect("it ends"));
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}
