//! `events`: what happened to a deployment, or to everything, listed or followed.

use std::time::Duration;

use reqwest::{Response, Url};
use serde_json::Value;

use crate::api::{Api, ApiError};
use crate::cli::EventsArgs;
use crate::deployments;
use crate::failure::{Failure, Result, failed};
use crate::output::{Output, Table, text_at};
use crate::sse;

/// nebulad says something at least every 15 seconds. After this long a connection is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The wait before the first new connection after one was lost; doubled for each further one.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// New connections in a row that may fail before following is given up.
const RETRIES_MAX: u32 = 60;

/// The type of a deployment's last event.
const DELETED: &str = "audit.deployment.deleted";

/// Prints events, newest last; with `--follow` until the user ends it or the deployment is gone.
pub(crate) async fn run(api: &Api, output: &Output, args: &EventsArgs) -> Result<()> {
    let path = match &args.name {
        Some(name) => deployments::path(name, &["events"]),
        None => vec!["api", "v1", "events"],
    };
    let tail = args.tail.map(|lines| lines.to_string());
    let query: Vec<(&str, &str)> = tail.iter().map(|tail| ("tail", tail.as_str())).collect();
    if args.follow {
        let mut url = api.url(&path)?;
        url.query_pairs_mut().append_pair("follow", "true").extend_pairs(query);
        let mut following = Following { output, whole: args.name.is_none(), last: None, heard: false };
        return following.run(api, &url).await;
    }
    let list = api.list_of(&path, &query).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["TIME", "TYPE", "DEPLOYMENT", "REPLICA", "NODE", "BY", "MESSAGE"]);
    for event in &list.items {
        let text = |pointer: &str| text_at(event, pointer);
        let deployment = if args.name.is_some() { String::new() } else { text("/deployment") };
        table.row(vec![
            text("/time").into(),
            text("/type").into(),
            deployment.into(),
            text("/replica").into(),
            text("/node").into(),
            text("/by").into(),
            text("/message").into(),
        ]);
    }
    output.table(&table)
}

/// How a connection ended that was not lost.
enum End {
    /// Nothing more will come.
    Gone,
    /// nebulad closed it, as when it stops.
    Closed,
}

/// Events as they come, over any number of connections.
struct Following<'a> {
    output: &'a Output,
    /// Of everything, not of one deployment.
    whole: bool,
    /// The number of the last event that was printed.
    last: Option<String>,
    /// Something has come since the last connection was lost.
    heard: bool,
}

impl Following<'_> {
    async fn run(&mut self, api: &Api, url: &Url) -> Result<()> {
        let (mut response, mut failures) = (Some(api.follow(url, None).await?), 0);
        self.header()?;
        loop {
            let lost = match response.take() {
                Some(response) => match self.read(api, response).await {
                    Ok(End::Gone) => return Ok(()),
                    Ok(End::Closed) => "nebulad has ended the stream".to_owned(),
                    Err(Lost::Connection(why)) => why,
                    Err(Lost::Output(failure)) => return Err(failure),
                },
                None => match api.follow(url, self.last.as_deref()).await {
                    Ok(again) => {
                        self.output.note("following again");
                        response = Some(again);
                        continue;
                    }
                    Err(error) if error.is_passing() => error.fatal.message,
                    Err(error) => return Err(error.into()),
                },
            };
            if std::mem::take(&mut self.heard) {
                failures = 0;
            }
            if failures >= RETRIES_MAX {
                return Err(failed(format!("{lost}; given up after {failures} new connections")).into());
            }
            let wait = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_MAX);
            failures += 1;
            self.output.note(&format!("{lost}; trying again in {} s", wait.as_secs_f32()));
            tokio::time::sleep(wait).await;
        }
    }

    async fn read(&mut self, api: &Api, mut response: Response) -> std::result::Result<End, Lost> {
        let mut reader = sse::Reader::default();
        while let Some(piece) = api.piece(&mut response, Some(SILENCE_MAX)).await? {
            let events = reader.feed(&piece).map_err(|_| failed("the journal has an event without end"))?;
            for event in events {
                if self.event(&event)? {
                    return Ok(End::Gone);
                }
            }
        }
        Ok(End::Closed)
    }

    /// Prints an event. Whether it is the last one.
    fn event(&mut self, text: &str) -> Result<bool> {
        self.heard = true;
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return Err(failed("the journal has an event that is no JSON").into());
        };
        // What has no number tells of the stream itself.
        let Some(seq) = event.get("seq").map(ToString::to_string) else {
            self.output.note(&text_at(&event, "/message"));
            return Ok(false);
        };
        self.last = Some(seq);
        if self.output.is_json() {
            self.output.text(&(text.replace('\n', " ") + "\n"))?;
        } else {
            self.row(
                &text_at(&event, "/time"),
                &text_at(&event, "/type"),
                &about(&event),
                &text_at(&event, "/message"),
            )?;
        }
        Ok(!self.whole && text_at(&event, "/type") == DELETED)
    }

    fn header(&self) -> Result<()> {
        if self.output.is_json() { Ok(()) } else { self.row("TIME", "TYPE", "ABOUT", "MESSAGE") }
    }

    /// A row of a table whose further rows are not known yet.
    fn row(&self, time: &str, kind: &str, about: &str, message: &str) -> Result<()> {
        let about = if self.whole { format!("{about:<36}  ") } else { String::new() };
        self.output.text(&format!("{time:<24}  {kind:<26}  {about}{message}\n"))
    }
}

fn about(event: &Value) -> String {
    let named = ["/deployment", "/node"].map(|pointer| text_at(event, pointer));
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Why reading ended.
enum Lost {
    /// The connection is lost, for the reason in words.
    Connection(String),
    /// Nobody can be told anything.
    Output(Failure),
}

impl From<ApiError> for Lost {
    fn from(error: ApiError) -> Self {
        Self::Connection(error.fatal.message)
    }
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::Output(failure)
    }
}

impl From<nebula_core::exit::Fatal> for Lost {
    fn from(fatal: nebula_core::exit::Fatal) -> Self {
        Self::Output(fatal.into())
    }
}
