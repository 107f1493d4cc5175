//! Asking a healthy runtime whether it still answers.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::replica::health;

/// Between two questions; each may take as long.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(5);
/// So many questions in a row without an answer, and it counts as hung.
const SILENT_MAX: u32 = 3;

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It answers nothing any more: what was seen.
    Silent(String),
    /// It still answers nothing, and that is not its own fault now.
    Excused,
    /// It answers again.
    Answering,
}

/// Asks for ever, and tells when something is different; and again and again, as long as one that is silent is excused.
pub(super) async fn guard<T: Future<Output = ()>>(
    port: u16,
    path: &str,
    ask_every: Duration,
    is_excused: impl Fn() -> bool,
    tell: impl Fn(News) -> T,
) {
    let mut every = tokio::time::interval(ask_every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, and it has just answered.
    every.tick().await;
    let mut silent = 0;
    loop {
        every.tick().await;
        match health::answers(port, path, ask_every).await {
            Ok(()) => {
                if silent >= SILENT_MAX {
                    tell(News::Answering).await;
                }
                silent = 0;
            }
            Err(silence) => {
                silent += 1;
                tracing::debug!(port, silent, %silence, "runtime does not answer");
                if silent == SILENT_MAX {
                    tell(News::Silent(format!("the runtime does not answer any more: {silence}"))).await;
                }
                if silent >= SILENT_MAX && is_excused() {
                    tell(News::Excused).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// A runtime that can be told to take connections and say nothing. How often it was asked is counted.
    struct Runtime {
        port: u16,
        hangs: &'static AtomicBool,
        asked: &'static AtomicU32,
    }

    async fn runtime() -> Runtime {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let hangs: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let asked: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::AcqRel);
                if hangs.load(Ordering::Acquire) {
                    held.push(stream);
                    continue;
                }
                let mut request = Vec::new();
                let _ = stream.read_buf(&mut request).await;
                // Unwell, and yet an answer.
                let _ = stream.write_all(b"HTTP/1.1 500 Busy\r\n\r\n").await;
            }
        });
        Runtime { port, hangs, asked }
    }

    const OFTEN: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn silence_is_told_after_three_questions_and_so_is_an_answer() {
        let runtime = runtime().await;
        let (sender, mut news) = mpsc::unbounded_channel();
        let told = move |what| {
            let sent = sender.send(what);
            async move { sent.expect("somebody listens") }
        };
        let guarding =
            tokio::spawn(async move { guard(runtime.port, "/health", OFTEN, || false, told).await });
        while runtime.asked.load(Ordering::Acquire) < 5 {
            tokio::time::sleep(OFTEN / 10).await;
        }
        assert!(news.try_recv().is_err(), "nothing to tell");
        runtime.hangs.store(true, Ordering::Release);
        let asked = runtime.asked.load(Ordering::Acquire);
        let first = news.recv().await;
        let expected = "the runtime does not answer any more: nothing came within 300 ms";
        assert_eq!(first, Some(News::Silent(expected.to_owned())));
        // One may have been under way.
        let asked = runtime.asked.load(Ordering::Acquire) - asked;
        assert!((SILENT_MAX - 1..=SILENT_MAX).contains(&asked), "{asked}");
        runtime.hangs.store(false, Ordering::Release);
        assert_eq!(news.recv().await, Some(News::Answering));
        guarding.abort();
    }

    #[tokio::test]
    async fn nobody_on_the_port_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let (sender, mut news) = mpsc::unbounded_channel();
        let told = move |what| {
            let sent = sender.send(what);
            async move { sent.expect("somebody listens") }
        };
        let guarding = tokio::spawn(async move { guard(port, "/", OFTEN, || true, told).await });
        assert!(matches!(news.recv().await, Some(News::Silent(message)) if message.contains("refused")));
        for _ in 0..2 {
            assert_eq!(news.recv().await, Some(News::Excused));
        }
        guarding.abort();
    }
}
