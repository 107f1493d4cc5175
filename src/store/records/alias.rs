//! The stored form of aliases.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_store::Record;

use super::{kind, read, write};
use crate::domain::alias::{Alias, Target};
use crate::ports::StoreError;

#[derive(Encode, Decode)]
struct AliasV1 {
    name: String,
    targets: Vec<TargetV1>,
    fallback: Option<String>,
    created_at: u64,
    updated_at: u64,
}

#[derive(Encode, Decode)]
struct TargetV1 {
    deployment: String,
    weight: u32,
}

pub(in crate::store) fn alias(alias: &Alias) -> Result<Record, StoreError> {
    let target = |target: &Target| TargetV1 { deployment: target.deployment.clone(), weight: target.weight };
    let stored = AliasV1 {
        name: alias.name.clone(),
        targets: alias.targets.iter().map(target).collect(),
        fallback: alias.fallback.clone(),
        created_at: alias.created_at.0,
        updated_at: alias.updated_at.0,
    };
    write(kind::ALIAS, &format!("alias \"{}\"", alias.name), &stored)
}

pub(in crate::store) fn read_alias(record: &Record) -> Result<Alias, StoreError> {
    let stored: AliasV1 = read(kind::ALIAS, record)?;
    let target = |target: TargetV1| Target { deployment: target.deployment, weight: target.weight };
    Ok(Alias {
        name: stored.name,
        targets: stored.targets.into_iter().map(target).collect(),
        fallback: stored.fallback,
        created_at: WallTime(stored.created_at),
        updated_at: WallTime(stored.updated_at),
    })
}
