//! Asking a runtime on loopback whether it is ready.

use std::net::Ipv4Addr;
use std::time::Duration;

use nebula_core::ids::ReplicaId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::spec::ProcessRef;
use crate::driver::procfs;
use crate::driver::sockets::{self, Owner};
use crate::runtimes::Health;

/// Between two questions, once the first ones were in vain.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// The first question comes after this, so that a quick runtime is not waited for long; doubles up to `ASK_EVERY`.
const ASK_FIRST: Duration = Duration::from_millis(20);
/// How long an answer may take at first; grows by half with each one that does not come.
const TIMEOUT_FIRST: Duration = Duration::from_millis(200);
/// And at last.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Enough for a status line.
const HEAD_MAX: usize = 1_024;

/// What a runtime answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ready,
    NoSuchPath,
    NotReady,
    /// Nothing in time: it may be busy loading.
    Silent,
}

/// Resolves when the runtime on `port` says that it is ready and is the replica's: what another program answers there
/// counts for nothing. The port of a container is held by the Engine, so there is no `process` to look at.
pub(crate) async fn until_ready(port: u16, health: Health, process: Option<ProcessRef>, replica: ReplicaId) {
    let mut told = false;
    loop {
        until_answered(port, health).await;
        let Some(process) = process else { return };
        let looking = tokio::task::spawn_blocking(move || {
            (procfs::is_alive(process), sockets::owner(port, process, replica))
        });
        match looking.await {
            Ok((true, Owner::Replica | Owner::Unknown)) => return,
            Ok((true, Owner::Stranger)) if !told => {
                told = true;
                tracing::warn!(replica_id = %replica, port, "another program answers on the replica's port");
            }
            // A process that has ended is told of by its watcher; a panic has been logged.
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Resolves when somebody on `port` says that it is ready.
async fn until_answered(port: u16, health: Health) {
    let (mut wait, mut timeout) = (ASK_FIRST, TIMEOUT_FIRST);
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_EVERY);
        match (ask(port, health.path, timeout).await, health.otherwise) {
            (Answer::Ready, _) => return,
            (Answer::NoSuchPath, Some(other)) if ask(port, other, timeout).await == Answer::Ready => return,
            (Answer::Silent, _) => timeout = (timeout * 3 / 2).min(TIMEOUT_MAX),
            (Answer::NoSuchPath | Answer::NotReady, _) => {}
        }
    }
}

/// Why a runtime does not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// Nobody takes the connection, or whoever does hangs up.
    #[error("{0}")]
    Refused(std::io::Error),
    /// It was taken and closed without a byte.
    #[error("it closes connections without a word")]
    Closed,
    /// Nothing came.
    #[error("nothing came within {}", nebula_core::duration::human(*.0))]
    Late(Duration),
}

/// Whether whoever listens on `port` answers anything at all within a time. Any byte is an answer: a runtime that is
/// busy or unwell is not one that hangs.
///
/// # Errors
/// When nothing came.
pub(crate) async fn answers(port: u16, path: &str, within: Duration) -> Result<(), Silence> {
    match tokio::time::timeout(within, head(port, path)).await {
        Ok(Ok(head)) if head.is_empty() => Err(Silence::Closed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Silence::Refused(error)),
        Err(_) => Err(Silence::Late(within)),
    }
}

async fn ask(port: u16, path: &str, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, status(port, path)).await {
        Ok(Ok(Some(200..=299))) => Answer::Ready,
        Ok(Ok(Some(404 | 405))) => Answer::NoSuchPath,
        Ok(_) => Answer::NotReady,
        Err(_) => Answer::Silent,
    }
}

/// The status of a GET; none when what comes is no HTTP.
async fn status(port: u16, path: &str) -> std::io::Result<Option<u16>> {
    let head = head(port, path).await?;
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let is_http = line.starts_with("HTTP/1.");
    Ok(line.split(' ').nth(1).filter(|_| is_http).and_then(|status| status.parse().ok()))
}

/// The first line of what a GET is answered with, and perhaps more.
async fn head(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while head.len() < HEAD_MAX && !head.contains(&b'\n') {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of these; the last one again and again.
    async fn serve(answers: &'static [(&'static str, &'static str)]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let mut at = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let _ = stream.read_buf(&mut request).await;
                let (path, answer) = answers[at.min(answers.len() - 1)];
                assert!(String::from_utf8_lossy(&request).starts_with(&format!("GET {path} ")));
                let _ = stream.write_all(answer.as_bytes()).await;
                at += 1;
            }
        });
        port
    }

    const HEALTH: Health = Health { path: "/health", otherwise: Some("/v1/models") };

    async fn is_ready_after(answers: &'static [(&'static str, &'static str)]) {
        let port = serve(answers).await;
        let own = procfs::process(std::process::id()).expect("this process");
        let ready = until_ready(port, HEALTH, Some(own), ReplicaId::random());
        tokio::time::timeout(Duration::from_secs(5), ready).await.expect("gets ready");
    }

    #[tokio::test]
    async fn it_waits_for_a_good_status() {
        is_ready_after(&[
            ("/health", "HTTP/1.1 503 Loading\r\n\r\n"),
            ("/health", "garbage"),
            ("/health", ""),
            ("/health", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ])
        .await;
    }

    #[tokio::test]
    async fn it_asks_the_other_path_where_there_is_no_health_check() {
        is_ready_after(&[
            ("/health", "HTTP/1.1 404 Not Found\r\n\r\n"),
            ("/v1/models", "HTTP/1.0 200 OK\r\n\r\n"),
        ])
        .await;
    }

    #[tokio::test]
    async fn nobody_listening_is_not_ready() {
        let port = serve(&[("/health", "HTTP/1.1 500 No\r\n\r\n")]).await;
        assert_eq!(ask(port, "/health", TIMEOUT_FIRST).await, Answer::NotReady);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let silent = listener.local_addr().expect("an address").port();
        assert_eq!(ask(silent, "/health", Duration::from_millis(50)).await, Answer::Silent);
        drop(listener);
        assert_eq!(ask(silent, "/health", TIMEOUT_FIRST).await, Answer::NotReady);
    }
}
