//! Bad records: kept under `q/`, never returned to those who asked for them, never lost.
//!
//! A payload under `q/` is `reason length u16be | reason | the bytes as they were stored`.

use nebula_core::clock::WallTime;

use crate::{
    engine::{Engine, EngineError, Writes},
    envelope::{self, Codec},
    record::{OWN_KINDS, Record},
};

const PREFIX: &[u8] = b"q/";
const KIND: u8 = OWN_KINDS + 1;
const RECORD_SCHEMA: u16 = 2;
/// The schema before it: the payload is the bytes alone.
const WITHOUT_REASON: u16 = 1;
/// Digits of the time in a key.
const TIME_DIGITS: usize = 13;
/// The longest reason that is kept, in bytes.
const REASON_MAX: usize = 200;

/// More bad records than this in one run look like a bug in the program, which must not move good records away.
pub(crate) const MAX_SET_ASIDE: u64 = 100;
/// So many may be bad however few records there are.
const ALWAYS_ALLOWED: u64 = 10;
/// The most records in a list of those that were set aside.
const LISTED: usize = 100;

/// A record that is whole, but whose payload nobody can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub key: Vec<u8>,
    /// The record as it was read; if another one is there by now, that one stays.
    pub record: Record,
    /// Why it cannot be read, in one line. Nothing secret.
    pub reason: String,
}

/// A record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it was.
    pub key: Vec<u8>,
    /// When it was set aside.
    pub at: WallTime,
    /// Why.
    pub reason: String,
    /// Its size in bytes, as it was stored.
    pub bytes: u64,
}

/// What is to be set aside: a key, the bytes stored there, and why.
pub(crate) struct Bad {
    pub(crate) key: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reason: String,
}

/// How many bad records are kept.
pub(crate) fn count(engine: &impl Engine) -> Result<u64, EngineError> {
    Ok(u64::try_from(engine.scan(PREFIX)?.len()).unwrap_or(u64::MAX))
}

/// Refuses to set aside `more` records after `before` in the same run when that looks like a bug in the program.
pub(crate) fn admit(engine: &impl Engine, before: u64, more: u64) -> Result<u64, EngineError> {
    let total = before.saturating_add(more);
    if total <= ALWAYS_ALLOWED {
        return Ok(total);
    }
    let records = u64::try_from(engine.scan(b"")?.len()).unwrap_or(u64::MAX);
    if total > MAX_SET_ASIDE || total.saturating_mul(100) > records {
        let reason = format!("{total} bad records look like a codec bug, nothing changed");
        return Err(EngineError::other(reason));
    }
    Ok(total)
}

/// The writes that move `bad` under `q/<time in ms>/<key>` in one step.
pub(crate) fn moves(engine: &impl Engine, bad: Vec<Bad>, now: WallTime) -> Result<Writes, EngineError> {
    let mut writes = Writes::new();
    for Bad { key, bytes, reason } in bad {
        tracing::error!(key = %key.escape_ascii(), %reason, "bad record set aside");
        let mut at = now.0;
        let mut place = place_of(&key, at);
        while engine.get(&place)?.is_some() {
            at = at.saturating_add(1);
            place = place_of(&key, at);
        }
        let record = Record { kind: KIND, schema: RECORD_SCHEMA, payload: payload(&reason, &bytes) };
        let value = envelope::seal(&place, Codec::Raw, &record);
        writes.insert(place, Some(value));
        writes.insert(key, None);
    }
    Ok(writes)
}

/// The newest records that were set aside, newest first.
pub(crate) fn list(engine: &impl Engine) -> Result<Vec<SetAside>, EngineError> {
    let kept = engine.scan(PREFIX)?;
    Ok(kept.iter().rev().take(LISTED).map(|(place, value)| describe(place, value)).collect())
}

fn place_of(key: &[u8], at: u64) -> Vec<u8> {
    let mut place = [PREFIX, format!("{at:0TIME_DIGITS$}/").as_bytes()].concat();
    place.extend_from_slice(key);
    place
}

fn payload(reason: &str, bytes: &[u8]) -> Vec<u8> {
    let ends = reason.char_indices().map(|(at, char)| at + char.len_utf8());
    let cut = ends.take_while(|end| *end <= REASON_MAX).last().unwrap_or(0);
    let reason = reason.get(..cut).unwrap_or_default();
    let length = u16::try_from(reason.len()).unwrap_or(0);
    [&length.to_be_bytes(), reason.as_bytes(), bytes].concat()
}

fn describe(place: &[u8], value: &[u8]) -> SetAside {
    let rest = place.strip_prefix(PREFIX).unwrap_or(place);
    let (time, key) = rest.split_at_checked(TIME_DIGITS).unwrap_or((&[], rest));
    let at = str::from_utf8(time).ok().and_then(|time| time.parse().ok()).unwrap_or(0);
    let (reason, bytes) = match envelope::unseal(place, value) {
        Ok(record) if record.schema == WITHOUT_REASON => ("not known".to_owned(), record.payload.len()),
        Ok(record) => reason_in(&record.payload),
        Err(flaw) => (flaw.to_string(), value.len()),
    };
    SetAside {
        key: key.strip_prefix(b"/").unwrap_or(key).to_vec(),
        at: WallTime(at),
        reason,
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    }
}

/// The reason in a payload, and the number of bytes behind it.
fn reason_in(payload: &[u8]) -> (String, usize) {
    let parts = payload
        .split_first_chunk::<2>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
    match parts {
        Some((reason, bytes)) => (String::from_utf8_lossy(reason).into_owned(), bytes.len()),
        None => ("not known".to_owned(), payload.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_any_length_come_back() {
        for reason in ["", "checksum does not match", &"ä".repeat(300)] {
            let payload = payload(reason, b"junk");
            let (kept, bytes) = reason_in(&payload);
            assert!(reason.starts_with(&kept) && kept.len() <= REASON_MAX);
            assert!(kept.len() > REASON_MAX - 2 || kept == reason);
            assert_eq!(bytes, 4);
            assert!(payload.ends_with(b"junk"));
        }
    }

    #[test]
    fn records_of_earlier_versions_are_listed_without_a_reason() {
        let place = place_of(b"n/1", 1_700_000_000_123);
        let record = Record { kind: KIND, schema: WITHOUT_REASON, payload: b"junk".to_vec() };
        let value = envelope::seal(&place, Codec::Raw, &record);
        let listed = describe(&place, &value);
        let expected = SetAside {
            key: b"n/1".to_vec(),
            at: WallTime(1_700_000_000_123),
            reason: "not known".to_owned(),
            bytes: 4,
        };
        assert_eq!(listed, expected);
        assert_eq!(describe(&place, b"torn").reason, "shorter than its header");
    }
}
