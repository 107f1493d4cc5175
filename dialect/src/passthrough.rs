//! Engines that speak OpenAI's own words: every byte passes that need not change.

use bytes::Bytes;

use crate::adapter::{Adapter, Answer, Asked, Incoming, Outgoing, Passing, Refusal, Tally, Told, Unfinished};

/// Speaks to engines with OpenAI's API.
#[derive(Clone, Copy, Debug)]
pub struct PassThrough {
    /// Streams are asked for their usage, which is removed again where the client did not ask for it.
    pub asks_for_usage: bool,
}

impl Adapter for PassThrough {
    fn outgoing(&self, asked: &Asked<'_>) -> Result<Outgoing, Refusal> {
        let body = asked.scan.with_model(asked.body, asked.served_name);
        Ok(Outgoing { path: asked.surface.upstream(), body, answer: Answer::Passing(Box::new(AsItIs)) })
    }

    fn told(&self, _: u16, _: &[u8]) -> Option<Told> {
        None
    }
}

struct AsItIs;

impl Passing for AsItIs {
    fn begin(&mut self, _: Incoming) -> bool {
        false
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        data
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        Ok(Bytes::new())
    }

    fn tally(&self) -> Tally {
        Tally::default()
    }
}
