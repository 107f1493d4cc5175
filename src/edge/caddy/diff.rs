//! What is there and what is wanted, compared: what is to be done, and the next write that does it. Pure.
//!
//! Ours are the server that bears our mark and the routes that bear one of ours. All others stay as they are: in our
//! server foreign routes stand between the nodes' and the one for unknown names; in a server that an operator had us
//! adopt ours stand first, and nothing but its routes is written. A route of ours that somebody took to another server
//! is removed there.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::listen::Listener;
use super::render::{self, Ours, SERVER_ID, SERVER_KEY, Site};
use super::seen::{Route, Seen, Server};
use super::words;
use crate::domain::edge::{Blocked, Change, Differences, EdgeError, Verb, Wanted};

/// Where the servers are in the configuration.
pub(crate) const SERVERS_PATH: &str = "/config/apps/http/servers";

/// How one write is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Make what is missing.
    Put,
    /// Replace what is there.
    Patch,
    /// Remove what is there.
    Delete,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) method: Method,
    /// The path within the admin API.
    pub(crate) path: String,
    pub(crate) body: String,
    /// How many of the differences it settles.
    pub(crate) changes: usize,
}

/// What a look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) differences: Differences,
    /// How many objects of ours are there.
    pub(crate) observed: usize,
    /// The next write; none: all that can be done is done.
    pub(crate) write: Option<Write>,
}

/// The server in which our routes are to be.
#[derive(Clone, Copy)]
enum Home<'a> {
    Missing,
    Own(&'a Server<'a>),
    /// An operator's, who put our mark on it.
    Adopted(&'a Server<'a>),
}

/// Which routes that are not wanted stay all the same.
struct Kept<'a> {
    may_remove: bool,
    /// The marks of nodes' routes that may be removed in any case.
    gone: HashSet<String>,
    /// The marks of the routes that are to be in the server that is ours.
    wanted: HashSet<&'a str>,
}

impl<'a> Kept<'a> {
    fn new(wanted: &Wanted, site: &Site, rendered: &'a [Ours]) -> Self {
        Self {
            may_remove: wanted.may_remove,
            gone: wanted.gone.iter().map(|host| render::node_id(site, host)).collect(),
            wanted: rendered.iter().map(|ours| ours.id.as_str()).collect(),
        }
    }

    /// Whether this one must stay: it is not there a second time, and its node may live.
    fn holds(&self, id: &str) -> bool {
        render::is_node(id) && !self.may_remove && !self.gone.contains(id) && !self.wanted.contains(id)
    }
}

/// A route in its place in the new list.
struct Piece<'a> {
    ours: Option<&'a str>,
    text: &'a str,
}

/// Compares.
///
/// # Errors
/// `Refused`: nothing may be written before a person does something.
pub(crate) fn diff(seen: &Seen<'_>, wanted: &Wanted, site: &Site) -> Result<Step, EdgeError> {
    let home = Home::find(seen)?;
    let mut step = Step { observed: observed(seen), ..Step::default() };
    if let Some(server) = home.clash(seen, site)? {
        let why = words::why_taken(server, &site.listen);
        step.differences.blocked.push(Blocked { name: site.listen.clone(), why });
    }
    let rendered = render_all(&home, wanted, site);
    let kept = Kept::new(wanted, site, &rendered);
    settle_home(&home, &rendered, &kept, site, &mut step);
    clear_others(seen, &home, &kept, &mut step);
    step.differences.changes.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
    Ok(step)
}

/// How many objects of ours there are, wherever they are.
fn observed(seen: &Seen<'_>) -> usize {
    let of =
        |server: &Server<'_>| server.ours().count() + usize::from(server.id.as_deref() == Some(SERVER_ID));
    seen.servers.iter().map(of).sum()
}

impl<'a> Home<'a> {
    fn find(seen: &'a Seen<'a>) -> Result<Self, EdgeError> {
        let is_marked = |server: &&Server<'_>| server.id.as_deref() == Some(SERVER_ID);
        let mut adopted = seen.servers.iter().filter(is_marked).filter(|server| server.key != SERVER_KEY);
        match (adopted.next(), adopted.next()) {
            (Some(one), Some(other)) => return Err(words::adopted_twice(&one.key, &other.key)),
            (Some(one), None) if !is_addressable(&one.key) => return Err(words::unaddressable(&one.key)),
            (Some(one), None) => return Ok(Self::Adopted(one)),
            (None, _) => {}
        }
        match seen.servers.iter().find(|server| server.key == SERVER_KEY) {
            Some(own) if is_marked(&own) => Ok(Self::Own(own)),
            Some(_) => Err(words::name_taken(SERVER_KEY)),
            None => Ok(Self::Missing),
        }
    }

    fn server(&self) -> Option<&'a Server<'a>> {
        match self {
            Self::Missing => None,
            Self::Own(server) | Self::Adopted(server) => Some(server),
        }
    }

    fn key(&self) -> &str {
        self.server().map_or(SERVER_KEY, |server| &server.key)
    }

    fn is_adopted(&self) -> bool {
        matches!(self, Self::Adopted(_))
    }

    /// The foreign server that takes our port. Where ours has the port already, its routes are kept right all the same.
    fn clash(&self, seen: &'a Seen<'a>, site: &Site) -> Result<Option<&'a str>, EdgeError> {
        if self.is_adopted() {
            return Ok(None);
        }
        let takes =
            |text: &String| Listener::parse(text).is_some_and(|theirs| theirs.overlaps(&site.listener));
        let mut others = seen.servers.iter().filter(|server| server.key != SERVER_KEY);
        let Some(other) = others.find(|server| server.listen.iter().any(takes)) else { return Ok(None) };
        let has_it_already = self.server().is_some_and(|own| own.listen == [site.listen.as_str()]);
        if has_it_already { Ok(Some(&other.key)) } else { Err(words::taken(&other.key, &site.listen)) }
    }
}

/// Compares the server that our routes are to be in.
fn settle_home(home: &Home<'_>, rendered: &[Ours], kept: &Kept<'_>, site: &Site, step: &mut Step) {
    let routes = home.server().map_or(&[][..], |server| &server.routes);
    let list = arrange(home, rendered, kept);
    let mut changes = compare_routes(routes, rendered, kept);
    let in_order =
        || list.iter().map(|piece| piece.ours).eq(routes.iter().map(|route| route.ours.as_deref()));
    let change = |verb, to: &str| server_change(verb, home.key(), to);
    match home {
        Home::Missing => changes.push(change(Verb::Add, &site.listen)),
        Home::Own(server) if !has_fields(server, site) => changes.push(change(Verb::Change, &site.listen)),
        Home::Own(_) | Home::Adopted(_) if changes.is_empty() && !in_order() => {
            changes.push(change(Verb::Change, "its routes in order"));
        }
        Home::Own(_) | Home::Adopted(_) => {}
    }
    if changes.is_empty() {
        return;
    }
    let body = join(list.iter().map(|piece| piece.text));
    let path = path_of(home.key());
    let (method, path, body) = match home {
        Home::Missing => (Method::Put, path, own_server(site, &body)),
        Home::Own(_) => (Method::Patch, path, own_server(site, &body)),
        Home::Adopted(server) if server.has_routes => (Method::Patch, format!("{path}/routes"), body),
        Home::Adopted(_) => (Method::Put, format!("{path}/routes"), body),
    };
    step.write = Some(Write { method, path, body, changes: changes.len() });
    step.differences.changes.append(&mut changes);
}

/// Our routes as they should be, in order but for the last one's place.
fn render_all(home: &Home<'_>, wanted: &Wanted, site: &Site) -> Vec<Ours> {
    let nodes = wanted.sites.iter().map(|(host, address)| render::node(site, host, address));
    let mut rendered: Vec<Ours> = std::iter::once(render::gateway(site)).chain(nodes).collect();
    if !home.is_adopted() {
        rendered.push(render::unknown());
    }
    rendered
}

/// What is to be done to single routes.
fn compare_routes(routes: &[Route<'_>], rendered: &[Ours], kept: &Kept<'_>) -> Vec<Change> {
    let mut there: HashMap<&str, Vec<&Route<'_>>> = HashMap::new();
    for route in routes {
        if let Some(id) = route.ours.as_deref() {
            there.entry(id).or_default().push(route);
        }
    }
    let mut changes = Vec::new();
    for ours in rendered {
        let verb = match there.remove(ours.id.as_str()).as_deref() {
            None => Verb::Add,
            Some([only]) if same(only.text, &ours.text) => continue,
            Some(_) => Verb::Change,
        };
        changes.push(Change { verb, kind: "route", name: ours.name.clone(), to: ours.to.clone() });
    }
    let too_many = there.into_iter().filter(|(id, _)| !kept.holds(id));
    changes.extend(too_many.flat_map(|(_, routes)| routes).map(removal));
    changes
}

fn removal(route: &Route<'_>) -> Change {
    let name = route.host().or_else(|| route.ours.clone()).unwrap_or_default();
    Change { verb: Verb::Remove, kind: "route", name: words::quote(&name), to: String::new() }
}

fn server_change(verb: Verb, key: &str, to: &str) -> Change {
    Change { verb, kind: "server", name: words::quote(key), to: to.to_owned() }
}

/// The new list of routes. What may not be removed yet goes on as it is, behind the nodes that are wanted.
fn arrange<'a>(home: &Home<'a>, rendered: &'a [Ours], kept: &Kept<'_>) -> Vec<Piece<'a>> {
    let (last, first) = match rendered.split_last() {
        Some((last, first)) if !home.is_adopted() => (Some(last), first),
        _ => (None, rendered),
    };
    let piece = |ours: &'a Ours| Piece { ours: Some(&ours.id), text: &ours.text };
    let mut list: Vec<Piece<'a>> = first.iter().map(piece).collect();
    if let Some(server) = home.server() {
        let kept = server.ours().filter(|(id, _)| kept.holds(id));
        list.extend(kept.map(|(id, route)| Piece { ours: Some(id), text: route.text }));
        list.extend(server.foreign().map(|text| Piece { ours: None, text }));
    }
    list.extend(last.map(piece));
    list
}

/// Removes what is ours from servers that are not, one write at a time.
fn clear_others(seen: &Seen<'_>, home: &Home<'_>, kept: &Kept<'_>, step: &mut Step) {
    let goes = |route: &Route<'_>| route.ours.as_deref().is_some_and(|id| !kept.holds(id));
    let others = seen.servers.iter().filter(|server| server.key != home.key() && is_addressable(&server.key));
    for server in others {
        let was_ours = server.key == SERVER_KEY && server.id.as_deref() == Some(SERVER_ID);
        let mut changes: Vec<Change> =
            server.routes.iter().filter(|route| goes(route)).map(removal).collect();
        let path = path_of(&server.key);
        let write = if was_ours && changes.len() == server.routes.len() {
            changes.push(server_change(Verb::Remove, &server.key, ""));
            Write { method: Method::Delete, path, body: String::new(), changes: changes.len() }
        } else if changes.is_empty() {
            continue;
        } else {
            let stays = server.routes.iter().filter(|route| !goes(route)).map(|route| route.text);
            let (path, body) = (format!("{path}/routes"), join(stays));
            Write { method: Method::Patch, path, body, changes: changes.len() }
        };
        step.write.get_or_insert(write);
        step.differences.changes.append(&mut changes);
    }
}

/// Whether our own server has exactly the fields that it should have, but for its routes.
fn has_fields(server: &Server<'_>, site: &Site) -> bool {
    let there: Option<Map<String, Value>> = (server.fields.iter())
        .map(|(key, raw)| Some((key.clone(), serde_json::from_str(raw.get()).ok()?)))
        .collect();
    there.is_some_and(|there| there == render::server_fields(site))
}

/// Our own server around its routes.
fn own_server(site: &Site, routes: &str) -> String {
    let fields = Value::Object(render::server_fields(site)).to_string();
    format!("{},\"routes\":{routes}}}", fields.strip_suffix('}').unwrap_or_default())
}

fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.collect::<Vec<_>>().join(","))
}

/// Whether two texts say the same.
fn same(there: &str, ours: &str) -> bool {
    let read = serde_json::from_str::<Value>;
    there == ours || matches!((read(there), read(ours)), (Ok(there), Ok(ours)) if there == ours)
}

/// Whether a server's name can stand in a path: Caddy splits paths at every slash, and some names mean something else.
fn is_addressable(key: &str) -> bool {
    !key.contains('/') && !matches!(key, "" | "." | ".." | "...")
}

fn path_of(key: &str) -> String {
    let mut path = format!("{SERVERS_PATH}/");
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests;
