//! The stored form of API keys.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use nebula_core::token::TokenHash;
use nebula_store::Record;

use super::{kind, number, pick, read, write};
use crate::domain::key::{ApiKey, Budget, KeyLimits, KeySecret, Period};
use crate::ports::StoreError;

#[derive(Encode, Decode)]
struct ApiKeyV1 {
    id: [u8; 16],
    name: String,
    secrets: Vec<SecretV1>,
    models: Option<Vec<String>>,
    expires_at: Option<u64>,
    rpm: Option<u32>,
    tpm: Option<u64>,
    max_concurrent: Option<u32>,
    budget: Option<BudgetV1>,
    created_at: u64,
}

#[derive(Encode, Decode)]
struct SecretV1 {
    hash: [u8; 32],
    until: Option<u64>,
}

#[derive(Encode, Decode)]
struct BudgetV1 {
    tokens: u64,
    period: u8,
}

pub(in crate::store) fn api_key(key: &ApiKey) -> Result<Record, StoreError> {
    let secrets = key
        .secrets
        .iter()
        .map(|secret| SecretV1 { hash: *secret.hash.as_bytes(), until: secret.until.map(|until| until.0) });
    let stored = ApiKeyV1 {
        id: *key.id.as_bytes(),
        name: key.name.clone(),
        secrets: secrets.collect(),
        models: key.models.as_ref().map(|models| models.iter().cloned().collect()),
        expires_at: key.expires_at.map(|at| at.0),
        rpm: key.limits.rpm,
        tpm: key.limits.tpm,
        max_concurrent: key.limits.max_concurrent,
        budget: key
            .limits
            .budget
            .map(|budget| BudgetV1 { tokens: budget.tokens, period: number(&Period::ALL, &budget.period) }),
        created_at: key.created_at.0,
    };
    write(kind::API_KEY, &format!("key \"{}\"", key.name), &stored)
}

pub(in crate::store) fn read_api_key(record: &Record) -> Result<ApiKey, StoreError> {
    let stored: ApiKeyV1 = read(kind::API_KEY, record)?;
    let secrets = stored.secrets.into_iter().map(|secret| KeySecret {
        hash: TokenHash::from_bytes(secret.hash),
        until: secret.until.map(WallTime),
    });
    let budget = stored.budget.map(|budget| {
        Ok::<_, StoreError>(Budget { tokens: budget.tokens, period: pick(&Period::ALL, budget.period)? })
    });
    Ok(ApiKey {
        id: KeyId::from_bytes(stored.id),
        name: stored.name,
        secrets: secrets.collect(),
        models: stored.models.map(|models| models.into_iter().collect()),
        expires_at: stored.expires_at.map(WallTime),
        limits: KeyLimits {
            rpm: stored.rpm,
            tpm: stored.tpm,
            max_concurrent: stored.max_concurrent,
            budget: budget.transpose()?,
        },
        created_at: WallTime(stored.created_at),
    })
}
