//! Aliases: public model names that stand for several deployments, each with its share of the requests, and for one
//! more that answers when none of them can.

use std::collections::BTreeSet;

use nebula_core::clock::WallTime;

use super::deployment::is_deployment_name;
use super::error::{Error, ErrorClass};

/// How many aliases there may be.
pub const ALIASES_MAX: usize = 10_000;
/// How many deployments one alias may stand for, besides its fallback.
pub const TARGETS_MAX: usize = 16;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 10_000;

/// A name that stands for deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The public model name. No deployment and no other alias has it.
    pub name: String,
    /// Where requests go, by weight.
    pub targets: Vec<Target>,
    /// The deployment that answers when no target can.
    pub fallback: Option<String>,
    /// When it was made.
    pub created_at: WallTime,
    /// When it was last changed.
    pub updated_at: WallTime,
}

/// One of an alias's deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The deployment's name. It is not there any more when it was deleted, and again when one of that name is made.
    pub deployment: String,
    /// Its share of the sum of all weights; 0: no request goes there.
    pub weight: u32,
}

/// What is to be different about an alias; what is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AliasPatch {
    /// All targets, in the place of those that there are.
    pub targets: Option<Vec<Target>>,
    /// Another fallback, or none.
    pub fallback: Option<Option<String>>,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::Unprocessable, message)
}

impl Alias {
    /// Looks for what can never be right, whatever deployments there are.
    ///
    /// # Errors
    /// `Unprocessable`, naming the field.
    pub fn check(&self) -> Result<(), Error> {
        if !is_deployment_name(&self.name) {
            let shown: String = self.name.chars().take(64).collect();
            return Err(wrong(format!(
                "name \"{shown}\" is not 1 to 128 letters, digits and ._-/:@+ beginning with a letter or digit"
            )));
        }
        let count = self.targets.len();
        if count == 0 || count > TARGETS_MAX {
            return Err(wrong(format!("targets names {count} deployments, not from 1 to {TARGETS_MAX}")));
        }
        if let Some(heavy) = self.targets.iter().find(|target| target.weight > WEIGHT_MAX) {
            let Target { deployment, weight } = heavy;
            return Err(wrong(format!(
                "the weight of \"{deployment}\" is {weight}, not from 0 to {WEIGHT_MAX}"
            )));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.targets.iter().find(|target| !seen.insert(&target.deployment)) {
            return Err(wrong(format!(
                "targets names \"{}\" twice; give it one entry with the sum of the weights",
                twice.deployment
            )));
        }
        if self.weight_sum() == 0 {
            return Err(wrong("the weights are all 0, so that no request could go anywhere"));
        }
        Ok(())
    }

    /// The alias with something different.
    #[must_use]
    pub fn patched(&self, patch: AliasPatch, now: WallTime) -> Self {
        Self {
            name: self.name.clone(),
            targets: patch.targets.unwrap_or_else(|| self.targets.clone()),
            fallback: patch.fallback.unwrap_or_else(|| self.fallback.clone()),
            created_at: self.created_at,
            updated_at: now,
        }
    }

    /// The deployments that it names, each once for each time that it is named.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.targets.iter().map(|target| &target.deployment).chain(&self.fallback)
    }

    /// The share of a target in percent, to a tenth.
    #[must_use]
    pub fn share(&self, target: &Target) -> f64 {
        let sum = self.weight_sum().max(1);
        let per_mille = (u64::from(target.weight) * 1_000 + sum / 2) / sum;
        per_mille as f64 / 10.0
    }

    fn weight_sum(&self) -> u64 {
        self.targets.iter().map(|target| u64::from(target.weight)).sum()
    }
}

/// Where its requests go, in words: `a 90 %, b 10 %, else c`.
impl std::fmt::Display for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, target) in self.targets.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {} %", target.deployment, self.share(target))?;
        }
        match &self.fallback {
            Some(fallback) => write!(f, ", else {fallback}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(name: &str, targets: &[(&str, u32)], fallback: Option<&str>) -> Alias {
        let target = |(deployment, weight): &(&str, u32)| Target {
            deployment: (*deployment).to_owned(),
            weight: *weight,
        };
        Alias {
            name: name.to_owned(),
            targets: targets.iter().map(target).collect(),
            fallback: fallback.map(str::to_owned),
            created_at: WallTime(1),
            updated_at: WallTime(1),
        }
    }

    #[test]
    fn what_can_never_be_right_is_refused() {
        let many: Vec<(String, u32)> = (0..17).map(|n| (format!("d{n}"), 1)).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        for (alias, part) in [
            (alias("a b", &[("d", 1)], None), "name \"a b\""),
            (alias("a", &[], None), "names 0 deployments"),
            (alias("a", &many, None), "names 17 deployments"),
            (alias("a", &[("d", 10_001)], None), "the weight of \"d\" is 10001"),
            (alias("a", &[("d", 1), ("e", 1), ("d", 2)], None), "names \"d\" twice"),
            (alias("a", &[("d", 0), ("e", 0)], Some("f")), "all 0"),
        ] {
            let error = alias.check().expect_err(part);
            assert_eq!(error.class, ErrorClass::Unprocessable);
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!(alias("org/chat", &many[..16], None).check(), Ok(()));
        assert_eq!(alias("a", &[("d", 0), ("e", 10_000)], Some("d")).check(), Ok(()));
    }

    #[test]
    fn shares_are_told_in_percent() {
        let canary = alias("a", &[("old", 90), ("new", 10)], Some("spare"));
        assert_eq!(canary.to_string(), "old 90 %, new 10 %, else spare");
        assert_eq!(alias("a", &[("x", 1), ("y", 2)], None).to_string(), "x 33.3 %, y 66.7 %");
        assert_eq!(alias("a", &[("x", 0), ("y", 7)], None).to_string(), "x 0 %, y 100 %");
        assert_eq!(canary.names().collect::<Vec<_>>(), ["old", "new", "spare"]);
    }

    #[test]
    fn a_patch_replaces_what_it_names_and_nothing_else() {
        let old = alias("a", &[("x", 1)], Some("y"));
        assert_eq!(
            old.patched(AliasPatch::default(), WallTime(5)),
            Alias { updated_at: WallTime(5), ..old.clone() }
        );
        let targets = vec![Target { deployment: "z".to_owned(), weight: 3 }];
        let patch = AliasPatch { targets: Some(targets.clone()), fallback: Some(None) };
        let new = old.patched(patch, WallTime(5));
        assert_eq!((new.targets, new.fallback, new.created_at), (targets, None, WallTime(1)));
    }
}
