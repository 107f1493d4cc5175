//! The stored form of messages that were set aside.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_store::Record;

use super::{kind, read, write};
use crate::domain::poison::Poison;
use crate::ports::StoreError;

#[derive(Encode, Decode)]
struct PoisonV1 {
    path: String,
    message: String,
    fingerprint: u64,
    text: String,
    kills: u32,
    first_at: u64,
    last_at: u64,
}

pub(in crate::store) fn poison(poison: &Poison) -> Result<Record, StoreError> {
    let stored = PoisonV1 {
        path: poison.path.clone(),
        message: poison.message.clone(),
        fingerprint: poison.fingerprint,
        text: poison.text.clone(),
        kills: poison.kills,
        first_at: poison.first_at.0,
        last_at: poison.last_at.0,
    };
    write(kind::POISON, &format!("message set aside for {}", poison.path), &stored)
}

pub(in crate::store) fn read_poison(record: &Record) -> Result<Poison, StoreError> {
    let stored: PoisonV1 = read(kind::POISON, record)?;
    Ok(Poison {
        path: stored.path,
        message: stored.message,
        fingerprint: stored.fingerprint,
        text: stored.text,
        kills: stored.kills,
        first_at: WallTime(stored.first_at),
        last_at: WallTime(stored.last_at),
    })
}
