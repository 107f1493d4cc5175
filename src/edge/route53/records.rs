//! Records as far as we look at them, and the changes we make to them.

use std::collections::BTreeMap;

/// The types of records that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name.
    Cname,
    /// Text.
    Txt,
}

impl Kind {
    /// As Route 53 writes it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Txt => "TXT",
        }
    }
}

/// What a set of records with one name and type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Values, all of which are given out.
    Plain {
        /// In seconds.
        ttl: u64,
        /// As Route 53 writes them.
        values: Vec<String>,
    },
    /// An alias of something at Amazon.
    Alias,
    /// Something with a routing policy, several sets of one name, or more values than we would ever write.
    Special,
}

/// The most values of a plain set, as Route 53 limits it, and the most characters in them. It fits into a change set.
const VALUES_MAX: usize = 400;
const VALUE_CHARS_MAX: usize = 8_000;

impl Body {
    /// Values and a time to live.
    pub(super) fn plain(ttl: u64, values: Vec<String>) -> Self {
        let chars: usize = values.iter().map(|value| value.chars().count()).sum();
        if values.is_empty() || values.len() > VALUES_MAX || chars > VALUE_CHARS_MAX {
            return Self::Special;
        }
        Self::Plain { ttl, values }
    }

    /// The one value there is.
    pub(super) fn only_value(&self) -> Option<&str> {
        match self {
            Self::Plain { values, .. } => match values.as_slice() {
                [value] => Some(value),
                _ => None,
            },
            Self::Alias | Self::Special => None,
        }
    }
}

/// What is at one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    /// The A records.
    pub(super) a: Option<Body>,
    /// The TXT records.
    pub(super) txt: Option<Body>,
    /// Whether there are AAAA records.
    pub(super) aaaa: bool,
    /// Whether there is a CNAME record.
    pub(super) cname: bool,
}

/// What is known of the zone, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    names: BTreeMap<String, At>,
}

static NOTHING: At = At { a: None, txt: None, aaaa: false, cname: false };

impl Records {
    /// What is at a name.
    pub(super) fn at(&self, name: &str) -> &At {
        self.names.get(name).unwrap_or(&NOTHING)
    }

    /// Every name at which there is something.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &At)> {
        self.names.iter().map(|(name, at)| (name.as_str(), at))
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Adds what was listed. A second set of the same name and type says that a routing policy is at work.
    pub(super) fn insert(&mut self, name: String, kind: Kind, body: Body) {
        let at = self.names.entry(name).or_default();
        let slot = match kind {
            Kind::A => &mut at.a,
            Kind::Txt => &mut at.txt,
            Kind::Aaaa => return at.aaaa = true,
            Kind::Cname => return at.cname = true,
        };
        *slot = Some(if slot.is_some() { Body::Special } else { body });
    }

    /// What is there after these changes were made.
    pub(super) fn apply<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) {
        for op in ops {
            let at = self.names.entry(op.name.clone()).or_default();
            let slot = if op.kind == OpKind::A { &mut at.a } else { &mut at.txt };
            *slot = (op.action != Action::Delete).then(|| Body::plain(op.ttl, op.values.clone()));
            if *at == NOTHING {
                self.names.remove(&op.name);
            }
        }
    }
}

/// What is done to a set of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Fails when there is one already.
    Create,
    /// Creates or replaces.
    Upsert,
    /// Fails unless everything of it is as given.
    Delete,
}

/// The types of records that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    /// Where a host is.
    A,
    /// Whose it is.
    Txt,
}

impl OpKind {
    /// As Route 53 writes it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::A => Kind::A.as_str(),
            Self::Txt => Kind::Txt.as_str(),
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) action: Action,
    pub(super) kind: OpKind,
    pub(super) name: String,
    /// In seconds.
    pub(super) ttl: u64,
    pub(super) values: Vec<String>,
}

impl Op {
    /// Whether it replaces what is there without looking.
    pub(super) fn overwrites(&self) -> bool {
        self.action == Action::Upsert
    }
}

/// The changes for one host, made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) host: String,
    pub(super) ops: Vec<Op>,
}
