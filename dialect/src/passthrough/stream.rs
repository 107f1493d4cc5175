//! An event stream that passes: what it says of its tokens, and without the chunk that only we asked for.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::events::{Event, Events};
use crate::adapter::{Tally, Unfinished, Usage};
use crate::surface::Surface;
use crate::usage::whole::Watch;
use crate::usage::{Counts, Said};

/// In JSON a quote within a string is escaped, so this is always a key or a whole string.
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));

/// Watches an event stream.
pub(super) struct Stream {
    surface: Surface,
    /// The chunk that has nothing but usage is taken out.
    takes_out: bool,
    counts: Counts,
    pieces: u64,
    /// The last piece ended within an event that is too long to come at once.
    torn: Option<Watch>,
    /// The chunk that was taken out ended with a CR, whose LF may follow.
    lf_may_follow: bool,
    /// Events have names, so that the last one has.
    named: bool,
    /// The last event has come.
    ended: bool,
    /// The last word on the usage has come; what was said before it may be no more than the prompt's.
    told_all: bool,
}

impl Stream {
    pub(super) fn new(surface: Surface, takes_out: bool) -> Self {
        Self {
            surface,
            takes_out,
            counts: Counts::default(),
            pieces: 0,
            torn: None,
            lf_may_follow: false,
            named: false,
            ended: false,
            told_all: false,
        }
    }

    pub(super) fn pass(&mut self, data: Bytes) -> Bytes {
        let mut data = data;
        if std::mem::take(&mut self.lf_may_follow) && data.starts_with(b"\n") {
            data = data.slice(1..);
        }
        let mut kept = BytesMut::new();
        let mut done = 0;
        for event in Events::new(&data) {
            if self.continues(&event, &data) || !self.takes(&event) {
                continue;
            }
            kept.extend_from_slice(data.get(done..event.at.start).unwrap_or_default());
            done = event.at.end;
            self.lf_may_follow = done == data.len() && data.ends_with(b"\r");
        }
        if done == 0 {
            return data;
        }
        kept.extend_from_slice(data.get(done..).unwrap_or_default());
        kept.freeze()
    }

    /// Whether the event is the rest of the one that the last piece ended with. Such a one is long: it may be the
    /// last of an answer, with all of its text.
    fn continues(&mut self, event: &Event<'_>, piece: &[u8]) -> bool {
        let (mut watch, part, continues) = match self.torn.take() {
            Some(watch) => (watch, piece.get(event.at.clone()), true),
            None if event.is_whole => return false,
            None => (Watch::nested(), event.data, false),
        };
        watch.feed(part.unwrap_or_default());
        if event.is_whole {
            self.counts.add(watch.counts());
        } else {
            self.torn = Some(watch);
        }
        continues
    }

    /// Notes what an event says, and whether it is to be taken out.
    fn takes(&mut self, event: &Event<'_>) -> bool {
        if let Some(name) = event.name {
            self.named = true;
            self.ended |= is_last(name);
            self.told_all |= is_last(name) && name != b"error";
        }
        let Some(data) = event.data else { return false };
        if data.starts_with(b"[DONE]") {
            (self.ended, self.told_all) = (true, true);
            return false;
        }
        // Most chunks that name it say `null`.
        let said = USAGE.find(data).and_then(|at| {
            let value = data.get(at..)?.get(USAGE.needle().len()..)?.trim_ascii_start().strip_prefix(b":")?;
            if value.trim_ascii_start().starts_with(b"null") { None } else { Said::in_event(data) }
        });
        if let Some(said) = said {
            self.counts.add(said.counts);
        }
        let alone = said.is_some_and(|said| said.alone);
        self.told_all |= alone || (said.is_some() && event.name == Some(b"message_delta"));
        let has_text = event.name.is_none_or(|name| name.ends_with(b"delta") && name != b"message_delta");
        self.pieces += u64::from(has_text && !alone && !data.starts_with(b"{\"error\""));
        alone && self.takes_out && event.is_whole
    }

    pub(super) fn finish(&self) -> Result<Bytes, Unfinished> {
        let must_end = match self.surface {
            Surface::Chat | Surface::Completions => true,
            Surface::Responses | Surface::Messages => self.named,
            _ => false,
        };
        if must_end && !self.ended { Err(Unfinished { told: false }) } else { Ok(Bytes::new()) }
    }

    pub(super) fn tally(&self) -> Tally {
        let usage = self.counts.usage().map(|usage| {
            // Some tell the prompt's tokens first: of an answer that was cut short, what was sent counts as well.
            let sent = if self.told_all { 0 } else { self.pieces };
            Usage { completion: usage.completion.max(sent), ..usage }
        });
        Tally { usage, pieces: self.pieces }
    }
}

/// Whether an event with this name is the last of an answer, or says why there is none.
fn is_last(name: &[u8]) -> bool {
    const LAST: [&[u8]; 6] = [
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
        b"response.cancelled",
        b"message_stop",
        b"error",
    ];
    LAST.contains(&name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\":{}\"}}],\"usage\":null}\n\n";
    const B: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\r\n\r\n";
    const LAST: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    const PING: &str = ": ping\n\n";

    fn passed(surface: Surface, takes_out: bool, pieces: &[String]) -> (String, Stream) {
        let mut stream = Stream::new(surface, takes_out);
        let out: Vec<u8> = pieces.iter().flat_map(|piece| stream.pass(piece.clone().into())).collect();
        (String::from_utf8(out).expect("a text"), stream)
    }

    fn tally(prompt: u64, completion: u64, pieces: u64) -> Tally {
        Tally { usage: Some(Usage { prompt, completion }), pieces }
    }

    #[test]
    fn only_the_chunk_that_we_asked_for_is_taken_out() {
        for (events, takes_out, kept, told) in [
            (vec![A, B, USAGE, DONE], true, vec![A, B, DONE], tally(5, 3, 2)),
            (vec![A, B, USAGE, DONE], false, vec![A, B, USAGE, DONE], tally(5, 3, 2)),
            // The last chunk says both.
            (vec![A, LAST, DONE], true, vec![A, LAST, DONE], tally(5, 2, 2)),
            (vec![A, LAST, USAGE, DONE], true, vec![A, LAST, DONE], tally(5, 3, 2)),
            // The engine did not do as it was asked.
            (
                vec![PING, A, PING, B, DONE],
                true,
                vec![PING, A, PING, B, DONE],
                Tally { usage: None, pieces: 2 },
            ),
        ] {
            let (out, stream) = passed(Surface::Chat, takes_out, &[events.concat()]);
            assert_eq!(out, kept.concat());
            assert_eq!(stream.tally(), told);
            assert_eq!(stream.finish(), Ok(Bytes::new()));
        }
    }

    #[test]
    fn the_line_end_of_a_chunk_that_was_taken_out_goes_with_it() {
        let usage = USAGE.replace('\n', "\r\n");
        let (first, lf) = usage.split_at(usage.len() - 1);
        let (out, _) = passed(Surface::Chat, true, &[first.to_owned(), lf.to_owned() + DONE]);
        assert_eq!(out, DONE);
        let (out, _) = passed(Surface::Chat, true, &[usage.replace("\r\n", "\r"), DONE.to_owned()]);
        assert_eq!(out, DONE);
    }

    #[test]
    fn an_event_in_pieces_passes_as_it_is_and_counts_once() {
        let long = format!("data: {{\"choices\":[{{\"text\":\"{}\"}}]}}\n\n", "x".repeat(3_000));
        let pieces: Vec<String> =
            long.as_bytes().chunks(1_000).map(|piece| String::from_utf8_lossy(piece).into()).collect();
        let (out, stream) =
            passed(Surface::Completions, true, &[&pieces[..], &[USAGE.to_owned() + DONE]].concat());
        assert_eq!(out, long + DONE);
        assert_eq!(stream.tally(), tally(5, 3, 1));
    }

    #[test]
    fn the_usage_of_an_event_in_pieces_counts() {
        let text = "x".repeat(3_000);
        let usage = r#""usage":{"input_tokens":7,"output_tokens":2}"#;
        let event =
            format!("event: response.completed\ndata: {{\"response\":{{\"text\":\"{text}\",{usage}}}}}\n\n");
        for size in [100, 1_000, 3_020, 3_090] {
            let pieces: Vec<String> =
                event.as_bytes().chunks(size).map(|piece| String::from_utf8_lossy(piece).into()).collect();
            let (out, stream) = passed(Surface::Responses, false, &pieces);
            assert_eq!((out, stream.tally()), (event.clone(), tally(7, 2, 0)), "{size}");
            assert!(stream.finish().is_ok());
        }
    }

    #[test]
    fn a_stream_without_its_end_is_unfinished() {
        for (surface, events, is_whole) in [
            (Surface::Chat, A, false),
            (Surface::Completions, LAST, false),
            (Surface::Chat, DONE, true),
            (Surface::Responses, "event: response.created\ndata: {}\n\n", false),
            (Surface::Responses, "event: response.completed\ndata: {}\n\n", true),
            (Surface::Responses, "data: {}\n\n", true),
            (Surface::Messages, "event: message_start\ndata: {}\n\n", false),
            (
                Surface::Messages,
                "event: message_start\ndata: {}\n\nevent: message_stop\r\ndata: {}\r\n\r\n",
                true,
            ),
            (Surface::Messages, "event: error\ndata: {}\n\n", true),
            (Surface::Transcriptions, "data: {}\n\n", true),
        ] {
            let (_, stream) = passed(surface, false, &[events.to_owned()]);
            assert_eq!(stream.finish().is_ok(), is_whole, "{events}");
        }
    }

    #[test]
    fn streams_with_named_events_are_metered() {
        let event = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n");
        let responses = [
            event("response.created", r#"{"response":{"usage":null}}"#),
            event("response.output_text.delta", r#"{"delta":"a"}"#),
            event("response.output_text.delta", r#"{"delta":"b"}"#),
            event("response.output_text.done", r#"{"text":"ab"}"#),
            event("response.completed", r#"{"response":{"usage":{"input_tokens":7,"output_tokens":2}}}"#),
        ];
        let (out, stream) = passed(Surface::Responses, false, &responses);
        assert_eq!((out, stream.tally()), (responses.concat(), tally(7, 2, 2)));
        let messages = [
            event("message_start", r#"{"message":{"usage":{"input_tokens":7,"output_tokens":1}}}"#),
            event("content_block_delta", r#"{"delta":{"text":"a"}}"#),
            event("message_delta", r#"{"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}"#),
            event("message_stop", "{}"),
        ];
        let (out, stream) = passed(Surface::Messages, false, &messages);
        assert_eq!((out, stream.tally()), (messages.concat(), tally(7, 3, 1)));
    }

    #[test]
    fn of_an_answer_that_was_cut_short_what_was_sent_counts() {
        let start = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":0}}}\n\n";
        let delta = "event: content_block_delta\ndata: {\"delta\":{\"text\":\"a\"}}\n\n";
        let error = "event: error\ndata: {\"error\":{}}\n\n";
        let last = "event: message_delta\ndata: {\"delta\":{},\"usage\":{\"output_tokens\":1}}\n\n";
        let sum = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}\n\n";
        for (surface, events, told) in [
            (Surface::Messages, vec![start, delta, delta], tally(7, 2, 2)),
            (Surface::Messages, vec![start, delta, delta, error], tally(7, 2, 2)),
            (Surface::Messages, vec![start, delta, delta, last], tally(7, 1, 2)),
            (Surface::Chat, vec![sum, A], tally(7, 2, 2)),
            (Surface::Chat, vec![sum, A, DONE], tally(7, 1, 2)),
            (Surface::Chat, vec![A, B, USAGE.replace(":3", ":1").as_str()], tally(5, 1, 2)),
        ] {
            let (_, stream) = passed(surface, true, &[events.concat()]);
            assert_eq!(stream.tally(), told, "{events:?}");
        }
    }

    proptest! {
        #[test]
        fn however_events_come_together_the_same_passes(
            events in proptest::collection::vec(prop::sample::select(&[A, B, LAST, USAGE, PING, DONE][..]), 1..12),
            together in proptest::collection::vec(1_usize..4, 12),
            takes_out: bool,
        ) {
            let mut groups = Vec::new();
            let mut rest = &events[..];
            for size in together {
                let (group, after) = rest.split_at(size.min(rest.len()));
                groups.push(group.concat());
                rest = after;
            }
            let (whole, all) = passed(Surface::Chat, takes_out, &[events.concat()]);
            let (split, each) = passed(Surface::Chat, takes_out, &groups);
            let kept: Vec<&str> = events.iter().copied().filter(|event| !(takes_out && *event == USAGE)).collect();
            prop_assert_eq!(&whole, &kept.concat());
            prop_assert_eq!(&split, &whole);
            prop_assert_eq!(all.tally(), each.tally());
        }

        #[test]
        fn bytes_of_any_kind_pass_as_they_are_when_nothing_is_taken_out(
            pieces in proptest::collection::vec("[a-z:{}\"\\[\\] \r\n]{0,20}", 0..8),
        ) {
            let (out, _) = passed(Surface::Chat, false, &pieces);
            prop_assert_eq!(out, pieces.concat());
        }
    }
}
