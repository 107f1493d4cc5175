//! What the header of a GGUF file says. Its first few KiB are enough: what matters here comes before the words of the
//! tokenizer. Whatever is cut off or too large ends the reading; what was read until then counts.

use std::collections::BTreeMap;

use super::{Cache, Shape};

/// Entries that are read at most.
const ENTRIES_MAX: u64 = 4_096;
/// Elements that are kept of a list.
const LIST_MAX: usize = 1_024;
/// Lists in lists.
const DEPTH_MAX: u32 = 4;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gguf {
    /// For example `llama`.
    pub architecture: String,
    /// What it says of memory.
    pub shape: Shape,
}

/// A value that may matter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Number(u64),
    Text(String),
    Numbers(Vec<u64>),
    /// Anything else.
    Other,
}

impl Gguf {
    /// Reads the beginning of a file. None: it is no GGUF, or of a version that is not known.
    #[must_use]
    pub fn read(head: &[u8]) -> Option<Self> {
        let mut reader = Reader(head);
        if reader.take(4)? != b"GGUF" || !(2..=3).contains(&reader.u32()?) {
            return None;
        }
        let (_tensors, count) = (reader.u64()?, reader.u64()?);
        let mut entries = BTreeMap::new();
        for _ in 0..count.min(ENTRIES_MAX) {
            let Some((key, entry)) = reader.entry() else { break };
            entries.insert(key, entry);
        }
        let architecture = match entries.get("general.architecture") {
            Some(Entry::Text(name)) => name.clone(),
            _ => return None,
        };
        let keys = Keys { entries: &entries, architecture: &architecture };
        let shape = Shape { cache: keys.cache(), context: keys.number("context_length"), ..Shape::default() };
        Some(Self { architecture, shape })
    }
}

/// The entries below an architecture's name.
struct Keys<'a> {
    entries: &'a BTreeMap<String, Entry>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(&format!("{}.{name}", self.architecture))
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.entry(name)? {
            Entry::Number(number) => Some(*number).filter(|number| *number > 0),
            Entry::Text(_) | Entry::Numbers(_) | Entry::Other => None,
        }
    }

    fn cache(&self) -> Option<Cache> {
        let layers = self.number("block_count")?;
        if let Some(rank) = self.number("attention.kv_lora_rank") {
            let rope = self.number("rope.dimension_count").unwrap_or(0);
            let numbers = layers.saturating_mul(rank.saturating_add(rope));
            return Some(Cache { numbers, how: format!("{layers} layers × ({rank} + {rope})") });
        }
        let heads = self.number("attention.head_count");
        let divided = || Some(self.number("embedding_length")? / heads?);
        let keys = self.number("attention.key_length").or_else(divided)?;
        let values = self.number("attention.value_length").or_else(divided)?;
        let of_one = keys.saturating_add(values);
        let dim = if keys == values { format!("2 × {keys}") } else { format!("({keys} + {values})") };
        // Some models have other numbers of heads in each layer, none where nothing is kept.
        if let Some(Entry::Numbers(each)) = self.entry("attention.head_count_kv") {
            let all = each.iter().fold(0u64, |sum, heads| sum.saturating_add(*heads));
            let how = format!("{all} heads in {layers} layers × {dim}");
            return Some(Cache { numbers: all.saturating_mul(of_one), how });
        }
        let kept = self.number("attention.head_count_kv").or(heads)?;
        let numbers = layers.saturating_mul(kept).saturating_mul(of_one);
        Some(Cache { numbers, how: format!("{layers} layers × {kept} heads × {dim}") })
    }
}

/// What is not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u64()?).ok()?;
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn entry(&mut self) -> Option<(String, Entry)> {
        let (key, kind) = (self.text()?, self.u32()?);
        Some((key, self.value(kind, DEPTH_MAX)?))
    }

    /// A value of one of the format's kinds.
    fn value(&mut self, kind: u32, depth: u32) -> Option<Entry> {
        let unsigned = |bytes: &[u8]| {
            let mut wide = [0; 8];
            wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(Entry::Number(u64::from_le_bytes(wide)))
        };
        match kind {
            0 | 1 | 7 => unsigned(self.take(1)?),
            2 | 3 => unsigned(self.take(2)?),
            4 | 5 => unsigned(self.take(4)?),
            6 => self.take(4).map(|_| Entry::Other),
            8 => self.text().map(Entry::Text),
            9 => self.list(depth),
            10 | 11 => unsigned(self.take(8)?),
            12 => self.take(8).map(|_| Entry::Other),
            _ => None,
        }
    }

    fn list(&mut self, depth: u32) -> Option<Entry> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let depth = depth.checked_sub(1)?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            // Every element takes at least one byte, so that a count that lies ends with the bytes.
            if let Entry::Number(number) = self.value(kind, depth)?
                && numbers.len() < LIST_MAX
            {
                numbers.push(number);
            }
        }
        Some(if numbers.is_empty() { Entry::Other } else { Entry::Numbers(numbers) })
    }
}
