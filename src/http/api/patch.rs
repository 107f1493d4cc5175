//! `PATCH /deployments/{id}`: the fields that are to change (a merge patch, RFC 7386; null brings a field's default
//! back), taken together with what is wanted now and read as a new deployment's are: each rule of `POST` holds for the
//! result.

use nebula_core::source::ModelSource;
use serde_json::{Map, Value, json};

use super::create::{self, CreateBody, wrong};
use super::deployments::not_as_expected;
use crate::domain::deployment::{DeploymentSpec, GpuNeed, LostAfter};
use crate::domain::error::{Error, ErrorClass};

/// What is to change.
pub(super) struct Patch(Map<String, Value>);

impl Patch {
    /// Reads a request's body.
    pub(super) fn read(body: &[u8]) -> Result<Self, Error> {
        let fields: Map<String, Value> = super::deployments::parse(body)?;
        if fields.contains_key("name") {
            return Err(wrong(
                "name cannot be changed: clients use it as the model; an alias gives a deployment another name",
            ));
        }
        Ok(Self(fields))
    }

    /// What is wanted when it is applied to `present`.
    pub(super) fn apply(&self, present: &DeploymentSpec) -> Result<DeploymentSpec, Error> {
        let mut fields = described(present);
        let Self(patch) = self;
        known(&fields, patch, "")?;
        let says = |field: &str| patch.contains_key(field);
        // What only followed from the model or the runtime follows from the new one.
        let derived = ModelSource::detect(&present.model, Some(present.runtime)).ok().flatten();
        if (says("model") || says("runtime")) && present.source == derived {
            fields.remove("source");
        }
        let default_gpu = GpuNeed { count: present.runtime.default_gpu_count(), ..GpuNeed::default() };
        if says("runtime") && present.gpu == default_gpu {
            fields.remove("gpu");
        }
        let replicas = (!says("replicas")).then_some(present.replicas);
        if replicas.is_some() {
            fields.remove("replicas");
        }
        for (field, value) in patch {
            merge(fields.entry(field.clone()).or_insert(Value::Null), value);
        }
        // What is null is not said.
        fields.retain(|_, value| !value.is_null());
        let body = serde_json::from_value(Value::Object(fields));
        create::spec(body.map_err(|error| self.blamed(present, &error))?, replicas)
    }
}

impl Patch {
    /// The error for a patch that gives a field what it does not hold, naming the first such field.
    fn blamed(&self, present: &DeploymentSpec, error: &serde_json::Error) -> Error {
        let Self(patch) = self;
        let errs = |(field, value): (&String, &Value)| {
            let mut fields = described(present);
            merge(fields.entry(field.clone()).or_insert(Value::Null), value);
            fields.retain(|_, value| !value.is_null());
            let error = serde_json::from_value::<CreateBody>(Value::Object(fields)).err()?;
            Some(not_as_expected(field, &error))
        };
        patch.iter().find_map(errs).unwrap_or_else(|| not_as_expected("", error))
    }
}

/// A spec as the body of a `POST` that would ask for it, with every field there is.
fn described(spec: &DeploymentSpec) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else { return Map::new() };
    // What the API shows is in whole seconds; what is wanted may be finer.
    let time = |time: std::time::Duration| json!(format!("{}ms", time.as_millis()));
    if let LostAfter::After(after) = spec.lost_after {
        fields.insert("lost_after".to_owned(), time(after));
    }
    fields.insert("drain_timeout".to_owned(), time(spec.drain));
    if let Some(auto) = &spec.autoscale {
        let auto = json!({
            "min": auto.min,
            "max": auto.max,
            "target_inflight": auto.target,
            "cooldown": time(auto.cooldown),
            "idle_after": time(auto.idle_after),
        });
        fields.insert("autoscale".to_owned(), auto);
    }
    fields
}

/// Refuses what names no field: a null would be lost without a word.
fn known(fields: &Map<String, Value>, patch: &Map<String, Value>, within: &str) -> Result<(), Error> {
    for (field, value) in patch {
        let Some(present) = fields.get(field) else {
            let shown: String = field.chars().take(64).collect();
            let error = format!("the body: unknown field `{within}{shown}`");
            return Err(Error::new(ErrorClass::Invalid, error));
        };
        // In these the user chooses the keys.
        let free = matches!(field.as_str(), "env" | "labels");
        if let (false, Value::Object(present), Value::Object(patch)) = (free, present, value) {
            known(present, patch, &format!("{within}{field}."))?;
        }
    }
    Ok(())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (field, value) in patch {
        if value.is_null() {
            fields.remove(field);
        } else {
            merge(fields.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests;
