//! In which order the parts of an answer are sent, and how a failure spoils it. Pure: the caller waits and
//! writes.

use bytes::Bytes;

use super::dialect::Dialect;
use super::error::ApiError;
use super::fail::Fail;
use super::script::Script;

/// What a body holds that should be JSON and is none; not even UTF-8.
const GARBAGE: &[u8] = b"data: <html>simulated failure: garbage \xff\xfe</html>\n\n";

/// The next thing to do for a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// A token is made; all but the first take the token interval.
    Token { first: bool, chunk: Option<Bytes> },
    /// A chunk goes out at once.
    Send(Bytes),
    /// The connection breaks.
    Break,
}

/// A stream, beat by beat.
pub(crate) struct Playback {
    dialect: Box<dyn Dialect>,
    script: Script,
    fail: Fail,
    sent: u64,
    stage: Stage,
}

enum Stage {
    Opening,
    Piece(usize),
    Closing(std::vec::IntoIter<Bytes>),
    Over,
}

impl Playback {
    pub(crate) fn new(dialect: Box<dyn Dialect>, script: Script, fail: Fail) -> Self {
        Self { dialect, script, fail, sent: 0, stage: Stage::Opening }
    }

    /// What happens instead of the next chunk, if the failure is due.
    fn failure(&self) -> Option<Option<Beat>> {
        match self.fail {
            Fail::DieMidStream(n) if n == self.sent => Some(Some(Beat::Break)),
            Fail::CutShort(n) if n == self.sent => Some(None),
            Fail::ErrorMidStream(n) if n == self.sent => {
                Some(Some(Beat::Send(self.dialect.failure(&ApiError::simulated_mid_stream()))))
            }
            Fail::Garbage => Some(Some(Beat::Send(Bytes::from_static(GARBAGE)))),
            _ => None,
        }
    }

    fn piece(&mut self, at: usize) -> Beat {
        self.stage = Stage::Piece(at + 1);
        Beat::Token { first: at == 0, chunk: self.dialect.piece(&self.script, at) }
    }

    fn closing(&self) -> std::vec::IntoIter<Bytes> {
        let mut chunks = self.dialect.closing(&self.script);
        if self.fail != Fail::NoDone {
            chunks.push(self.dialect.terminator(&self.script));
        }
        chunks.into_iter()
    }

    fn step(&mut self) -> Option<Beat> {
        loop {
            match &mut self.stage {
                Stage::Opening => {
                    self.stage = Stage::Piece(0);
                    if let Some(chunk) = self.dialect.opening(&self.script) {
                        return Some(Beat::Send(chunk));
                    }
                }
                Stage::Piece(at) if *at < self.script.pieces.len() => {
                    let at = *at;
                    return Some(self.piece(at));
                }
                Stage::Piece(_) => self.stage = Stage::Closing(self.closing()),
                Stage::Closing(chunks) => return chunks.next().map(Beat::Send),
                Stage::Over => return None,
            }
        }
    }
}

impl Iterator for Playback {
    type Item = Beat;

    fn next(&mut self) -> Option<Beat> {
        if matches!(self.stage, Stage::Over) {
            return None;
        }
        if let Some(end) = self.failure() {
            self.stage = Stage::Over;
            return end;
        }
        let beat = self.step();
        match &beat {
            Some(Beat::Send(_) | Beat::Token { chunk: Some(_), .. }) => self.sent += 1,
            Some(Beat::Token { chunk: None, .. } | Beat::Break) => {}
            None => self.stage = Stage::Over,
        }
        beat
    }
}

/// An answer in one piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// All of it.
    Body(Bytes),
    /// The first half, then the connection breaks.
    Broken { half: Bytes, full_length: usize },
    /// The first half, as if it were all.
    Half(Bytes),
    /// No body but an error.
    Error(ApiError),
}

/// What `fail` makes of a finished body.
pub(crate) fn whole(body: Bytes, fail: Fail) -> Whole {
    let half = body.slice(..body.len() / 2);
    match fail {
        Fail::DieMidStream(_) => Whole::Broken { half, full_length: body.len() },
        Fail::CutShort(_) => Whole::Half(half),
        Fail::ErrorMidStream(_) => Whole::Error(ApiError::simulated_mid_stream()),
        Fail::Garbage => Whole::Body(Bytes::from_static(GARBAGE)),
        _ => Whole::Body(body),
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Ask, Finish};
    use super::*;

    /// Writes each part as its name; holds the second token back.
    struct Names;

    impl Dialect for Names {
        fn stream_type(&self) -> &'static str {
            "text/plain"
        }
        fn opening(&self, _: &Script) -> Option<Bytes> {
            Some(Bytes::from_static(b"open"))
        }
        fn piece(&self, script: &Script, at: usize) -> Option<Bytes> {
            (at != 1).then(|| Bytes::from(script.pieces[at].clone()))
        }
        fn closing(&self, _: &Script) -> Vec<Bytes> {
            vec![Bytes::from_static(b"finish"), Bytes::from_static(b"usage")]
        }
        fn terminator(&self, _: &Script) -> Bytes {
            Bytes::from_static(b"done")
        }
        fn failure(&self, _: &ApiError) -> Bytes {
            Bytes::from_static(b"error")
        }
        fn whole(&self, _: &Script) -> Bytes {
            Bytes::from_static(b"whole")
        }
    }

    fn play(fail: Fail) -> String {
        let pieces = ["a", "b", "c"].map(str::to_owned).to_vec();
        let script = Script { pieces, tool: None, finish: Finish::Stop, prompt_tokens: 0 };
        let names: Vec<String> = Playback::new(Box::new(Names), script, fail)
            .map(|beat| match beat {
                Beat::Token { first, chunk } => {
                    let text = chunk.map_or("held".to_owned(), |c| String::from_utf8_lossy(&c).into_owned());
                    if first { text } else { format!("~{text}") }
                }
                Beat::Send(chunk) => String::from_utf8_lossy(&chunk).into_owned(),
                Beat::Break => "BREAK".to_owned(),
            })
            .collect();
        names.join(" ")
    }

    #[test]
    fn every_failure_has_its_place_in_the_stream() {
        for (fail, want) in [
            (Fail::None, "open a ~held ~c finish usage done"),
            (Fail::NoDone, "open a ~held ~c finish usage"),
            (Fail::DieMidStream(0), "BREAK"),
            (Fail::DieMidStream(3), "open a ~held ~c BREAK"),
            (Fail::DieMidStream(99), "open a ~held ~c finish usage done"),
            (Fail::CutShort(2), "open a"),
            (Fail::ErrorMidStream(2), "open a error"),
        ] {
            assert_eq!(play(fail), want, "{fail}");
        }
        assert!(play(Fail::Garbage).starts_with("data: <html>"));
    }

    #[test]
    fn an_empty_answer_still_opens_and_closes() {
        let script = super::super::script::write(Ask { limit: Some(0), ..Ask::default() }, 5);
        assert_eq!(Playback::new(Box::new(Names), script, Fail::None).count(), 4);
    }

    #[test]
    fn a_whole_answer_can_break_in_its_middle() {
        let body = || Bytes::from_static(b"1234567");
        let half = || Bytes::from_static(b"123");
        assert_eq!(whole(body(), Fail::None), Whole::Body(body()));
        assert_eq!(whole(body(), Fail::NoDone), Whole::Body(body()));
        assert_eq!(whole(body(), Fail::DieMidStream(9)), Whole::Broken { half: half(), full_length: 7 });
        assert_eq!(whole(body(), Fail::CutShort(9)), Whole::Half(half()));
        assert!(matches!(whole(body(), Fail::ErrorMidStream(9)), Whole::Error(error) if error.status == 500));
        assert!(matches!(whole(body(), Fail::Garbage), Whole::Body(bytes) if bytes == GARBAGE));
    }
}
