//! A hosted zone behind a real socket: it lists and changes records by Route 53's rules, and fails when it is told to.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nebula_core::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The hosted zone that is there.
pub const ZONE: &str = "Z0TEST";
const NAMESPACE: &str = "xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"";

/// What happens to a request instead of what it asks for.
#[derive(Clone, Debug)]
pub enum Fault {
    /// HTTP status, code, text: an error in the usual form.
    Error(u16, &'static str, &'static str),
    /// HTTP status and body.
    Raw(u16, &'static str),
    /// A refused change set in its other form.
    Messages(&'static str),
    /// No answer.
    Hang,
    /// The connection breaks.
    Reset,
    /// The change is made and the connection breaks.
    DoneAndReset,
    /// The answer ends in the middle of its XML.
    Truncated,
    /// The answer's body is shorter than it says.
    Cut,
}

/// Records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In seconds.
    pub ttl: u64,
    /// Without any: an alias.
    pub values: Vec<String>,
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub authorization: String,
    pub at: Duration,
}

type Key = (Vec<String>, String);

#[derive(Default)]
pub struct State {
    sets: BTreeMap<Key, Set>,
    pub seen: Vec<Seen>,
    /// For the next request of this method.
    pub faults: VecDeque<(&'static str, Fault)>,
    /// What appears in the zone just before the next change.
    pub appears: Option<(&'static str, &'static str, &'static str)>,
    /// A name that is refused for a reason of its own.
    pub refuses: Option<&'static str>,
    /// The most records and characters that a change set had.
    pub largest: (usize, usize),
}

/// The server; it ends with the runtime.
#[derive(Clone)]
pub struct Zone {
    state: Arc<Mutex<State>>,
    pub url: String,
}

fn key(name: &str, kind: &str) -> Key {
    let name = name.trim_end_matches('.').replace("\\052", "*");
    (name.rsplit('.').map(str::to_owned).collect(), kind.to_owned())
}

fn listed_name(key: &Key) -> String {
    let labels: Vec<&str> = key.0.iter().rev().map(String::as_str).collect();
    format!("{}.", labels.join(".")).replace('*', "\\052")
}

fn between<'a>(text: &'a str, tag: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let parts: Vec<&str> =
        text.split(open.as_str()).skip(1).filter_map(|rest| rest.split(close.as_str()).next()).collect();
    parts.into_iter()
}

fn error(status: u16, code: &str, text: &str) -> (u16, String) {
    let body = format!(
        "<?xml version=\"1.0\"?><ErrorResponse {NAMESPACE}><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{text}</Message></Error><RequestId>r-1</RequestId></ErrorResponse>"
    );
    (status, body)
}

impl State {
    pub fn put(&mut self, name: &str, kind: &str, ttl: u64, values: &[&str]) {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.sets.insert(key(name, kind), Set { ttl, values });
    }

    pub fn remove(&mut self, name: &str, kind: &str) {
        self.sets.remove(&key(name, kind)).expect("it is there");
    }

    /// The time to live and the values, in one text; nothing when there are no such records.
    pub fn get(&self, name: &str, kind: &str) -> Option<String> {
        self.sets.get(&key(name, kind)).map(|set| format!("{} {}", set.ttl, set.values.join(" ")))
    }

    pub fn names(&self, kind: &str) -> Vec<String> {
        let of_kind = self.sets.keys().filter(|key| key.1 == kind);
        let mut names: Vec<String> =
            of_kind.map(|key| listed_name(key).trim_end_matches('.').to_owned()).collect();
        names.sort();
        names
    }

    /// How many requests of this method have come.
    fn count(&self, method: &str) -> usize {
        self.seen.iter().filter(|seen| seen.method == method).count()
    }

    fn list(&self, query: &str) -> (u16, String) {
        let value = |name: &str| {
            let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name);
            found.map(|pair| pair.1.replace("%5C", "\\").replace("%2A", "*"))
        };
        let start = key(&value("name").unwrap_or_default(), &value("type").unwrap_or_default());
        let most: usize = value("maxitems").and_then(|most| most.parse().ok()).unwrap_or(300);
        let mut sets = self.sets.range(start..);
        let mut body = String::new();
        for (key, set) in sets.by_ref().take(most) {
            body.push_str(&listed(key, set));
        }
        let next = match sets.next() {
            None => "<IsTruncated>false</IsTruncated>".to_owned(),
            Some((key, _)) => format!(
                "<IsTruncated>true</IsTruncated><NextRecordName>{}</NextRecordName>\
                 <NextRecordType>{}</NextRecordType>",
                listed_name(key),
                key.1
            ),
        };
        let body = format!(
            "<?xml version=\"1.0\"?><ListResourceRecordSetsResponse {NAMESPACE}><ResourceRecordSets>{body}\
             </ResourceRecordSets>{next}<MaxItems>{most}</MaxItems></ListResourceRecordSetsResponse>"
        );
        (200, body)
    }

    fn change(&mut self, body: &str) -> (u16, String) {
        if let Some((name, kind, value)) = self.appears.take() {
            self.put(name, kind, 60, &[value]);
        }
        let (before, mut problems) = (self.sets.clone(), Vec::new());
        let (mut records, mut chars) = (0, 0);
        for change in between(body, "Change") {
            let one = |tag: &str| between(change, tag).next().unwrap_or_default().to_owned();
            let (action, name, kind) = (one("Action"), one("Name"), one("Type"));
            let values: Vec<String> =
                between(change, "Value").map(|value| value.replace("&quot;", "\"")).collect();
            let times = if action == "UPSERT" { 2 } else { 1 };
            records += times * values.len();
            chars += times * values.iter().map(|value| value.chars().count()).sum::<usize>();
            if self.refuses == Some(name.as_str()) {
                problems.push(format!("RRSet with DNS name {name}. cannot be had today"));
            }
            let set = Set { ttl: one("TTL").parse().expect("a number"), values };
            if let Err(problem) = self.change_one(&action, &name, &kind, set) {
                problems.push(problem);
            }
        }
        self.largest = (self.largest.0.max(records), self.largest.1.max(chars));
        if records > 1_000 || chars > 32_000 {
            problems.push("the change set is too large".to_owned());
        }
        if !problems.is_empty() {
            self.sets = before;
            return error(400, "InvalidChangeBatch", &format!("[{}]", problems.join(", ")));
        }
        let body = format!(
            "<?xml version=\"1.0\"?><ChangeResourceRecordSetsResponse {NAMESPACE}><ChangeInfo><Id>/change/C1</Id>\
             <Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo>\
             </ChangeResourceRecordSetsResponse>"
        );
        (200, body)
    }

    fn change_one(&mut self, action: &str, name: &str, kind: &str, set: Set) -> Result<(), String> {
        let key = key(name, kind);
        let there = self.sets.get(&key);
        let what = format!("resource record set [name='{name}.', type='{kind}']");
        match action {
            "CREATE" if there.is_some() => Err(format!("Tried to create {what} but it already exists")),
            "DELETE" if there.is_none() => Err(format!("Tried to delete {what} but it was not found")),
            "DELETE" if there != Some(&set) => {
                Err(format!("Tried to delete {what} but the values provided do not match the current values"))
            }
            "DELETE" => {
                self.sets.remove(&key);
                Ok(())
            }
            _ if self.get(name, "CNAME").is_some() => Err(format!(
                "RRSet of type {kind} with DNS name {name}. is not permitted as it conflicts with other records"
            )),
            "CREATE" | "UPSERT" => {
                self.sets.insert(key, set);
                Ok(())
            }
            _ => Err(format!("no such action: {action}")),
        }
    }
}

fn listed(key: &Key, set: &Set) -> String {
    let records: String = set
        .values
        .iter()
        .map(|value| {
            format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", value.replace('"', "&quot;"))
        })
        .collect();
    let rest = if set.values.is_empty() {
        "<AliasTarget><HostedZoneId>Z2</HostedZoneId><DNSName>lb.example.net.</DNSName>\
         <EvaluateTargetHealth>false</EvaluateTargetHealth></AliasTarget>"
            .to_owned()
    } else {
        format!("<TTL>{}</TTL><ResourceRecords>{records}</ResourceRecords>", set.ttl)
    };
    let name = listed_name(key);
    format!("<ResourceRecordSet><Name>{name}</Name><Type>{}</Type>{rest}</ResourceRecordSet>", key.1)
}

impl Zone {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let zone = Self { state: Arc::default(), url };
        let (server, clock) = (zone.clone(), Clock::start());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream, clock).await });
            }
        });
        zone
    }

    /// For one statement: a second guard would wait for the first one.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in it")
    }

    /// How many requests to list and to change have come.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.count("GET"), state.count("POST"))
    }

    /// The next requests of this method fail, one by one.
    pub fn fail(&self, method: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults.into_iter().map(|fault| (method, fault)));
    }

    async fn serve(&self, mut stream: TcpStream, clock: Clock) {
        while let Some((head, body)) = read(&mut stream).await {
            let fault = self.note(&head, clock);
            let (status, answer) = match &fault {
                Some(Fault::Error(status, code, text)) => error(*status, code, text),
                Some(Fault::Raw(status, body)) => (*status, (*body).to_owned()),
                Some(Fault::Messages(text)) => (400, messages(text)),
                Some(Fault::Hang) => return std::future::pending().await,
                Some(Fault::Reset) => return reset(stream),
                _ => self.answer(&head, &body),
            };
            let (sent, said) = match fault {
                Some(Fault::DoneAndReset) => return reset(stream),
                Some(Fault::Truncated) => (&answer[..answer.len() / 2], answer.len() / 2),
                Some(Fault::Cut) => (&answer[..answer.len() / 2], answer.len()),
                _ => (answer.as_str(), answer.len()),
            };
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\ncontent-length: {said}\r\n\r\n");
            let sent = stream.write_all(format!("{head}{sent}").as_bytes()).await;
            if sent.is_err() || matches!(fault, Some(Fault::Cut)) {
                return;
            }
        }
    }

    /// Keeps what came, and takes the fault that is meant for it.
    fn note(&self, head: &str, clock: Clock) -> Option<Fault> {
        let mut state = self.state();
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        let authorization = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("authorization:"))
            .unwrap_or_default()
            .to_owned();
        let is_meant = state.faults.front().is_some_and(|(meant, _)| *meant == method);
        state.seen.push(Seen { method, authorization, at: clock.elapsed() });
        if is_meant { state.faults.pop_front().map(|(_, fault)| fault) } else { None }
    }

    fn answer(&self, head: &str, body: &str) -> (u16, String) {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path.trim_end_matches('/') != format!("/2013-04-01/hostedzone/{ZONE}/rrset") {
            return error(404, "NoSuchHostedZone", "No hosted zone found with ID: that one");
        }
        if head.starts_with("GET ") { self.state().list(query) } else { self.state().change(body) }
    }
}

fn messages(text: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><InvalidChangeBatch {NAMESPACE}><Messages><Message>{text}</Message></Messages>\
         <RequestId>r-1</RequestId></InvalidChangeBatch>"
    )
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("a socket");
}

/// The head and the body of the next request.
async fn read(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while bytes.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, String::from_utf8_lossy(&bytes[end..]).into_owned()))
}
