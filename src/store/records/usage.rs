//! The stored form of what was used.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use nebula_store::Record;

use super::{kind, pick, read, write};
use crate::domain::usage::{Span, Sums, UsageRow};
use crate::ports::StoreError;

#[derive(Encode, Decode)]
struct UsageV1 {
    span: u8,
    from: u64,
    key: Option<[u8; 16]>,
    model: String,
    requests: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    aborted: u64,
}

pub(in crate::store) fn usage(row: &UsageRow) -> Result<Record, StoreError> {
    let stored = UsageV1 {
        span: row.span.number(),
        from: row.from.0,
        key: row.key.map(|key| *key.as_bytes()),
        model: row.model.clone(),
        requests: row.sums.requests,
        prompt_tokens: row.sums.prompt_tokens,
        completion_tokens: row.sums.completion_tokens,
        aborted: row.sums.aborted,
    };
    write(kind::USAGE, &format!("usage of {}", row.model), &stored)
}

pub(in crate::store) fn read_usage(record: &Record) -> Result<UsageRow, StoreError> {
    let stored: UsageV1 = read(kind::USAGE, record)?;
    Ok(UsageRow {
        key: stored.key.map(KeyId::from_bytes),
        model: stored.model,
        from: WallTime(stored.from),
        span: pick(&Span::ALL, stored.span)?,
        sums: Sums {
            requests: stored.requests,
            prompt_tokens: stored.prompt_tokens,
            completion_tokens: stored.completion_tokens,
            aborted: stored.aborted,
        },
    })
}
