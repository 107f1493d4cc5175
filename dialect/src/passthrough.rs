//! Engines that speak OpenAI's own words: every byte passes that need not change.

mod events;
mod stream;

use bytes::Bytes;

use self::stream::Stream;
use crate::adapter::{Adapter, Answer, Asked, Incoming, Outgoing, Passing, Refusal, Tally, Told, Unfinished};
use crate::surface::Surface;
use crate::usage::whole;

/// Speaks to engines with OpenAI's API.
#[derive(Clone, Copy, Debug)]
pub struct PassThrough {
    /// Streams are asked for their usage, which is removed again where the client did not ask for it.
    pub asks_for_usage: bool,
}

impl Adapter for PassThrough {
    fn outgoing(&self, asked: &Asked<'_>) -> Result<Outgoing, Refusal> {
        let Asked { surface, body, scan, served_name, .. } = *asked;
        // The other surfaces tell it without being asked, and do not know the option.
        let ask = self.asks_for_usage && matches!(surface, Surface::Chat | Surface::Completions);
        let (body, asks) = scan.for_engine(body, served_name, ask);
        let meter = Meter { surface, takes_out: asks, watched: Watched::Nothing };
        Ok(Outgoing { path: surface.upstream(), body, answer: Answer::Passing(Box::new(meter)) })
    }

    fn told(&self, _: u16, _: &[u8]) -> Option<Told> {
        None
    }
}

/// Reads the usage of an answer that passes.
struct Meter {
    surface: Surface,
    /// Only we have asked a stream for its usage.
    takes_out: bool,
    watched: Watched,
}

/// What passes.
enum Watched {
    /// What cannot be read.
    Nothing,
    Whole(whole::Answer),
    Stream(Stream),
}

impl Passing for Meter {
    fn begin(&mut self, incoming: Incoming) -> bool {
        self.watched = match incoming {
            Incoming::Events => Watched::Stream(Stream::new(self.surface, self.takes_out)),
            Incoming::Other => Watched::Whole(whole::Answer::new()),
            Incoming::Opaque => Watched::Nothing,
        };
        false
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        match &mut self.watched {
            Watched::Nothing => data,
            Watched::Whole(watch) => {
                watch.feed(&data);
                data
            }
            Watched::Stream(stream) => stream.pass(data),
        }
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        match &self.watched {
            Watched::Nothing | Watched::Whole(_) => Ok(Bytes::new()),
            Watched::Stream(stream) => stream.finish(),
        }
    }

    fn tally(&self) -> Tally {
        match &self.watched {
            Watched::Nothing => Tally::default(),
            Watched::Whole(watch) => Tally { usage: watch.counts().usage(), pieces: 0 },
            Watched::Stream(stream) => stream.tally(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Usage;
    use crate::scan::scan;

    /// What goes to the engine, and what becomes of its answer.
    fn through(
        surface: Surface,
        asks_for_usage: bool,
        request: &'static str,
        incoming: Incoming,
        answer: &'static str,
    ) -> (Bytes, Bytes, Tally) {
        let scan = scan(request.as_bytes()).expect("a request");
        let body = &Bytes::from_static(request.as_bytes());
        let asked = Asked { surface, body, scan: &scan, served_name: &scan.model, nonce: 0 };
        let outgoing = PassThrough { asks_for_usage }.outgoing(&asked).expect("a call");
        let Answer::Passing(mut passing) = outgoing.answer else { panic!("it passes") };
        assert!(!passing.begin(incoming));
        let out = passing.pass(answer.into());
        (outgoing.body, out, passing.tally())
    }

    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    const TOLD: Tally = Tally { usage: Some(Usage { prompt: 1, completion: 2 }), pieces: 0 };

    #[test]
    fn what_only_we_ask_for_the_client_does_not_get() {
        let request = r#"{"model":"m","stream":true}"#;
        let (body, out, tally) = through(Surface::Chat, true, request, Incoming::Events, USAGE);
        assert_eq!(body, r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#);
        assert_eq!((&out[..], tally), (&b""[..], TOLD));
    }

    #[test]
    fn what_the_client_asks_for_it_gets() {
        let request = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        let (body, out, tally) = through(Surface::Completions, true, request, Incoming::Events, USAGE);
        assert_eq!((&body[..], &out[..], tally), (request.as_bytes(), USAGE.as_bytes(), TOLD));
    }

    #[test]
    fn engines_and_surfaces_without_the_option_are_not_asked() {
        let request = r#"{"model":"m","stream":true}"#;
        for (surface, asks_for_usage) in [(Surface::Chat, false), (Surface::Responses, true)] {
            let (body, out, _) = through(surface, asks_for_usage, request, Incoming::Events, USAGE);
            assert_eq!((&body[..], &out[..]), (request.as_bytes(), USAGE.as_bytes()));
        }
    }

    #[test]
    fn a_whole_answer_is_metered_and_what_cannot_be_read_passes() {
        let request = r#"{"model":"m"}"#;
        let answer = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        for (incoming, told) in [(Incoming::Other, TOLD), (Incoming::Opaque, Tally::default())] {
            let (body, out, tally) = through(Surface::Chat, true, request, incoming, answer);
            assert_eq!((&body[..], &out[..], tally), (request.as_bytes(), answer.as_bytes(), told));
        }
    }
}
