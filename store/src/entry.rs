//! One entry of a batch or an export as bytes: `key length u32be | value length + 1 u32be, 0: removed | key | value`.

/// Appends an entry; no value means that the key was removed.
pub(crate) fn put(into: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    into.extend_from_slice(&length(key.len()).to_be_bytes());
    into.extend_from_slice(&value.map_or(0, |value| length(value.len() + 1)).to_be_bytes());
    into.extend_from_slice(key);
    into.extend_from_slice(value.unwrap_or_default());
}

/// Takes the entry at the start of `from`; nothing if the bytes are no entry.
pub(crate) fn take<'a>(from: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key = take_length(from)?;
    let value = take_length(from)?;
    let key = take_bytes(from, key)?;
    match value.checked_sub(1) {
        None => Some((key, None)),
        Some(value) => Some((key, Some(take_bytes(from, value)?))),
    }
}

/// The limits of keys and values are far below; what were larger would not be read back.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn take_length(from: &mut &[u8]) -> Option<usize> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

fn take_bytes<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let mut bytes = Vec::new();
        put(&mut bytes, b"k", Some(b"value"));
        put(&mut bytes, b"gone", None);
        put(&mut bytes, b"", Some(b""));
        let mut rest = &bytes[..];
        assert_eq!(take(&mut rest), Some((&b"k"[..], Some(&b"value"[..]))));
        assert_eq!(take(&mut rest), Some((&b"gone"[..], None)));
        assert_eq!(take(&mut rest), Some((&b""[..], Some(&b""[..]))));
        assert!(rest.is_empty());
        for cut in 0..14 {
            assert_eq!(take(&mut &bytes[..cut]), None);
        }
        assert_eq!(take(&mut &[0xFF; 20][..]), None);
    }
}
