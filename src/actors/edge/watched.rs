//! A future that is seen while it is polled: if it holds the thread, or panics, it is known whose and what it was.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::actors::tree::Cell;

/// `future`, each poll of which is a turn of the actor.
pub(super) fn watched<F: Future>(cell: &Arc<Cell>, what: &'static str, future: F) -> Watched<F> {
    Watched { cell: Arc::clone(cell), what, future: Box::pin(future) }
}

/// See [`watched`].
pub(super) struct Watched<F> {
    cell: Arc<Cell>,
    what: &'static str,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _turn = self.cell.future_turn(self.what);
        self.future.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::Clock;

    use super::*;
    use crate::actors::tree::Tree;

    #[tokio::test]
    async fn each_poll_is_a_turn_of_its_actor() {
        let cell = Tree::new(Clock::start()).plant("/edge/x", "edge");
        let at = cell.clone();
        let call = async move {
            let first = at.blame();
            tokio::task::yield_now().await;
            (first, at.blame())
        };
        let what = || Some("future: a call".to_owned());
        assert_eq!(watched(&cell, "future: a call", call).await, (what(), what()));
        assert_eq!(cell.blame(), None, "it is at nothing");
    }
}
