//! Steps over JSON in one pass: nothing is built, nothing recurses. Accepts and refuses exactly what `serde_json` does
//! when it ignores a value.

use std::ops::Range;

/// What is there is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid;

/// Steps over the values in a text.
pub(crate) struct Skipper<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The containers that [`Skipper::value`] stands in, by their first byte.
    open: Vec<u8>,
}

impl<'a> Skipper<'a> {
    /// Begins at `at`.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, open: Vec::new() }
    }

    /// How far it has come.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is no white space; zero, which is none of JSON's, at the end.
    pub(crate) fn peek(&mut self) -> u8 {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    /// Passes `byte`.
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Invalid> {
        if self.peek() != byte {
            return Err(Invalid);
        }
        self.at += 1;
        Ok(())
    }

    /// Makes sure that only white space follows.
    pub(crate) fn end(&mut self) -> Result<(), Invalid> {
        self.peek();
        if self.at == self.bytes.len() { Ok(()) } else { Err(Invalid) }
    }

    /// Passes the key of the next member of an object, with the colon, and says where it stands with its quotes. None
    /// at the object's end, which is passed.
    pub(crate) fn key(&mut self, is_first: bool) -> Result<Option<Range<usize>>, Invalid> {
        match (self.peek(), is_first) {
            (b'}', _) => {
                self.at += 1;
                return Ok(None);
            }
            (b',', false) => self.at += 1,
            (_, true) => {}
            (_, false) => return Err(Invalid),
        }
        if self.peek() != b'"' {
            return Err(Invalid);
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// Whether an array has another value, before which it then stands; its end is passed.
    pub(crate) fn element(&mut self, is_first: bool) -> Result<bool, Invalid> {
        match (self.peek(), is_first) {
            (b']', _) => {
                self.at += 1;
                Ok(false)
            }
            (b',', false) => {
                self.at += 1;
                Ok(true)
            }
            (_, true) => Ok(true),
            (_, false) => Err(Invalid),
        }
    }

    /// Passes one value, however deep, and says where it stands.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, Invalid> {
        self.peek();
        let start = self.at;
        self.open.clear();
        loop {
            let opened = match self.peek() {
                b'"' => {
                    self.string()?;
                    None
                }
                kind @ (b'{' | b'[') => {
                    self.at += 1;
                    Some(kind)
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            };
            self.open.extend(opened);
            if !self.next_inside(opened.is_some())? {
                return Ok(start..self.at);
            }
        }
    }

    /// Goes to the next value within the open containers, and closes those that end. False when none is open.
    fn next_inside(&mut self, mut is_first: bool) -> Result<bool, Invalid> {
        while let Some(kind) = self.open.last() {
            let more = if *kind == b'{' { self.key(is_first)?.is_some() } else { self.element(is_first)? };
            if more {
                return Ok(true);
            }
            self.open.pop();
            is_first = false;
        }
        Ok(false)
    }

    fn literal(&mut self, text: &[u8]) -> Result<Option<u8>, Invalid> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(text) {
            return Err(Invalid);
        }
        self.at += text.len();
        Ok(None)
    }

    fn number(&mut self) -> Result<Option<u8>, Invalid> {
        self.pass(b"-");
        if self.pass(b"0") == 0 && self.digits() == 0 || self.here().is_ascii_digit() {
            return Err(Invalid);
        }
        if self.pass(b".") == 1 && self.digits() == 0 {
            return Err(Invalid);
        }
        if self.pass(b"eE") == 1 {
            self.pass(b"+-");
            if self.digits() == 0 {
                return Err(Invalid);
            }
        }
        Ok(None)
    }

    fn here(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or_default()
    }

    /// Passes one of these bytes, if one is here: how many were passed.
    fn pass(&mut self, any: &[u8]) -> usize {
        let passed = usize::from(any.contains(&self.here()));
        self.at += passed;
        passed
    }

    fn digits(&mut self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    /// Passes the string that begins here, and says where it stands with its quotes.
    fn string(&mut self) -> Result<Range<usize>, Invalid> {
        let start = self.at;
        self.at += 1;
        loop {
            self.at += plain(self.bytes.get(self.at..).unwrap_or_default());
            match self.here() {
                b'"' => {
                    self.at += 1;
                    return Ok(start..self.at);
                }
                b'\\' => self.escape()?,
                _ => return Err(Invalid),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Invalid> {
        match self.bytes.get(self.at + 1..).unwrap_or_default() {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => {
                self.at += 6
            }
            _ => return Err(Invalid),
        }
        Ok(())
    }
}

/// How many bytes come before the first that is special in a string: a quote, a backslash or a control character.
/// Prompts are long, and most of a request's cost is here. Short runs are looked through eight bytes at a time; what
/// goes on is left to vector instructions.
fn plain(bytes: &[u8]) -> usize {
    const SHORT: usize = 32;
    let (words, rest) = bytes.get(..SHORT.min(bytes.len())).unwrap_or_default().as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = special(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let looked = words.len() * 8;
    if bytes.len() < SHORT {
        return looked + rest.iter().position(is_special).unwrap_or(rest.len());
    }
    looked + long_run(bytes.get(looked..).unwrap_or_default())
}

/// The same of a run that is likely to be long.
fn long_run(bytes: &[u8]) -> usize {
    const TOGETHER: usize = 64;
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let mut clean = 0;
    for part in bytes.get(..end).unwrap_or_default().chunks(TOGETHER) {
        // Without a branch inside, so that it becomes vector instructions.
        if part.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
            return clean + part.iter().position(is_special).unwrap_or(part.len());
        }
        clean += part.len();
    }
    clean
}

fn is_special(byte: &u8) -> bool {
    *byte < 0x20 || matches!(byte, b'"' | b'\\')
}

/// The highest bit of every byte that is special; above the lowest of them the bits mean nothing.
fn special(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\')) & TOPS
}
