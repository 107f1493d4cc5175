//! Finds the `usage` of an answer that passes by as one JSON object, split anywhere, in constant memory.

use bytes::Bytes;

use super::Counts;
use crate::scan::Skipper;

/// Longest `usage` that is read, in bytes.
const USAGE_MAX: usize = 4 * 1024;
const KEY: &[u8] = b"usage";

/// Watches one JSON object pass. Only a key of the object itself counts, or of one directly in it: what is deeper
/// within an answer may be of the client's making.
#[derive(Debug)]
pub(crate) struct Watch {
    state: State,
    /// How deep the key may stand.
    deepest: u32,
    /// How many objects are open. Arrays need no count, as they have no keys.
    depth: u32,
    /// How many bytes of [`KEY`] the string that is open has matched; nothing when it is another.
    matched: Option<usize>,
    usage: Vec<u8>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the object.
    Before,
    /// Outside of strings.
    Between,
    /// In a string.
    Text { escaped: bool },
    /// After a string that reads like the key.
    Key,
    /// After the key's colon.
    Value,
    /// In the value.
    Usage { depth: u32, in_text: bool, escaped: bool },
    /// Nothing can follow.
    Over,
}

impl Watch {
    /// Of an object with the key.
    pub(crate) fn new() -> Self {
        let counts = Counts::default();
        Self { state: State::Before, deepest: 1, depth: 0, matched: None, usage: Vec::new(), counts }
    }

    /// Of an object that has the key or another object with it.
    pub(crate) fn nested() -> Self {
        Self { deepest: 2, ..Self::new() }
    }

    /// What has been said so far; of two the last.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Looks at the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let passed = match self.state {
                State::Before | State::Key | State::Value => self.step(*first),
                State::Between => self.between(rest),
                State::Text { escaped } => self.text(rest, escaped),
                State::Usage { depth, in_text, escaped } => {
                    self.usage(*first, depth, in_text, escaped);
                    1
                }
                State::Over => return,
            };
            rest = rest.get(passed..).unwrap_or_default();
        }
    }

    /// Where each byte decides: how many were passed, none if the byte is looked at again.
    fn step(&mut self, byte: u8) -> usize {
        if byte.is_ascii_whitespace() {
            return 1;
        }
        let (state, passed) = match (self.state, byte) {
            (State::Before, b'{') => {
                self.depth = 1;
                (State::Between, 1)
            }
            (State::Before, _) => (State::Over, 0),
            (State::Key, b':') => (State::Value, 1),
            (State::Value, b'{') => {
                self.usage.clear();
                (State::Usage { depth: 0, in_text: false, escaped: false }, 0)
            }
            // The string was no key, or its value is no object.
            _ => (State::Between, 0),
        };
        self.state = state;
        passed
    }

    fn between(&mut self, rest: &[u8]) -> usize {
        let Some(at) = memchr::memchr3(b'"', b'{', b'}', rest) else { return rest.len() };
        match rest.get(at) {
            Some(b'{') => self.depth = self.depth.saturating_add(1),
            Some(b'}') => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.state = State::Over;
                }
            }
            _ => {
                self.state = State::Text { escaped: false };
                self.matched = (1..=self.deepest).contains(&self.depth).then_some(0);
            }
        }
        at + 1
    }

    fn text(&mut self, rest: &[u8], escaped: bool) -> usize {
        if escaped {
            self.state = State::Text { escaped: false };
            return 1;
        }
        let end = memchr::memchr2(b'"', b'\\', rest);
        let plain = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        self.matched = self
            .matched
            .and_then(|matched| KEY.get(matched..)?.starts_with(plain).then_some(matched + plain.len()));
        match end.and_then(|end| rest.get(end)) {
            None => return rest.len(),
            Some(b'"') if self.matched == Some(KEY.len()) => self.state = State::Key,
            Some(b'"') => self.state = State::Between,
            Some(_) => {
                self.state = State::Text { escaped: true };
                self.matched = None;
            }
        }
        plain.len() + 1
    }

    fn usage(&mut self, byte: u8, depth: u32, in_text: bool, escaped: bool) {
        self.usage.push(byte);
        let depth = match byte {
            b'{' if !in_text => depth + 1,
            b'}' if !in_text => depth.saturating_sub(1),
            _ => depth,
        };
        if depth == 0 {
            self.counts = Counts::of(&self.usage);
            self.state = State::Between;
        } else if self.usage.len() >= USAGE_MAX {
            self.state = State::Over;
        } else {
            let in_text = in_text != (byte == b'"' && !escaped);
            self.state = State::Usage { depth, in_text, escaped: in_text && byte == b'\\' && !escaped };
        }
    }
}

/// Finds the `usage` of an answer of which most come in one piece: that is looked at from its end, and only if another
/// piece follows from its beginning.
#[derive(Debug)]
pub(crate) struct Answer {
    watch: Watch,
    /// The first piece, whose counts are those near its end if it is all there is.
    only: Option<(Bytes, Counts)>,
    begun: bool,
}

impl Answer {
    /// Nothing has come.
    pub(crate) fn new() -> Self {
        Self { watch: Watch::new(), only: None, begun: false }
    }

    /// What has been said so far.
    pub(crate) fn counts(&self) -> Counts {
        self.only.as_ref().map_or_else(|| self.watch.counts(), |(_, counts)| *counts)
    }

    /// Looks at the next piece.
    pub(crate) fn feed(&mut self, piece: &Bytes) {
        if !std::mem::replace(&mut self.begun, true) {
            self.only = near_the_end(piece).map(|usage| (piece.clone(), Counts::of(usage)));
            if self.only.is_some() {
                return;
            }
        }
        if let Some((first, _)) = self.only.take() {
            self.watch.feed(&first);
        }
        self.watch.feed(piece);
    }
}

/// The `usage` of an answer that is here as a whole, found from its end: most answers come in one piece, and have it
/// among their last members. A quote within a string is escaped, so the last `"usage"` is a key or a whole string, and
/// if members of one object follow until the answer's end, it is a key of the answer itself. None says nothing.
fn near_the_end(answer: &[u8]) -> Option<&[u8]> {
    if answer.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let key = memchr::memmem::rfind(answer, b"\"usage\"")?;
    if answer.get(..key).is_some_and(|before| before.ends_with(b"\\")) {
        // That quote is one within a string.
        return None;
    }
    let mut skip = Skipper::new(answer, key);
    skip.key(true).ok()??;
    let usage = skip.value().ok()?;
    while skip.key(false).ok()?.is_some() {
        skip.value().ok()?;
    }
    skip.end().ok()?;
    answer.get(usage).filter(|usage| usage.len() <= USAGE_MAX && usage.first() == Some(&b'{'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::Usage;

    fn told(pieces: &[&[u8]]) -> Option<Usage> {
        let mut watch = Watch::new();
        pieces.iter().for_each(|piece| watch.feed(piece));
        assert!(watch.usage.len() <= USAGE_MAX);
        let mut answer = Answer::new();
        pieces.iter().for_each(|piece| answer.feed(&Bytes::copy_from_slice(piece)));
        assert_eq!(answer.counts(), watch.counts(), "from the end as from the beginning");
        watch.counts().usage()
    }

    fn usage(prompt: u64, completion: u64) -> Option<Usage> {
        Some(Usage { prompt, completion })
    }

    const WHOLE: &str = r#" {"choices":[{"text":"\"usage\":{\"prompt_tokens\":9}\\","x":{"usage":{"prompt_tokens":8}}}],
        "usage" : {"prompt_tokens":3,"note":"}\"{","details":{"a":{}},"completion_tokens":4}, "z":["usage",{}] }"#;

    #[test]
    fn only_the_answers_own_usage_counts() {
        for (text, expected) in [
            (WHOLE, usage(3, 4)),
            (r#"{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#, usage(3, 0)),
            (r#"{"usage":null,"x":1}"#, None),
            (r#"{"usage":"{","usage":{"prompt_tokens":1}}"#, usage(1, 0)),
            (r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}"#, usage(2, 0)),
            (
                r#"{"usages":{"prompt_tokens":1},"usag":{"prompt_tokens":1},"us\u0061ge":{"prompt_tokens":1}}"#,
                None,
            ),
            (r#"{"x":"usage","y":{"prompt_tokens":1}}"#, None),
            (r#"{"x":["usage"],"metadata":{"usage":{"prompt_tokens":1}}}"#, None),
            (r#"{"usage":{"prompt_tokens":1"#, None),
            (r#"[{"usage":{"prompt_tokens":1}}]"#, None),
            ("some text", None),
            ("", None),
        ] {
            assert_eq!(told(&[text.as_bytes()]), expected, "{text}");
        }
    }

    #[test]
    fn the_end_is_enough_only_where_it_is_the_answers_own() {
        for (text, found) in [
            (r#"{"a":"\"usage\":{}","usage":{"x":1}}"#, Some(r#"{"x":1}"#)),
            (r#"{"usage":{"x":1},"b":[{}],"c":"}"} "#, Some(r#"{"x":1}"#)),
            (r#"{"usage":{"x":1},"metadata":{"usage":{"x":2}}}"#, None),
            (r#"{"usage":{"x":1},"list":["usage"]}"#, None),
            (r#"{"usage":{"x":1},"\"usage":{"x":2}}"#, None),
            (r#"{"usage":null}"#, None),
            (r#"{"usage":{"x":1}"#, None),
            (r#"[{"usage":{"x":1}}]"#, None),
        ] {
            let found = found.map(str::as_bytes);
            assert_eq!(near_the_end(text.as_bytes()), found, "{text}");
        }
    }

    #[test]
    fn a_nested_one_counts_where_it_is_looked_for() {
        let text =
            r#"{"type":"x","response":{"metadata":{"usage":{"input_tokens":9}},"usage":{"input_tokens":1}}}"#;
        assert_eq!(told(&[text.as_bytes()]), None);
        let mut watch = Watch::nested();
        watch.feed(text.as_bytes());
        assert_eq!(watch.counts().usage(), usage(1, 0));
    }

    #[test]
    fn a_usage_that_is_too_long_is_not_read() {
        let long = format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{}"}}}}"#, "x".repeat(USAGE_MAX));
        assert_eq!(told(&[long.as_bytes()]), None);
    }

    proptest! {
        #[test]
        fn any_split_tells_the_same(cuts in proptest::collection::vec(0..WHOLE.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, WHOLE.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &WHOLE.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(told(&pieces), usage(3, 4));
        }
    }
}
