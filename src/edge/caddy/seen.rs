//! Caddy's HTTP servers as they are. Each route keeps the very text that was read, so that foreign ones go back as
//! they came: no number is rounded, no key moved, no escape changed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::render;

/// The whole configuration down to the HTTP servers, by name.
const PATH: [&str; 3] = ["apps", "http", "servers"];

/// The fields of one object, each as its text.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The HTTP servers, by name.
#[derive(Debug, Default)]
pub(crate) struct Seen<'a> {
    pub(crate) servers: Vec<Server<'a>>,
}

/// One HTTP server.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    pub(crate) key: String,
    pub(crate) id: Option<String>,
    pub(crate) listen: Vec<String>,
    /// Whether it has the field `routes` at all.
    pub(crate) has_routes: bool,
    pub(crate) routes: Vec<Route<'a>>,
    /// All other fields, `@id` and `listen` among them.
    pub(crate) fields: Fields<'a>,
}

/// One route of a server.
#[derive(Debug)]
pub(crate) struct Route<'a> {
    /// Its `@id` when that marks it as ours.
    pub(crate) ours: Option<String>,
    pub(crate) text: &'a str,
}

/// What was read is not what Caddy could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonsense;

impl<'a> Seen<'a> {
    /// Reads the object of all servers; `null` when there are none.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Nonsense> {
        let servers = fields(text)?.into_iter().map(|(key, server)| Server::parse(key, server.get()));
        Ok(Self { servers: servers.collect::<Result<_, _>>()? })
    }
}

impl<'a> Server<'a> {
    fn parse(key: String, text: &'a str) -> Result<Self, Nonsense> {
        let mut fields = fields(text)?;
        let routes = fields.remove("routes");
        let texts = match routes {
            Some(routes) => serde_json::from_str::<Option<Vec<&RawValue>>>(routes.get()),
            None => Ok(None),
        };
        let listen = match fields.get("listen") {
            Some(listen) => serde_json::from_str::<Option<Vec<String>>>(listen.get()),
            None => Ok(None),
        };
        Ok(Self {
            id: id(text),
            key,
            listen: listen.map_err(|_| Nonsense)?.unwrap_or_default(),
            has_routes: routes.is_some(),
            routes: texts.map_err(|_| Nonsense)?.unwrap_or_default().into_iter().map(Route::parse).collect(),
            fields,
        })
    }

    /// Its routes that are ours, each with its mark.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&str, &Route<'a>)> {
        self.routes.iter().filter_map(|route| Some((route.ours.as_deref()?, route)))
    }

    /// Its routes that are not.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = &'a str> {
        self.routes.iter().filter(|route| route.ours.is_none()).map(|route| route.text)
    }
}

impl<'a> Route<'a> {
    fn parse(raw: &'a RawValue) -> Self {
        let text = raw.get();
        Self { ours: id(text).filter(|id| render::is_ours(id)), text }
    }

    /// The first host that it is for, for people.
    pub(crate) fn host(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Hosts {
            host: Vec<String>,
        }
        let matchers = *fields(self.text).ok()?.get("match")?;
        let matchers: Vec<Hosts> = serde_json::from_str(matchers.get()).ok()?;
        matchers.into_iter().find_map(|hosts| hosts.host.into_iter().next())
    }
}

/// The text of all servers within the whole configuration; `null` when there is none.
pub(crate) fn servers_within(whole: &str) -> Result<String, Nonsense> {
    let mut text = whole;
    for key in PATH {
        match fields(text)?.get(key) {
            Some(inner) => text = inner.get(),
            None => return Ok("null".to_owned()),
        }
    }
    Ok(text.to_owned())
}

/// The fields of an object, none of `null`.
fn fields(text: &str) -> Result<Fields<'_>, Nonsense> {
    let fields: Option<Fields<'_>> = serde_json::from_str(text).map_err(|_| Nonsense)?;
    Ok(fields.unwrap_or_default())
}

/// The `@id` of an object, when it has one that is a text.
fn id(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Marked {
        #[serde(rename = "@id")]
        id: Option<String>,
    }
    // A list would be read as the fields in their order.
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str::<Marked>(text).ok()).flatten()?.id
}
