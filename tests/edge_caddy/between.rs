//! Something on the way to Caddy's admin API: it counts writes, and may change the configuration just before one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A foreign edit, told how many writes there were before.
pub(crate) type Edit = Arc<dyn Fn(usize) -> Option<String> + Send + Sync>;

/// A running one.
pub(crate) struct Between {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    writes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Between {
    /// Passes everything on from `listener` to `to`. Before each write it sends `edit`'s request there, if any.
    pub(crate) fn start(listener: std::net::TcpListener, to: SocketAddr, edit: Edit) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let writes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&writes);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // One after the other, as the adapter sends them.
                let _ = pass(client, to, &count, &edit).await;
            }
        });
        Self { address, writes, task }
    }

    /// How many writes came so far.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    to: SocketAddr,
    count: &AtomicUsize,
    edit: &Edit,
) -> std::io::Result<()> {
    let mut first = [0; 4];
    client.read_exact(&mut first).await?;
    if &first != b"GET " {
        let before = count.fetch_add(1, Ordering::SeqCst);
        if let Some(request) = edit(before) {
            // A connection that came to the admin server before the last change is reset, unread.
            while let Err(error) = send(to, &request).await {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
            }
        }
    }
    let mut server = TcpStream::connect(to).await?;
    server.write_all(&first).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn send(to: SocketAddr, request: &str) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    server.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    server.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// A request as it is sent.
pub(crate) fn request(method: &str, to: SocketAddr, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}
