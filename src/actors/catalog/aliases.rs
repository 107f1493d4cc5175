//! The decisions about aliases: whether a change may be made, and what it makes. Pure.
//!
//! A change has two halves: it is planned, which takes the name for itself, and when it is durable it is done. Between
//! the two nobody sees anything of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use nebula_core::clock::WallTime;

use super::names::Names;
use crate::domain::alias::{ALIASES_MAX, Alias, AliasPatch};
use crate::domain::error::{Error, ErrorClass};
use crate::ports::Write;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    /// This alias is to be made.
    Create(Alias),
    /// The alias of this name is to be different.
    Patch(String, AliasPatch),
    /// The alias of this name is to go.
    Delete(String),
}

/// A change that may be made durable.
#[derive(Debug)]
pub(super) struct Plan {
    verb: Verb,
    /// As it is to be, or was.
    alias: Arc<Alias>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Change,
    Delete,
}

impl Plan {
    /// What is to be stored.
    pub(super) fn write(&self) -> Write {
        match self.verb {
            Verb::Create | Verb::Change => Write::PutAlias(Box::new((*self.alias).clone())),
            Verb::Delete => Write::DeleteAlias(self.alias.name.clone()),
        }
    }

    /// The type of its line in the audit, and what that says.
    pub(super) fn told(&self) -> (&'static str, String) {
        let Alias { name, .. } = &*self.alias;
        match self.verb {
            Verb::Create => ("alias.create", format!("alias \"{name}\": {}", self.alias)),
            Verb::Change => ("alias.change", format!("alias \"{name}\": {}", self.alias)),
            Verb::Delete => ("alias.delete", format!("alias \"{name}\"")),
        }
    }
}

/// The changes under way.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Names of aliases that are being made, changed or deleted.
    busy: BTreeSet<String>,
}

impl Aliases {
    /// Whether a change of an alias of this name is being made durable.
    pub(super) fn is_busy(&self, name: &str) -> bool {
        self.busy.contains(name)
    }

    /// How many changes are being made durable.
    pub(super) fn under_way(&self) -> usize {
        self.busy.len()
    }

    /// Plans a change.
    ///
    /// # Errors
    /// `Unprocessable` when it can never be right or names an alias as a target, `NotFound` when the alias or a
    /// deployment that it names is not there, `Conflict` when the name is taken or the alias is being changed.
    pub(super) fn begin(&mut self, names: &Names, change: AliasChange, now: WallTime) -> Result<Plan, Error> {
        let plan = match change {
            AliasChange::Create(alias) => {
                alias.check()?;
                names.is_free(&alias.name)?;
                if names.counts().1 + self.busy.len() >= ALIASES_MAX {
                    let most = format!("there are {ALIASES_MAX} aliases, as many as there may be");
                    return Err(Error::new(ErrorClass::Conflict, most));
                }
                alias.names().try_for_each(|name| is_deployment(names, name))?;
                Plan { verb: Verb::Create, alias: Arc::new(alias) }
            }
            AliasChange::Patch(name, patch) => {
                let old = known(names, &name)?;
                let given = Alias {
                    targets: patch.targets.clone().unwrap_or_default(),
                    fallback: patch.fallback.clone().flatten(),
                    ..(**old).clone()
                };
                let new = old.patched(patch, now);
                new.check()?;
                // What stays may have been deleted since.
                given.names().try_for_each(|name| is_deployment(names, name))?;
                Plan { verb: Verb::Change, alias: Arc::new(new) }
            }
            AliasChange::Delete(name) => Plan { verb: Verb::Delete, alias: Arc::clone(known(names, &name)?) },
        };
        let name = &plan.alias.name;
        if !self.busy.insert(name.clone()) {
            let what = format!("the alias \"{name}\" is being changed; try again in a moment");
            return Err(Error::new(ErrorClass::Conflict, what));
        }
        Ok(plan)
    }

    /// The change is durable. Answers the alias as it is now, or was.
    pub(super) fn done(&mut self, names: &mut Names, plan: Plan) -> Arc<Alias> {
        self.busy.remove(&plan.alias.name);
        match plan.verb {
            Verb::Create | Verb::Change => names.put(Arc::clone(&plan.alias)),
            Verb::Delete => names.remove_alias(&plan.alias.name),
        }
        plan.alias
    }

    /// The change was not made.
    pub(super) fn given_up(&mut self, plan: &Plan) {
        self.busy.remove(&plan.alias.name);
    }
}

fn known<'a>(names: &'a Names, name: &str) -> Result<&'a Arc<Alias>, Error> {
    names.alias(name).ok_or_else(|| no_such_alias(name))
}

/// There is no alias of this name.
pub(super) fn no_such_alias(name: &str) -> Error {
    Error::new(ErrorClass::NotFound, format!("there is no alias \"{name}\""))
}

fn is_deployment(names: &Names, name: &str) -> Result<(), Error> {
    if names.deployment(name).is_some() {
        return Ok(());
    }
    if names.alias(name).is_some() {
        let what = format!("\"{name}\" is an alias, and an alias stands for deployments; name those");
        return Err(Error::new(ErrorClass::Unprocessable, what));
    }
    let what = format!("there is no deployment \"{name}\"; create it before an alias names it");
    Err(Error::new(ErrorClass::NotFound, what))
}

#[cfg(test)]
mod tests {
    use nebula_core::ids::DeploymentId;

    use super::*;
    use crate::domain::alias::Target;

    const NOW: WallTime = WallTime(7);

    fn target(deployment: &str, weight: u32) -> Target {
        Target { deployment: deployment.to_owned(), weight }
    }

    fn alias(name: &str, targets: &[&str]) -> Alias {
        Alias {
            name: name.to_owned(),
            targets: targets.iter().map(|name| target(name, 1)).collect(),
            fallback: None,
            created_at: WallTime(1),
            updated_at: WallTime(1),
        }
    }

    fn names() -> Names {
        let id = |n| DeploymentId::from_bytes([n; 16]);
        Names::load(vec![(id(1), "old".to_owned()), (id(2), "new".to_owned())], vec![alias("chat", &["old"])])
    }

    fn refused(change: AliasChange) -> (ErrorClass, String) {
        let error = Aliases::default().begin(&names(), change, NOW).expect_err("refused");
        (error.class, error.message)
    }

    #[test]
    fn names_are_shared_and_targets_are_deployments() {
        let create = |name, targets: &[&str]| refused(AliasChange::Create(alias(name, targets)));
        let spare = Alias { fallback: Some("gone".to_owned()), ..alias("b", &["old"]) };
        for ((class, message), expected, part) in [
            (create("old", &["new"]), ErrorClass::Conflict, "\"old\" is taken by a deployment"),
            (create("chat", &["new"]), ErrorClass::Conflict, "\"chat\" is taken by an alias"),
            (create("b", &["old", "gone"]), ErrorClass::NotFound, "no deployment \"gone\""),
            (create("b", &["chat"]), ErrorClass::Unprocessable, "\"chat\" is an alias"),
            (create("b", &["b"]), ErrorClass::NotFound, "no deployment \"b\""),
            (create("b", &[]), ErrorClass::Unprocessable, "targets names 0"),
            (refused(AliasChange::Create(spare)), ErrorClass::NotFound, "no deployment \"gone\""),
            (refused(AliasChange::Delete("old".to_owned())), ErrorClass::NotFound, "no alias \"old\""),
        ] {
            assert_eq!(class, expected, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_stays_in_a_patch_may_be_gone_and_what_is_set_may_not() {
        let mut names = names();
        names.free(DeploymentId::from_bytes([1; 16]));
        assert!(names.is_free("old").is_ok());
        let mut aliases = Aliases::default();
        let patch = AliasPatch { fallback: Some(Some("new".to_owned())), ..AliasPatch::default() };
        let plan = aliases.begin(&names, AliasChange::Patch("chat".to_owned(), patch), NOW).expect("planned");
        let changed = aliases.done(&mut names, plan);
        assert_eq!((changed.fallback.as_deref(), changed.updated_at), (Some("new"), NOW));
        let again = AliasPatch { targets: Some(vec![target("old", 1)]), ..AliasPatch::default() };
        let refused = aliases.begin(&names, AliasChange::Patch("chat".to_owned(), again), NOW);
        assert_eq!(refused.expect_err("it is gone").class, ErrorClass::NotFound);
    }

    #[test]
    fn nobody_sees_a_change_before_it_is_durable_and_two_do_not_overlap() {
        let (mut names, mut aliases) = (names(), Aliases::default());
        let create = || AliasChange::Create(alias("b", &["old"]));
        let plan = aliases.begin(&names, create(), NOW).expect("planned");
        assert!(names.alias("b").is_none() && aliases.is_busy("b"));
        let second = aliases.begin(&names, create(), NOW).expect_err("under way");
        assert_eq!(second.class, ErrorClass::Conflict);
        aliases.given_up(&plan);
        let plan = aliases.begin(&names, create(), NOW).expect("free again");
        assert_eq!(plan.write(), Write::PutAlias(Box::new(alias("b", &["old"]))));
        assert_eq!(plan.told(), ("alias.create", "alias \"b\": old 100 %".to_owned()));
        aliases.done(&mut names, plan);
        assert!(names.alias("b").is_some() && !aliases.is_busy("b"));
        let plan = aliases.begin(&names, AliasChange::Delete("b".to_owned()), NOW).expect("planned");
        assert_eq!(plan.write(), Write::DeleteAlias("b".to_owned()));
        aliases.done(&mut names, plan);
        assert!(names.alias("b").is_none() && aliases.under_way() == 0);
    }
}
