//! What is wanted against what is there: which records are to be changed, and which names are not ours to change.

use std::collections::BTreeSet;

use super::names::Names;
use super::records::{Action, At, Body, Group, Op, OpKind, Records};
use crate::domain::edge::{Blocked, Change, Differences, Verb, Wanted};

/// What our records should say.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    /// The domain and what is made of it.
    pub(super) names: Names,
    /// The gateway's address.
    pub(super) address: String,
    /// In seconds.
    pub(super) ttl: u64,
    /// One name for all nodes.
    pub(super) wildcard: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is missing or wrong, by name; then what is not wanted, by name.
    pub(super) groups: Vec<Group>,
    /// What is left alone.
    pub(super) blocked: Vec<Blocked>,
    /// How many A records of ours there are.
    pub(super) observed: usize,
}

/// Whose the TXT record at an ownership name says that a host is.
enum Owner<'a> {
    Us,
    Nobody,
    Other(&'a Body),
}

impl Aim {
    /// Compares. Nothing is planned for a name that is not ours and is taken.
    pub(super) fn compare(&self, there: &Records, wanted: &Wanted) -> Plan {
        let mut plan = Plan::default();
        let hosts = self.hosts(wanted, &mut plan);
        for host in &hosts {
            match self.set_right(there, host) {
                Ok(ops) => plan.add(host, ops),
                Err(why) => plan.blocked.push(Blocked { name: (*host).to_owned(), why }),
            }
        }
        for (name, at) in there.iter() {
            let Some(host) = self.names.owned_host(name).filter(|_| self.is_mark(at.txt.as_ref())) else {
                continue;
            };
            plan.observed += usize::from(there.at(&host).a.is_some());
            if !hosts.contains(host.as_str()) && self.may_go(there, wanted, &host) {
                match self.take_away(there, &host) {
                    Ok(ops) => plan.add(&host, ops),
                    Err(why) => plan.blocked.push(Blocked { name: host, why }),
                }
            }
        }
        plan.blocked.sort_by(|one, other| one.name.cmp(&other.name));
        plan
    }

    /// The names that should lead to the gateway.
    fn hosts<'a>(&'a self, wanted: &'a Wanted, plan: &mut Plan) -> BTreeSet<&'a str> {
        let mut hosts = BTreeSet::from([self.names.domain()]);
        if self.wildcard {
            hosts.insert(self.names.wildcard());
            return hosts;
        }
        for host in wanted.sites.keys() {
            if self.names.covers(host) {
                hosts.insert(host);
            } else {
                let why = format!("it is not below {}", self.names.domain());
                plan.blocked.push(Blocked { name: host.clone(), why });
            }
        }
        hosts
    }

    /// Whether a name of ours that is not wanted may be removed. Nodes' own records may once the wildcard is there: it
    /// says the same, and nothing is lost. Not sooner: it may turn out to be somebody else's.
    fn may_go(&self, there: &Records, wanted: &Wanted, host: &str) -> bool {
        if self.wildcard {
            return there.at(self.names.wildcard()).a.as_ref().and_then(Body::only_value)
                == Some(&self.address);
        }
        wanted.may_go(host)
    }

    fn is_mark(&self, txt: Option<&Body>) -> bool {
        txt.and_then(Body::only_value) == Some(self.names.mark())
    }

    fn owner<'a>(&self, txt: Option<&'a Body>) -> Owner<'a> {
        match txt {
            None => Owner::Nobody,
            Some(_) if self.is_mark(txt) => Owner::Us,
            Some(body) => Owner::Other(body),
        }
    }

    /// What makes a wanted host right.
    fn set_right(&self, there: &Records, host: &str) -> Result<Vec<Op>, String> {
        let (at, own_name) = (there.at(host), self.names.ownership(host));
        let owner = self.owner(there.at(&own_name).txt.as_ref());
        if !matches!(owner, Owner::Us) && at.a.as_ref().and_then(Body::only_value) == Some(&self.address) {
            // Somebody else sees to it that it is right.
            return Ok(Vec::new());
        }
        match owner {
            Owner::Us => self.set_own_right(at, host),
            Owner::Other(body) => Err(format!("the TXT record {own_name} is not ours: {}", said(body))),
            Owner::Nobody => match occupant(at) {
                Some(occupant) => Err(format!("{occupant} is there that is not ours")),
                None => Ok(vec![self.address_op(Action::Create, host), self.mark_op(own_name)]),
            },
        }
    }

    fn set_own_right(&self, at: &At, host: &str) -> Result<Vec<Op>, String> {
        match &at.a {
            None if at.cname => Err("a CNAME record is there instead of our A record".to_owned()),
            None => Ok(vec![self.address_op(Action::Create, host)]),
            Some(Body::Special) => Err("our A record has been given a routing policy".to_owned()),
            Some(body @ Body::Plain { ttl, .. })
                if *ttl == self.ttl && body.only_value() == Some(&self.address) =>
            {
                Ok(Vec::new())
            }
            Some(Body::Plain { .. } | Body::Alias) => Ok(vec![self.address_op(Action::Upsert, host)]),
        }
    }

    /// What removes a host that is ours, exactly as it is there.
    fn take_away(&self, there: &Records, host: &str) -> Result<Vec<Op>, String> {
        let own_name = self.names.ownership(host);
        let mut ops = Vec::new();
        for (kind, name, body) in [
            (OpKind::A, host, there.at(host).a.as_ref()),
            (OpKind::Txt, own_name.as_str(), there.at(&own_name).txt.as_ref()),
        ] {
            match body {
                None => {}
                Some(Body::Plain { ttl, values }) => ops.push(Op {
                    action: Action::Delete,
                    kind,
                    name: name.to_owned(),
                    ttl: *ttl,
                    values: values.clone(),
                }),
                Some(Body::Alias) => return Err("our A record has been made an alias".to_owned()),
                Some(Body::Special) => return Err("our A record has been given a routing policy".to_owned()),
            }
        }
        Ok(ops)
    }

    fn address_op(&self, action: Action, host: &str) -> Op {
        let values = vec![self.address.clone()];
        Op { action, kind: OpKind::A, name: host.to_owned(), ttl: self.ttl, values }
    }

    fn mark_op(&self, name: String) -> Op {
        let values = vec![self.names.mark().to_owned()];
        Op { action: Action::Create, kind: OpKind::Txt, name, ttl: self.ttl, values }
    }
}

impl Plan {
    fn add(&mut self, host: &str, ops: Vec<Op>) {
        if !ops.is_empty() {
            self.groups.push(Group { host: host.to_owned(), ops });
        }
    }

    /// Leaves groups alone for which a reason is known.
    pub(super) fn block(&mut self, why: impl Fn(&Group) -> Option<String>) {
        let mut blocked = Vec::new();
        self.groups.retain(|group| match why(group) {
            Some(why) => {
                blocked.push(Blocked { name: group.host.clone(), why });
                false
            }
            None => true,
        });
        self.blocked.append(&mut blocked);
        self.blocked.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// For people.
    pub(super) fn into_differences(self) -> Differences {
        let ops = self.groups.into_iter().flat_map(|group| group.ops);
        let mut changes: Vec<Change> = ops.map(change).collect();
        changes.sort_by(|one, other| one.name.cmp(&other.name));
        Differences { changes, blocked: self.blocked }
    }
}

fn change(op: Op) -> Change {
    let (verb, to) = match op.action {
        Action::Create => (Verb::Add, op.values.join(" ")),
        Action::Upsert => (Verb::Change, op.values.join(" ")),
        Action::Delete => (Verb::Remove, String::new()),
    };
    Change { verb, kind: op.kind.as_str(), name: op.name, to }
}

/// The record that keeps a name from being ours.
fn occupant(at: &At) -> Option<String> {
    match &at.a {
        Some(Body::Plain { values, .. }) => Some(format!("an A record ({})", brief(&values.join(" ")))),
        Some(Body::Alias) => Some("an alias".to_owned()),
        Some(Body::Special) => Some("an A record with a routing policy".to_owned()),
        None if at.cname => Some("a CNAME record".to_owned()),
        None if at.aaaa => Some("an AAAA record".to_owned()),
        None => None,
    }
}

/// What a foreign TXT record says.
fn said(body: &Body) -> String {
    match body {
        Body::Plain { values, .. } => brief(&values.join(" ")),
        Body::Alias => "it is an alias".to_owned(),
        Body::Special => "it has a routing policy".to_owned(),
    }
}

/// Text of somebody else, for one line of ours.
pub(super) fn brief(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        words.push_str(if words.is_empty() { "" } else { " " });
        words.extend(word.chars().take(CHARS_MAX + 1));
        if words.chars().count() > CHARS_MAX {
            return words.chars().take(CHARS_MAX).chain(['…']).collect();
        }
    }
    words
}
