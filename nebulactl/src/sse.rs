//! Server-sent events, read from pieces cut anywhere.

/// The longest event that is kept in memory.
const EVENT_MAX_BYTES: usize = 16 << 20;

/// An event grew beyond what is kept in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EventTooLong;

/// A reader of an event stream. Hands out the data of each event; other fields and comments are skipped.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_carriage_return: bool,
    past_first_line: bool,
}

impl Reader {
    /// Takes the next piece and returns the data of the events it completes.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Vec<String>, EventTooLong> {
        let mut events = Vec::new();
        for &byte in piece {
            let second_half = byte == b'\n' && self.after_carriage_return;
            self.after_carriage_return = byte == b'\r';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => {
                    if self.line.len() + self.data.as_ref().map_or(0, Vec::len) >= EVENT_MAX_BYTES {
                        return Err(EventTooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// The stream is over: the data of an event whose last line break is missing, if there is one.
    pub(crate) fn finish(mut self) -> Option<String> {
        self.end_line().or_else(|| self.take())
    }

    fn end_line(&mut self) -> Option<String> {
        let mut line = std::mem::take(&mut self.line);
        if !self.past_first_line {
            self.past_first_line = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            return self.take();
        }
        let value = match line.strip_prefix(b"data") {
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            Some([]) => &[],
            _ => return None,
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        None
    }

    fn take(&mut self) -> Option<String> {
        self.data.take().map(|data| String::from_utf8_lossy(&data).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = Reader::default();
        let mut events: Vec<String> =
            pieces.iter().flat_map(|piece| reader.feed(piece).expect("short enough")).collect();
        events.extend(reader.finish());
        events
    }

    #[test]
    fn all_line_ends_comments_and_other_fields_are_understood() {
        let stream = b"\xef\xbb\xbf: hello\r\n\r\nevent: x\rid: 1\rdata:a\r\rdata: b\ndata\ndata:  c\n\n\
            data:d\r\ndata:e\r\n\r\ndata:f";
        assert_eq!(read(&[stream]), ["a", "b\n\n c", "d\ne", "f"]);
    }

    #[test]
    fn fields_that_only_begin_like_data_are_none() {
        assert_eq!(read(&[b"database: x\n\ndata : y\n\n"]), Vec::<String>::new());
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = Reader::default();
        let piece = vec![b'x'; 1 << 20];
        assert!((0..17).any(|_| reader.feed(&piece) == Err(EventTooLong)));
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_does_not_matter(
            texts in prop::collection::vec("[^\r\n]{0,12}", 1..6),
            end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream: String = texts.iter().map(|text| format!("data: {text}{end}{end}")).collect();
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), texts);
        }
    }
}
